"""Learning curves: loss and KL of each language over epochs, and the dev averages after each epoch."""

from collections.abc import Iterable, Sequence

import numpy as np
from matplotlib.figure import Figure

from analysis import look
from analysis.collect import Run

POINTS = 120  # maximum points per line; points that are closer together are averaged

Line = list[tuple[float, float]]  # (epoch, value)


def training(runs: Sequence[Run], what: str) -> dict[str, Line]:
    """Mean over runs of the training `loss` or `kl` by language, in at most POINTS windows."""
    found: dict[str, Line] = {}
    for run in runs:
        for entry in run.metrics():
            for language, values in entry.get("languages", {}).items():
                if values.get(what) is not None:
                    found.setdefault(language, []).append((entry["epoch"], values[what]))
    return {language: thin(points) for language, points in found.items()}


def averages(runs: Sequence[Run], split: str) -> dict[str, Line]:
    """Mean over runs of the average accuracy x100 of a split after each epoch, by average (S, Z)."""
    found: dict[str, Line] = {}
    for run in runs:
        for entry in run.metrics():
            if entry.get("split") == split:
                for name in "SZ":
                    if (value := entry.get("accuracy_averages", {}).get(name)) is not None:
                        found.setdefault(name, []).append((entry["epoch"], 100 * value))
    return {name: same_epoch(points) for name, points in found.items()}


def same_epoch(points: Iterable[tuple[float, float]]) -> Line:
    """Mean of the values of each epoch, in the order of the epochs."""
    at: dict[float, list[float]] = {}
    for epoch, value in points:
        at.setdefault(epoch, []).append(value)
    return [(epoch, float(np.mean(values))) for epoch, values in sorted(at.items())]


def thin(points: Line) -> Line:
    """At most POINTS points: the mean of each window of epochs."""
    points = same_epoch(points)
    if len(points) <= POINTS:
        return points
    epochs, values = np.array(points).T
    window = np.minimum((epochs / epochs[-1] * POINTS).astype(int), POINTS - 1)
    count = np.bincount(window, minlength=POINTS)
    there = count > 0
    means = [np.bincount(window, sums, minlength=POINTS)[there] / count[there] for sums in (epochs, values)]
    return list(zip(*(mean.tolist() for mean in means), strict=True))


def draw(runs: Sequence[Run], its: look.Style) -> tuple[Figure, str]:
    """Panels for loss, KL (only with teachers) and dev accuracy. Raises NoData without records.

    its: the look of the system, for the averages. A language has the same look for every system.
    """
    languages = runs[0].languages
    lines = {"loss": training(runs, "loss"), "KL": training(runs, "kl")}
    labels_only = all(run.config.get("distill", {}).get("signal") == "labels" for run in runs)
    wanted = [(name, found) for name, found in lines.items() if found and not (name == "KL" and labels_only)]
    dev = averages(runs, "dev")
    if not wanted and not dev:
        raise look.NoData("metrics.jsonl is missing or empty")
    figure = look.new(2.7 * (len(wanted) + bool(dev)), 2.7)
    panels = figure.subplots(1, len(wanted) + bool(dev), squeeze=False)[0]
    for panel, (name, found) in zip(panels, wanted, strict=False):
        for language in (x for x in languages if x in found):
            a_language = look.series(languages.index(language))
            every = max(1, len(found[language]) // 8)
            style = {"color": a_language.color, "marker": a_language.marker, "markersize": 4, "markevery": every}
            panel.plot(*zip(*found[language], strict=True), label=language, linewidth=1.4, **style)
        panel.set(title=f"training {name}", xlabel="epoch")
        panel.legend(fontsize=8, handlelength=1.6)
    if dev:
        names = {"S": ("supervised", "-"), "Z": ("zero-shot", "--")}
        for name, points in dev.items():
            label, dashes = names[name]
            epochs, values = zip(*points, strict=True)
            fill = {"S": its.color, "Z": "none"}[name]
            panels[-1].plot(
                epochs, values, dashes, color=its.color, marker=its.marker, markerfacecolor=fill, label=label
            )
        panels[-1].set(title="dev accuracy x100", xlabel="epoch", xlim=(0, None))
        panels[-1].legend(fontsize=8)
    many = "one run" if len(runs) == 1 else f"mean over {len(runs)} runs"
    return figure, f"While training: {many}, in at most {POINTS} windows."
