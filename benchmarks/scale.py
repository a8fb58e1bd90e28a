"""Estimate hours, money and bytes of the paper's study (Tables 2 to 8, Fig 5) on 1, 8, 64 and 512 GPUs.

usage: python -m benchmarks.scale [--gpu A100] [--rate 1.0] [--gpus 1 8 64 512] [--out FILE]
       python -m benchmarks.scale --check RUNS [--out FILE]

Nothing is trained. The runs are those of `tuning.sweep`; a run in several tables counts once. The hours of a run are
those of `mbkd plan`. The stages follow each other: the teachers' grid, the teachers' logits, the students' runs and,
with `confirm`, the other seeds of the chosen configurations. The choice is unknown, so the longest training is assumed.
In a stage, the longest runs start first, each on the next free GPU.

A step on r GPUs takes max(FLOPs / r, launches) + all-reduce. The host launches each operation in the time that `mbkd
plan --gpu` assumes. The all-reduce moves 2 (r - 1) / r of the gradients, without word vectors, at --bus GB/s. All GPUs
cost money until the study ends.

--check: predicted over measured training seconds of the finished runs in a folder. The prediction uses the measured
speed of this machine.
"""

import argparse
import heapq
import math
import statistics
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import common
from mbkd import config as configuration
from mbkd import distributed
from mbkd.config import Config
from mbkd.estimate import cost, machine, plan
from mbkd.result import Result
from tuning import protocols
from tuning.experiments import EXPERIMENTS, GRID, base
from tuning.grids import combinations

DEPTHS = [0, 2, 4, 6, 8, 10, 12]
SEEDS = [1, 2, 3, 4, 5]
RANKS = (1, 2, 4, 8)  # GPUs of a trial; one machine has eight
MANY = tuple(2**n for n in range(13))
CHECKPOINT_MINUTES = 10
MODULE = "benchmarks.scale"


@dataclass(frozen=True)
class Job:
    """A run: seconds of a step's FLOPs and launches, steps, seconds of evaluation, bytes of all-reduced gradients."""

    step: float
    launches: float
    steps: int
    measuring: float
    gradients: float

    def hours(self, ranks: int, bus: float) -> float:
        """Return the hours on `ranks` GPUs. bus: bytes per second of the all-reduce."""
        reduce = 2 * (ranks - 1) / ranks * self.gradients / bus
        step = max(self.step / ranks, self.launches) + reduce
        return (self.steps * step + self.measuring / ranks) / 3600


def study(protocol: protocols.Protocol) -> list[list[Config]]:
    """Return the runs of all experiments, each once: teachers, students to search, students to confirm."""
    teachers: dict[str, Config] = {}
    search: dict[str, Config] = {}
    confirm: dict[str, Config] = {}
    for name, experiment in EXPERIMENTS.items():
        for setting in experiment.bases:
            full, _ = base(setting, [], experiment)
            how = "fixed" if experiment.protocol == "fixed" else protocol
            lists = dict(zip(experiment.searched, GRID, strict=True))
            tried = [{}] if how == "fixed" else combinations(lists)  # type: ignore[arg-type]
            for group in protocols.groups(experiment.systems(full, DEPTHS), tried):
                longest = max(group.choices, key=lambda choice: choice.run(1).train.epochs)
                first = SEEDS if how != "confirm" else SEEDS[:1]
                found = [choice.run(seed) for choice in group.choices for seed in first]
                into = teachers if name == "teachers" else search
                into |= {config.run_name: config for config in found}
                confirm |= {config.run_name: config for config in map(longest.run, SEEDS)}
    students = {name: config for name, config in confirm.items() if name not in search and name not in teachers}
    return [list(teachers.values()), list(search.values()), list(students.values())]


