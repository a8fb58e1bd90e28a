"""Read the run directories below a folder: the finished runs, and the problems of all others."""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from pydantic import ValidationError

from mbkd.config import Config
from mbkd.errors import UserError
from mbkd.result import FILE, Metric, Result

# libyaml parses a thousand configurations fifteen times as fast as the pure-Python loader.
YAML = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

# Keys of the records of sweeps and of `tuning.efficiency` that the tables read.
SWEEP: dict[str, type] = {"experiment": str, "protocol": str, "rule": str, "groups": list}
EFFICIENCY: dict[str, type] = {"task": str, "backbone": str, "systems": dict, "ratios": dict, "rounds": int}


NAMED = 3  # maximum runs that a line lists


@dataclass(frozen=True)
class Problem:
    """An omission from the report: the run or file, and the reason."""

    where: str
    what: str


@dataclass(frozen=True)
class Run:
    """A finished run: its result.json, its config.yaml (empty for an ensemble), and its arrays.

    damaged: (split, language) with unusable arrays; their scores are omitted.
    """

    folder: Path
    name: str
    result: Result
    config: dict[str, Any]
    damaged: frozenset[tuple[str, str]] = frozenset()

    @property
    def system(self) -> str:
        """System name as in the paper's tables."""
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
        """Hub id or folder of the backbone."""
        return self.result.backbone

    @property
    def seeds(self) -> tuple[int, ...]:
        """The run's seed; for an ensemble, the seeds of its members."""
        return self.result.all_seeds

    @property
    def branch_depth(self) -> int:
        """Branch depth K; 0 without branches."""
        depth = self.result.branch_depth
        return int(self.config.get("student", {}).get("branch_depth", 0) if depth is None else depth)

    @property
    def languages(self) -> tuple[str, ...]:
        """All languages of the task, supervised languages first."""
        return (*self.result.supervised, *self.result.zero_shot)

    def scores(self, split: str, metric: Metric = "accuracy") -> dict[str, float]:
        """Accuracy (0 to 1) or mae (classes) of a split by language, without damaged languages."""
        found = self.result.scores(split, metric)
        return {x: value for x, value in found.items() if (split, x) not in self.damaged}

    def logits(self, split: str, language: str) -> np.ndarray:
        """(rows, C) fp32, memory-mapped. Raises OSError or ValueError if the file is missing or truncated."""
        return _array(self.folder / "logits" / f"{split}.{language}.npy", 2)

    def labels(self, split: str, language: str) -> np.ndarray:
        """(rows,) classes, memory-mapped. Raises as `logits`."""
        return _array(self.folder / "labels" / f"{split}.{language}.npy", 1)

    def ids(self, split: str, language: str) -> bytes | None:
        """Ids of the rows as a JSON list; None for runs without stored ids. Raises OSError."""
        file = self.folder / "ids" / f"{split}.{language}.json"
        return file.read_bytes() if file.is_file() else None

    @cached_property
    def conditions(self) -> dict[str, str]:
        """Device, precision and code revision of the training, as far as environment.json has them."""
        try:
            noted = json.loads((self.folder / "environment.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        found = {"device": noted.get("device"), "precision": noted.get("precision"), "code revision": noted.get("git")}
        return {name: str(value).partition(",")[0] for name, value in found.items() if value}

    def metrics(self) -> Iterator[dict[str, Any]]:
        """Lines of metrics.jsonl as objects; empty without that file."""
        file = self.folder / "metrics.jsonl"
        if file.is_file():
            with file.open(encoding="utf-8") as lines:
                yield from (json.loads(line) for line in lines if line.strip())


@dataclass(frozen=True)
class Collection:
    """The content of a folder of runs: finished runs, problems, and records of sweeps and of efficiency."""

    root: Path
    runs: list[Run] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    sweeps: list[dict[str, Any]] = field(default_factory=list)
    efficiency: list[dict[str, Any]] = field(default_factory=list)


def collect(root: Path) -> Collection:
    """Read every run directory of a folder. Raises UserError if no run is finished."""
    if not root.is_dir():
        raise UserError(f"{root}: no such folder; pass the folder of `mbkd train --runs`")
    problems: list[Problem] = []
    runs = [run for path in sorted(root.iterdir()) if (run := _read(path, problems)) is not None]
    if not runs:
        named = "".join(f"\n  {x.where}: {x.what}" for x in problems)
        raise UserError(f"{root}: no finished run in this folder{named}")
    runs = _distinct(runs, problems)
    runs = _of_one_task(runs, problems)
    sweeps = _records(root, "sweeps/*.json", SWEEP, problems)
    efficiency = _records(root, "efficiency-*.json", EFFICIENCY, problems)
    return Collection(root, runs, problems, sweeps, efficiency)


def shortened(names: Sequence[str]) -> str:
    """The first NAMED names, and the number of others."""
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more


def _read(path: Path, problems: list[Problem]) -> Run | None:
    """The finished run in a directory, or None. Problems are appended to `problems`."""
    if not (path / FILE).is_file():
        if (path / "config.yaml").is_file():
            problems.append(Problem(path.name, _why_unfinished(path)))
        return None
    try:
        result = Result.read(path)
        config_file = path / "config.yaml"
        config = yaml.load(config_file.read_bytes(), YAML) if config_file.is_file() else {}
        if not result.all_seeds or not isinstance(config, dict):
            raise ValueError("no seed" if not result.all_seeds else "config.yaml contains no configuration")
        config = _whole(config)
    except (OSError, ValueError, yaml.YAMLError, UserError) as error:
        problems.append(Problem(path.name, f"cannot be read, omitted ({error})"))
        return None
    run = Run(path, path.name, result, config)
    return Run(path, path.name, result, config, _damaged(run, problems))


def _whole(config: dict[str, Any]) -> dict[str, Any]:
    """A configuration with defaults for missing fields; unchanged if another version wrote the configuration."""
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
    """(split, language) pairs of the run whose arrays exist but are unusable."""
    found = set()
    for split, scores in run.result.accuracy.items():
        for language in scores:
            try:
                logits, labels = run.logits(split, language), run.labels(split, language)
                if len(logits) != len(labels):
                    raise ValueError(f"{len(logits)} rows of logits, {len(labels)} labels")
            except FileNotFoundError:
                continue  # without arrays the score in result.json remains valid, only without an interval
            except (OSError, ValueError, EOFError) as error:
                problems.append(Problem(f"{run.name}, {split} {language}", f"damaged, omitted ({error})"))
                found.add((split, language))
    return frozenset(found)


def _array(file: Path, dimensions: int) -> np.ndarray:
    array: np.ndarray = np.load(str(file), mmap_mode="r")  # a Path makes numpy stat every folder
    if array.ndim != dimensions or not array.size:
        raise ValueError(f"{file.name} has the shape {array.shape}")
    return array


def _distinct(runs: list[Run], problems: list[Problem]) -> list[Run]:
    """Runs without copies: one run per configuration, seed and scores. Repetitions with other scores all remain."""
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
    """Identity of a run: configuration and seed; for an ensemble, its members."""
    what = run.config or [run.system, run.task, run.backbone, run.result.members]
    return json.dumps([run.system, what], sort_keys=True, default=str)


def _of_one_task(runs: list[Run], problems: list[Problem]) -> list[Run]:
    """For each kind of task, the largest set of runs that agree on languages, labels and rows."""
    kept = []
    for kind in dict.fromkeys(run.task for run in runs):
        here = [run for run in runs if run.task == kind]
        counts = Counter(_task_of(run) for run in here if run.role != "teacher") or Counter(map(_task_of, here))
        usual = counts.most_common(1)[0][0]
        for run in here:
            if not (what := _other_task(run, usual)):
                kept.append(run)
            else:
                problems.append(Problem(run.name, f"its {kind} task differs from that of {counts[usual]} runs: {what}"))
    return kept


TaskIdentity = tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...], tuple[tuple[str, int], ...]]


def _task_of(run: Run) -> TaskIdentity:
    """A run's task: supervised and zero-shot languages, labels, and rows per split and language."""
    result = run.result
    rows = tuple(
        (f"{split} {language}", count)
        for split, each in sorted(result.rows.items())
        if split != "train"
        for language, count in each.items()
    )
    return result.supervised, result.zero_shot, result.labels, rows


def _other_task(run: Run, usual: TaskIdentity) -> str:
    """Difference of a run's task from the usual task, in words; empty if there is no difference."""
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


def _records(root: Path, pattern: str, needed: dict[str, type], problems: list[Problem]) -> list[dict[str, Any]]:
    """JSON objects of matching files that have all needed keys with values of the needed types."""
    found = []
    for file in sorted(root.glob(pattern)):
        try:
            record = json.loads(file.read_text(encoding="utf-8"))
            if not isinstance(record, dict):
                raise ValueError("no JSON object")
            if missing := [key for key, kind in needed.items() if not isinstance(record.get(key), kind)]:
                raise ValueError(f"missing or of a wrong type: {', '.join(missing)}")
            found.append(record)
        except (OSError, ValueError) as error:
            problems.append(Problem(str(file.relative_to(root)), f"cannot be read, omitted ({error})"))
    return found
