"""A job on this machine: its inputs prepared, its ranks started, several of them by the `deepspeed` launcher."""

import base64
import ctypes
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from functools import partial
from importlib.metadata import entry_points, version
from pathlib import Path
from typing import Any

from mbkd.config import Config
from mbkd.errors import STOPPED, UNAVAILABLE, TransientError, UserError, patiently
from mbkd.provenance import refuse, stale
from mbkd.result import Result
from mbkd.runs import finished, folder, lock

LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None
PAYS_FROM = 256  # rows of a batch from which several GPUs are faster than one (launchers/README.md)
OFTEN: dict[int, str] = {  # why a signal kills a rank
    signal.SIGKILL: " (often the system, out of memory)",
    signal.SIGABRT: " (often NCCL, which ends a rank so when another one is gone)",
}
KILLED_BY = 191  # exit codes above: the launcher ends with minus the number of the signal that killed a rank


def carry_out(
    wanted: list[Config],
    arguments: list[str],
    root: Path,
    ranks: int | None,
    fresh: bool = False,
    verbose: bool = False,
) -> dict[Path, Result]:
    """Run what is not finished, and return the result of each wanted run by its directory.

    arguments: the job's command line that asks for these runs. Raises UserError for bad input before any rank starts.
    """
    from mbkd.data import hub

    hub.keep(root / "store")
    ranks = 1 if ranks is None else _refused(ranks)
    directories = {folder(root, config): config for config in wanted}
    if not fresh:
        refuse(stale(directories, root))
    if not fresh and all(finished(directory) for directory in directories):
        print("finished before; --fresh starts over", file=sys.stderr)
    else:
        import numpy as np

        from mbkd.data.batches import micro_batch
        from mbkd.inputs import prepare

        for config in wanted:
            # Refuses a batch that does not divide, before any process starts.
            micro_batch(np.arange(config.train.batch_size), 0, ranks, config.train.accumulation, 0)
            patiently(partial(prepare, config, root))
        for directory, config in directories.items():  # not before all that it is made from is there
            if fresh and directory.exists():
                with lock(root, config):
                    shutil.rmtree(directory)
        if ranks > 1:
            print(share(wanted[0], ranks), file=sys.stderr)
        # Runs that need not wait for each other train side by side, where each can have a GPU of its own.
        beside = min(len(wanted), devices()) if ranks == 1 else 1
        patiently(partial(launch, [*arguments, "--runs", str(root)], ranks, verbose, beside))
    return {directory: Result.read(directory) for directory in directories}


def build_cache(config: Config, arguments: list[str], root: Path, ranks: int | None, verbose: bool = False) -> None:
    """Ask a configuration's teachers for the logits of all their training rows, where the store has them not.

    arguments: the job's command line that asks for it. Raises UserError for bad input before any rank starts.
    """
    from mbkd.inputs import prepare

    ranks = devices() if ranks is None else _refused(ranks)  # each answers for rows of its own, at full speed
    patiently(lambda: prepare(config, root))
    patiently(lambda: launch([*arguments, "--cache", "--runs", str(root)], ranks, verbose))


def _refused(ranks: int) -> int:
    if ranks < 1:
        raise UserError(f"--ranks {ranks}: at least one rank is needed")
    return ranks


def share(config: Config, ranks: int) -> str:
    """What it costs to train one model on several ranks, in one line."""
    from mbkd.data.classifiers import configuration

    train, shape = config.train, configuration(config.student.backbone)
    rows = train.batch_size // (ranks * train.accumulation)
    said = f"{ranks} ranks: each computes {rows} of the {train.batch_size} rows of a step"
    width, layers = shape.get("hidden_size"), shape.get("num_hidden_layers")
    if width and layers:  # 12 d^2 weights a layer: attention's four products and the feed-forward part's two
        said += f" and sends about {12 * width**2 * layers * 4 / 1e9:.2g} GB of gradients"
    if train.batch_size < PAYS_FROM:
        said += f"; on GPUs several ranks pay from train.batch_size = {PAYS_FROM} on, below that one is faster"
    return said


def devices() -> int:
    """How many accelerators there are, 1 on a machine without."""
    # A torch built for CPUs alone need not be imported, which takes seconds; a plug-in could still bring a device.
    if version("torch").endswith("+cpu") and not entry_points(group="torch.backends"):
        return 1
    import torch

    return max(1, torch.accelerator.device_count()) if torch.accelerator.is_available() else 1


