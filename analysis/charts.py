"""Charts of scores: accuracy by language, over branch depth (Fig 5), and against cost (Table 6)."""

from collections.abc import Mapping, Sequence
from statistics import fmean

import numpy as np
from matplotlib.figure import Figure

from analysis import look
from analysis.context import Context
from analysis.groups import Group
from analysis.look import NoData
from analysis.scores import scores
from analysis.tables import ACROSS, Table


def is_structure(system: str) -> bool:
    """Whether a system is an ablation of Table 5, such as `MultiKD + MBLM - detaching`."""
    return " + MBLM " in system


def heldout(groups: Sequence[Group]) -> str:
    """Split that figures show: test if all groups have test scores, else dev."""
    return "test" if all(run.scores("test") for group in groups for run in group.runs) else "dev"


def systems(context: Context, task: str, backbone: str) -> dict[str, Group]:
    """Group of each student and ensemble, as chosen for the tables, in the paper's order."""
    there = {g.system for g in context.groups if (g.task, g.backbone) == (task, backbone) and g.role != "teacher"}
    found = {system: context.find(task, backbone, system) for system in sorted(there, key=look.order)}
    return {system: group for system, group in found.items() if group is not None}


def languages(groups: Mapping[str, Group], split: str, looks: Mapping[str, look.Style]) -> tuple[Figure, str]:
    """Accuracy by language: one row per language, one mark per system."""
    found = {name: scores(group, split) for name, group in groups.items()}
    if not any(found.values()):
        raise NoData(f"no accuracy on {split}")
    first = next(iter(groups.values())).runs[0]
    order, zero_shot = list(first.languages), first.result.zero_shot
    if many := len(order) > ACROSS:
        each_has = {x: [each[x].mean for each in found.values() if x in each] or [0.0] for x in order}
        order.sort(key=lambda x: (x in zero_shot, -fmean(each_has[x])))
    figure = look.new(look.WIDTH, 1.4 + (0.2 if many else 0.3) * len(order) + 0.1 * len(groups))
    axes = figure.subplots()
    for place, (name, each) in enumerate(found.items()):
        there = [language for language in order if language in each]
        beside = (place - (len(found) - 1) / 2) * 0.6 / len(found)  # offset, so that equal scores do not overlap
        means, rows = [each[x].mean for x in there], [order.index(x) + beside for x in there]
        axes.plot(means, rows, looks[name].marker, color=looks[name].color, label=name, alpha=0.9)
    axes.set_yticks(range(len(order)), order, fontsize=8 if many else None)
    axes.set(ylim=(len(order) - 0.5, -0.5), xlabel=f"accuracy x100, {split}")
    caption = f"{split}; {_mean_over(list(groups.values()))}."
    if many:
        caption += " Each group starts with its best language."
    if zero_shot:
        axes.axhline(len(first.result.supervised) - 0.5, color=look.INK, linewidth=0.8, linestyle=":")
        caption += " Supervised languages are above the dotted line, zero-shot languages below."
    look.legend(figure, *axes.get_legend_handles_labels())
    return figure, caption


def depth(groups: Sequence[Group], split: str) -> tuple[Figure, str]:
    """Fig 5: supervised accuracy (left axis) and zero-shot accuracy (right axis) over branch depth K."""
    swept = [group for group in groups if group.experiment == "depth"] or groups
    families: dict[str, dict[int, Group]] = {}
    for group in swept:
        if group.role == "student" and not is_structure(group.system):
            families.setdefault(group.system.removesuffix(" + MBLM"), {}).setdefault(group.branch_depth, group)
    family, by_depth = max(families.items(), key=lambda item: len(item[1]), default=("", {}))
    found = {k: scores(group, split) for k, group in sorted(by_depth.items())}
    found = {k: each for k, each in found.items() if "AVG(S)" in each and "AVG(Z)" in each}
    if len(found) < 3:
        raise NoData(f"needs a system with at least three branch depths on {split}; `tuning.sweep depth` trains them")
    figure = look.new(look.WIDTH, 3.3)
    left = figure.subplots()
    right = left.twinx()
    right.spines["right"].set_visible(True)
    right.grid(False)
    lines = []
    for place, (axes, column, name, dashes) in enumerate(
        ((left, "AVG(S)", "supervised", "-"), (right, "AVG(Z)", "zero-shot", "--"))
    ):
        its = look.series(place)
        mean = np.array([each[column].mean for each in found.values()])
        std = np.array([each[column].std or 0.0 for each in found.values()])
        axes.fill_between(list(found), mean - std, mean + std, color=its.color, alpha=0.15, linewidth=0)
        lines += axes.plot(list(found), mean, dashes, color=its.color, marker=its.marker, label=f"{name}, {column}")
        axes.set_ylabel(f"{name} accuracy x100", color=its.color)
        axes.tick_params(axis="y", labelcolor=its.color)
    left.set(xlabel="branch depth K", xticks=list(found))
    look.legend(figure, lines, [str(line.get_label()) for line in lines])
    groups = list(by_depth.values())
    return figure, f"{family}, {split}; {_mean_over(groups)}, the band is ± a standard deviation. K=0 has no branches."


def cost(table: Table, block: str) -> tuple[Figure, str]:
    """Table 6 as a chart: AVG(A) over parameters and over time, relative to the single model."""
    here = [(row.label, dict(zip(table.columns, row.cells, strict=True))) for row in table.rows if row.block == block]
    here = [(label, cells) for label, cells in here if cells["AVG(A)"].value is not None]
    panels = [x for x in ("Params", "Time") if any(cells[x].value is not None for _, cells in here)]
    if len(here) < 2 or not panels:
        raise NoData("needs the averages and the cost of two systems of Table 6")
    figure = look.new(look.WIDTH, 3)
    titles = {"Params": "parameters, ×", "Time": "time, × (as in the table)"}
    # Table 6 abbreviates system names; the looks belong to the full names.
    names = {x: {"Single": "MultiKD", "Ens2": "Ens2"}.get(x, f"MultiKD + {x}") for x, _ in here}
    its = look.looks(names.values())
    for axes, panel in zip(figure.subplots(1, len(panels), sharey=True, squeeze=False)[0], panels, strict=True):
        for label, cells in here:
            style, score, times = its[names[label]], cells["AVG(A)"], cells[panel].value
            if score.value is not None and times is not None:
                axes.errorbar(
                    times, score.value, score.std, fmt=style.marker, color=style.color, label=label, capsize=3
                )
        axes.set_xlabel(titles[panel])
        axes.margins(0.15)
    figure.axes[0].set_ylabel("AVG(A) x100")
    look.legend(figure, *figure.axes[0].get_legend_handles_labels())
    return figure, f"The numbers of “{table.title}”; bars are ± a standard deviation."


def _mean_over(groups: Sequence[Group]) -> str:
    counts = [len(group.runs) for group in groups]
    least, most = min(counts), max(counts)
    if most == 1:
        return "one run each" if len(groups) > 1 else "one run"
    return f"mean over {most} runs" if least == most else f"mean over {least} to {most} runs"
