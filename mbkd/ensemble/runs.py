"""Ensembles of finished runs: the mean of their saved logits, without training (Table 6, Ens2).

Raw logits are averaged, not probabilities (decision 26), as in the ensemble model.
"""

import hashlib
import itertools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mbkd import config as configuration
from mbkd import provenance
from mbkd.config import Config
from mbkd.data import tasks
from mbkd.ensemble.model import mean_logits, save
from mbkd.errors import UserError
from mbkd.evaluate import calibration, measure
from mbkd.files import folder_beside
from mbkd.model import card
from mbkd.result import Result

# The fields that must be equal in all members, and their readable names.
COMMON = {
    "system": "system",
    "task": "task",
    "backbone": "backbone",
    "trained": "trained languages",
    "labels": "labels or order of labels",
    "supervised": "supervised languages",
    "zero_shot": "zero-shot languages",
}
KEPT = ("task", "backbone", "labels", "trained", "branches", "supervised", "zero_shot", "rows")
Arrays = dict[str, dict[str, np.ndarray]]  # split -> language -> values


@dataclass(frozen=True)
class Member:
    """A finished run: its result, configuration, logits (rows, C) and labels (rows,)."""

    run: Path
    result: Result
    config: Config
    logits: Arrays
    labels: Arrays
    ids: dict[str, dict[str, list[str]]]  # split -> language -> row ids; empty for older runs


def read(directories: Sequence[Path]) -> list[Member]:
    """Read an ensemble's runs. Raises UserError for a run that is unfinished or unlike the first."""
    _refuse_one(directories)
    first, *others = [_member(run if run.name else run.absolute()) for run in directories]  # `.` has no name
    seen = {first.run.resolve()}
    for other in others:
        if other.run.resolve() in seen:
            raise UserError(f"{other.run}: named twice; an ensemble needs different runs")
        seen.add(other.run.resolve())
        for field, name in COMMON.items():
            if (mine := getattr(other.result, field)) != (wanted := getattr(first.result, field)):
                raise UserError(f"{other.run} and {first.run}: different {name} ({_words(mine)}; {_words(wanted)})")
        for field in ("student.branch_depth", "train.max_length"):
            section, name = field.split(".")
            values = [getattr(getattr(each.config, section), name) for each in (other, first)]
            if values[0] != values[1]:
                raise UserError(f"{other.run} and {first.run}: different {field} ({values[0]}; {values[1]})")
        if what := _differing(first, other):
            raise UserError(
                f"{other.run}: differs from {first.run} in its inputs ({', '.join(what)}); train one of them again"
            )
        if (split := _other_rows(first, other)) is not None:
            raise UserError(f"{other.run} and {first.run}: evaluated on different rows of {split}")
    return [first, *others]


def combine(members: Sequence[Member]) -> tuple[Result, Arrays]:
    """Return the ensemble's scores, as in result.json, and its logits.

    Parameters and seconds are sums over the members.
    """
    first, results = members[0], [member.result for member in members]
    logits = {
        split: {language: mean_logits([member.logits[split][language] for member in members]) for language in each}
        for split, each in first.logits.items()
    }
    task = first.config.task
    ordinal = tasks.is_ordinal(task)
    scores = {split: measure.scores(logits[split], first.labels[split], task, ordinal) for split in logits}
    names = tuple(member.run.name for member in members)
    result = Result(
        system=f"Ens{len(members)}",
        role="ensemble",
        members=names,
        seeds=tuple(seed for each in results for seed in each.all_seeds),
        branch_depth=first.config.student.branch_depth,
        hash=hashlib.sha256(" ".join(names).encode()).hexdigest()[:8],
        **{field: getattr(first.result, field) for field in KEPT},
        **measure.by_split(scores),
        calibration=calibration.summary(logits, first.labels, fitted=True),
        made_from=_made_from(members),
        parameters=sum(each.parameters for each in results),
        train_seconds=sum(each.train_seconds for each in results),
        step_seconds={
            "median": sum(each.step_seconds["median"] for each in results),
            "teacher": first.result.step_seconds["teacher"],
        },
    )
    return result, logits


