"""Trials on this machine or a Ray cluster, through Ray Tune."""

import contextlib
import io
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

# Ray reads these variables on import. They disable usage reports, Tune's own log files, and a change of directory.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
os.environ.setdefault("RAY_CHDIR_TO_TRIAL_DIR", "0")
# Older Ray versions hide all GPUs from tasks that request none, and warn unless this is set. tuning.trial always hides
# the GPUs.
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")

import ray
from ray import tune

from mbkd import runs
from mbkd.errors import UserError
from mbkd.evaluate import selection
from mbkd.result import Result
from tuning.board import Board
from tuning.trial import Conditions, Job, TrialFailed, needs_the_user, work

CHECKOUT = Path(__file__).parents[1]
SHIPPED = ("mbkd", "tuning")  # parts of the checkout that a trial on another machine needs
Ended = Callable[[Job, str | None], None]  # called with a job and the id of its node
Find = Callable[[dict[str, Any]], Job]  # returns the job for a trial's parameters


class Pool:
    """Runs jobs as trials, as many at a time as the resources allow.

    address: of a Ray cluster, or `auto` for this machine's cluster; None starts Ray on this machine, on loopback.
    retries: number of retries by Ray Tune after a failure.
    """

    def __init__(self, given: Conditions, retries: int, address: str | None):
        self.retries = retries
        quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
        # The board and failed.json report failures; Tune would also print every traceback.
        logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
        if address is None:
            ray.init(include_dashboard=False, _node_ip_address="127.0.0.1", **quiet)
        else:
            inside = {str(path.relative_to(CHECKOUT)) for path in CHECKOUT.iterdir()}
            leave = [f"/{name}" for name in sorted(inside - set(SHIPPED))]
            ray.init(address=address, runtime_env={"working_dir": str(CHECKOUT), "excludes": leave}, **quiet)
        self.given = given.with_gpus(ray.cluster_resources().get("GPU", 0))
        self.resources = {"cpu": given.cpus, "gpu": self.given.gpus}

    def __enter__(self) -> "Pool":
        return self

    def __exit__(self, *_: object) -> None:
        ray.shutdown()

    def capacity(self) -> int:
        """Return how many trials fit on the current machines at a time. Raises UserError if no trial fits."""
        return self.given.capacity([node["Resources"] for node in ray.nodes() if node["Alive"]])

    def run(self, jobs: list[Job], board: Board, ended: Ended) -> bool:
        """Run jobs and call `ended` for each. Returns False if the user stopped before all jobs ended."""
        space = {"job": tune.grid_search(list(range(len(jobs))))}
        watcher = _Watcher(lambda params: jobs[params["job"]], board, ended)
        self._fit(space, watcher.find, watcher, tune.TuneConfig())
        return watcher.ended == len(jobs)

    def search(
        self,
        ranges: dict[str, tuple[float, float] | list[Any]],
        find: Find,
        proposed: Callable[[dict[str, Any]], None],
        known: list[tuple[dict[str, Any], float]],
        seed: int,
        budget: int,
        rule: selection.Rule,
        board: Board,
        ended: Ended,
    ) -> bool:
        """Run `budget` jobs whose values Optuna proposes. Returns False as `run` does. Raises UserError without Optuna.

        ranges:   by dotted field, (low, high) on a log scale or a list of values; whole numbers are sampled as such
        find:     returns the job for proposed values; must be picklable for the workers
        proposed: called once for each proposal
        known:    values of finished runs and their scores
        seed:     of the sampler; another one after a restart, because the same seed repeats the same proposals
        """
        searcher = optuna_search(ranges, known, seed)
        watcher = _Watcher(find, board, ended, proposed)
        limited = tune.search.ConcurrencyLimiter(searcher, max_concurrent=self.capacity())
        self._fit({}, find, watcher, tune.TuneConfig(search_alg=limited, num_samples=budget), rule)
        return watcher.ended == budget

    def _fit(
        self,
        space: dict[str, Any],
        find: Find,
        watcher: "_Watcher",
        how: tune.TuneConfig,
        rule: selection.Rule = "all",
    ) -> None:
        how.reuse_actors = True  # starting a worker takes over a second, and workers keep no state of a trial
        how.trial_name_creator = lambda trial: watcher.job(trial).name
        trial = tune.with_parameters(_trial, find=find, given=self.given, rule=rule)
        tuner = tune.Tuner(
            tune.with_resources(trial, self.resources),
            param_space=space,
            tune_config=how,
            run_config=tune.RunConfig(
                storage_path=str(self.given.root / "sweeps" / "ray"),
                failure_config=tune.FailureConfig(max_failures=self.retries),
                callbacks=[watcher],
                verbose=0,
            ),
        )
        with contextlib.redirect_stdout(io.StringIO()):  # suppresses Tune's summary
            tuner.fit()


