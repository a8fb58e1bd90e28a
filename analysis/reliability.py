"""Calibration of a system: calibration errors, accuracy at coverage, reliability diagrams."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from analysis import look
from analysis.collect import Run
from analysis.confusion import NAMES
from analysis.context import TASKS, Context, block_name
from analysis.groups import Group
from analysis.tables import Cell, Row, Table, empty
from mbkd.evaluate import calibration

COLUMNS = (
    "T",
    *("raw (S)", "(Z)", "T (S)", "(Z)", "T by language (S)", "(Z)"),
    *(f"accuracy at {100 * x:g} %" for x in calibration.COVERAGES),
)
LEAST = 10  # fewest rows of a bin that is drawn; smaller bins are noise
NOTE = (
    "T, fitted on dev rows (– without dev rows), divides the logits. `T by language`: each language has its own "
    f"temperature. The expected calibration error uses {calibration.BINS} bins of confidence and is a mean over "
    "languages and runs; on few rows, perfectly calibrated probabilities have an error, too. Accuracy at a coverage "
    "uses that share of each language's rows with the highest confidence, and is a mean over all languages."
)


def tables(context: Context) -> list[Table]:
    """One table per task with calibration errors: on test if measured, else on dev."""
    found = []
    for task in context.tasks:
        for split in context.splits(task)[:1]:
            groups = [g for g in context.groups if g.task == task and g.role != "teacher" and _noted(g, split)]
            if groups:
                title = f"{TASKS[task]} {split}, expected calibration error x100, and accuracy x100 at coverage"
                rows = [Row(g.system, _cells(g, split), block_name(g.backbone)) for g in groups]
                found.append(Table(f"{task}-calibration", title, list(COLUMNS), rows, [NOTE]))
    return found


def _noted(group: Group, split: str) -> list[tuple[Run, dict[str, Any]]]:
    """Runs that have recorded calibration on a split, with the records."""
    each = [(run, run.result.calibration) for run in group.runs]
    return [(run, noted) for run, noted in each if split in noted.get("error", {})]


def _cells(group: Group, split: str) -> list[Cell]:
    noted = _noted(group, split)
    temperatures = [each["temperature"] for _, each in noted if each["temperature"] is not None]
    cells = [Cell(statistics.fmean(temperatures), f"{statistics.fmean(temperatures):.2f}") if temperatures else empty()]
    for field in ("error_before", "error_overall", "error"):
        errors = [(run.result, _error(each, field).get(split, {})) for run, each in noted]
        for side in NAMES:
            cells.append(_percent([each[x] for result, each in errors for x in getattr(result, side) if x in each]))
    for coverage in calibration.COVERAGES:
        values = [each[f"{coverage:g}"] for _, found in noted for each in found["accuracy_at_coverage"][split].values()]
        cells.append(_percent(values))
    return cells


def _error(noted: dict[str, Any], field: str) -> dict[str, Any]:
    """Field of errors by split and language. Earlier versions named the overall temperature's error `error`."""
    if "error_overall" not in noted:
        field = {"error_overall": "error", "error": ""}.get(field, field)
    found: dict[str, Any] = noted.get(field, {})
    return found


def _percent(values: Sequence[float]) -> Cell:
    if not values:
        return empty()
    mean = 100 * statistics.fmean(values)
    return Cell(mean, f"{mean:.2f}")


def bins(runs: Sequence[Run], split: str, side: str) -> list[tuple[int, float, float]]:
    """Rows, mean confidence and accuracy by confidence bin, over runs and languages; empty without logits."""
    confidences, right = [], []
    for run in runs:
        for language in getattr(run.result, side):
            if (split, language) in run.damaged:
                continue
            try:
                temperature = calibration.of(run.result.calibration, language)
                found = calibration.probabilities(np.asarray(run.logits(split, language)), temperature)
                labels = np.asarray(run.labels(split, language))
            except FileNotFoundError:
                continue
            confidences.append(found.max(axis=1))
            right.append(found.argmax(axis=1) == labels)
    if not confidences:
        return []
    return calibration.in_bins(np.concatenate(confidences), np.concatenate(right))


def draw(systems: Mapping[str, Sequence[Run]], split: str, looks: Mapping[str, look.Style]) -> tuple[Figure, str]:
    """Accuracy over confidence, one panel for supervised and one for zero-shot languages.

    Raises NoData without logits.
    """
    found = {side: {name: bins(runs, split, side) for name, runs in systems.items()} for side in NAMES}
    sides = [side for side, each in found.items() if any(each.values())]
    if not sides:
        raise look.NoData(f"no logits of {split}")
    figure = look.new(3.2 * len(sides), 3.4)
    panels = figure.subplots(1, len(sides), squeeze=False, sharey=True)[0]
    for panel, side in zip(panels, sides, strict=True):
        panel.plot([0, 100], [0, 100], ":", color=look.INK, linewidth=0.8)
        for name, each in found[side].items():
            if each:
                _, confidence, right = np.array([x for x in each if x[0] >= LEAST] or each).T
                style = {"color": looks[name].color, "marker": looks[name].marker, "markersize": 4}
                panel.plot(100 * confidence, 100 * right, label=name, linewidth=1.2, **style)
        panel.set(title=NAMES[side], xlabel="confidence, %", xlim=(0, 100), ylim=(0, 100))
    panels[0].set_ylabel(f"accuracy, % ({split})")
    look.legend(figure, *panels[0].get_legend_handles_labels())
    return figure, (
        f"{split}; rows of all runs and languages in {calibration.BINS} bins of confidence after calibration. Bins "
        f"with fewer than {LEAST} rows are omitted. On the dotted line the system is calibrated; below the line the "
        "system is overconfident."
    )
