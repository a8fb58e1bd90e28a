"""Confusion matrices and, for ordinal labels, distances between answer and label."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from analysis import look
from analysis.collect import Run

MOST = 20  # largest number of labels that a matrix can show legibly
NAMES = {"supervised": "supervised languages", "zero_shot": "zero-shot languages"}


def counts(runs: Sequence[Run], split: str, languages: Iterable[str]) -> np.ndarray | None:
    """(C, C) numbers of rows by label (first axis) and answer, over runs and languages; None without logits."""
    total: np.ndarray | None = None
    for run in runs:
        for language in languages:
            if (split, language) in run.damaged:
                continue
            try:
                logits, labels = run.logits(split, language), run.labels(split, language)
            except FileNotFoundError:
                continue
            classes = logits.shape[1]
            pairs = np.bincount(np.asarray(labels) * classes + logits.argmax(axis=1), minlength=classes * classes)
            found = pairs.reshape(classes, classes)
            total = found if total is None else total + found
    return total


def _by_side(systems: Mapping[str, Sequence[Run]], split: str) -> dict[tuple[str, str], np.ndarray]:
    """Counts by (system, supervised or zero_shot); only pairs that have counts."""
    found = {}
    for name, runs in systems.items():
        for side in NAMES:
            total = counts(runs, split, getattr(runs[0].result, side))
            if total is not None:
                found[name, side] = total
    if not found:
        raise look.NoData(f"no logits of {split}")
    return found


def matrices(systems: Mapping[str, Sequence[Run]], split: str) -> tuple[Figure, str]:
    """Confusion matrices, one row of panels per system. Rows of a matrix sum to 100. Raises NoData without logits."""
    found = _by_side(systems, split)
    there = [name for name in systems if any(key[0] == name for key in found)]
    sides = [side for side in NAMES if any(key[1] == side for key in found)]
    labels = next(iter(systems.values()))[0].result.labels
    if len(labels) > MOST:
        raise look.NoData(f"{len(labels)} labels; a matrix shows at most {MOST}")
    short = [label if len(label) <= 14 else f"{label[:13]}…" for label in labels]
    turned = any(len(label) > 3 for label in labels)
    height = 0.7 + 0.3 * len(labels) + (0.4 if turned else 0)
    figure = look.new(max(look.WIDTH, 0.5 * len(labels) * len(sides)), len(there) * height + 0.3)
    panels = figure.subplots(len(there), len(sides), squeeze=False)
    for row, name in enumerate(there):
        for column, side in enumerate(sides):
            panel = panels[row][column]
            if (name, side) not in found:
                panel.set_axis_off()
                continue
            total = found[name, side]
            share = 100 * total / np.maximum(total.sum(axis=1, keepdims=True), 1)
            panel.pcolormesh(share, vmin=0, vmax=100, cmap="cividis")
            for (true, answer), value in np.ndenumerate(share):
                color = "#111111" if value > 50 else "white"
                center = (answer + 0.5, true + 0.5)
                panel.annotate(f"{value:.0f}", center, ha="center", va="center", fontsize=8, color=color)
            panel.set_title(f"{name}\n{NAMES[side]}", fontsize=8.5)
            ticks = [x + 0.5 for x in range(len(labels))]
            panel.set_xticks(ticks, short, rotation=30 if turned else 0, ha="right" if turned else "center", fontsize=8)
            panel.set_yticks(ticks, short if column == 0 else [""] * len(short), fontsize=8)
            panel.invert_yaxis()
            panel.tick_params(length=0)
            panel.grid(False)
            if column == 0:
                panel.set_ylabel("label")
            if row == len(there) - 1:
                panel.set_xlabel("answer")
    return figure, f"{split}; answers per 100 rows of each label, over all runs."


def distances(systems: Mapping[str, Sequence[Run]], split: str, looks: Mapping[str, look.Style]) -> tuple[Figure, str]:
    """Answer minus label in classes, as percent of all rows; one bar per system. Raises NoData without logits."""
    found = _by_side(systems, split)
    sides = [side for side in NAMES if any(key[1] == side for key in found)]
    figure = look.new(look.WIDTH, 2.3 * len(sides) + 0.4)
    width = 0.8 / len(systems)
    handles: dict[str, Any] = {}
    for panel, side in zip(figure.subplots(len(sides), 1, sharex=True, squeeze=False)[:, 0], sides, strict=True):
        for place, name in enumerate(systems):
            if (name, side) not in found:
                continue
            total = found[name, side]
            classes = len(total)
            offsets = np.arange(1 - classes, classes)
            # Diagonal d of np.trace contains answer - label = d.
            share = np.array([100 * np.trace(total, d) / total.sum() for d in offsets])
            at = offsets + (place - (len(systems) - 1) / 2) * width
            bars = panel.bar(at, share, width, label=name, color=looks[name].color, edgecolor="none")
            handles.setdefault(name, bars)
        panel.set(title=NAMES[side], ylabel="percent of rows", xticks=offsets)
        panel.grid(axis="x", visible=False)
    panel.set_xlabel("answer minus label, in classes")
    look.legend(figure, list(handles.values()), list(handles))
    return figure, f"{split}; answer minus label, in percent of all rows, over all runs."
