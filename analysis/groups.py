"""Runs of a system after selection, one per seed: from a sweep's record, else by the same rule."""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from analysis.collect import Collection, Problem, Run, shortened
from mbkd.config.names import hashed_values
from mbkd.errors import UserError
from mbkd.evaluate.selection import Candidate, not_considered
from mbkd.evaluate.selection import choose as best

Key = tuple[str, str, str, int]  # task, backbone, system, branch depth
ASIDE = ("grid", "depth")  # experiments whose groups a table shows only without others


@dataclass(frozen=True)
class Group:
    """The runs behind a system's mean scores.

    values: chosen values, such as {"train.lr": 2e-5}; empty without a choice. how: the origin of the choice, in words.
    experiment: the sweep's; empty without a record. record: its position among the records, the preferred one first.
    For an ensemble, every pair of seeds is a run.
    """

    task: str
    backbone: str
    system: str
    branch_depth: int
    runs: tuple[Run, ...]
    values: dict[str, Any] = field(default_factory=dict)
    how: str = ""
    experiment: str = ""
    record: int = 0

    @property
    def role(self) -> str:
        """student, teacher or ensemble."""
        return self.runs[0].role

    @property
    def seeds(self) -> tuple[int, ...]:
        """All seeds of the runs, in order."""
        return tuple(sorted({seed for run in self.runs for seed in run.seeds}))

    def measured(self, split: str) -> tuple[str, ...]:
        """Languages of the task that have rows in a split; zero-shot languages may have none on dev."""
        there = {language for run in self.runs for language in run.result.accuracy.get(split, {})}
        return tuple(language for language in self.runs[0].languages if language in there)


def choose(collection: Collection) -> list[Group]:
    """The groups of a collection. Ambiguous choices and missing runs of a sweep are appended to the problems."""
    named = {run.name: run for run in collection.runs}
    groups: list[Group] = []
    seen = set()
    # All systems come from the same record if it has them, so that compared systems share their training.
    for position, sweep in enumerate(sorted(collection.sweeps, key=lambda sweep: _preference(sweep, named))):
        for record in sweep["groups"]:
            group = _recorded(sweep, record, named, collection.problems)
            if group is not None:
                group = replace(group, record=position)
                # Sweeps share runs: the same MultiKD runs serve Tables 3, 5 and 6.
                same = group.experiment == "depth", group.runs[0].name, len(group.runs)
                if same not in seen:
                    groups.append(group)
                seen.add(same)
    # A sweep repeated with more seeds contains the earlier sweep's runs.
    groups = [group for group in groups if not any(_within(group, other) for other in groups)]
    collection.problems.extend(_ambiguous(groups))
    for key, runs in _by_key(run for run in collection.runs if not _derived(run, named)).items():
        there = [group for group in groups if _key(group.runs[0]) == key]
        # Sweeps of one system or of fixed values do not replace a choice among all its runs.
        if any(group.experiment not in ASIDE for group in there):
            continue
        if {run.name for run in runs} - {run.name for group in there for run in group.runs}:
            groups += _chosen(key, runs, collection.problems)
    return groups + _of_chosen(collection, groups, named)


def _preference(sweep: dict[str, Any], named: dict[str, Run]) -> tuple[int, float]:
    """Sort key of a sweep's record: most runs, then the highest mean of dev AVG(A)."""
    runs = [named[name] for record in sweep["groups"] for name in record.get("runs", []) if name in named]
    dev = [run.result.averages.get("dev", {}).get("A") or 0.0 for run in runs]
    return -len(runs), -sum(dev) / max(1, len(dev))


def _ambiguous(groups: Sequence[Group]) -> Iterator[Problem]:
    """One problem per experiment whose records have different runs of the same systems."""
    several: dict[tuple[str, str, str], dict[str, list[Group]]] = {}
    for group in groups:
        if group.experiment not in ASIDE:
            here = several.setdefault((group.task, group.backbone, group.experiment), {})
            here.setdefault(f"{group.system} {group.branch_depth}", []).append(group)
    for (task, backbone, experiment), systems in several.items():
        if found := [each for each in systems.values() if len({group.record for group in each}) > 1]:
            shown = min(found[0], key=lambda group: group.record)
            values = ", ".join(f"{name}={value}" for name, value in shown.values.items()) or "the same values"
            yield Problem(
                f"{experiment} sweeps, {task}, {backbone}",
                f"{len({group.record for group in found[0]})} sweeps have different runs of "
                f"{', '.join(each[0].system for each in found)}; the tables show the sweep with the most runs, then "
                f"with the best dev AVG(A) ({shown.system}: {values}). For a report of another sweep, copy its runs "
                "into another folder",
            )


def _within(group: Group, other: Group) -> bool:
    """Whether another group of the same experiment has all runs of this group and more."""
    names, others = ({run.name for run in each.runs} for each in (group, other))
    return group.experiment == other.experiment and names < others


