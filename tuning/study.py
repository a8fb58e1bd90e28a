"""The state of a sweep, read from run directories, and its record."""

import hashlib
import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mbkd import provenance, runs
from mbkd.config import Config, changed, paper
from mbkd.evaluate import selection
from mbkd.files import read_json, write_json
from mbkd.result import Result
from tuning import protocols, trial
from tuning.experiments import Protocol
from tuning.protocols import Choice, Group


@dataclass
class Sweep:
    """The state of a sweep: its groups, the finished and the failed runs, and the node of each run."""

    name: str
    groups: list[Group]
    protocol: Protocol
    seeds: list[int]
    rule: selection.Rule
    root: Path
    command: str
    ranges: dict[str, tuple[float, float] | list[Any]] = field(default_factory=dict)  # of a search
    budget: int = 0
    results: dict[str, Result] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    nodes: dict[str, str] = field(default_factory=dict)
    folders: dict[str, str] = field(default_factory=dict)  # of finished runs, by run name; some have an older name
    fresh: bool = False  # whether finished runs with changed rows, teachers or backbones are trained again
    file: Path = field(init=False)  # of the record: RUNS/sweeps/<name>-<hash>.json

    def __post_init__(self) -> None:
        """Name the record by a hash of the request. Proposals and groups that the sweep adds later do not change it."""
        asked = [
            [group.system, group.branch_depth, choice.values, choice.system.full.hash]
            for group in self.groups
            for choice in group.choices
        ]
        text = json.dumps([asked, self.seeds, self.protocol, self.rule, self.ranges])
        digest = hashlib.sha256(text.encode()).hexdigest()[:8]
        self.file = self.root / "sweeps" / f"{self.name}-{digest}.json"

    def read_finished(self) -> None:
        """Read the results of all finished runs."""
        for config in self.configs():
            if config.run_name not in self.results and runs.finished(runs.folder(self.root, config)):
                self.found(config)

    def found(self, config: Config) -> Result:
        """Read and keep the result of a finished run."""
        folder = runs.folder(self.root, config)
        self.folders[config.run_name] = folder.name
        self.results[config.run_name] = Result.read(folder)
        return self.results[config.run_name]

    def configs(self) -> list[Config]:
        """Return every run that the groups may need, and the runs of the row `(single)` of Table 5."""
        every = [choice.run(seed) for group in self.groups for choice in group.choices for seed in self.seeds]
        if self.name == "ablations":
            none = [config for config in every if config.student.mixers == "none"]
            every += [changed(config, {"student": {"inference": "single"}}) for config in none]
        return list({config.run_name: config for config in every}.values())

    def refuse_stale(self) -> None:
        """Raise one UserError for all stale runs, teachers included; with `fresh`, delete these runs instead.

        A run is stale if its rows, teachers or backbone have changed. The students of a stale teacher are stale, too.
        With `fresh`, unfinished runs that the last sweep could not resume are deleted, too.
        """
        where = {runs.folder(self.root, config): config for config in self.configs()}
        teachers = {
            student: {runs.folder(self.root, run): run for run in paper.teacher_runs(config)}
            for student, config in where.items()
            if config.role == "student" and config.distill.signal != "labels"
        }
        for each in teachers.values():
            where |= each
        stale = provenance.stale(where, self.root)
        for student, each in teachers.items():
            names = sorted({f"teacher {run.languages[0]}" for folder, run in each.items() if folder in stale})
            if names and runs.finished(student):
                stale.setdefault(student, names)
        if not self.fresh:
            provenance.refuse(stale)
            return
        # Students first: if the command is killed here, its teacher is still stale at the next start.
        for folder in [folder for folder in where if folder in stale or trial.refused_to_resume(folder)]:
            with runs.lock(self.root, where[folder]):
                shutil.rmtree(folder)
            self.results.pop(where[folder].run_name, None)

    @property
    def tried(self) -> list[int]:
        """The seeds of the runs among which a configuration is chosen."""
        return self.seeds if self.protocol in ("full", "fixed") else self.seeds[:1]

    def wanted(self, seeds: list[int] | None = None) -> list[Config]:
        """Return the runs that are needed now, of some seeds or of all."""
        found: dict[str, Config] = {}
        for group in self.groups:
            now = protocols.wanted(group, self.protocol, seeds or self.seeds, self.results, set(self.failed), self.rule)
            found |= {config.run_name: config for config in now}
        return list(found.values())

    def chosen(self, group: Group) -> Choice | None:
        """Return a group's best choice so far. Raises UserError for a run without a dev average."""
        return protocols.chosen(group, self.tried, self.results, self.rule)

    def finished(self, group: Group) -> list[str]:
        """Return the names of the best choice's finished runs."""
        best = self.chosen(group)
        return [name for name in best.names(self.seeds) if name in self.results] if best is not None else []

    def score(self, result: Result) -> float | None:
        """Return the dev average for the selection; None if it is missing."""
        return selection.dev_average(result, self.rule)

    def best(self, group: Group) -> tuple[float | None, int]:
        """Return a group's best dev average so far, and its number of finished runs."""
        made = [choice.results(self.seeds, self.results) for choice in group.choices]
        scores = [self.score(result) for results in made for result in results]
        return max((score for score in scores if score is not None), default=None), sum(map(len, made))

    def restore_proposals(self) -> None:
        """Restore the earlier proposals of a search from its record. Raises UserError for a damaged record."""
        if self.protocol != "search" or not self.file.is_file():
            return
        before = read_json(self.file, "delete the file to search again")
        for group, record in zip(self.groups, before["groups"], strict=False):
            new = record["searched"][len(group.choices) :]  # after the configuration's own values
            group.choices += [Choice(group.choices[0].system, each["values"]) for each in new]

    def record(self, finished: bool) -> Path:
        """Write the state to `file` atomically."""
        self.file.parent.mkdir(parents=True, exist_ok=True)
        content = {
            "experiment": self.name,
            "protocol": self.protocol,
            "rule": self.rule,
            "finished": finished,
            "command": self.command,
            "seeds": self.seeds,
            "groups": [
                protocols.record(group, self.protocol, self.seeds, self.results, self.failed, self.rule, self.folders)
                for group in self.groups
            ],
            "nodes": self.nodes,
        }
        write_json(self.file, content)
        return self.file
