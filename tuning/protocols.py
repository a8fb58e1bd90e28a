"""The runs that a comparison still needs: grid x seeds, or a search with one seed and a confirmation.

The functions are pure functions of configurations and results, so a repeated command runs exactly the missing runs.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mbkd.config import Config
from mbkd.evaluate import selection
from mbkd.result import Result
from tuning.experiments import Protocol, System
from tuning.grids import value_of

Results = Mapping[str, Result]  # finished runs, by run name


@dataclass
class Choice:
    """A system with the values to try, by dotted field."""

    system: System
    values: dict[str, Any]
    _runs: dict[int, Config] = field(default_factory=dict)

    def run(self, seed: int) -> Config:
        """Return the run with a seed."""
        if seed not in self._runs:  # cached, because validation takes a millisecond and every finished run calls this
            self._runs[seed] = self.system.run(self.values, seed)
        return self._runs[seed]

    def names(self, seeds: Sequence[int]) -> list[str]:
        """Return the names of the runs. A teacher has one run for all seeds."""
        return list(dict.fromkeys(self.run(seed).run_name for seed in seeds))

    def results(self, seeds: Sequence[int], results: Results) -> tuple[Result, ...]:
        """Return the results of the finished runs."""
        return tuple(results[name] for name in self.names(seeds) if name in results)


@dataclass
class Group:
    """The choices that compete for one row of a table."""

    task: str
    backbone: str
    system: str
    branch_depth: int
    choices: list[Choice] = field(default_factory=list)

    @property
    def label(self) -> str:
        """The name shown on screen."""
        return f"{self.system}, K={self.branch_depth}" if self.branch_depth else self.system


def groups(systems: Iterable[System], combinations: Sequence[dict[str, Any]]) -> list[Group]:
    """Combine every system with every combination of values, grouped by row of a table. Raises UserError."""
    found: dict[tuple[str, str, str, int], Group] = {}
    for system in systems:
        for values in combinations:
            config = system.run(values, seed=1)
            key = config.task.kind, config.student.backbone, config.system, config.student.branch_depth
            exact = {path: value_of(system.given(values, seed=1), path) for path in values}
            found.setdefault(key, Group(*key)).choices.append(Choice(system, exact))
    return list(found.values())


def wanted(
    group: Group, protocol: Protocol, seeds: Sequence[int], results: Results, failed: set[str], rule: selection.Rule
) -> list[Config]:
    """Return a group's runs that are needed now and neither finished nor failed.

    Raises UserError if a configuration must be chosen and a run has no dev average.
    """
    tried = seeds if protocol in ("full", "fixed") else seeds[:1]
    runs = _left([choice.run(seed) for choice in group.choices for seed in tried], results, failed)
    if runs or len(tried) == len(seeds):
        return runs
    winner = chosen(group, tried, results, rule)
    return [] if winner is None else _left([winner.run(seed) for seed in seeds], results, failed)


def _left(runs: list[Config], results: Results, failed: set[str]) -> list[Config]:
    names = {config.run_name: config for config in runs}
    return [config for name, config in names.items() if name not in results and name not in failed]


def chosen(group: Group, seeds: Sequence[int], results: Results, rule: selection.Rule) -> Choice | None:
    """Return the best choice, or None. Raises UserError for a run without a dev average."""
    have = [(choice, selection.Candidate(choice.values, choice.results(seeds, results))) for choice in group.choices]
    have = [(choice, candidate) for choice, candidate in have if candidate.results]
    if len(have) < 2:
        return have[0][0] if have else None
    best = selection.choose([candidate for _, candidate in have], rule)
    return next(choice for choice, candidate in have if candidate is best)


def not_considered(group: Group, seeds: Sequence[int], results: Results) -> list[str]:
    """Describe the choices that are excluded because others have more finished seeds."""
    return selection.not_considered(
        [selection.Candidate(choice.values, choice.results(seeds, results)) for choice in group.choices]
    )


def record(
    group: Group,
    protocol: Protocol,
    seeds: Sequence[int],
    results: Results,
    failed: Mapping[str, str],
    rule: selection.Rule,
    folders: Mapping[str, str] = {},
) -> dict[str, Any]:
    """Return a group's outcome for reports: the score of every configuration, the chosen one and its runs.

    folders: names of run directories by run name, if they differ.
    """
    tried = seeds if protocol in ("full", "fixed") else seeds[:1]
    searched = []
    for choice in group.choices:
        found = choice.results(tried, results)
        scores = [score for result in found if (score := selection.dev_average(result, rule)) is not None]
        searched.append(
            {
                "values": choice.values,
                "seeds": [result.seed for result in found],
                "score": sum(scores) / len(scores) if scores else None,
                "steps": found[0].steps if found else None,
                "runs": [folders.get(name, name) for name in choice.names(seeds) if name in results],
            }
        )
    best = chosen(group, tried, results, rule)
    mine = best.names(seeds) if best is not None else []
    expected = {name for choice in group.choices for name in choice.names(tried)} | set(mine)
    scores = [
        score for name in mine if name in results and (score := selection.dev_average(results[name], rule)) is not None
    ]
    return {
        "task": group.task,
        "backbone": group.backbone,
        "system": group.system,
        "branch_depth": group.branch_depth,
        "not_considered": not_considered(group, tried, results),
        "chosen": best.values if best is not None else None,
        "score": sum(scores) / len(scores) if scores else None,
        "runs": [folders.get(name, name) for name in mine if name in results],
        "searched": searched,
        "failed": [{"run": name, "reason": failed[name]} for name in sorted(expected & set(failed))],
        "missing": sorted(expected - set(results) - set(failed)),
    }
