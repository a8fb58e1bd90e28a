"""Starts jobs on this machine: prepares the inputs, then starts one process or the `deepspeed` launcher."""

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
PAYS_FROM = 256  # smallest batch size at which several GPUs are faster than one (launchers/README.md)
OFTEN: dict[int, str] = {  # common causes of the signals that kill a rank
    signal.SIGKILL: " (often out of memory)",
    signal.SIGABRT: " (often NCCL, after another rank ended)",
}
KILLED_BY = 191  # above this, an exit code is 256 minus the number of the signal that killed a rank


def carry_out(
    wanted: list[Config],
    arguments: list[str],
    root: Path,
    ranks: int | None,
    fresh: bool = False,
    verbose: bool = False,
) -> dict[Path, Result]:
    """Complete the runs that are not finished, and return the results of all wanted runs by directory.

    arguments: the job's command line for these runs. Raises UserError for bad input before any rank starts.
    """
    from mbkd.data import hub

    hub.keep(root / "store")
    ranks = 1 if ranks is None else _at_least_one(ranks)
    directories = {folder(root, config): config for config in wanted}
    if not fresh:
        refuse(stale(directories, root))
    if not fresh and all(finished(directory) for directory in directories):
        print("already finished; --fresh starts over", file=sys.stderr)
    else:
        import numpy as np

        from mbkd.data.batches import micro_batch
        from mbkd.inputs import prepare

        for config in wanted:
            # Raises UserError for an indivisible batch size before any process starts.
            micro_batch(np.arange(config.train.batch_size), 0, ranks, config.train.accumulation, 0)
            patiently(partial(prepare, config, root))
        for directory, config in directories.items():  # deletes old runs only after all inputs are prepared
            if fresh and directory.exists():
                with lock(root, config):
                    shutil.rmtree(directory)
        if ranks > 1:
            print(share(wanted[0], ranks), file=sys.stderr)
        # Independent runs train in parallel if each can have its own GPU.
        beside = min(len(wanted), devices()) if ranks == 1 else 1
        patiently(partial(launch, [*arguments, "--runs", str(root)], ranks, verbose, beside))
    return {directory: Result.read(directory) for directory in directories}


def build_cache(config: Config, arguments: list[str], root: Path, ranks: int | None, verbose: bool = False) -> None:
    """Compute the teacher logits of all training rows that the caches in the store do not contain.

    arguments: the job's command line for the cache. Raises UserError for bad input before any rank starts.
    """
    from mbkd.inputs import prepare

    # Ranks do not wait for each other here, so every device helps.
    ranks = devices() if ranks is None else _at_least_one(ranks)
    patiently(lambda: prepare(config, root))
    patiently(lambda: launch([*arguments, "--cache", "--runs", str(root)], ranks, verbose))


def _at_least_one(ranks: int) -> int:
    if ranks < 1:
        raise UserError(f"--ranks {ranks}: must be at least 1")
    return ranks


def share(config: Config, ranks: int) -> str:
    """Return one line about the cost of training one model on several ranks."""
    from mbkd.data.classifiers import configuration

    train, shape = config.train, configuration(config.student.backbone)
    rows = train.batch_size // (ranks * train.accumulation)
    said = f"{ranks} ranks: each computes {rows} of the {train.batch_size} rows of a step"
    width, layers = shape.get("hidden_size"), shape.get("num_hidden_layers")
    if width and layers:  # 12 d^2 weights per layer: 4 d^2 in the attention and 8 d^2 in the feed-forward part
        said += f" and sends about {12 * width**2 * layers * 4 / 1e9:.2g} GB of gradients"
    if train.batch_size < PAYS_FROM:
        said += f"; on GPUs one rank is faster for train.batch_size below {PAYS_FROM}"
    return said


def devices() -> int:
    """Return the number of accelerators, or 1 on a machine without any."""
    # Avoids the import of a CPU build of torch, which takes seconds. A plug-in can still add a device.
    if version("torch").endswith("+cpu") and not entry_points(group="torch.backends"):
        return 1
    import torch

    return max(1, torch.accelerator.device_count()) if torch.accelerator.is_available() else 1


