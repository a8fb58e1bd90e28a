"""The figures of a report: what each shows, drawn from the chosen runs; one without its data is named as a gap."""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from analysis import confusion, curves, look
from analysis.collect import Collection, Problem
from analysis.groups import Group
from mbkd.measure import heat_map


@dataclass(frozen=True)
class Picture:
    """A drawn figure; key names it in file names and on the page."""

    key: str
    title: str
    caption: str
    figure: Figure


class NoData(Exception):
    """Says what a figure would need."""


def draw(collection: Collection, groups: Sequence[Group]) -> tuple[list[Picture], list[Problem]]:
    """Draw every figure that has its data, task by task and backbone by backbone; the others are the problems."""
    pictures, gaps = [], []
    with matplotlib.rc_context(look.STYLE):
        for key, title, make in _wanted(collection, groups):
            try:
                figure, caption = make()
                pictures.append(Picture(key, title, caption, figure))
            except (NoData, OSError, ValueError) as error:
                gaps.append(Problem(f"figure “{title}”", f"left out: {error}"))
    return pictures, gaps


Make = Callable[[], tuple[Figure, str]]


def _wanted(collection: Collection, groups: Sequence[Group]) -> Iterator[tuple[str, str, Make]]:
    """(key, title, what draws it) of every figure."""
    students = [group for group in groups if group.role != "teacher"]
    for task, backbone in dict.fromkeys((group.task, group.backbone) for group in students):
        here = [group for group in students if (group.task, group.backbone) == (task, backbone)]
        searched = [group for group in here if group.experiment != "depth"]
        main = [group for group in searched if not is_variant(group.system)]
        variants = [group for group in searched if is_variant(group.system)]
        of, slug = f"{task}, {Path(backbone).name}", f"{task}-{Path(backbone).name}".lower()
        split = heldout(here)
        yield f"languages-{slug}", f"Accuracy by language: {of}", lambda m=main, s=split: languages(m, s)
        if variants:
            full = [group for group in main if any(x.system.startswith(f"{group.system} ") for x in variants)]
            yield (
                f"variants-{slug}",
                f"Accuracy by language, structures of MBLM: {of}",
                lambda m=[*full, *variants], s=split: languages(m, s),
            )
        yield f"depth-{slug}", f"Accuracy over branch depth: {of}", lambda h=here: depth(h)
        yield f"cost-{slug}", f"Cost and accuracy: {of}", lambda m=main, s=split: cost(m, s, collection)
        yield f"confusion-{slug}", f"Confusion: {of}", lambda m=main, s=split: confused(m, s)
        if any(run.result.get("mae") for group in here for run in group.runs):
            yield f"stars-{slug}", f"Size of the errors: {of}", lambda m=main, s=split: distances(m, s)
        for group in searched:
            if group.role == "student":
                name = names(searched)[id(group)]
                at = f"{slug}-{_slug(name)}"
                yield f"curves-{at}", f"Learning curves of {name}: {of}", lambda g=group: learning(g)
                if group.branch_depth and group.runs[0].config.get("student", {}).get("mixers") != "none":
                    yield f"mixers-{at}", f"Mixer weights of {name}: {of}", lambda g=group: mixers(g)


def is_variant(system: str) -> bool:
    """Whether a system is one of Table 5's structures, such as `MultiKD + MBLM - detaching`."""
    return " + MBLM " in system


def heldout(groups: Sequence[Group]) -> str:
    """The split that figures show: test where all have it, else dev."""
    return "test" if all(run.scores("test") for group in groups for run in group.runs) else "dev"


def names(groups: Sequence[Group]) -> dict[int, str]:
    """id of a group -> its system's name, with the depth where a system is there with several."""
    systems = [group.system for group in groups]
    return {id(g): g.system + (f" (K={g.branch_depth})" if systems.count(g.system) > 1 else "") for g in groups}


def means(group: Group, split: str) -> dict[str, float]:
    """Language -> accuracy x100, mean over the runs that have it."""
    every = [run.scores(split) for run in group.runs]
    there = dict.fromkeys(language for scores in every for language in scores)
    return {x: 100 * float(np.mean([scores[x] for scores in every if x in scores])) for x in there}


def average(group: Group, split: str, name: str) -> tuple[float, float, float] | None:
    """Mean, least and largest AVG(S), AVG(Z) or AVG(A) x100 over the runs; None where one is missing."""
    found = [run.result["averages"].get(split, {}).get(name) for run in group.runs]
    if any(value is None for value in found) or any(run.damaged for run in group.runs):
        return None
    values = [100 * value for value in found]
    return float(np.mean(values)), min(values), max(values)


