"""A job on this machine: its inputs prepared, its ranks started and watched."""

import os
import shutil
import signal
import subprocess
import sys
import time
from importlib.metadata import entry_points, version
from pathlib import Path
from typing import Any

from mbkd.config import Config
from mbkd.errors import STOPPED, UserError
from mbkd.runs import finished, folder, lock, read_result

SECONDS_BETWEEN_LOOKS = 0.05
PATIENCE = 20  # seconds that the other ranks have to leave by themselves once one has failed


def carry_out(
    wanted: list[Config],
    arguments: list[str],
    root: Path,
    ranks: int | None,
    fresh: bool = False,
    verbose: bool = False,
) -> dict[Path, dict[str, Any]]:
    """Run what is not finished, and return the result of each wanted run by its directory.

    arguments: the job's command line that asks for these runs. Raises UserError for bad input before any rank starts.
    """
    directories = [folder(root, config) for config in wanted]
    for directory, config in zip(directories, wanted, strict=True):
        if fresh and directory.exists():
            with lock(root, config):
                shutil.rmtree(directory)
    if all(finished(directory) for directory in directories):
        print("finished before; --fresh starts over", file=sys.stderr)
    else:
        import numpy as np

        from mbkd.data.batches import micro_batch
        from mbkd.train.inputs import prepare

        ranks = default_ranks() if ranks is None else ranks
        if ranks < 1:
            raise UserError(f"--ranks {ranks}: at least one rank is needed")
        for config in wanted:
            # Refuses a batch that does not divide, before any process starts.
            micro_batch(np.arange(config.train.batch_size), 0, ranks, config.train.accumulation, 0)
            prepare(config, root)
        launch([*arguments, "--runs", str(root)], ranks, verbose)
    return {directory: read_result(directory) for directory in directories}


def build_cache(config: Config, arguments: list[str], root: Path, ranks: int | None, verbose: bool = False) -> None:
    """Ask a configuration's teachers for the logits of all their training rows, where the store has them not.

    arguments: the job's command line that asks for it. Raises UserError for bad input before any rank starts.
    """
    from mbkd.train.inputs import prepare

    ranks = default_ranks() if ranks is None else ranks
    if ranks < 1:
        raise UserError(f"--ranks {ranks}: at least one rank is needed")
    prepare(config, root)
    launch([*arguments, "--cache", "--runs", str(root)], ranks, verbose)


def default_ranks() -> int:
    """One rank per accelerator, one on a machine without."""
    # A torch built for CPUs alone need not be imported, which takes seconds; a plug-in could still bring a device.
    if version("torch").endswith("+cpu") and not entry_points(group="torch.backends"):
        return 1
    import torch

    return max(1, torch.accelerator.device_count()) if torch.accelerator.is_available() else 1


def launch(arguments: list[str], ranks: int, verbose: bool = False) -> None:
    """Run mbkd.train.job with `arguments` on a number of ranks of this machine and wait for them.

    DeepSpeed's launcher does the same, and is for jobs over several machines (launchers/README.md): here it would
    import torch and DeepSpeed, for seconds and 300 MB, before the first rank may do so.
    SIGTERM and Ctrl-C reach the ranks, which write a checkpoint and leave. Exits with the job's code if it is not 0.
    """
    _check_devices(ranks)
    environment = os.environ | {
        "WORLD_SIZE": str(ranks),
        "LOCAL_SIZE": str(ranks),  # how many ranks share this machine's cores
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": free_port(),
        # One environment for every rank: the checkout's mbkd also where it is not installed.
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]),
    }
    command = [sys.executable, "-u", "-m", "mbkd.train.job", *arguments, *(["--verbose"] if verbose else [])]
    processes: list[subprocess.Popen[bytes]] = []

    def stop(number: int, frame: Any) -> None:
        for process in processes:
            process.terminate()

    before = {kind: signal.signal(kind, stop) for kind in (signal.SIGTERM, signal.SIGINT)}
    try:
        for rank in range(ranks):
            mine = environment | {"RANK": str(rank), "LOCAL_RANK": str(rank)}
            # A session of its own: Ctrl-C reaches it through `stop` alone.
            processes.append(subprocess.Popen(command, env=mine, start_new_session=True))
        code = _wait(processes)
    finally:
        for process in processes:
            process.kill()  # nothing to do for one that has ended
        for kind, handler in before.items():
            signal.signal(kind, handler)
    if code < 0:
        print(
            f"error: a rank was killed by signal {-code}"
            f"{' (often the system, out of memory)' if -code == signal.SIGKILL else ''}; "
            "the same command goes on from the last checkpoint",
            file=sys.stderr,
        )
    if code:
        sys.exit(code % 256)


def _wait(processes: list[subprocess.Popen[bytes]]) -> int:
    """Wait for all ranks; the first that fails takes the others down. Returns its exit code, or STOPPED, or 0."""
    while True:
        codes = [process.poll() for process in processes]
        failed = next((code for code in codes if code not in (None, 0, STOPPED)), None)
        if failed is not None:
            break
        if None not in codes:
            return STOPPED if STOPPED in codes else 0
        time.sleep(SECONDS_BETWEEN_LOOKS)
    for process in processes:
        process.terminate()
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until and None in [process.poll() for process in processes]:
        time.sleep(SECONDS_BETWEEN_LOOKS)
    return failed


def _check_devices(ranks: int) -> None:
    """Raise UserError where CUDA_VISIBLE_DEVICES (Ray and Slurm set it) names fewer devices than there are ranks."""
    named = [x for x in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if x.strip().isdigit()]
    if named and len(named) < ranks:
        raise UserError(f"--ranks {ranks}: CUDA_VISIBLE_DEVICES names {len(named)} devices only")


def free_port() -> str:
    """A port of this machine that nothing listens on."""
    import socket

    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return str(s.getsockname()[1])
