"""The stages of a sweep: teachers, tokens and caches once, then runs until no more are needed."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mbkd import config as configuration
from mbkd import runs
from mbkd.config import Config, paper
from mbkd.files import write_json
from tuning import grids
from tuning.board import Board
from tuning.experiments import System
from tuning.protocols import Choice, Group
from tuning.study import Sweep
from tuning.trial import Conditions, Job, failure

if TYPE_CHECKING:
    from tuning.pool import Pool

CachedTeacher = tuple[str, ...]  # identifies a teacher in a cache


def carry_out(study: Sweep, given: Conditions, retries: int, address: str | None) -> bool:
    """Run the rest of a sweep. Returns False if the user stopped it. Raises UserError for bad input."""
    study.restore_proposals()
    study.refuse_stale()
    study.read_finished()
    singles = _single_inference(study)
    configs = [choice.run(seed) for group in singles for choice in group.choices for seed in study.seeds]
    measured = all(runs.finished(runs.folder(study.root, config)) for config in configs)
    if not study.wanted() and not _left_to_propose(study) and measured and not _costs(study):
        study.groups += singles
        study.read_finished()
        return True
    from tuning.pool import Pool  # imported only if runs are missing, because Ray takes seconds

    title = f"{study.name}: {study.protocol}, seeds {', '.join(map(str, study.seeds))}"
    with Pool(given, retries, address) as pool, Board(title, study.groups, study.best) as board:
        pool.capacity()  # refuses a trial that fits on no machine before any preparation
        stages = Stages(study, pool, board)
        return stages.prepare() and stages.search() and stages.runs() and stages.single_inference() and stages.costs()


@dataclass(frozen=True)
class Proposals:
    """Converts values that a searcher proposes for a system to jobs with a seed."""

    system: System
    seed: int

    def choice(self, values: dict[str, Any]) -> Choice:
        """Return the choice with these values, with numbers rounded to three digits."""
        rounded = {x: float(f"{v:.3g}") if isinstance(v, float) else v for x, v in values.items()}
        given = self.system.given(rounded, self.seed)
        return Choice(self.system, {x: grids.value_of(given, x) for x in rounded})

    def __call__(self, values: dict[str, Any]) -> Job:
        return Job(self.choice(values).run(self.seed))


class Stages:
    """Runs the stages in order on one pool. Each stage returns False if the user stopped it."""

    def __init__(self, study: Sweep, pool: "Pool", board: Board):
        self.study, self.pool, self.board, self.root = study, pool, board, study.root
        self.due = 0.0  # time.monotonic() of the next record

    def prepare(self) -> bool:
        """Prepare teachers, tokens and caches once for all runs."""
        students = [config for config in self.study.wanted() if config.role == "student"]
        taught = [config for config in students if config.distill.signal != "labels"]
        teachers = {run.run_name: run for config in taught for run in paper.teacher_runs(config)}
        missing = [run for run in teachers.values() if not self._finished(run)]
        if not self._stage("teachers", [Job(run) for run in missing]):
            return False
        if missing:  # finished students of replaced teachers are now stale
            self.study.refuse_stale()
        for config in taught:
            lost = [run.run_name for run in paper.teacher_runs(config) if not self._finished(run)]
            if lost:
                self.study.failed[config.run_name] = f"its teacher {lost[0]} failed"
        ready = [config for config in students if config.run_name not in self.study.failed]
        self._tokens(ready)
        return self._caches([config for config in ready if config.distill.signal == "cache"])

    def _finished(self, config: Config) -> bool:
        return runs.finished(runs.folder(self.root, config))

    def _tokens(self, configs: list[Config]) -> None:
        """Tokenise what is missing, and detect bad input before any trial starts. Raises UserError."""
        from mbkd.inputs import prepare

        seen = set()
        for config in configs:
            key = (
                config.task.model_dump_json(),
                config.student.backbone,
                config.train.max_length,
                config.languages,
                config.distill.signal == "labels",
            )
            if key not in seen:
                seen.add(key)
                whose = config.student.backbone + ("" if config.distill.signal == "labels" else " and its teachers")
                self.board.say(f"tokens: {config.task.kind}, {whose}, {', '.join(config.languages)}")
                prepare(config, self.root)

    def _caches(self, configs: list[Config]) -> bool:
        """Cache the logits of every teacher once. Only runs with a refused teacher fail, with the reason.

        A failed cache job does not report which teacher was refused. Configurations that need only some of its
        teachers are therefore retried with those.
        """
        served: set[CachedTeacher] = set()
        refused: dict[frozenset[CachedTeacher], str] = {}
        while jobs := [Job(config, "cache") for config in _to_cache(configs, served, refused)]:
            if not self._stage("teacher logits", jobs):
                return False
            for job in jobs:
                if (reason := self.study.failed.pop(job.name, None)) is None:
                    served |= _cached_teachers(job.config)
                else:
                    refused[_cached_teachers(job.config)] = reason
        lost = {config.run_name: _refusal(config, refused) for config in configs}
        self.study.failed |= {name: reason for name, reason in lost.items() if reason is not None}
        return True

    def search(self) -> bool:
        """For the protocol `search`: Optuna proposes values with the first seed, one system at a time."""
        for group in self.study.groups if self.study.protocol == "search" else ():
            # First the configuration's own values and earlier proposals, without a confirmation of the best so far.
            if not self.runs(self.study.tried):
                return False
            if (count := self.study.budget - len(group.choices)) > 0 and not self._propose(group, count):
                return False
        return True

    def _propose(self, group: Group, count: int) -> bool:
        seed, system = self.study.seeds[0], group.choices[0].system
        known = [
            (choice.values, score)
            for choice in group.choices
            for result in choice.results([seed], self.study.results)
            if (score := self.study.score(result)) is not None
        ]

        find = Proposals(system, seed)

        def proposed(values: dict[str, Any]) -> None:
            group.choices.append(find.choice(values))
            self.study.record(False)  # keeps the proposal even if the sweep is killed

        self.board.begin(f"search, {group.label}", {}, self.pool.capacity())
        study = self.study
        tried = len(group.choices)
        return self.pool.search(study.ranges, find, proposed, known, tried, count, study.rule, self.board, self._ended)

    def runs(self, seeds: list[int] | None = None) -> bool:
        """Run the missing runs, then those that the results require, such as the other seeds of the best values."""
        stage = 1
        while wanted := self.study.wanted(seeds):
            if not self._stage(f"runs, stage {stage}", [Job(config) for config in wanted]):
                return False
            stage += 1
        return True

    def single_inference(self) -> bool:
        """Measure the row `(single)` of Table 5 on the chosen runs without mixers, without training."""
        self.study.groups += _single_inference(self.study)
        self.study.read_finished()
        return self.runs()

    def costs(self) -> bool:
        """For the experiment `efficiency`: measure parameters and time."""
        return self._stage("parameters and time", _costs(self.study))

    def _stage(self, title: str, jobs: list[Job]) -> bool:
        if not jobs:
            return True
        for job in jobs:
            (job.home(self.root) / "failed.json").unlink(missing_ok=True)  # each start retries failed jobs
        weights = {job.name: job.config.train.epochs * len(job.config.languages) for job in jobs}
        self.board.begin(title, weights, self.pool.capacity())
        return self.pool.run(jobs, self.board, self._ended)

    def _ended(self, job: Job, node: str | None) -> None:
        """Record the outcome of a job on the board and in the sweep's record."""
        name, directory = job.name, job.home(self.root)
        problem = failure(directory)
        if job.command == "train" and runs.finished(directory):
            (directory / "failed.json").unlink(missing_ok=True)
            score = self.study.score(self.study.found(job.config))
            self.board.end(name, "" if score is None else f"dev {100 * score:.2f}")
        elif problem or (job.command != "cache" and not job.finished(self.root)):
            self.study.failed[name] = problem.get("reason", "its worker was lost (killed, or the machine failed)")
            if not problem:
                directory.mkdir(parents=True, exist_ok=True)
                write_json(directory / "failed.json", {"reason": self.study.failed[name], "attempts": 1, "log": []})
            self.board.end(name, self.study.failed[name], failed=True)
        else:
            self.board.end(name, "")
        if node is not None:
            self.study.nodes[name] = node
        self._record()

    def _record(self) -> None:
        """Write the sweep's record. A record lists all runs, so a large sweep does not write one after every run.

        Records take at most a twentieth of the time. A killed sweep needs no record, because it finds finished runs.
        """
        began = time.monotonic()
        if began >= self.due:
            self.study.record(False)
            self.due = time.monotonic() + 20 * (time.monotonic() - began)


