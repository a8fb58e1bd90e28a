"""The machines that trials run on, through Ray Tune: this one, or a Ray cluster."""

import contextlib
import io
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

# Read by Ray when it is imported. Nothing is sent anywhere, and Tune writes no files of its own beside the runs'.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
os.environ.setdefault("RAY_CHDIR_TO_TRIAL_DIR", "0")
# Rays that still hid every GPU from who asked for none warn unless this is said; tuning.trial hides them in any case.
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")

import ray
from ray import tune

from mbkd import runs
from mbkd.errors import UserError
from mbkd.evaluate import selection
from mbkd.result import Result
from tuning.board import Board
from tuning.trial import Conditions, Job, TrialFailed, hopeless, work

CHECKOUT = Path(__file__).parents[1]
SHIPPED = ("mbkd", "tuning")  # what a trial on another machine needs of the checkout
Ended = Callable[[Job, str | None], None]  # a job, and the id of the node that it ran on
Find = Callable[[dict[str, Any]], Job]  # the job of a trial's parameters


class Pool:
    """Runs jobs as trials, as many at a time as the resources allow.

    address: of a Ray cluster, `auto` for the one that this machine belongs to; None starts Ray here, on loopback.
    retries: after a failure, by Ray Tune.
    """

    def __init__(self, given: Conditions, retries: int, address: str | None):
        self.retries = retries
        quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
        # What fails is told by the board and in failed.json; Tune would print every traceback through itself.
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

    def room(self) -> int:
        """How many trials the machines that are there now have room for. Raises UserError where it is none."""
        return self.given.room([node["Resources"] for node in ray.nodes() if node["Alive"]])

    def run(self, jobs: list[Job], board: Board, ended: Ended) -> bool:
        """Carry out jobs; `ended` hears of each. Returns False if the person stopped it before all had ended."""
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
        budget: int,
        rule: selection.Rule,
        board: Board,
        ended: Ended,
    ) -> bool:
        """Carry out `budget` jobs whose values Optuna proposes. Returns as `run`. Raises UserError without Optuna.

        ranges: by dotted field, (low, high) on a log scale or a list of values; find: the job of proposed values, which
        travels to where the trial runs; proposed: told once of each proposal; known: finished values and their scores.
        """
        try:
            from ray.tune.search.optuna import OptunaSearch

            searcher = OptunaSearch(
                metric="score",
                mode="max",
                seed=1,
                points_to_evaluate=[values for values, _ in known] or None,
                evaluated_rewards=[score for _, score in known] or None,
            )
        except (ImportError, AssertionError):
            raise UserError("--protocol search: Optuna is not installed; pip install 'mbkd[search]'") from None
        space = {
            name: tune.choice(values) if isinstance(values, list) else tune.loguniform(*values)
            for name, values in ranges.items()
        }
        watcher = _Watcher(find, board, ended, proposed)
        limited = tune.search.ConcurrencyLimiter(searcher, max_concurrent=self.room())
        self._fit(space, find, watcher, tune.TuneConfig(search_alg=limited, num_samples=budget), rule)
        return watcher.ended == budget

    def _fit(
        self,
        space: dict[str, Any],
        find: Find,
        watcher: "_Watcher",
        how: tune.TuneConfig,
        rule: selection.Rule = "all",
    ) -> None:
        how.reuse_actors = True  # a worker only watches the process of its trial; a new one costs a second and more
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
        with contextlib.redirect_stdout(io.StringIO()):  # Tune prints a summary of its own
            tuner.fit()


def _trial(params: dict[str, Any], find: Find, given: Conditions, rule: selection.Rule) -> None:
    """What runs in a worker of Ray. A failure that another try may mend is raised, so that Tune tries again."""
    job = find(params)
    directory = job.home(given.root)
    average = selection.AVERAGE[rule]
    end: dict[str, Any] = {"node": ray.get_runtime_context().get_node_id(), "score": float("nan")}
    try:
        work(job, given, lambda epoch: tune.report(epoch | {"score": epoch.get(f"dev_{average}", float("nan"))}))
    except TrialFailed:
        if not hopeless(directory):
            raise
    if job.command == "train" and runs.finished(directory):
        end["score"] = Result.read(directory).means("dev").get(average, float("nan"))
    tune.report(end)


class _Watcher(tune.Callback):
    """Tells the board and the sweep what becomes of the trials."""

    def __init__(
        self, find: Find, board: Board, ended: Ended, proposed: Callable[[dict[str, Any]], None] | None = None
    ):
        self.find, self.board, self.tell, self.proposed = find, board, ended, proposed
        self.jobs: dict[str, Job] = {}  # by Tune's own id of the trial
        self.ended = 0

    def __getstate__(self) -> dict[str, Any]:
        """Nothing: Tune writes its callbacks to disk for a resume of its own; ours is by run directories."""
        return {}

    def job(self, trial: Any) -> Job:
        """The job of a trial."""
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
