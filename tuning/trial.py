"""A trial: runs `mbkd` in a separate process, watches the process, and reports its metrics."""

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import psutil

import mbkd
from mbkd import runs
from mbkd.config import Config
from mbkd.errors import UNAVAILABLE, UserError, waits
from mbkd.files import write_json, write_whole
from mbkd.train.launch import OFTEN, die_with_parent

LOOK = 0.5  # seconds between two checks of a process
PATIENCE = 30.0  # seconds for a checkpoint after SIGTERM
LINES = 20  # of the log in failed.json
USER_ERROR = 2


@dataclass(frozen=True)
class Job:
    """The work of a trial.

    command: `train` a student or a teacher, build the `cache` of teacher logits, or `measure` the cost of a student's
    steps (tuning.efficiency).
    """

    config: Config
    command: Literal["train", "cache", "measure"] = "train"

    @property
    def name(self) -> str:
        """The run's name. A cache serves many runs and is named after the first."""
        return self.config.run_name if self.command == "train" else f"{self.command}-{self.config.run_name}"

    def finished(self, root: Path) -> bool:
        """Whether the output exists. False for a cache, whose process checks this itself."""
        if self.command == "measure":
            return (root / f"efficiency-{self.config.hash}.json").is_file()
        return self.command == "train" and runs.finished(runs.folder(root, self.config))

    def home(self, root: Path) -> Path:
        """Return the folder for failed.json: the run directory, or a separate folder."""
        return runs.folder(root, self.config) if self.command == "train" else root / "sweeps" / self.name


@dataclass(frozen=True)
class Conditions:
    """The conditions of trials: paths, resources, and the time limit without output. Paths are absolute.

    gpus:  of one trial, such as 0.5 for two trials per GPU; None: 1 if the machines have GPUs, otherwise 0
    ranks: of one trial; None: one per GPU
    """

    root: Path
    here: Path  # working directory of the sweep, for relative paths in configurations
    ranks: int | None
    cpus: float
    gpus: float | None
    silence: float  # seconds

    def with_gpus(self, there: float) -> "Conditions":
        """Return the conditions with GPUs and ranks resolved; `there` is the number of GPUs of the machines."""
        gpus = self.gpus if self.gpus is not None else float(there > 0)
        return replace(self, gpus=gpus, ranks=self.ranks or max(1, int(gpus)))

    def capacity(self, machines: list[dict[str, float]]) -> int:
        """Return how many trials fit at a time on machines with `CPU` and `GPU`. A trial uses one machine.

        Raises UserError if no trial fits, because trials would wait forever.
        """
        wishes = {kind: wish for kind, wish in (("CPU", self.cpus), ("GPU", self.gpus or 0.0)) if wish}

        def fits(machine: dict[str, float]) -> float:
            return min(machine.get(kind, 0.0) / wish for kind, wish in wishes.items())

        if count := sum(int(fits(machine) + 1e-9) for machine in machines):
            return count
        largest = max(machines, key=lambda machine: (fits(machine), machine.get("CPU", 0.0)), default={})
        raise UserError(
            f"a trial of {self.cpus:g} cores and {self.gpus or 0:g} GPUs fits on no machine; the largest has "
            f"{largest.get('CPU', 0):g} cores and {largest.get('GPU', 0):g} GPUs; "
            "reduce --cpus-per-trial or --gpus-per-trial, or add a larger machine"
        )

    @property
    def threads(self) -> int:
        """Threads per rank."""
        return max(1, int(self.cpus) // (self.ranks or 1))


class TrialFailed(Exception):
    """A trial ended without a result. failed.json has the last lines of its log."""


def work(job: Job, given: Conditions, report: Callable[[dict[str, Any]], None]) -> None:
    """Run a job to its end, or wait for another process that is working on the run. Raises TrialFailed.

    report: called with the dev averages of each epoch as the run writes them.
    """
    seen = _Epochs(runs.folder(given.root, job.config))
    left = waits()  # after transient errors
    while not job.finished(given.root):
        if job.command == "train" and _taken(given.root, job.config):
            time.sleep(LOOK)
        else:
            code, lines = _attempt(job, given, lambda: seen.tell(report))
            if code == USER_ERROR and any("another process is working on this run" in line for line in lines):
                continue
            if code == UNAVAILABLE and (wait := next(left, None)) is not None:
                time.sleep(wait)
                continue
            if code != 0 or not (job.command == "cache" or job.finished(given.root)):
                raise TrialFailed(_fail(job, given.root, code, lines))
            if job.command == "cache":
                break
        seen.tell(report)
    (job.home(given.root) / "failed.json").unlink(missing_ok=True)  # from an earlier attempt


def needs_the_user(directory: Path) -> bool:
    """Whether a retry cannot help, because the last attempt ended in an error that the user must fix."""
    return failure(directory).get("code") == USER_ERROR


def refused_to_resume(directory: Path) -> bool:
    """Whether the last attempt at an unfinished run ended because its checkpoint's inputs have changed."""
    said = "cannot be resumed, because its inputs have changed"  # by mbkd.train.checkpoint, which imports torch
    return not runs.finished(directory) and any(said in line for line in failure(directory).get("log", []))


def failure(directory: Path) -> dict[str, Any]:
    """Return the content of a run's failed.json; empty if the file is missing."""
    try:
        found: dict[str, Any] = json.loads((directory / "failed.json").read_text(encoding="utf-8"))
        return found
    except (OSError, ValueError):
        return {}


def log_file(root: Path, name: str) -> Path:
    """Return the file for the output of a trial's process."""
    return root / "sweeps" / "logs" / f"{name}.log"


def _attempt(job: Job, given: Conditions, look: Callable[[], Any]) -> tuple[int | None, list[str]]:
    """Run the process. Return its exit code, or None if it wrote no output for too long, and its last lines."""
    log = log_file(given.root, job.name)
    log.parent.mkdir(parents=True, exist_ok=True)
    file = log.with_suffix(".yaml")
    write_whole(file, job.config.dump().encode())
    command = [sys.executable, "-u", "-m", *_module(job.command, given.ranks), str(file), "--runs", str(given.root)]
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            cwd=given.here if given.here.is_dir() else None,
            env=_environment(given),
            preexec_fn=die_with_parent,  # noqa: PLW1509 - a single system call, which takes no lock
        )
        try:
            code = _wait(process, [log, runs.folder(given.root, job.config) / "metrics.jsonl"], given.silence, look)
        finally:
            _end(process)
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    return code, lines[-LINES:]


