"""Read the run directories below a folder: what is finished, and what is wrong with the rest."""

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from pydantic import ValidationError

from mbkd.config import Config
from mbkd.errors import UserError
from mbkd.result import FILE, Metric, Result

# libyaml reads the configurations of a thousand runs in a second, pure Python in fifteen.
YAML = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass(frozen=True)
class Problem:
    """Something that is missing from the report: where it is (a run, a file), and what is wrong with it."""

    where: str
    what: str


@dataclass(frozen=True)
class Run:
    """A finished run: its result.json, its config.yaml (empty for an ensemble), and its arrays.

    damaged: (split, language) whose arrays cannot be used; their scores are left out.
    """

    folder: Path
    name: str
    result: Result
    config: dict[str, Any]
    damaged: frozenset[tuple[str, str]] = frozenset()

    @property
    def system(self) -> str:
        """The system as the paper's tables call it."""
        return self.result.system

    @property
    def role(self) -> str:
        """student, teacher or ensemble."""
        return self.result.role

    @property
    def task(self) -> str:
        """xnli, marc or own."""
        return self.result.task

    @property
    def backbone(self) -> str:
        """The hub id or the folder that the model started from."""
        return self.result.backbone

    @property
    def seeds(self) -> tuple[int, ...]:
        """The run's seed; of an ensemble the seeds of its members."""
        return self.result.all_seeds

    @property
    def branch_depth(self) -> int:
        """K; 0 without branches."""
        depth = self.result.branch_depth
        return int(self.config.get("student", {}).get("branch_depth", 0) if depth is None else depth)

    @property
    def languages(self) -> tuple[str, ...]:
        """All languages of the task, the supervised ones first."""
        return (*self.result.supervised, *self.result.zero_shot)

    def scores(self, split: str, metric: Metric = "accuracy") -> dict[str, float]:
        """Language -> accuracy (0 to 1) or mae (classes) of a split, without what is damaged."""
        found = self.result.scores(split, metric)
        return {x: value for x, value in found.items() if (split, x) not in self.damaged}

    def logits(self, split: str, language: str) -> np.ndarray:
        """(rows, C) fp32, memory-mapped. Raises OSError or ValueError where the file is not there or not whole."""
        return _array(self.folder / "logits" / f"{split}.{language}.npy", 2)

    def labels(self, split: str, language: str) -> np.ndarray:
        """(rows,) classes, memory-mapped. Raises as `logits`."""
        return _array(self.folder / "labels" / f"{split}.{language}.npy", 1)

    def ids(self, split: str, language: str) -> bytes | None:
        """The rows' ids as a JSON list; None for a run of the time before they were kept. Raises OSError."""
        file = self.folder / "ids" / f"{split}.{language}.json"
        return file.read_bytes() if file.is_file() else None

    def metrics(self) -> Iterator[dict[str, Any]]:
        """What metrics.jsonl noted while training, line by line; nothing where there is none."""
        file = self.folder / "metrics.jsonl"
        if file.is_file():
            with file.open(encoding="utf-8") as lines:
                yield from (json.loads(line) for line in lines if line.strip())


@dataclass(frozen=True)
class Collection:
    """What a folder of runs holds: finished runs, what is wrong with others, records of sweeps and of efficiency."""

    root: Path
    runs: list[Run] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    sweeps: list[dict[str, Any]] = field(default_factory=list)
    efficiency: list[dict[str, Any]] = field(default_factory=list)


def collect(root: Path) -> Collection:
    """Read every run directory of a folder. Raises UserError if not one of its runs is finished."""
    if not root.is_dir():
        raise UserError(f"{root}: no such folder; give the one that `mbkd train --runs` wrote to")
    problems: list[Problem] = []
    runs = [run for path in sorted(root.iterdir()) if (run := _read(path, problems)) is not None]
    if not runs:
        named = "".join(f"\n  {x.where}: {x.what}" for x in problems)
        raise UserError(f"{root}: there is no finished run here{named}")
    runs = _distinct(runs, problems)
    runs = _of_one_task(runs, problems)
    sweeps = _records(root, "sweeps/*.json", ("experiment", "protocol", "rule", "groups"), problems)
    efficiency = _records(root, "efficiency-*.json", ("task", "backbone", "systems", "ratios", "rounds"), problems)
    return Collection(root, runs, problems, sweeps, efficiency)


def _read(path: Path, problems: list[Problem]) -> Run | None:
    """The finished run in a directory, or None; what is wrong is added to the problems."""
    if not (path / FILE).is_file():
        if (path / "config.yaml").is_file():
            problems.append(Problem(path.name, _why_unfinished(path)))
        return None
    try:
        result = Result.read(path)
        config_file = path / "config.yaml"
        config = yaml.load(config_file.read_bytes(), YAML) if config_file.is_file() else {}
        if not result.all_seeds or not isinstance(config, dict):
            raise ValueError("no seed" if not result.all_seeds else "config.yaml holds no configuration")
        config = _whole(config)
    except (OSError, ValueError, yaml.YAMLError, UserError) as error:
        problems.append(Problem(path.name, f"cannot be read, left out ({error})"))
        return None
    run = Run(path, path.name, result, config)
    return Run(path, path.name, result, config, _damaged(run, problems))


