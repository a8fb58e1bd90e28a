"""Charts of scores: accuracy by language, over the branch depth (Fig 5), and against cost (Table 6)."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from analysis import look
from analysis.groups import Group
from analysis.look import NoData


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
    figure = look.new(look.WIDTH, 1.6 + 0.34 * len(order) + 0.1 * len(groups))
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
    return figure, f"{split}; {_mean_over(groups)}. Above the dotted line labelled languages, below zero-shot."


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
    figure = look.new(look.WIDTH, 3.3)
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
    many = _mean_over(list(by_depth.values()))
    return figure, f"{family}, dev; {many}, the band from the lowest to the highest. K=0: no branches."


def cost(groups: Sequence[Group], split: str, efficiency: Sequence[dict[str, Any]]) -> tuple[Figure, str]:
    """Accuracy over parameters and over the time of a training step, each against one model without branches."""
    labels = names(groups)
    full = next((g for g in groups if g.system.endswith(" + MBLM") and g.system.startswith("MultiKD")), None)
    single = next((g for g in groups if full and g.system == full.system.removesuffix(" + MBLM")), None)
    if full is None or single is None:
        raise NoData("needs finished runs of MultiKD and MultiKD + MBLM")
    wanted = [single, *(g for g in groups if g.role == "ensemble"), full]
    score = {id(g): found for g in wanted if (found := average(g, split, "A"))}
    wanted = [g for g in wanted if id(g) in score]
    if full not in wanted or single not in wanted:
        raise NoData(f"no AVG(A) on {split}")
    size = {id(g): g.runs[0].result["parameters"] / single.runs[0].result["parameters"] for g in wanted}
    time, source = _times(wanted, single, full, efficiency)
    its = look.looks(labels.values())
    panels = [("parameters, ratio", size), ("step time, ratio", time)][: 2 if time else 1]
    figure = look.new(look.WIDTH, 3.2)
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
    return figure, f"{split}; {_mean_over(wanted)}, the bar from the lowest to the highest. {source}"


def _times(
    wanted: Sequence[Group], single: Group, full: Group, efficiency: Sequence[dict[str, Any]]
) -> tuple[dict[int, float], str]:
    """Step time of each group against the single model's, and where it is from; empty where nobody measured it."""
    for record in efficiency:
        if (record.get("task"), record.get("backbone")) == (single.task, single.backbone):
            at = {"Single": [single], "Ens2": [g for g in wanted if g.role == "ensemble"], "MBLM": [full]}
            step = {name: values["step_seconds"]["online"]["median"] for name, values in record["systems"].items()}
            if step.get("Single"):
                found = {id(g): step[name] / step["Single"] for name, gs in at.items() if name in step for g in gs}
                return found, "Time: a step with running teachers, measured in turn on one machine."
    seconds = {id(g): [run.result.get("step_seconds", {}).get("median") for run in g.runs] for g in wanted}
    if all(all(each) for each in seconds.values()):
        median = {key: float(np.median(each)) for key, each in seconds.items()}
        return (
            {key: value / median[id(single)] for key, value in median.items()},
            "Time: median step of the runs themselves, which may have had other machines or company.",
        )
    return {}, "Time: not measured in all of these runs."


def _mean_over(groups: Sequence[Group]) -> str:
    least, most = (f([len(group.runs) for group in groups]) for f in (min, max))
    if most == 1:
        return "one run"
    return f"mean over {most} runs" if least == most else f"mean over {least} to {most} runs"
