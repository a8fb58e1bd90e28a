"""Time and memory of the report of a thousand runs, each with 15 languages x 5,010 rows.

usage: python -m benchmarks.report [--runs 1000] [--rows 5010] [--repeat 3] [--out FILE]

The benchmark writes synthetic runs to a temporary folder (1.6 GB at the default size): four systems on two backbones.
Every run of a system has another seed, so all runs enter the intervals. The report runs in a separate process.
"""

import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks import common
from mbkd.config import Config, changed, paper
from mbkd.evaluate import metrics
from mbkd.result import Result
from mbkd.terminal.progress import ProgressBar

TARGET_SECONDS, TARGET_GB = 120, 2


def make_runs(root: Path, count: int, rows: int) -> None:
    """Write run directories with random logits that are correct in about four of five rows."""
    full = [paper.base(paper.xnli(), backbone) for backbone in paper.BACKBONES.values()]
    systems = [paper.system(each, name) for each in full for name in paper.SYSTEMS]
    labels = np.arange(rows) % 3
    with ProgressBar("making runs", count) as progress:
        for number in range(count):
            config = systems[number % len(systems)]
            make_run(root, changed(config, {"seed": number // len(systems) + 1}), labels)
            progress.advance()


def make_run(root: Path, config: Config, labels: np.ndarray) -> None:
    """Write the directory of one run with these labels in every language."""
    rng = np.random.default_rng(config.seed)
    folder, accuracy = root / config.run_name, {}
    for kind in ("logits", "labels"):
        (folder / kind).mkdir(parents=True)
    (folder / "config.yaml").write_text(config.dump(), encoding="utf-8")
    for language in config.task.languages:
        logits = rng.random((len(labels), 3), dtype=np.float32)
        logits[np.arange(len(labels)), labels] += 0.8 * (rng.random(len(labels)) < 0.9)
        np.save(folder / "logits" / f"test.{language}.npy", logits)
        np.save(folder / "labels" / f"test.{language}.npy", labels)
        accuracy[language] = metrics.accuracy(logits, labels)
    task = config.task
    result = Result(
        system=config.system,
        role="student",
        task=task.kind,
        backbone=config.student.backbone,
        seed=config.seed,
        labels=("entailment", "neutral", "contradiction"),
        supervised=task.supervised,
        zero_shot=task.zero_shot,
        accuracy={"test": accuracy},
        averages={"test": metrics.averages(accuracy, task.supervised, task.zero_shot)},
        mae={},
        mae_averages={},
        rows={"test": dict.fromkeys(task.languages, len(labels))},
        parameters=1,
        steps=1,
        step_seconds={"median": 1.0, "teacher": "online"},
    )
    result.write(folder)


def measure(root: Path, out: Path) -> tuple[float, float, float]:
    """Return seconds and processor seconds of one report, and the children's peak memory so far in GB."""
    began, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "-m", "analysis.report", str(root), "--out", str(out), "--reference", "paper"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    seconds = time.perf_counter() - began
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    busy = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return seconds, busy, after.ru_maxrss / 1e6


def main() -> None:
    parser = common.parser("benchmarks.report", __doc__)
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--rows", type=int, default=5010)
    parser.add_argument("--repeat", type=int, default=3)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        make_runs(Path(folder), asked.runs, asked.rows)
        found = [measure(Path(folder), Path(folder) / "report") for _ in range(asked.repeat)]
    seconds = [each for each, _, _ in found]
    columns = ("runs", "rows", "n", "seconds", "processor s", "peak GB", "target")
    busy, peak = [each for _, each, _ in found], max(each for _, _, each in found)
    numbers = (f"{asked.runs:,}", f"{asked.rows:,}", asked.repeat, common.spread(seconds, 1), common.spread(busy, 1))
    common.print_table("a report", columns, [(*numbers, f"{peak:.2f}", f"{TARGET_SECONDS} s, {TARGET_GB} GB")])
    common.record("benchmarks.report", asked.out, {"seconds": seconds, "processor_seconds": busy, "peak_gb": peak})


if __name__ == "__main__":
    main()