def _recorded(
    sweep: dict[str, Any], record: dict[str, Any], named: dict[str, Run], problems: list[Problem]
) -> Group | None:
    """A group as recorded by its sweep."""
    known = {problem.where for problem in problems}
    for name in record.get("missing", []):
        if name not in known and name not in named:
            problems.append(Problem(name, f"not finished yet; part of the sweep {sweep['experiment']}"))
    for failed in record.get("failed", []):
        if failed["run"] not in known and failed["run"] not in named:
            problems.append(Problem(failed["run"], f"failed: {failed['reason']}"))
    if left := record.get("not_considered"):
        where = f"{record.get('system', '')}, sweep {sweep['experiment']}"
        problems.append(Problem(where, f"not considered: {'; '.join(left)}"))
    runs = _by_seed(named[name] for name in record.get("runs", []) if name in named)
    if not runs or runs[0].role == "ensemble":
        return None
    how = f"sweep {sweep['experiment']} ({sweep['protocol']}, rule {sweep['rule']})"
    if not sweep.get("finished", True):
        how += ", not finished"
    task, backbone, system, depth = _key(runs[0])
    return Group(task, backbone, system, depth, runs, record.get("chosen") or {}, how, sweep["experiment"])


def _chosen(key: Key, runs: Sequence[Run], problems: list[Problem]) -> list[Group]:
    """The group that the selection rule chooses from the runs of one system."""
    by_values: dict[str, list[Run]] = {}
    for run in runs:
        by_values.setdefault(json.dumps(_without_seed(run), sort_keys=True), []).append(run)
    several = [_by_seed(each) for each in by_values.values()]
    differ = _differences([_without_seed(each[0]) for each in several])
    candidates = [
        Candidate(values, tuple(run.result for run in each)) for values, each in zip(differ, several, strict=True)
    ]
    try:
        found = best(candidates)
    except UserError as error:
        problems.append(Problem(" ".join(map(str, key)), f"omitted: {error}"))
        return []
    if left := not_considered(candidates):
        problems.append(Problem(" ".join(map(str, key)), f"not considered: {'; '.join(left)}"))
    chosen = several[next(i for i, candidate in enumerate(candidates) if candidate is found)]
    how = "the only configuration" if len(several) == 1 else f"best dev AVG(A) of {len(several)} configurations"
    return [Group(*key, chosen, found.values, how)]


def _derived(run: Run, named: dict[str, Run]) -> bool:
    """Whether a run is an ensemble of runs, or a folded model of a run in the folder."""
    return run.role == "ensemble" or run.result.folded_from in named


def _of_chosen(collection: Collection, groups: Sequence[Group], named: dict[str, Run]) -> list[Group]:
    """Ensembles and folded models of chosen runs, one group for those of each chosen group. Others are omitted."""
    found, kept = [], set()
    for members in groups:
        names = {run.name for run in members.runs}
        pairs = [run for run in collection.runs if run.role == "ensemble" and set(run.result.members) <= names]
        for key, runs in _by_key(pairs).items():
            if runs[0].name not in kept:  # two sweeps can choose the same members
                found.append(Group(*key, _by_seed(runs), {}, f"all ensembles of {members.system}'s seeds"))
                kept |= {run.name for run in runs}
        for key, runs in _by_key(run for run in collection.runs if run.result.folded_from in names).items():
            how = f"folded from {members.system}'s runs"
            group = Group(*key, _by_seed(runs), members.values, how, members.experiment, members.record)
            found.append(group)
            kept |= {run.name for run in runs}
    omitted: dict[str, list[str]] = {}
    for run in collection.runs:
        if _derived(run, named) and run.name not in kept:
            what = "folded from" if run.result.folded_from else "ensembles of"
            omitted.setdefault(f"omitted: {what} runs that are not chosen", []).append(run.name)
    collection.problems.extend(Problem(shortened(names), what) for what, names in omitted.items())
    return found


def _by_seed(runs: Iterable[Run]) -> tuple[Run, ...]:
    return tuple(sorted(runs, key=lambda run: run.seeds))


def _key(run: Run) -> Key:
    return run.task, run.backbone, run.system, run.branch_depth


def _by_key(runs: Iterable[Run]) -> dict[Key, list[Run]]:
    found: dict[Key, list[Run]] = {}
    for run in runs:
        found.setdefault(_key(run), []).append(run)
    return found


def _without_seed(run: Run) -> dict[str, Any]:
    """The configuration as flat `a.b` -> value, without the seed and unused teachers."""
    values = run.config
    if {"teachers", "distill"} <= set(values):
        taught = () if values["distill"]["signal"] == "labels" else run.result.trained
        values = hashed_values(values, tuple(x for x in taught if x in values["teachers"]))
    return {key: value for key, value in _flat(values).items() if key != "seed"}


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in values.items():
        found |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return found


def _differences(configurations: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """For each configuration, the values that differ between configurations."""
    keys = dict.fromkeys(key for each in configurations for key in each)
    differing = [key for key in keys if len({json.dumps(each.get(key)) for each in configurations}) > 1]
    return [{key: each.get(key) for key in differing} for each in configurations]
