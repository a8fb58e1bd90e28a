"""Plan of runs before their start: steps, FLOPs, memory, disk, hours, and possible savings.

Nothing is trained: hours are counted FLOPs divided by a machine's speed. Launches limit the steps of a GPU.
"""

import functools
import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mbkd import runs
from mbkd.config import Config, changed
from mbkd.data import hub, tasks
from mbkd.data.batches import Plan, compiled_width
from mbkd.data.tokens import open_store, tokenizer_fingerprint
from mbkd.errors import UserError
from mbkd.estimate import cost
from mbkd.estimate.machine import Machine

ASSUMED_LENGTH = 64  # tokens per row; pairs of XNLI have 58 (en) to 73 (zh) tokens with a vocabulary of 16,000 pieces
ROWS = {  # per language, as published
    "xnli": {"train": 392_702, "dev": 2_490, "test": 5_010},
    "marc": {"train": 200_000, "dev": 5_000, "test": 5_000},
}
SAMPLE = 200  # number of steps whose batches are sampled


@dataclass(frozen=True, eq=False)
class Text:
    """The properties of a run's data that its cost depends on.

    lengths  language -> (rows,) tokens of each training row
    heldout  split -> rows of all languages together
    source   description of the source of the lengths
    """

    lengths: dict[str, np.ndarray]
    heldout: dict[str, int]
    source: str


Left = tuple[Config, Text, dict[str, Any]]  # an unfinished run, its data, its cost


def text(config: Config, root: Path) -> Text:
    """Real lengths if the data is local (tokenised if needed), else assumed lengths. Raises UserError."""
    task, length = config.task, config.train.max_length
    if not _at_hand(config):
        rows = {split: min(count, task.limit or count) for split, count in ROWS[task.kind].items()}
        assumed = min(ASSUMED_LENGTH, length)
        lengths = {x: np.full(rows["train"], assumed) for x in config.languages}
        heldout = {split: count * len(task.languages) for split, count in rows.items() if split != "train"}
        return Text(
            lengths, heldout, f"{task.kind}: no local data; assumed: published numbers of rows, {assumed} tokens each"
        )
    splits = [split for split in tasks.splits(task) if split != "train"]
    heldout = {split: sum(len(tasks.load(task, split, x)) for x in tasks.languages(task, split)) for split in splits}
    try:
        tokenizer_fingerprint(config.student.backbone)
    except UserError:
        assumed = min(ASSUMED_LENGTH, length)
        lengths = {x: np.full(len(tasks.load(task, "train", x)), assumed) for x in config.languages}
        return Text(lengths, heldout, f"{task.kind}: real rows; no local tokenizer, assumed: {assumed} tokens each")
    backbone = config.student.backbone
    lengths = {x: open_store(root / "store", task, "train", x, backbone, length).lengths for x in config.languages}
    means = ", ".join(f"{x} {each.mean():.1f}" for x, each in lengths.items())
    return Text(lengths, heldout, f"{task.kind}: real rows, mean tokens {means}")


def _at_hand(config: Config) -> bool:
    """Whether the rows are local. Own rows are downloaded if needed, because their number is unknown."""
    task = config.task
    return task.kind == "own" or (task.path is not None and hub.is_local(str(Path(task.path).expanduser())))


def estimate(configs: Sequence[Config], root: Path, machine: Machine, ranks: int = 1) -> dict[str, Any]:
    """Estimate the cost of runs. Runs that are finished under `root` add no cost.

    ranks: world size of each run, used for the memory per rank. Hours are for one device that does all the work.
    Returns a dictionary:

    machine, text   descriptions of where speed and lengths come from
    runs            list of {"name", "task", "backbone", "system", "finished", "steps",
                    "flops": {"student", "teacher", "answers"}, "hours", "memory": {part: bytes per rank},
                    "disk": {"finished", "checkpoints"}}
    total           {"runs", "finished", "steps", "flops", "hours", "disk"} of the unfinished runs
    cache, confirm  hours {"online", "cache"}, or None without teachers; hours {"full", "confirm"}, or None without
                    a saving

    Raises UserError if data, a backbone or a teacher is not found.
    """
    texts: dict[str, Text] = {}
    found, left = [], []
    for config in configs:
        key = _key(config.task, config.languages, config.student.backbone, config.train.max_length)
        if key not in texts:
            texts[key] = text(config, root)
        run = _run(config, texts[key], machine, ranks)
        run["finished"] = runs.finished(runs.folder(root, config))
        found.append(run)
        if not run["finished"]:
            left.append((config, texts[key], run))
    passes = _passes((config, each) for config, each, _ in left if config.distill.signal == "cache")
    flops = sum(sum(run["flops"].values()) for _, _, run in left) + passes
    checkpoints = max((run["disk"]["checkpoints"] for _, _, run in left), default=0)
    return {
        "machine": machine.source,
        "text": sorted({each.source for each in texts.values()}),
        "runs": found,
        "total": {
            "runs": len(left),
            "finished": len(found) - len(left),
            "steps": sum(run["steps"] for _, _, run in left),
            "flops": flops,
            "hours": sum(run["hours"] for _, _, run in left) + passes / machine.teacher / 3600,
            "disk": sum(run["disk"]["finished"] for _, _, run in left) + checkpoints,
        },
        "cache": _cache_saves(left, machine),
        "confirm": _confirm_saves(left),
    }