def optuna_search(
    ranges: dict[str, tuple[float, float] | list[Any]], known: list[tuple[dict[str, Any], float]], seed: int
) -> Any:
    """Return Ray's searcher over the ranges; see `Pool.search`. Raises UserError without Optuna."""

    def inside(values: dict[str, Any]) -> bool:  # Optuna refuses other values, such as a configuration's own
        return all(
            values[name] in span if isinstance(span, list) else span[0] <= values[name] <= span[1]
            for name, span in ranges.items()
        )

    def domain(span: tuple[float, float] | list[Any]) -> Any:
        if isinstance(span, list):
            return tune.choice(span)
        low, high = span
        if isinstance(low, int) and isinstance(high, int):
            return tune.lograndint(low, high + 1)
        return tune.loguniform(low, high)

    known = [(values, score) for values, score in known if inside(values)]
    try:
        from ray.tune.search.optuna import OptunaSearch

        return OptunaSearch(
            space=OptunaSearch.convert_search_space({name: domain(span) for name, span in ranges.items()}),
            metric="score",
            mode="max",
            seed=seed,
            points_to_evaluate=[values for values, _ in known] or None,
            evaluated_rewards=[score for _, score in known] or None,
        )
    except (ImportError, AssertionError):
        raise UserError("--protocol search: Optuna is not installed; pip install 'mbkd[search]'") from None


def _trial(params: dict[str, Any], find: Find, given: Conditions, rule: selection.Rule) -> None:
    """Run a trial in a Ray worker. Raises TrialFailed if a retry may help; Tune then retries."""
    job = find(params)
    directory = job.home(given.root)
    average = selection.AVERAGE[rule]
    end: dict[str, Any] = {"node": ray.get_runtime_context().get_node_id(), "score": float("nan")}
    try:
        work(job, given, lambda epoch: tune.report(epoch | {"score": epoch.get(f"dev_{average}", float("nan"))}))
    except TrialFailed:
        if not needs_the_user(directory):
            raise
    if job.command == "train" and runs.finished(directory):
        end["score"] = Result.read(directory).means("dev").get(average, float("nan"))
    tune.report(end)


class _Watcher(tune.Callback):
    """Reports the outcome of trials to the board and the sweep."""

    def __init__(
        self, find: Find, board: Board, ended: Ended, proposed: Callable[[dict[str, Any]], None] | None = None
    ):
        self.find, self.board, self.tell, self.proposed = find, board, ended, proposed
        self.jobs: dict[str, Job] = {}  # by Tune's trial id
        self.ended = 0

    def __getstate__(self) -> dict[str, Any]:
        """Return no state. Tune pickles callbacks for its own resume; sweeps resume from run directories."""
        return {}

    def job(self, trial: Any) -> Job:
        """Return the job of a trial."""
        if trial.trial_id not in self.jobs:
            self.jobs[trial.trial_id] = self.find(trial.config)
            if self.proposed is not None:
                self.proposed(trial.config)
        return self.jobs[trial.trial_id]

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self.board.start(self.job(trial).name)

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._end(trial)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._end(trial)

    def _end(self, trial: Any) -> None:
        self.ended += 1
        self.tell(self.job(trial), (trial.last_result or {}).get("node"))
