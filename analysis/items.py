"""Answers of every run on every row, read once, and bootstrapped averages of systems."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product

import numpy as np

from analysis import bootstrap
from analysis.bootstrap import Estimate
from analysis.collect import Problem, Run
from analysis.groups import Group

SEED = 20220228  # of the bootstrap; fixed, so that reports are reproducible
AVERAGES = ("S", "Z", "A")


def averages(group: Group, split: str) -> dict[str, tuple[str, ...]]:
    """Languages behind AVG(S), AVG(Z) and AVG(A). Averages over no language, or without rows, are omitted."""
    first = group.runs[0]
    measured = set(group.measured(split))
    found = {"S": tuple(first.result.supervised), "Z": tuple(first.result.zero_shot), "A": first.languages}
    return {name: languages for name, languages in found.items() if languages and measured.issuperset(languages)}


@dataclass(frozen=True)
class Predictions:
    """Classes chosen by the runs that measured all languages of an average: language -> (runs, rows) uint16."""

    group: Group
    runs: tuple[Run, ...]
    classes: dict[str, np.ndarray]

    @property
    def by_seed(self) -> np.ndarray:
        """(seeds, runs) weights from runs to seeds: the identity, except for ensembles, whose pairs share seeds.

        The mean over all pairs is a U-statistic; its jackknife pseudo-values are the contributions of each seed.
        """
        runs = len(self.runs)
        if self.group.role != "ensemble":
            return np.eye(runs, dtype=np.float32)
        seeds = self.seeds
        without = np.array([[seed not in run.seeds for run in self.runs] for seed in seeds], dtype=np.float32)
        counts = without.sum(axis=1, keepdims=True)
        if (counts == 0).any():  # two seeds form a single pair, so their spread is unknown
            return np.full((1, runs), 1 / runs, dtype=np.float32)
        values: np.ndarray = len(seeds) / runs - (len(seeds) - 1) * without / counts
        return values

    @property
    def seeds(self) -> tuple[int, ...]:
        """Seeds of the runs, in the order of `by_seed`."""
        return tuple(sorted({seed for run in self.runs for seed in run.seeds}))


class Resampled:
    """Averages x100 of groups on one split of one task, with intervals.

    Each average is over the runs that measured all its languages. Groups that miss arrays have no averages.
    metric: accuracy, or mae.
    """

    def __init__(
        self, groups: Sequence[Group], split: str, metric: str, draws: int, problems: list[Problem], answers: "Answers"
    ):
        self.metric, self.draws = metric, draws
        self.labels, self.ids = answers.labels, answers.ids
        self.predictions = {
            (id(group), name): found for group in groups for name, found in answers.of(group, split, problems).items()
        }
        self.columns = [(found.group, name) for (_, name), found in self.predictions.items()]
        self.position = {(id(group), name): i for i, (group, name) in enumerate(self.columns)}
        self.shares: dict[tuple[int, str], list[np.ndarray]] = {}  # cache of `_scores`: 60 kB per run at 5,010 rows

    @cached_property
    def blocks(self) -> list[tuple[str, ...]]:
        """Languages whose rows are resampled together; languages with the same row ids are translations.

        Without stored ids, languages with equal labels row by row form a block, except in MARC, whose files are sorted.
        """
        marc = any(found.group.task == "marc" for found in self.predictions.values())
        together: dict[object, list[str]] = {}
        for language, labels in self.labels.items():
            unknown = language if marc else labels.tobytes()
            same = frozenset(json.loads(self.ids[language])) if language in self.ids else unknown
            together.setdefault(same, []).append(language)
        return [tuple(languages) for languages in together.values()]

    def order(self, language: str, block: Sequence[str]) -> np.ndarray | slice:
        """Index that brings a language's rows into the order of its block."""
        if len({self.ids.get(each) for each in block}) == 1:  # the same order in all languages, or all unknown
            return slice(None)
        found: np.ndarray = np.argsort(np.array(json.loads(self.ids[language]), dtype=object), kind="stable")
        return found

    @property
    def names(self) -> tuple[str, ...]:
        """The averages among S, Z and A that have intervals."""
        return tuple(name for name in AVERAGES if any(column == name for _, column in self.columns))

    def seeds(self, name: str, *groups: Group) -> int:
        """Fewest seeds with a known spread behind an average of the groups; 1 for an ensemble of two seeds."""
        return min(len(self.predictions[id(group), name].by_seed) for group in groups)

    def size(self, name: str, *groups: Group) -> str:
        """Number of seeds and rows of a comparison, in words."""
        seeds = " and ".join(dict.fromkeys(str(len(self.predictions[id(group), name].seeds)) for group in groups))
        lengths = [len(labels) for labels in self.labels.values()]
        rows = f"{min(lengths):,}" + (f" to {max(lengths):,}" if min(lengths) < max(lengths) else "")
        return f"{seeds} {'seed' if seeds == '1' else 'seeds'}, {rows} rows"

    @property
    def notes(self) -> list[str]:
        """Notes on how the intervals are computed."""
        if not self.columns:
            return ["No intervals: a run lacks some of the logits."]
        together = [languages for languages in self.blocks if len(languages) > 1]
        shared = self._shared()
        alone = [each[0] for each in self.blocks if len(each) == 1 and each[0] not in shared]
        found = [f"Bootstrap over rows, {self.draws:,} draws, same rows for all systems, plus the spread over seeds."]
        found += [f"The items of {', '.join(each)} are the same and are resampled together." for each in together]
        if alone and len(self.labels) > 1:
            found.append(f"Rows of {', '.join(alone)} are not translations; each language is resampled separately.")
        if shared:
            found.append(
                f"Only some row ids are the same in {', '.join(shared)}; each language is resampled separately. "
                "Intervals are too narrow if the shared rows are translations."
            )
        if unknown := [x for each in together for x in each if x not in self.ids]:
            found.append(
                f"No row ids of {', '.join(unknown)} are stored; languages with equal labels count as translations."
            )
        if any(len(found.by_seed) == 1 for found in self.predictions.values()):
            found.append("The interval of a system with one seed does not cover other seeds.")
        return found

    def _shared(self) -> list[str]:
        """Languages that share some row ids, but not all, with another language."""
        names = {
            language: frozenset(json.loads(self.ids[language])) for language in self.labels if language in self.ids
        }
        return [x for x, a in names.items() if any(a != b and a & b for b in names.values())]

    @cached_property
    def moves(self) -> np.ndarray:
        """Deviations (draws, columns) of each average when rows are resampled, the same rows for every group."""
        means = [[part.mean(axis=0) for part in self._scores(group, name)] for group, name in self.columns]
        blocks = [np.stack(parts, axis=1) for parts in zip(*means, strict=True)]
        return bootstrap.row_draws(blocks, self.draws, np.random.default_rng(SEED))

    def average(self, group: Group, name: str) -> Estimate | None:
        """AVG(S), AVG(Z) or AVG(A) of a group with its interval; None if rows are missing."""
        at = self.position.get((id(group), name))
        if at is None:
            return None
        scores = self._scores(group, name)
        return self._estimate(scores, *bootstrap.with_seeds(self.moves[:, at], [(scores, (SEED, at))]))

    def difference(self, left: Group, right: Group, name: str, margin: float = 0.0) -> Estimate | None:
        """Difference left - right of an average, paired by rows and by common seeds; p for a difference of `margin`."""
        a, b = self.position.get((id(left), name)), self.position.get((id(right), name))
        if a is None or b is None:
            return None
        mine, other = self._scores(left, name), self._scores(right, name)
        moves = self.moves[:, a] - self.moves[:, b]
        paired = [x.mean(axis=0)[None] - y.mean(axis=0)[None] for x, y in zip(mine, other, strict=True)]
        seeds, others = (self.predictions[id(group), name].seeds for group in (left, right))
        if seeds == others and len(mine[0]) == len(other[0]):
            paired = [x - y for x, y in zip(mine, other, strict=True)]
            found = bootstrap.with_seeds(moves, [(paired, (SEED, a, b))])
        else:
            found = bootstrap.with_seeds(moves, [(mine, (SEED, a)), (other, (SEED, b))])
        return self._estimate(paired, *found, margin)

    @staticmethod
    def _estimate(scores: list[np.ndarray], moves: np.ndarray, test: np.ndarray, margin: float = 0.0) -> Estimate:
        value = 100 * sum(float(part.mean(dtype=np.float64)) for part in scores)
        return bootstrap.estimate(round(value, 6) + 0.0, 100 * moves, margin, 100 * test)  # adding 0.0 avoids -0.00

    def _scores(self, group: Group, name: str) -> list[np.ndarray]:
        """For each block (seeds, rows): contributions of rows to the average by seed; the blocks' means sum to it."""
        key = id(group), name
        if key not in self.shares:
            self.shares[key] = self._compute(group, name)
        return self.shares[key]

    def _compute(self, group: Group, name: str) -> list[np.ndarray]:
        predictions = self.predictions[id(group), name]
        languages = tuple(predictions.classes)
        found = []
        for block in self.blocks:
            rows = len(self.labels[block[0]])
            total = np.zeros((len(predictions.runs), rows), dtype=np.float32)
            for language in block:
                if language in languages:
                    labels, classes = self.labels[language], predictions.classes[language]
                    values = (
                        classes == labels if self.metric == "accuracy" else np.abs(classes.astype(np.int16) - labels)
                    )
                    total += values[:, self.order(language, block)]
            found.append(predictions.by_seed @ (total / len(languages)))
        return found