def _cached_teachers(config: Config) -> frozenset[CachedTeacher]:
    """Return the key of each cache that a run reads: teacher, language, task and length."""
    same = config.task.model_dump_json(exclude={"zero_shot"}), str(config.train.max_length)
    return frozenset(
        (language, teacher.model, "" if teacher.fine_tuned else config.teaching.model_dump_json(), *same)
        for language in config.languages
        for teacher in config.teachers.get(language, ())
    )


def _to_cache(
    configs: list[Config], served: set[CachedTeacher], refused: Mapping[frozenset[CachedTeacher], str]
) -> list[Config]:
    """Return a small set of configurations whose cache jobs cover every teacher that is neither cached nor refused."""
    found, covered = [], set(served)
    for config in sorted(configs, key=lambda config: -len(config.languages)):
        if not _cached_teachers(config) <= covered and _refusal(config, refused) is None:
            found.append(config)
            covered |= _cached_teachers(config)
    return found


def _refusal(config: Config, refused: Mapping[frozenset[CachedTeacher], str]) -> str | None:
    """Return the reason of a failed cache job whose teachers a configuration all needs; None without such a job."""
    return next((reason for teachers, reason in refused.items() if teachers <= _cached_teachers(config)), None)


def _left_to_propose(study: Sweep) -> bool:
    return study.protocol == "search" and any(len(group.choices) < study.budget for group in study.groups)


def _costs(study: Sweep) -> list[Job]:
    """Return the missing measurements of the experiment `efficiency`."""
    if study.name != "efficiency":
        return []
    chosen = [study.chosen(group) for group in study.groups if group.branch_depth]
    jobs = [Job(best.run(study.seeds[0]), "measure") for best in chosen if best is not None]
    return [job for job in jobs if not job.finished(study.root) and job.name not in study.failed]


def _single_inference(study: Sweep) -> list[Group]:
    """For each chosen run without mixers, return the missing group with `single` inference."""
    found = []
    for group in study.groups:
        best = study.chosen(group)
        full = best.system.full if best is not None else None
        if best is None or full is None or study.name != "ablations" or full.student.mixers != "none":
            continue
        single = configuration.changed(full, {"student": {"inference": "single"}})
        label = best.run(study.seeds[0])
        name = configuration.changed(label, {"student": {"inference": "single"}}).system
        if full.student.inference == "all" and not any(each.system == name for each in study.groups):
            single_group = Group(
                group.task, group.backbone, name, group.branch_depth, [Choice(System(single), best.values)]
            )
            found.append(single_group)
    return found