def languages(groups: Sequence[Group], split: str) -> tuple[Figure, str]:
    """A row per language, a mark per system."""
    scores = [means(group, split) for group in groups]
    if not any(scores):
        raise NoData(f"no accuracy on {split}")
    first = groups[0].runs[0]
    order = list(first.languages)
    labels, its = names(groups), look.looks(names(groups).values())
    figure = look.new(7, 1.6 + 0.34 * len(order) + 0.1 * len(groups))
    axes = figure.subplots()
    for group, each in zip(groups, scores, strict=True):
        name = labels[id(group)]
        rows = [order.index(x) for x in each]
        axes.plot(list(each.values()), rows, its[name].marker, color=its[name].color, label=name, alpha=0.9)
    axes.set_yticks(range(len(order)), order)
    axes.set(ylim=(len(order) - 0.5, -0.5), xlabel=f"accuracy x100, {split}")
    if first.result["zero_shot"]:
        axes.axhline(len(first.result["supervised"]) - 0.5, color=look.INK, linewidth=0.8, linestyle=":")
    figure.legend(*axes.get_legend_handles_labels(), loc="outside upper center", ncols=2)
    many = max(len(group.runs) for group in groups)
    return figure, f"{split}; mean over up to {many} runs. Above the dotted line labelled languages, below zero-shot."


def depth(groups: Sequence[Group]) -> tuple[Figure, str]:
    """Fig 5: supervised accuracy on the left axis, zero-shot on the right, over the branch depth K."""
    swept = [group for group in groups if group.experiment == "depth"] or list(groups)
    families: dict[str, dict[int, Group]] = {}
    for group in swept:
        if group.role == "student" and not is_variant(group.system):
            families.setdefault(group.system.removesuffix(" + MBLM"), {}).setdefault(group.branch_depth, group)
    family, by_depth = max(families.items(), key=lambda item: len(item[1]), default=("", {}))
    points = {k: [average(group, "dev", name) for name in "SZ"] for k, group in sorted(by_depth.items())}
    points = {k: both for k, both in points.items() if all(both)}
    if len(points) < 3:
        raise NoData(f"needs one system at three branch depths or more with dev averages, there are {len(points)}")
    figure = look.new(7, 3.6)
    left = figure.subplots()
    right = left.twinx()
    right.spines["right"].set_visible(True)
    right.grid(False)
    sides = ((left, "supervised, AVG(S)", "-", 0), (right, "zero-shot, AVG(Z)", "--", 1))
    lines = []
    for axes, label, dashes, place in sides:
        its = look.series(place)
        mean, low, high = np.array([both[place] for both in points.values()]).T
        axes.fill_between(list(points), low, high, color=its.color, alpha=0.15, linewidth=0)
        lines += axes.plot(list(points), mean, dashes, color=its.color, marker=its.marker, label=label)
        axes.set_ylabel(f"{label} x100", color=its.color)
        axes.tick_params(axis="y", labelcolor=its.color)
    left.set(xlabel="branch depth K", xticks=list(points))
    figure.legend(handles=lines, loc="outside upper center", ncols=2)
    many = max(len(group.runs) for group in by_depth.values())
    return figure, f"{family}, dev; mean over up to {many} runs, the band from the lowest to the highest. K=0: no branches."


def cost(groups: Sequence[Group], split: str, collection: Collection) -> tuple[Figure, str]:
    """Accuracy over parameters and over the time of a training step, each against one model without branches."""
    labels = names(groups)
    full = next((g for g in groups if g.system.endswith(" + MBLM") and g.system.startswith("MultiKD")), None)
    single = next((g for g in groups if full and g.system == full.system.removesuffix(" + MBLM")), None)
    if full is None or single is None:
        raise NoData("needs finished runs of MultiKD and MultiKD + MBLM")
    wanted = [single, *(g for g in groups if g.role == "ensemble"), full]
    score = {id(g): average(g, split, "A") for g in wanted}
    wanted = [g for g in wanted if score[id(g)] is not None]
    if full not in wanted or single not in wanted:
        raise NoData(f"no AVG(A) on {split}")
    size = {id(g): g.runs[0].result["parameters"] / single.runs[0].result["parameters"] for g in wanted}
    time, source = _times(wanted, single, full, collection)
    its = look.looks(labels.values())
    panels = [("parameters, times one model's", size)] + ([("training time, times one model's", time)] if time else [])
    figure = look.new(3.6 * len(panels), 3.4)
    for axes, (label, x) in zip(figure.subplots(1, len(panels), sharey=True, squeeze=False)[0], panels, strict=True):
        for group in (g for g in wanted if id(g) in x):
            (mean, low, high), name = score[id(group)], labels[id(group)]
            error, style = [[mean - low], [high - mean]], its[name]
            axes.errorbar(x[id(group)], mean, error, fmt=style.marker, color=style.color, label=name, capsize=3)
        axes.set(xlabel=label, ylabel="")
        axes.margins(0.15)
    axes = figure.axes[0]
    axes.set_ylabel(f"AVG(A) x100, {split}")
    figure.legend(*axes.get_legend_handles_labels(), loc="outside upper center", ncols=3)
    return figure, f"{split}; mean over runs, the bar from the lowest to the highest. {source}"