def _run(config: Config, read: Text, machine: Machine, ranks: int) -> dict[str, Any]:
    """Cost of one run."""
    train = config.train
    steps_per_epoch, widths = _batches_of(config, read)
    steps = max(round(train.epochs * steps_per_epoch), 1)
    flops = {
        "student": steps * _mean(widths, lambda n: cost.student_flops(config, train.batch_size, n)),
        "teacher": steps * _teacher_step(config, widths) if config.distill.signal == "online" else 0.0,
        "answers": _answers(config, read),
    }
    precision = machine.precision if train.precision == "auto" else train.precision
    return {
        "name": config.run_name,
        "task": config.task.kind,
        "backbone": config.student.backbone,
        "system": config.system,
        "steps": steps,
        "flops": flops,
        "hours": (
            steps * _step_seconds(config, widths, machine, config.distill.signal == "online")
            + flops["answers"] / machine.student
        )
        / 3600,
        "memory": cost.memory(config, precision, machine.half, ranks, max(widths)),
        "disk": cost.disk(config, sum(read.heldout.values())),
    }


@functools.cache  # a grid requests the same batches repeatedly
def _batches(
    read: Text, batch_size: int, draw: Any, alpha: float, group_by_length: bool, widest: int | None
) -> tuple[int, Counter[int]]:
    """Steps per epoch, and counts of batch widths among the first steps.

    widest: train.max_length if layers are compiled, because batches then have one of a few widths; otherwise None.
    """
    lengths = read.lengths
    plan = Plan(lengths, batch_size, epochs=1, seed=1, draw=draw, alpha=alpha, group_by_length=group_by_length)
    steps = range(min(SAMPLE, plan.steps))
    widths = [int(lengths[plan.language(s)][plan.rows(s)].max()) for s in steps]
    if widest is not None:
        widths = [compiled_width(each, widest) for each in widths]
    return plan.steps_per_epoch, Counter(widths)


def _batches_of(config: Config, read: Text) -> tuple[int, Counter[int]]:
    train = config.train
    widest = train.max_length if train.compile else None
    return _batches(read, train.batch_size, train.draw, train.draw_alpha, train.group_by_length, widest)


def _mean(widths: Counter[int], flops: Callable[[int], float]) -> float:
    return sum(count * flops(width) for width, count in widths.items()) / widths.total()


def _teacher_step(config: Config, widths: Counter[int]) -> float:
    # Assumes the student's widths, because the teachers' tokenizers return about as many tokens.
    return _mean(widths, lambda n: cost.teacher_flops(config, config.train.batch_size, n))


def _step_seconds(config: Config, widths: Counter[int], machine: Machine, online: bool) -> float:
    """Mean seconds of a step. online: with the teachers' forward passes."""
    launches = cost.operations(config, online) * machine.launch

    def of(width: int) -> float:
        rows = config.train.batch_size
        teacher = cost.teacher_flops(config, rows, width) / machine.teacher if online else 0.0
        return max(cost.student_flops(config, rows, width) / machine.student + teacher, launches)

    return _mean(widths, of)


def _answers(config: Config, read: Text) -> float:
    """FLOPs of evaluation: dev after every epoch or once (`train.evaluate`), all splits at the end."""
    epochs = math.ceil(config.train.epochs) if config.train.evaluate == "epoch" else 1
    rows = sum(count * (epochs if split == "dev" else 1) for split, count in read.heldout.items())
    mean = float(np.mean([each.mean() for each in read.lengths.values()]))
    return rows * cost.answer_flops(config, 1, mean)


def _passes(read: Iterable[tuple[Config, Text]]) -> float:
    """FLOPs of running every teacher once over its training rows, shared by all runs."""
    asked = {}
    for config, each in read:
        for language, sizes in cost.teacher_sizes(config).items():
            for size, teacher in zip(sizes, config.teachers[language], strict=True):
                key = _key(config.task, language, teacher.model, config.train.max_length)
                if key not in asked:
                    lengths, counts = np.unique(each.lengths[language], return_counts=True)
                    asked[key] = sum(c * size.forward(1, int(n)) for n, c in zip(lengths, counts, strict=True))
    return float(sum(asked.values()))


def _cache_saves(left: list[Left], machine: Machine) -> dict[str, float] | None:
    """Hours of the runs with teachers: with teachers in every step, and with a cache."""
    taught = [each for each in left if each[0].distill.signal != "labels"]
    if not taught:
        return None
    answers = sum(run["flops"]["answers"] for _, _, run in taught) / machine.student
    online, cached = (
        sum(run["steps"] * _step_seconds(c, _batches_of(c, read)[1], machine, way) for c, read, run in taught)
        for way in (True, False)
    )
    passes = _passes((config, read) for config, read, _ in taught) / machine.teacher
    return {"online": (online + answers) / 3600, "cache": (cached + passes + answers) / 3600}


def _confirm_saves(left: list[Left]) -> dict[str, float] | None:
    """Hours of a grid with all seeds, and of a grid with one seed whose best point is confirmed with the others.

    The chosen point is unknown, so the longest training is assumed. The saving is a lower bound.
    """
    grids: dict[str, dict[str, dict[int, float]]] = {}  # system -> point of the grid -> seed -> hours
    for config, _, run in left:
        alike = changed(config, {"seed": 0, "train": {"lr": 1.0, "epochs": 1.0}})
        point = _key(config.train.lr, config.train.epochs)
        grids.setdefault(alike.hash, {}).setdefault(point, {})[config.seed] = run["hours"]
    full = confirm = 0.0
    for points in grids.values():
        each = [list(seeds.values()) for seeds in points.values()]
        full += sum(map(sum, each))
        confirm += sum(hours[0] for hours in each) + max(sum(hours[1:]) for hours in each)
    return {"full": full, "confirm": confirm} if confirm < full else None


def _key(*parts: Any) -> str:
    return "|".join(map(str, parts))