class Answers:
    """Classes chosen by runs on one split of one task; each run is read once."""

    def __init__(self) -> None:
        self.labels: dict[str, np.ndarray] = {}  # language -> (rows,), of the first run with the language
        self.ids: dict[str, bytes] = {}  # language -> ids of the rows as a JSON list, if a run has stored them
        self.read: dict[int, dict[str, Predictions]] = {}

    def of(self, group: Group, split: str, problems: list[Problem]) -> dict[str, Predictions]:
        """Predictions behind each average of a group; empty if a run lacks arrays, with the reason in `problems`."""
        if id(group) not in self.read:
            self.read[id(group)] = self._read(group, split, problems)
        return self.read[id(group)]

    def _read(self, group: Group, split: str, problems: list[Problem]) -> dict[str, Predictions]:
        found, classes = {}, {}
        for name, languages in averages(group, split).items():
            # The table reports the gaps of incomplete runs.
            complete = tuple(run for run in group.runs if set(languages) <= set(run.scores(split)))
            for run, language in product(complete, languages):
                try:
                    if (run.name, language) not in classes:
                        classes[run.name, language] = self._run(run, split, language)
                except (OSError, ValueError) as error:
                    what = f"no intervals for {group.system} ({error})"
                    problems.append(Problem(f"{run.name}, {split} {language}", what))
                    return {}
            if complete:
                here = {language: np.stack([classes[run.name, language] for run in complete]) for language in languages}
                found[name] = Predictions(group, complete, here)
        return found

    def _run(self, run: Run, split: str, language: str) -> np.ndarray:
        """(rows,) uint16. Raises ValueError if the arrays contradict result.json or another run's labels."""
        labels = np.asarray(run.labels(split, language))
        ids = run.ids(split, language)
        if ids is not None and self.ids.setdefault(language, ids) != ids:
            raise ValueError("row ids differ from the first run's: measured on other rows, or in another order")
        known = self.labels.setdefault(language, labels.astype(np.int16))
        if not np.array_equal(known, labels):
            raise ValueError("labels differ from the first run's: measured on other rows")
        chosen = run.logits(split, language).argmax(axis=1).astype(np.uint16)
        if abs(float(np.mean(chosen == labels)) - run.scores(split)[language]) > 1e-6:
            raise ValueError("logits and result.json have different accuracies")
        return chosen