def _times(
    wanted: Sequence[Group], single: Group, full: Group, collection: Collection
) -> tuple[dict[int, float], str]:
    """Step time of each group against the single model's, and where it is from; empty where nobody measured it."""
    for record in collection.efficiency:
        if (record.get("task"), record.get("backbone")) == (single.task, single.backbone):
            at = {"Single": [single], "Ens2": [g for g in wanted if g.role == "ensemble"], "MBLM": [full]}
            step = {name: values["step_seconds"]["online"]["median"] for name, values in record["systems"].items()}
            if step.get("Single"):
                found = {id(g): step[name] / step["Single"] for name, gs in at.items() if name in step for g in gs}
                return found, "Time: a step with running teachers, measured in turn on one machine."
    seconds = {id(g): [_step_seconds(run.result) for run in g.runs] for g in wanted}
    if all(all(each) for each in seconds.values()):
        median = {key: float(np.median(each)) for key, each in seconds.items()}
        return (
            {key: value / median[id(single)] for key, value in median.items()},
            "Time: median step of the runs themselves, which may have had other machines or company.",
        )
    return {}, "Time: not measured in all of these runs."


def _step_seconds(result: dict[str, Any]) -> float | None:
    """The median of a run's warm steps in seconds; of an ensemble its members' sum."""
    found = result.get("step_seconds")
    value = found.get("median") if isinstance(found, dict) else found
    return float(value) if value else None


def confused(groups: Sequence[Group], split: str) -> tuple[Figure, str]:
    """A row per system, a panel for the labelled and one for the zero-shot languages."""
    figure = confusion.matrices({names(groups)[id(g)]: g.runs for g in groups}, split)
    if figure is None:
        raise NoData(f"no logits of {split} are there")
    return figure, f"{split}; of the rows with a label (rows of a matrix, 100 each), how many got which. All runs."


def distances(groups: Sequence[Group], split: str) -> tuple[Figure, str]:
    """How many classes too low or too high."""
    figure = confusion.distances({names(groups)[id(g)]: g.runs for g in groups}, split)
    if figure is None:
        raise NoData(f"no logits of {split} are there")
    return figure, f"{split}; predicted class minus the right one, in percent of all rows. All runs."


def learning(group: Group) -> tuple[Figure, str]:
    """Loss, KL and dev accuracy over the epochs."""
    figure = curves.draw(group.runs, group.runs[0].languages)
    if figure is None:
        raise NoData("metrics.jsonl is not there or empty")
    return figure, f"Mean over {len(group.runs)} runs, in at most {curves.POINTS} windows of a training."


def mixers(group: Group) -> tuple[Figure, str]:
    """The heat map of the mixers' weights, averaged over the runs that have been measured on the same split."""
    found: dict[str, list[dict[str, Any]]] = {}
    for run in group.runs:
        for file in sorted(run.folder.glob("mixers-*.json")):
            record = json.loads(file.read_text(encoding="utf-8"))
            found.setdefault(record["split"], []).append(record)
    if not found:
        raise NoData("no mixers-*.json in the run directories; `mbkd mixers RUN CONFIG` writes it")
    split, records = max(found.items(), key=lambda item: len(item[1]))
    where = [{(r["language"], r["mixer"], r["branch"]): r["mean"] for r in record["rows"]} for record in records]
    rows = [
        {**row, "mean": float(np.mean([w[row["language"], row["mixer"], row["branch"]] for w in where]))}
        for row in records[0]["rows"]
    ]
    figure = heat_map.draw({**records[0], "rows": rows})
    return figure, f"{split}; weight x100 of each branch (columns), mean over features, rows and {len(records)} runs."


def _slug(text: str) -> str:
    return "-".join("".join(c if c.isalnum() and c.isascii() else " " for c in text.lower()).split())