def launch(arguments: list[str], ranks: int, verbose: bool = False, beside: int = 1) -> None:
    """Run mbkd.train.job with `arguments` and wait for its end. Several ranks use the `deepspeed` launcher.

    beside: number of parallel jobs that share the runs. Each has one rank and its own device.

    One rank runs without the launcher, whose imports of torch and DeepSpeed take seconds and 300 MB. SIGTERM and Ctrl-C
    reach the ranks, which write a checkpoint and end. Ranks also end if this process is killed.
    Exits with the job's exit code if it is not 0. Raises TransientError if the job ended with a transient error.
    """
    environment = os.environ | {
        "LOCAL_SIZE": str(ranks),  # on a CPU the launcher counts NUMA nodes instead
        # Ranks import mbkd from this checkout even if the package is not installed.
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]),
    }
    job = ["mbkd.train.job", *arguments, *(["--verbose"] if verbose else [])]
    if ranks == 1:
        environment |= {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"}
        commands = [[sys.executable, "-u", "-m", *job, "--part", f"{part}/{beside}"] for part in range(beside)]
    else:
        # Calls the launcher's per-node script directly, because the search for other nodes takes time.
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

    # In a new session, Ctrl-C reaches the ranks only through `stop`. The launcher would kill the ranks at Ctrl-C.
    processes = [
        subprocess.Popen(
            command,
            env=environment | device,
            start_new_session=True,
            preexec_fn=die_with_parent,  # noqa: PLW1509 - one system call, which takes no lock
        )
        for command, device in zip(commands, one_each, strict=True)
    ]
    before = {kind: signal.signal(kind, stop) for kind in stop_signals()}
    try:
        # The largest exit code of the parallel jobs. Negative codes (minus the signal) become 256 - signal.
        code = max(process.wait() % 256 for process in processes)
    finally:
        for kind, handler in before.items():
            signal.signal(kind, handler)
    if code and not stopped and code > KILLED_BY:
        number = 256 - code
        print(
            f"error: a rank was killed by signal {number}{OFTEN.get(number, '')}; "
            "run the same command again to resume from the last checkpoint",
            file=sys.stderr,
        )
    if code == UNAVAILABLE and not stopped:
        raise TransientError("the job failed with the transient error above")
    if code or stopped:
        sys.exit(STOPPED if stopped else code)


def stop_signals() -> tuple[signal.Signals, ...]:
    """Return the signals that stop a run. Empty outside the main thread, where Python sets no handlers."""
    main = threading.current_thread() is threading.main_thread()
    return (signal.SIGTERM, signal.SIGINT) if main else ()


def die_with_parent() -> None:
    """Request SIGTERM for this process when its parent dies (Linux), so no orphan continues to train.

    Call between fork and exec.
    """
    PR_SET_PDEATHSIG = 1
    if LIBC is not None:
        LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def _devices(ranks: int) -> list[str]:
    """Return the devices of the ranks: the first ones of CUDA_VISIBLE_DEVICES, or of all devices.

    Ray and Slurm set CUDA_VISIBLE_DEVICES. A name is a number or a UUID, of a GPU or of a MIG part. The launcher sets
    the variable from these names.
    """
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return [str(x) for x in range(ranks)]
    named = [x.strip() for x in visible.split(",") if x.strip()]
    if not named or named[0] == "-1":
        return ["-1"] * ranks  # hides all devices, so the ranks use the CPU
    if len(named) < ranks:
        raise UserError(f"--ranks {ranks}: CUDA_VISIBLE_DEVICES names only {len(named)} devices")
    return named[:ranks]


def _stop_ranks(started: int) -> None:
    """Send SIGTERM to the ranks directly, because the launcher does not wait for their checkpoints."""
    import psutil

    try:
        below = psutil.Process(started).children(recursive=True)
        jobs = [process for process in below if "mbkd.train.job" in process.cmdline() and not process.children()]
        for process in jobs or [psutil.Process(started)]:
            process.terminate()
    except psutil.NoSuchProcess:
        pass  # the process has already ended


def gloo_interface() -> tuple[str, str]:
    """Return a description of gloo's network interface, and its problem; "" if there is none."""
    import socket

    import psutil

    there = {
        name: [each.address for each in found if each.family == socket.AF_INET]
        for name, found in psutil.net_if_addrs().items()
    }
    each = ", ".join(f"{name} {' '.join(addresses)}" for name, addresses in there.items() if addresses)
    if named := os.environ.get("GLOO_SOCKET_IFNAME"):
        return f"GLOO_SOCKET_IFNAME={named}", "" if named in there else f"no such interface; available: {each}"
    try:
        address = socket.gethostbyname(socket.gethostname())
    except OSError:
        return socket.gethostname(), f"this name has no address; set GLOO_SOCKET_IFNAME to one of: {each}"
    only = "; unreachable for other machines: set GLOO_SOCKET_IFNAME" if address.startswith("127.") else ""
    return f"{address}, from this machine's host name{only} ({each})", ""


def free_port() -> str:
    """Return a free port of this machine."""
    import socket

    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return str(s.getsockname()[1])
