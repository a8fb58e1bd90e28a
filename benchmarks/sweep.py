"""What a sweep adds: its wall time against the optimizer steps of its runs, one trial at a time.

usage: python -m benchmarks.sweep [--seeds 2] [--rows 5000] [--out FILE.json]

A plain student (random weights, 4 layers x 128) learns toy reviews with hard labels, once for each seed, all cores to
each. The sweep starts with nothing: Ray, tokens and every start of a process are counted. The rest of the wall time is
what is not a step: starts, measurements of dev and test, checkpoints, saving.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.cache import make_world
from mbkd import config as configuration
from mbkd import runs

TARGET = 1.15


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.sweep", description=__doc__)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--rows", type=int, default=5000, help="training rows of each of three languages, in fives")
    parser.add_argument("--out", type=Path, help="where the numbers go, as JSON")
    asked = parser.parse_args()
    cores = len(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory() as folder:
        world = make_world(Path(folder), asked.rows, width=128, depth=4)
        plain = {"student": {"branch_depth": 0}, "distill": {"signal": "labels"}, "train": {"epochs": 1, "lr": 5e-4}}
        file = Path(folder) / "sweep.yaml"
        file.write_text(configuration.changed(world, plain).dump(), encoding="utf-8")
        root = Path(folder) / "runs"
        command = [sys.executable, "-m", "tuning.sweep", "grid", str(file), "--protocol", "fixed", "--runs", str(root)]
        command += ["--seeds", str(asked.seeds), "--cpus-per-trial", str(cores)]
        began = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        wall = time.perf_counter() - began
        steps = [runs.read_result(file.parent)["train_seconds"] for file in sorted(root.glob("*/result.json"))]
    result = {
        "command": " ".join(["python -m benchmarks.sweep", *sys.argv[1:]]),
        "cores": cores,
        **{key: runs.environment()[key] for key in ("time", "git", "python", "packages", "platform")},
        "wall_seconds": wall,
        "train_seconds": steps,
        "ratio": wall / sum(steps),
        "outside_of_steps_per_run": (wall - sum(steps)) / len(steps),
    }
    table = Table("runs", "steps of each, s", "wall, s", "outside of steps, s a run", "wall / steps", "target")
    each = ", ".join(f"{x:.1f}" for x in steps)
    row = [str(len(steps)), each, f"{wall:.1f}", f"{result['outside_of_steps_per_run']:.1f}", f"{result['ratio']:.3f}"]
    table.add_row(*row, f"at most {TARGET}")
    Console(width=None if Console().is_terminal else 120).print(table)
    text = json.dumps(result, indent=2)
    if asked.out:
        asked.out.write_text(text + "\n", encoding="utf-8")
    else:
        print(text)


if __name__ == "__main__":
    main()