def write_scores(directories: Sequence[Path], root: Path, size: int = 2) -> dict[Path, Result]:
    """Evaluate every group of `size` runs, and write a directory below `root` for each group.

    Returns the results by directory. docs/run-directory.md describes the directories. Raises UserError for runs that do
    not match.
    """
    _refuse_one(directories)
    if not 2 <= size <= len(directories):
        raise UserError(f"--size {size}: must be 2 to {len(directories)} for {len(directories)} runs")
    found = {}
    every = read(directories)
    if not every[0].logits:
        raise UserError(f"{directories[0]}: was not measured, because its task has neither dev nor test rows")
    for members in itertools.combinations(every, size):
        result, logits = combine(members)
        seeds = "-".join(f"s{seed}" for seed in result.seeds)
        folder = root / f"{result.task}-ens{size}-{members[0].config.slug}-{seeds}-{result.hash}"
        for split, each in logits.items():
            measure.save(folder, split, each, members[0].labels[split], members[0].ids[split])
        result.write(folder)
        found[folder] = result
    return found


def write_model(directories: Sequence[Path], out: Path) -> Result:
    """Write one model with the runs' students, its tokenizer and its card to a new folder.

    Returns the ensemble's result. Raises UserError as `read` does, and if the folder exists.
    """
    if out.exists():
        raise UserError(f"{out}: already exists; name another folder with --out")
    members = read(directories)
    result, _ = combine(members)
    with folder_beside(out) as part:
        save(directories, part, result.calibration["temperature"], result.calibration["temperatures"])
        card.write(part, members[0].config, result)
    return result


def _refuse_one(directories: Sequence[Path]) -> None:
    if len(directories) < 2:
        raise UserError("an ensemble needs two runs or more")


def _member(run: Path) -> Member:
    result = Result.read(run)
    config = configuration.read(run / "config.yaml")
    languages = {split: list(scores) for split, scores in result.accuracy.items()}

    def arrays(kind: str) -> Arrays:
        return {split: {x: np.load(run / kind / f"{split}.{x}.npy") for x in each} for split, each in languages.items()}

    def ids(split: str) -> dict[str, list[str]]:
        files = {x: run / "ids" / f"{split}.{x}.json" for x in languages[split]}
        return {x: json.loads(f.read_text(encoding="utf-8")) for x, f in files.items() if f.is_file()}

    try:
        return Member(run, result, config, arrays("logits"), arrays("labels"), {x: ids(x) for x in languages})
    except (OSError, ValueError) as error:
        raise UserError(f"{run}: its saved logits cannot be read ({error}); train it again with --fresh") from None


def _differing(a: Member, b: Member) -> list[str]:
    """Return the inputs in which two members differ, such as `teacher zh`."""
    mine, other = a.result.made_from, b.result.made_from
    return [name for name in mine if mine[name] != other.get(name, mine[name])]


def _made_from(members: Sequence[Member]) -> dict[str, str]:
    """Return the input hashes that all members share, and a hash of each member's logits."""
    first, *others = [member.result.made_from for member in members]
    shared = {name: value for name, value in first.items() if all(each.get(name) == value for each in others)}
    for member in members:
        shared |= provenance.member(member.run)
    return shared


def _other_rows(a: Member, b: Member) -> str | None:
    """Return the first split with different rows, or None."""
    for split in {**a.labels, **b.labels}:
        mine, other = a.labels.get(split, {}), b.labels.get(split, {})
        if list(mine) != list(other) or not all(np.array_equal(mine[x], other[x]) for x in mine):
            return split
        if any(a.ids[split].get(x, names) != names for x, names in b.ids[split].items()):
            return split
    return None


def _words(value: Any) -> str:
    return ", ".join(value) if isinstance(value, tuple) else str(value)
