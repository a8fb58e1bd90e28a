"""Overhead of a sweep: its wall time against the optimizer steps of its runs, one trial at a time.

usage: python -m benchmarks.sweep [--seeds 2] [--rows 5000] [--out FILE.json]

A plain student (random weights, 4 layers x 128) learns toy reviews with hard labels, once per seed, with all cores per
trial. The sweep starts in an empty folder, so Ray, tokenisation and process starts count. The overhead consists of
starts, evaluation of dev and test, checkpoints and saving.
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks import common
from benchmarks.cache import make_world
from mbkd import config as configuration
from mbkd.result import Result

TARGET = 1.15


def main() -> None:
    parser = common.parser("benchmarks.sweep", __doc__)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--rows", type=int, default=5000, help="training rows per language, a multiple of five")
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
        steps = [Result.read(file.parent).train_seconds for file in sorted(root.glob("*/result.json"))]
    ratio, outside = wall / sum(steps), (wall - sum(steps)) / len(steps)
    columns = ("runs", "steps of each, s", "wall, s", "outside of steps, s/run", "wall / steps", "target")
    each = ", ".join(f"{x:.1f}" for x in steps)
    row = (len(steps), each, f"{wall:.1f}", f"{outside:.1f}", f"{ratio:.3f}", f"at most {TARGET}")
    common.print_table("one trial at a time", columns, [row])
    found = {"wall_seconds": wall, "train_seconds": steps, "ratio": ratio, "outside_of_steps_per_run": outside}
    common.record("benchmarks.sweep", asked.out, found)


if __name__ == "__main__":
    main()
