"""Figures of a report by task and backbone; a figure without data is reported as a problem."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from analysis import charts, confusion, curves, look, reference, reliability
from analysis.collect import Problem
from analysis.context import TASKS, Context, block_name
from analysis.groups import Group
from analysis.look import Draw, NoData
from analysis.tables import ACROSS, Table
from mbkd.evaluate import heat_map


@dataclass(frozen=True)
class Picture:
    """A drawn figure. key: its name in file names and on the page."""

    key: str
    title: str
    caption: str
    figure: Figure


def draw(context: Context, tables: Sequence[Table]) -> tuple[list[Picture], list[Problem]]:
    """Draw every figure that has data; return the figures, and a problem for each of the others.

    The split is the requested split; else test if all runs have test scores, else dev.
    """
    pictures, gaps = [], []
    with matplotlib.rc_context(look.STYLE):
        for key, title, make in _wanted(context, tables):
            try:
                figure, caption = make()
                pictures.append(Picture(key, title, caption, figure))
            except (NoData, OSError, ValueError, LookupError) as error:  # damaged files of a run may raise any of these
                gaps.append(Problem(f"figure “{title}”", f"omitted: {error}"))
    return pictures, gaps


def _wanted(context: Context, tables: Sequence[Table]) -> Iterator[tuple[str, str, Draw]]:
    """(key, title, drawing function) of every figure."""
    looks = look.looks(group.system for group in context.groups if group.role != "teacher")
    for task, backbone in [(x, y) for x in context.tasks for y in context.backbones(x)]:
        named = charts.systems(context, task, backbone)
        main = {name: group for name, group in named.items() if not charts.is_structure(name)}
        structures = {name: group for name, group in named.items() if charts.is_structure(name)}
        split = context.split or charts.heldout(list(named.values()))
        backbone_key = reference.backbone_key(backbone)
        of, at = f"{TASKS[task]}, {reference.backbone_name(backbone_key)}", f"{task}-{_slug(backbone_key)}"
        if main:
            yield f"languages-{at}", f"Accuracy by language: {of}", partial(charts.languages, main, split, looks)
        if structures:
            full = {name: g for name, g in main.items() if any(x.startswith(f"{name} ") for x in structures)}
            title = f"Accuracy by language, structures of MBLM: {of}"
            yield f"structures-{at}", title, partial(charts.languages, full | structures, split, looks)
        here = [group for group in context.groups if (group.task, group.backbone) == (task, backbone)]
        yield f"depth-{at}", f"Accuracy over branch depth: {of}", partial(charts.depth, here, context.split or "dev")
        efficiency = "table-6" if task == "xnli" else f"{task}-efficiency"
        for table in (table for table in tables if table.key == efficiency):
            yield f"cost-{at}", f"Cost and accuracy: {of}", partial(charts.cost, table, block_name(backbone))
        runs = {name: group.runs for name, group in main.items()}
        if main:
            yield f"confusion-{at}", f"Confusion: {of}", partial(confusion.matrices, runs, split)
            yield f"reliability-{at}", f"Reliability: {of}", partial(reliability.draw, runs, split, looks)
        if any(run.result.mae for each in runs.values() for run in each):
            yield f"distances-{at}", f"Size of the errors: {of}", partial(confusion.distances, runs, split, looks)
        for name, group in named.items():
            if group.role == "student":
                title = f"Learning curves of {name}: {of}"
                yield f"curves-{at}-{_slug(name)}", title, partial(curves.draw, group.runs, looks[name])
            if files := _mixer_files(group):
                yield f"mixers-{at}-{_slug(name)}", f"Mixer weights of {name}: {of}", partial(_mixers, files)
        if any(group.branch_depth for group in here) and not any(map(_mixer_files, named.values())):
            yield f"mixers-{at}", f"Mixer weights: {of}", partial(_mixers, [])


def _mixer_files(group: Group) -> list[Path]:
    return [file for run in group.runs for file in sorted(run.folder.glob("mixers-*.json"))]


def _mixers(files: Sequence[Path]) -> tuple[Figure, str]:
    """Heat map of the weights, averaged over the files of the most frequent split."""
    by_split: dict[str, list[dict[str, Any]]] = {}
    for file in files:
        record = json.loads(file.read_text(encoding="utf-8"))
        by_split.setdefault(record["split"], []).append(record)
    if not by_split:
        raise NoData("no mixers-*.json in the run directories; `mbkd mixers RUN CONFIG` writes it")
    split, records = max(by_split.items(), key=lambda item: len(item[1]))
    means: dict[tuple[str, str, str], list[float]] = {}
    for record in records:
        for row in record["rows"]:
            means.setdefault((row["language"], row["mixer"], row["branch"]), []).append(row["mean"])
    rows = [{"language": x, "mixer": y, "branch": z, "mean": float(np.mean(each))} for (x, y, z), each in means.items()]
    rows, others = _together(rows, records[0]["branches"])
    many = "one run" if len(records) == 1 else f"{len(records)} runs"
    caption = f"{split}; weight x100 of each branch (columns), mean over features, rows and {many}.{others}"
    return heat_map.draw({"split": split, "branches": records[0]["branches"], "rows": rows}), caption


def _together(rows: list[dict[str, Any]], branches: Sequence[str]) -> tuple[list[dict[str, Any]], str]:
    """The rows, and a part of the caption.

    With more than ACROSS languages, the languages without a branch become one mean row.
    """
    others = dict.fromkeys(row["language"] for row in rows if row["language"] not in branches)
    if len({row["language"] for row in rows}) <= ACROSS or len(others) < 2:
        return rows, ""
    name = f"{len(others)} others"
    means: dict[tuple[str, str], list[float]] = {}
    for row in rows:
        if row["language"] in others:
            means.setdefault((row["mixer"], row["branch"]), []).append(row["mean"])
    mean = [{"language": name, "mixer": x, "branch": y, "mean": float(np.mean(each))} for (x, y), each in means.items()]
    own = [row for row in rows if row["language"] not in others]
    return [*own, *mean], " Languages without a branch share one row; mixers-*.json in the runs lists each language."


def _slug(text: str) -> str:
    return "-".join("".join(c if c.isalnum() and c.isascii() else " " for c in text.lower()).split())