def _module(command: str, ranks: int | None) -> list[str]:
    """Return the module that a trial's process runs, with its options.

    A trial of one rank runs the rank directly, without launcher processes.
    """
    if command == "measure":
        return ["tuning.efficiency"]
    if ranks is not None and ranks > 1:
        return ["mbkd", command, "--ranks", str(ranks)]
    return ["mbkd.train.job", *([] if command == "train" else [f"--{command}"])]


def _environment(given: Conditions) -> dict[str, str]:
    """Return the environment variables of a trial's process, on the machine of the trial."""
    found = {
        "OMP_WAIT_POLICY": "PASSIVE",  # as in mbkd.cli, which `measure` does not import
        **os.environ,
        "OMP_NUM_THREADS": str(given.threads),
        # This process's checkout, independent of the trial's working directory.
        "PYTHONPATH": os.pathsep.join([str(Path(mbkd.__file__).parents[1]), os.environ.get("PYTHONPATH", "")]),
    }
    if given.gpus == 0:
        found["CUDA_VISIBLE_DEVICES"] = ""  # Ray does not hide GPUs from tasks that request none
    return found


def _wait(process: subprocess.Popen[bytes], files: list[Path], silence: float, look: Callable[[], Any]) -> int | None:
    """Wait for the exit code; return None if no file has grown for `silence` seconds."""
    sizes, since = [-1] * len(files), time.monotonic()
    while process.poll() is None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(LOOK)
        look()
        now = [file.stat().st_size if file.exists() else -1 for file in files]
        if now != sizes:
            sizes, since = now, time.monotonic()
        elif time.monotonic() - since > silence:
            return None
    return process.returncode


def _end(process: subprocess.Popen[bytes]) -> None:
    """Terminate a running process, wait for its checkpoint, then kill its remaining processes."""
    if process.poll() is not None:
        return
    below = psutil.Process(process.pid).children(recursive=True)
    process.terminate()
    _, alive = psutil.wait_procs([psutil.Process(process.pid), *below], timeout=PATIENCE)
    for each in alive:
        each.kill()
    process.wait()


def _taken(root: Path, config: Config) -> bool:
    """Whether another process is working on a run."""
    try:
        runs.lock(root, config).release()
        return False
    except UserError:
        return True


def _fail(job: Job, root: Path, code: int | None, lines: list[str]) -> str:
    """Write failed.json and return the reason in one line."""
    errors = [line for line in lines if line.startswith("error: ") or "Error" in line]
    reason = f"ended after too long without output; log: {log_file(root, job.name)}"
    if code is not None and code < 0:
        reason = f"killed by signal {-code}{OFTEN.get(-code, '')}"
    elif code is not None:
        reason = f"exit code {code}: {errors[-1] if errors else (lines or ['no output'])[-1]}"
    directory = job.home(root)
    attempts = failure(directory).get("attempts", 0) + 1
    directory.mkdir(parents=True, exist_ok=True)
    write_json(directory / "failed.json", {"reason": reason, "attempts": attempts, "code": code, "log": lines})
    return reason


class _Epochs:
    """The dev scores that a run has written since the last call of `tell`."""

    def __init__(self, run: Path):
        self.file, self.seen = run / "metrics.jsonl", 0

    def tell(self, report: Callable[[dict[str, Any]], None]) -> None:
        """Report the epoch and dev averages of each new measurement."""
        try:
            lines = self.file.read_bytes().split(b"\n")[:-1]  # the last line may be incomplete
        except FileNotFoundError:
            return
        found = [line for line in map(json.loads, lines) if line.get("split") == "dev"]
        for line in found[self.seen :]:
            averages = {f"dev_{name}": value for name, value in line["accuracy_averages"].items() if value is not None}
            report({"epoch": line["epoch"], **averages})
        self.seen = max(self.seen, len(found))