def _whole(config: dict[str, Any]) -> dict[str, Any]:
    """A configuration with the defaults of fields that are newer than it; as it is, where it is of another version."""
    try:
        return Config.model_validate(config).model_dump(mode="json") if config else {}
    except ValidationError:
        return config


def _why_unfinished(path: Path) -> str:
    try:
        failed = json.loads((path / "failed.json").read_text(encoding="utf-8"))
        return f"failed after {failed['attempts']} attempts: {failed['reason']}"
    except (OSError, ValueError, KeyError):
        return "not finished"


def _damaged(run: Run, problems: list[Problem]) -> frozenset[tuple[str, str]]:
    """(split, language) of the run whose arrays are there and cannot be used."""
    found = set()
    for split, scores in run.result.accuracy.items():
        for language in scores:
            try:
                logits, labels = run.logits(split, language), run.labels(split, language)
                if len(logits) != len(labels):
                    raise ValueError(f"{len(logits)} rows of logits, {len(labels)} labels")
            except FileNotFoundError:
                continue  # the score in result.json stands; only its interval cannot be computed
            except (OSError, ValueError, EOFError) as error:
                problems.append(Problem(f"{run.name}, {split} {language}", f"damaged, left out ({error})"))
                found.add((split, language))
    return frozenset(found)


def _array(file: Path, dimensions: int) -> np.ndarray:
    array: np.ndarray = np.load(str(file), mmap_mode="r")  # of a Path numpy asks the file system for every folder
    if array.ndim != dimensions or not array.size:
        raise ValueError(f"{file.name} has the shape {array.shape}")
    return array


def _distinct(runs: list[Run], problems: list[Problem]) -> list[Run]:
    """One run for each configuration, seed and scores: copies count once, repetitions each."""
    same: dict[str, list[Run]] = {}
    for run in runs:
        same.setdefault(_identity(run), []).append(run)
    kept = []
    for several in same.values():
        distinct = {json.dumps(run.result.accuracy, sort_keys=True): run for run in reversed(several)}
        kept += list(reversed(distinct.values()))
        if len(distinct) > 1:
            names = ", ".join(run.name for run in several)
            problems.append(Problem(names, "repetitions of one configuration and seed: each counts as a run"))
    return kept


def _identity(run: Run) -> str:
    """What makes two runs the same run: the configuration with its seed; of an ensemble its members."""
    what = run.config or [run.system, run.task, run.backbone, run.result.members]
    return json.dumps([run.system, what], sort_keys=True, default=str)


def _of_one_task(runs: list[Run], problems: list[Problem]) -> list[Run]:
    """For each kind of task the runs that agree on languages, labels and rows with most others."""
    kept = []
    for kind in dict.fromkeys(run.task for run in runs):
        here = [run for run in runs if run.task == kind]
        counts = Counter(_task_of(run) for run in here if run.role != "teacher") or Counter(map(_task_of, here))
        usual = counts.most_common(1)[0][0]
        for run in here:
            if not (what := _other_task(run, usual)):
                kept.append(run)
            else:
                problems.append(Problem(run.name, f"another {kind} task than that of {counts[usual]} runs: {what}"))
    return kept


TaskIdentity = tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...], tuple[tuple[str, int], ...]]


def _task_of(run: Run) -> TaskIdentity:
    """What a run says about its task: supervised, zero-shot, labels, and rows of every split and language."""
    result = run.result
    rows = tuple(
        (f"{split} {language}", count)
        for split, each in sorted(result.rows.items())
        if split != "train"
        for language, count in each.items()
    )
    return result.supervised, result.zero_shot, result.labels, rows


def _other_task(run: Run, usual: TaskIdentity) -> str:
    """How a run's task differs from the usual one, in words; empty where it does not."""
    supervised, zero_shot, labels, rows = _task_of(run)
    languages = {*usual[0], *usual[1]}
    inside = set(supervised) <= languages if run.role == "teacher" else (supervised, zero_shot) == usual[:2]
    if not inside:
        return f"supervised {' '.join(supervised)}, zero-shot {' '.join(zero_shot) or 'none'}"
    if labels != usual[2]:
        return f"labels {', '.join(labels)}"
    expected = dict(usual[3])
    for what, count in rows:
        if expected.get(what, count) != count:
            return f"{count:,} rows in {what}, not {expected[what]:,}"
    return ""


def _records(root: Path, pattern: str, needed: tuple[str, ...], problems: list[Problem]) -> list[dict[str, Any]]:
    """The JSON objects of some files that have the needed keys."""
    found = []
    for file in sorted(root.glob(pattern)):
        try:
            record = json.loads(file.read_text(encoding="utf-8"))
            if not isinstance(record, dict) or (missing := [key for key in needed if key not in record]):
                raise ValueError(f"no {', '.join(missing) if isinstance(record, dict) else 'object in it'}")
            found.append(record)
        except (OSError, ValueError) as error:
            problems.append(Problem(str(file.relative_to(root)), f"cannot be read, left out ({error})"))
    return found
