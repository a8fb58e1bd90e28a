"""Scores of a group on a split: mean, standard deviation and number of runs per language and average."""

import statistics
from dataclasses import dataclass

from analysis.groups import Group
from analysis.tables import Cell
from mbkd.evaluate import metrics
from mbkd.result import Metric

AVERAGES = ("AVG(S)", "AVG(Z)", "AVG(A)")


@dataclass(frozen=True)
class Score:
    """A score x100. std is over n runs; None for one run."""

    mean: float
    std: float | None
    n: int

    def cell(self) -> Cell:
        """The score as a cell with two decimals."""
        return Cell(self.mean, f"{self.mean:.2f}", std=self.std, n=self.n)


def scores(group: Group, split: str, metric: Metric = "accuracy") -> dict[str, Score]:
    """Column (a language, or one of AVERAGES) -> score; only measured columns.

    An average is over the runs that measured all its languages.
    """
    values: dict[str, list[float]] = {}
    for run in group.runs:
        each = run.scores(split, metric)
        for language, value in each.items():
            values.setdefault(language, []).append(value)
        means = metrics.averages(each, run.result.supervised, run.result.zero_shot)
        for name, mean in means.items():
            if mean is not None:
                values.setdefault(f"AVG({name})", []).append(mean)
    return {column: score(each) for column, each in values.items()}


def score(values: list[float]) -> Score:
    """Score of values from 0 to 1 (classes for mae)."""
    std = 100 * statistics.stdev(values) if len(values) > 1 else None
    return Score(100 * statistics.fmean(values), std, len(values))


def gaps(group: Group, split: str, metric: Metric = "accuracy") -> list[str]:
    """Gaps in the runs and languages of a group's averages, in words."""
    found = []
    measured = group.measured(split)
    absent = [language for language in group.runs[0].languages if language not in measured]
    if absent and measured:
        found.append(f"no {split} rows of {', '.join(absent)}; averages over them are missing")
    for run in group.runs:
        there = run.scores(split, metric)
        if missing := [x for x in run.languages if x not in there and (x in measured or not measured)]:
            seeds = " and ".join(map(str, run.seeds))
            names = ", ".join(missing) if there else "any language"
            found.append(
                f"{group.system}, seed {seeds}: no {split} score for {names}; its averages over them are missing"
            )
    return found
