"""Checks of the machine: its software, devices and limits, and possible failures."""

import os
import shutil
import sys
from collections.abc import Iterable, Iterator
from importlib import metadata
from pathlib import Path

from rich.table import Table

from mbkd.terminal.console import make_console

MIN_FREE_GB = 5


def show(found: Iterable[tuple[str, str, str]]) -> None:
    """Print a table of `findings`."""
    table = Table("check", "found", "result")
    for what, value, problem in found:
        table.add_row(what, value, f"[red]{problem}[/red]" if problem else "[green]good[/green]")
    make_console().print(table)


def findings() -> Iterator[tuple[str, str, str]]:
    """Yield (check, finding, problem); the problem is "" if nothing would fail."""
    python = ".".join(map(str, sys.version_info[:3]))
    yield "python", python, "" if sys.version_info >= (3, 10) else "3.10 or later is needed"
    for package in ("mbkd", "torch", "deepspeed", "transformers", "datasets", "ray"):
        try:
            yield package, metadata.version(package), ""
        except metadata.PackageNotFoundError:
            yield package, "-", f"not installed: pip install {package}"
            if package in ("torch", "deepspeed"):
                return
    from mbkd import distributed, precision
    from mbkd.train.launch import free_port, gloo_interface

    interface, problem = gloo_interface()
    yield "gloo's interface", interface, problem
    if problem:
        return  # joining a process group would fail
    distributed.quiet()
    ranks = distributed.start()
    backend = distributed.backend()
    distributed.stop()
    yield "device", distributed.device_name(ranks), ""
    yield "process group", backend, ""
    half = "fp16" if distributed.half_supported() else "no fp16: teachers use fp32"
    yield "teacher precision", half, ""
    yield "student precision", precision.choose("auto", ranks.device), ""
    for tool in ("g++", "ninja"):
        path = shutil.which(tool) or ""
        yield tool, path or "not found; only DeepSpeed's CPU kernels need this, and mbkd does not use them", ""
    yield "cores", str(len(os.sched_getaffinity(0))), ""
    free = shutil.disk_usage(Path.cwd()).free / 1e9
    yield "free disk here", f"{free:.0f} GB", "" if free > MIN_FREE_GB else f"less than {MIN_FREE_GB} GB"
    yield "shared memory", *_shared_memory()
    yield "free port on loopback", free_port(), ""


def _shared_memory() -> tuple[str, str]:
    shm = Path("/dev/shm")
    if not shm.is_dir():
        return "no /dev/shm", ""
    free = shutil.disk_usage(shm).free / 1e6
    return f"{free:.0f} MB free", "" if free > 64 else "ranks may fail to communicate; use --shm-size=1g"