def launch(arguments: list[str], ranks: int, verbose: bool = False, beside: int = 1) -> None:
    """Run mbkd.train.job with `arguments` on a number of ranks and wait for it: several by the `deepspeed` launcher.

    beside: how many jobs of one rank share the runs that the arguments ask for, each on a device of its own.

    One rank is a process like any other: the launcher would import torch and DeepSpeed, for seconds and 300 MB, before
    the rank may do so. SIGTERM and Ctrl-C reach the ranks, which write a checkpoint and leave; so they do where this
    process is killed. Exits with the job's code if it is not 0. Raises TransientError where the job ended in one.
    """
    environment = os.environ | {
        "LOCAL_SIZE": str(ranks),  # on a CPU the launcher would count NUMA nodes
        # One environment for every rank: the checkout's mbkd also where it is not installed.
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]),
    }
    job = ["mbkd.train.job", *arguments, *(["--verbose"] if verbose else [])]
    if ranks == 1:
        environment |= {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"}
        commands = [[sys.executable, "-u", "-m", *job, "--part", f"{part}/{beside}"] for part in range(beside)]
    else:
        # The launcher's part for one node, without the part that looks for other nodes: a third of the start.
        here = base64.urlsafe_b64encode(json.dumps({"localhost": _devices(ranks)}).encode()).decode()
        command = [sys.executable, "-u", "-m", "deepspeed.launcher.launch", f"--world_info={here}"]
        command += ["--master_addr=127.0.0.1", f"--master_port={free_port()}", "--no_local_rank"]
        commands = [[*command, f"--log_level={'info' if verbose else 'critical'}", "--module", *job]]
    one_each = [{"CUDA_VISIBLE_DEVICES": device} for device in _devices(beside)] if beside > 1 else [{}]
    number = max(ranks, beside)
    print(f"starting {number} process{'es' * (number > 1)}", file=sys.stderr, flush=True)
    stopped = False

    def stop(number: int, frame: Any) -> None:
        nonlocal stopped
        stopped = True
        for process in processes:
            _stop_ranks(process.pid)

    # A session of its own: Ctrl-C reaches the ranks through `stop` alone, not the launcher, which would kill them.
    processes = [
        subprocess.Popen(
            command,
            env=environment | device,
            start_new_session=True,
            preexec_fn=die_with_parent,  # noqa: PLW1509 - one system call, no lock is taken in it
        )
        for command, device in zip(commands, one_each, strict=True)
    ]
    before = {kind: signal.signal(kind, stop) for kind in stop_signals()}
    try:
        # A signal's number, negated, as the launcher ends with it; the worst of jobs beside each other.
        code = max(process.wait() % 256 for process in processes)
    finally:
        for kind, handler in before.items():
            signal.signal(kind, handler)
    if code and not stopped and code > KILLED_BY:
        number = 256 - code
        print(
            f"error: a rank was killed by signal {number}{OFTEN.get(number, '')}; "
            "the same command goes on from the last checkpoint",
            file=sys.stderr,
        )
    if code == UNAVAILABLE and not stopped:
        raise TransientError("the job did not come to its end, for the reason above")
    if code or stopped:
        sys.exit(STOPPED if stopped else code)


def stop_signals() -> tuple[signal.Signals, ...]:
    """The signals that ask to stop. None outside the main thread: Python sets handlers there only."""
    main = threading.current_thread() is threading.main_thread()
    return (signal.SIGTERM, signal.SIGINT) if main else ()


def die_with_parent() -> None:
    """Have Linux send SIGTERM to this process when its parent dies, by SIGKILL for example: no orphan trains on.

    To be called between fork and exec.
    """
    PR_SET_PDEATHSIG = 1
    if LIBC is not None:
        LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def _devices(ranks: int) -> list[str]:
    """The devices of the ranks: those that CUDA_VISIBLE_DEVICES names (Ray and Slurm set it), else the first ones.

    A name is a number or a UUID, of a GPU or of a part of one; the launcher joins them into the variable again.
    """
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return [str(x) for x in range(ranks)]
    named = [x.strip() for x in visible.split(",") if x.strip()]
    if not named or named[0] == "-1":
        return ["-1"] * ranks  # hidden they stay: the ranks compute on the CPU
    if len(named) < ranks:
        raise UserError(f"--ranks {ranks}: CUDA_VISIBLE_DEVICES names {len(named)} devices only")
    return named[:ranks]


def _stop_ranks(started: int) -> None:
    """Ask every rank below the launcher, or the only one, to stop; the launcher would not wait for a checkpoint."""
    import psutil

    try:
        below = psutil.Process(started).children(recursive=True)
        jobs = [process for process in below if "mbkd.train.job" in process.cmdline() and not process.children()]
        for process in jobs or [psutil.Process(started)]:
            process.terminate()
    except psutil.NoSuchProcess:
        pass  # it ended by itself


def gloo_interface() -> tuple[str, str]:
    """The network interface that ranks on CPUs, and the hosts of GPUs, talk through; and what is wrong with it."""
    import socket

    import psutil

    there = {
        name: [each.address for each in found if each.family == socket.AF_INET]
        for name, found in psutil.net_if_addrs().items()
    }
    each = ", ".join(f"{name} {' '.join(addresses)}" for name, addresses in there.items() if addresses)
    if named := os.environ.get("GLOO_SOCKET_IFNAME"):
        return f"GLOO_SOCKET_IFNAME={named}", "" if named in there else f"no such interface; there are: {each}"
    try:
        address = socket.gethostbyname(socket.gethostname())
    except OSError:
        return socket.gethostname(), f"this name has no address; set GLOO_SOCKET_IFNAME to one of: {each}"
    only = "; other machines do not reach it, for several set GLOO_SOCKET_IFNAME" if address.startswith("127.") else ""
    return f"{address}, by this machine's name{only} ({each})", ""


def free_port() -> str:
    """A port of this machine that nothing listens on."""
    import socket

    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return str(s.getsockname()[1])