def jobs(found: dict[str, Any], configs: Sequence[Config], device: machine.Machine) -> list[Job]:
    """Return the runs of `plan.estimate` as jobs."""
    made = []
    for run, config in zip(found["runs"], configs, strict=True):
        flops, size = run["flops"], cost.student_size(config)
        seconds = flops["student"] / device.student + flops["teacher"] / device.teacher
        summed = max(run["memory"]["gradients"] - 4 * size.embeddings, 0)
        launches = cost.operations(config, config.distill.signal == "online") * device.launch
        made.append(Job(seconds / run["steps"], launches, run["steps"], flops["answers"] / device.student, summed))
    return made


def makespan(hours: Sequence[float], places: int) -> float:
    """Return the hours until the last job ends. The longest jobs start first, each at the next free place."""
    ends = [0.0] * min(places, max(len(hours), 1))
    for each in sorted(hours, reverse=True):
        heapq.heappush(ends, heapq.heappop(ends) + each)
    return max(ends)


def study_hours(stages: Sequence[Sequence[Job]], passes: Sequence[float], gpus: int, ranks: int, bus: float) -> float:
    """Return the hours of the whole study with `ranks` GPUs per trial."""
    every = [makespan([job.hours(ranks, bus) for job in stage], gpus // ranks) for stage in stages]
    return sum(every) + makespan(passes, gpus)


def traffic(config: Config, run: dict[str, Any], read: plan.Text) -> dict[str, float]:
    """Return the bytes that a run reads from and writes to a shared file system."""
    mean = statistics.fmean(float(each.mean()) for each in read.lengths.values())
    rows = sum(len(each) for each in read.lengths.values())
    tokens = 4 * (rows + sum(read.heldout.values())) * mean
    checkpoints = (
        run["disk"]["checkpoints"] / cost.CHECKPOINTS * (1 + math.floor(run["hours"] * 60 / CHECKPOINT_MINUTES))
    )
    return {"read": run["memory"]["parameters"] + tokens, "written": run["disk"]["finished"] + checkpoints}


def estimate_protocol(
    protocol: protocols.Protocol, asked: argparse.Namespace, device: machine.Machine
) -> dict[str, Any]:
    """Print and return the estimate of one protocol for every number of GPUs."""
    bus = asked.bus * 1e9
    stages = study(protocol)
    with tempfile.TemporaryDirectory() as root:  # a folder without finished runs
        estimates = [plan.estimate(stage, Path(root), device) for stage in stages]
        texts = {config.task.kind: plan.text(config, Path(root)) for stage in stages for config in stage[:1]}
        texts |= {
            config.task.kind: plan.text(config, Path(root)) for config in stages[1] if config.task.kind not in texts
        }
    each = [jobs(found, stage, device) for found, stage in zip(estimates, stages, strict=True)]
    asking = estimates[1]["total"]["hours"] - sum(run["hours"] for run in estimates[1]["runs"])
    teachers = sum(len(config.teachers) for config in {config.task.kind: config for config in stages[1]}.values())
    passes = [asking / max(teachers, 1)] * teachers
    pairs = [
        (c, run)
        for stage, found in zip(stages, estimates, strict=True)
        for c, run in zip(stage, found["runs"], strict=True)
    ]
    moved = [traffic(config, run, texts[config.task.kind]) for config, run in pairs]
    rows, table = [], []
    for gpus in asked.gpus:
        possible = [ranks for ranks in RANKS if ranks <= gpus]
        took = {ranks: study_hours(each, passes, gpus, ranks, bus) for ranks in possible}
        best = min(took, key=lambda ranks: took[ranks])
        busy = sum(job.hours(1, bus) for stage in each for job in stage) + sum(passes)
        money = {ranks: gpus * hours * asked.rate for ranks, hours in took.items()}
        kept = sum(run["disk"]["finished"] for _, run in pairs)
        during = max(run["disk"]["checkpoints"] for _, run in pairs) * min(gpus, max(map(len, stages)))
        table.append(
            (
                gpus,
                f"{took[1]:,.1f}",
                f"{money[1]:,.0f}",
                f"{busy / (gpus * took[1]):.0%}",
                best,
                f"{took[best]:,.1f}",
                f"{money[best]:,.0f}",
                f"{kept / 1e9:,.0f} + {during / 1e9:,.0f}",
                f"{sum(x['read'] for x in moved) / 1e12:.1f} + {sum(x['written'] for x in moved) / 1e12:.1f}",
            )
        )
        rows.append({"gpus": gpus, "hours": took, "money": money, "disk": kept, "checkpoints": during})
    better = next((n for n in MANY if _pays(each, passes, n, bus)), None)
    counts = ", ".join(f"{len(stage):,}" for stage in stages)
    columns = (
        "GPUs", "hours", "money", "busy", "best ranks per trial", "hours", "money", "GB kept + during the study",
        "TB read + written",
    )  # fmt: skip
    common.print_table(f"{protocol}: {counts} runs of teachers, of the grid, to confirm", columns, table)
    point = f"from {better} GPUs on" if better else f"for no number of GPUs up to {MANY[-1]}"
    print(f"several ranks per trial are faster than one {point}", file=sys.stderr)
    return {"runs": [len(stage) for stage in stages], "on": rows, "several_ranks_pay_from": better}


def _pays(stages: Sequence[Sequence[Job]], passes: Sequence[float], gpus: int, bus: float) -> bool:
    alone = study_hours(stages, passes, gpus, 1, bus)
    return any(study_hours(stages, passes, gpus, r, bus) < alone for r in RANKS[1:] if r <= gpus)


def check(root: Path) -> dict[str, Any]:
    """Print and return predicted over measured training seconds, by system, signal and precision."""
    groups: dict[str, list[Path]] = {}
    for file in sorted(root.glob("*/result.json")):
        result = Result.read(file.parent)
        if result.train_seconds and not result.folded_from and not result.seeds and result.steps:
            config = configuration.read(file.parent / "config.yaml")
            name = f"{result.system}, {config.distill.signal}, {config.train.precision}"
            groups.setdefault(name, []).append(file.parent)
    found, table = {}, []
    for name, folders in groups.items():
        configs = [configuration.read(folder / "config.yaml") for folder in folders]
        device = machine.calibrate(configs[0], plan.text(configs[0], root).lengths)
        took = [Result.read(folder).train_seconds for folder in folders]
        estimates = plan.estimate(configs, root, device)["runs"]
        flops = [run["flops"] for run in estimates]
        predicted = [x["student"] / device.student + x["teacher"] / device.teacher for x in flops]
        ratio = [a / b for a, b in zip(predicted, took, strict=True)]
        table.append((name, len(folders), common.spread(predicted, 0), common.spread(took, 0), common.spread(ratio, 2)))
        found[name] = {"predicted": predicted, "measured": took, "ratio": ratio}
    columns = ("", "runs", "predicted s", "measured s", "predicted / measured")
    common.print_table(f"seconds of training in {root.name}", columns, table)
    return found


def main() -> None:
    parser = common.parser(MODULE, __doc__)
    parser.add_argument("--gpu", default="A100")
    parser.add_argument("--rate", type=float, default=1.0, help="price of a GPU-hour; the default gives GPU-hours")
    parser.add_argument("--gpus", nargs="+", type=int, default=[1, 8, 64, 512])
    parser.add_argument("--bus", type=float, default=200, help="assumed GB/s of an all-reduce within a machine")
    parser.add_argument("--check", type=Path, help="a folder of finished runs")
    asked = parser.parse_args()
    distributed.quiet()
    if asked.check:
        common.record(MODULE, asked.out, {"check": check(asked.check)})
        return
    device = machine.on_gpu(asked.gpu)
    print(f"speed: {device.source}", file=sys.stderr)
    found = {protocol: estimate_protocol(protocol, asked, device) for protocol in ("full", "confirm")}
    common.record(MODULE, asked.out, {"gpu": asked.gpu, "rate": asked.rate, "study": found})


if __name__ == "__main__":
    main()
