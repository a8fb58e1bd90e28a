"""Measure the cost of a sweep's driver: trials sleep instead of training, on a simulated Ray cluster.

usage: python -m benchmarks.cluster [--nodes 10] [--per-node 1] [--trials 60] [--sleep 10] [--out FILE]
       python -m benchmarks.cluster --nodes 0 [--trials 3000] [--out FILE]

Each node is a Ray process with --per-node places for trials (ray.cluster_utils.Cluster). Except for the work of a
trial, everything is that of a real sweep: a grid of learning rates and five seeds, the record after each trial, and the
choice at the end. A trial reports two epochs, sleeps, and writes a result. The nodes share this machine's cores and
memory, so the wall time has little meaning. The driver's cost is the processor time and the memory of this process.

A node and its trial take about half a gigabyte. --nodes 0 omits Ray: each trial ends at once. Only the driver is then
measured, for any number of trials.
"""

import contextlib
import math
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest.mock import patch

import psutil

from benchmarks import common
from mbkd import distributed
from mbkd.config import parse
from mbkd.result import Result
from tuning import pool, protocols
from tuning.board import Board
from tuning.experiments import System
from tuning.stages import Stages, carry_out
from tuning.study import Sweep
from tuning.trial import Conditions, Job

MODULE = "benchmarks.cluster"
SEEDS = [1, 2, 3, 4, 5]


def make_study(root: Path, trials: int) -> Sweep:
    """Return a sweep over a grid of `trials` runs."""
    values = {
        "task": {"kind": "xnli", "path": str(root), "zero_shot": ["de"]},
        "student": {"backbone": "none"},
        "distill": {"signal": "labels"},
    }
    system = System(parse(values, MODULE))
    rates = [{"train.lr": (1 + number) * 1e-7} for number in range(math.ceil(trials / len(SEEDS)))]
    return Sweep("grid", protocols.groups([system], rates), "full", SEEDS, "all", root, MODULE)


def write_result(job: Job, root: Path) -> float:
    """Write the files of a finished trial; return its score."""
    config = job.config
    task, folder = config.task, job.home(root)
    score = 0.3 + (config.seed + 1e7 * config.train.lr) % 7 / 100
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text(config.dump(), encoding="utf-8")
    accuracy = {split: dict.fromkeys(task.languages, score) for split in ("dev", "test")}
    averages: Any = {split: dict.fromkeys("SZA", score) for split in accuracy}
    Result(
        config.system, "student", task.kind, config.student.backbone, task.supervised, task.zero_shot, accuracy,
        averages, {}, {}, seed=config.seed, steps=1,
    ).write(folder)  # fmt: skip
    return score


def sleeping_trial(seconds: float) -> Any:
    """Return a substitute for `tuning.pool._trial`, pickled by value because workers lack `benchmarks`."""

    def trial(params: dict[str, Any], find: Any, given: Conditions, rule: str) -> None:
        import ray
        from ray import tune

        job = find(params)
        for epoch in (1, 2):
            time.sleep(seconds / 2)
            tune.report({"epoch": epoch, "dev_A": 0.3, "score": 0.3})
        tune.report({"node": ray.get_runtime_context().get_node_id(), "score": write_result(job, given.root)})

    return trial


class InstantPool(pool.Pool):
    """A pool without Ray: a trial ends as soon as it starts."""

    def __init__(self, given: Conditions, retries: int, address: str | None):
        self.given = given

    def __exit__(self, *_: object) -> None:
        pass

    def capacity(self) -> int:
        """Return 1."""
        return 1

    def run(self, jobs: list[Job], board: Board, ended: pool.Ended) -> bool:
        """Finish all jobs at once."""
        for job in jobs:
            board.start(job.name)
            write_result(job, self.given.root)
            ended(job, "node")
        return True


@contextlib.contextmanager
def simulated_cluster(nodes: int, per_node: int) -> Iterator[str | None]:
    """Start a cluster of `nodes` nodes and yield its address, or None for 0 nodes."""
    if not nodes:
        yield None
        return
    from ray.cluster_utils import Cluster

    node = {"num_cpus": per_node, "object_store_memory": 100_000_000, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=node)
    try:
        for _ in range(nodes - 1):
            cluster.add_node(**node)
        cluster.wait_for_nodes()
        yield cluster.address
    finally:
        cluster.shutdown()


def cpu_seconds() -> float:
    """Return the processor seconds of this process so far."""
    own = resource.getrusage(resource.RUSAGE_SELF)
    return own.ru_utime + own.ru_stime


def main() -> None:
    parser = common.parser(MODULE, __doc__)
    parser.add_argument("--nodes", type=int, default=10)
    parser.add_argument("--per-node", type=int, default=1, help="concurrent trials on a node")
    parser.add_argument("--trials", type=int, default=60, help="number of trials, rounded up to a multiple of five")
    parser.add_argument("--sleep", type=float, default=10, help="seconds of a trial")
    asked = parser.parse_args()
    distributed.quiet()
    peak, note, places = [0.0], Stages._ended, max(asked.nodes * asked.per_node, 1)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "runs"
        root.mkdir()
        study = make_study(root, asked.trials)
        count = len(study.configs())

        def ended(self: Stages, *what: Any) -> None:
            """Measure the memory of all Ray processes after every tenth of the trials."""
            note(self, *what)
            if len(self.study.results) % max(1, count // 10) == 0:
                below = psutil.Process().children(recursive=True)
                peak[0] = max(peak[0], sum(x.memory_info().rss for x in below if x.is_running()) / 1e9)

        with simulated_cluster(asked.nodes, asked.per_node) as address, ExitStack() as patched:
            patched.enter_context(patch("mbkd.inputs.prepare", lambda *_: None))  # the task has no rows
            patched.enter_context(patch.object(Stages, "_ended", ended))
            if address is None:
                patched.enter_context(patch.object(pool, "Pool", InstantPool))
            else:
                patched.enter_context(patch.object(pool, "_trial", sleeping_trial(asked.sleep)))
            before, began = cpu_seconds(), time.perf_counter()
            whole = carry_out(study, Conditions(root, Path.cwd(), 1, 1, 0, 600), 0, address)
            wall, took = time.perf_counter() - began, cpu_seconds() - before
        assert whole and len(study.results) == count and not study.failed, study.failed
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
        began = time.perf_counter()
        report = [sys.executable, "-m", "analysis.report", str(root), "--out", str(Path(folder) / "report")]
        subprocess.run(report, check=True, stdout=subprocess.DEVNULL)
        reported = time.perf_counter() - began
    ideal = math.ceil(count / places) * asked.sleep if asked.nodes else 0.0
    found = {
        "trials": count,
        "places": places,
        "wall_seconds": wall,
        "ideal_seconds": ideal,
        "driver_cpu_seconds_per_trial": took / count,
        "driver_gb": memory,
        "ray_gb": peak[0],
        "report_seconds": reported,
    }
    columns = (
        "trials", "places", "wall s", "sleep alone s", "driver's processor s per trial", "driver GB", "all of Ray GB",
        "report s",
    )  # fmt: skip
    cells = (
        f"{count:,}", places, f"{wall:.0f}", f"{ideal:.0f}", f"{took / count:.3f}", f"{memory:.2f}", f"{peak[0]:.1f}",
        f"{reported:.1f}",
    )  # fmt: skip
    common.print_table(f"{asked.nodes} simulated nodes", columns, [cells])
    common.record(MODULE, asked.out, found)


if __name__ == "__main__":
    main()
