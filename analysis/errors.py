"""Rows on which two systems differ most, by language, with texts if the data is available."""

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from pydantic import ValidationError

from analysis import charts, reference
from analysis.collect import Problem, Run
from analysis.context import TASKS, Context
from analysis.groups import Group
from mbkd.config import Task
from mbkd.errors import UserError

ITEMS = 900  # maximum rows of all comparisons together; keeps the page below a few MB
NAMED = 20  # maximum languages that a message lists
CHARACTERS = 500  # maximum length of a text; longer texts are visibly truncated
PAIRS = (("MultiKD + MBLM", "MultiKD"), ("MultiKD", "MultiTrain"))


@dataclass(frozen=True)
class Item:
    """A row: text (empty without the data), label, and probabilities (C,) of each system.

    difference: the first system's probability of the label minus the second system's.
    """

    language: str
    id: str
    text_a: str
    text_b: str
    label: str
    first: tuple[float, ...]
    second: tuple[float, ...]
    difference: float


@dataclass(frozen=True)
class Comparison:
    """Two systems on one split: their names, the classes, and the rows that differ most, largest first."""

    key: str
    title: str
    split: str
    first: str
    second: str
    labels: tuple[str, ...]
    items: list[Item]
    rows: int  # number of rows compared


def compare(context: Context) -> tuple[list[Comparison], list[Problem]]:
    """Compare pairs of systems, with at most ITEMS rows in total and the same number per language.

    The split is the requested split; else test if both systems have test scores, else dev.
    """
    wanted = list(pairs(context))
    found: list[Comparison] = []
    gaps: list[Problem] = []
    for first, second in wanted:
        split = context.split or charts.heldout([first, second])
        backbone = reference.backbone_name(reference.backbone_key(first.backbone))
        title = f"{first.system} and {second.system}: {TASKS[first.task]}, {backbone}"
        each = max(1, ITEMS // (len(wanted) * len(first.runs[0].languages)))
        items: list[Item] = []
        textless: dict[str, str] = {}  # language -> reason
        rows = 0
        for language in first.runs[0].languages:
            try:
                some, count = _differing(first, second, split, language, each, textless)
            except (OSError, ValueError, LookupError) as error:
                gaps.append(Problem(f"comparison of {title}", f"{language} omitted: {error}"))
                continue
            items += some
            rows += count
        if textless:
            languages, why = [*textless], next(iter(textless.values()))
            more = f" and {len(languages) - NAMED} more" if len(languages) > NAMED else ""
            named = f"{', '.join(languages[:NAMED])}{more}"
            gaps.append(Problem(f"texts of {title}", f"row numbers only for {split} {named}: {why}"))
        if items:
            items.sort(key=lambda item: -abs(item.difference))
            labels = tuple(first.runs[0].result.labels)
            key = f"items-{len(found) + 1}"
            found.append(Comparison(key, title, split, first.system, second.system, labels, items, rows))
    return found, gaps


def pairs(context: Context) -> Iterator[tuple[Group, Group]]:
    """For each task and backbone: MBLM with MultiKD and MultiKD with MultiTrain; else the last two systems."""
    for task in context.tasks:
        for backbone in context.backbones(task):
            found = charts.systems(context, task, backbone)
            systems = {name: group for name, group in found.items() if group.role == "student"}
            named = [(systems[a], systems[b]) for a, b in PAIRS if a in systems and b in systems]
            last = list(systems.values())[-2:]
            yield from named or ([(last[1], last[0])] if len(last) > 1 else [])


def probabilities(group: Group, split: str, language: str) -> np.ndarray:
    """(rows, C) softmax of the mean logits over runs. Raises OSError or ValueError without usable arrays."""
    if any((split, language) in run.damaged for run in group.runs):
        raise ValueError("damaged arrays")
    logits = np.mean([run.logits(split, language) for run in group.runs], axis=0, dtype=np.float64)
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    found: np.ndarray = powers / powers.sum(axis=1, keepdims=True)
    return found


def _differing(
    first: Group, second: Group, split: str, language: str, most: int, textless: dict[str, str]
) -> tuple[list[Item], int]:
    """Rows of a language that differ most, and the number of rows. Adds the reason for missing texts to `textless`."""
    one, two = probabilities(first, split, language), probabilities(second, split, language)
    labels = np.asarray(first.runs[0].labels(split, language))
    for run in [*first.runs, *second.runs]:
        if not np.array_equal(run.labels(split, language), labels):
            raise ValueError(f"the labels of {run.name} and {first.runs[0].name} differ")
    if one.shape != two.shape or len(one) != len(labels):
        raise ValueError(f"{one.shape} and {two.shape} probabilities for {len(labels)} labels")
    rows = np.arange(len(labels))
    differences = one[rows, labels] - two[rows, labels]
    chosen = np.argsort(-np.abs(differences), kind="stable")[:most]
    names = first.runs[0].result.labels
    try:
        texts = _texts(first.runs[0], split, language, labels, chosen)
    except UserError as error:
        textless[language] = str(error)
        texts = [(f"row {row + 1}", "", "") for row in chosen]
    items = [
        Item(language, *text, names[labels[row]], tuple(one[row].tolist()), tuple(two[row].tolist()), differences[row])
        for row, text in zip(chosen, texts, strict=True)
    ]
    return items, len(labels)


def _texts(run: Run, split: str, language: str, labels: np.ndarray, rows: np.ndarray) -> list[tuple[str, str, str]]:
    """(id, text_a, text_b) of some rows. Raises UserError if the data is missing or has changed since the run."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # a report reads local data and never downloads a data set
    from mbkd.data import tasks

    try:
        data = tasks.load(Task.model_validate(run.config.get("task", {})), split, language)
    except ValidationError:
        raise UserError("the run's config.yaml has no readable task") from None
    ids = run.ids(split, language)
    if not np.array_equal(data["label"], labels) or (ids is not None and json.loads(ids) != list(data["id"])):
        raise UserError("the data has changed since the runs were measured")
    some = data.select(rows)
    return [
        (name, _cut(a), _cut(b or "")) for name, a, b in zip(some["id"], some["text_a"], some["text_b"], strict=True)
    ]


def _cut(text: str) -> str:
    return text if len(text) <= CHARACTERS else f"{text[:CHARACTERS]} … ({len(text):,} characters)"
