"""Trackers that send the lines of metrics.jsonl to TensorBoard, Weights & Biases or MLflow.

Names are paths: languages.en.kl of a line is languages/en/kl, and accuracy.de of a dev line is dev/accuracy/de.
tracking.json in the run directory counts the lines that were sent. A resumed run sends no line twice, and a tracker
that is added later also receives the earlier lines. DeepSpeed's monitor is not used, because it counts samples
instead of steps and does not support resumed runs.
"""

import contextlib
import json
import os
import sys
import time
import uuid
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from mbkd.config import Config
from mbkd.data.readers import one_line
from mbkd.errors import UserError
from mbkd.files import write_json

PACKAGES = {"tensorboard": "tensorboardX", "wandb": "wandb", "mlflow": "mlflow", "none": ""}
PROJECT = "mbkd"  # default for WANDB_PROJECT and MLFLOW_EXPERIMENT_NAME

Values = dict[str, float]
Client = tuple[Callable[[Values, int], None], Callable[[], None]]  # send the values of a step; close


def refuse_missing(kind: str) -> None:
    """Raise UserError for an unknown kind of tracker, or one without its package."""
    if kind not in PACKAGES:
        raise UserError(f"--log {kind}: must be one of {', '.join(PACKAGES)}")
    if (package := PACKAGES[kind]) and find_spec(package) is None:
        raise UserError(f"--log {kind}: {package} is not installed; pip install {package}, or choose another --log")


class Tracker:
    """Send each line of a run's metrics.jsonl to a tracker once. On the first rank only.

    kind: a key of PACKAGES. An error of the tracker prints one warning and does not stop the training.
    """

    def __init__(self, kind: str, run: Path, config: Config):
        self.kind, self.run, self.config = kind, run, config
        self.position, self.line = 0, 0  # in metrics.jsonl: byte, and line
        self.client: Client | None = None
        kept = run / "tracking.json"
        self.kept: dict[str, Any] = json.loads(kept.read_text(encoding="utf-8")) if kept.is_file() else {}
        self.mine: dict[str, Any] = self.kept.setdefault(kind, {"lines": 0})
        if kind != "none":
            self._guarded(self._open)

    def follow(self) -> None:
        """Send the lines added to metrics.jsonl since the last call."""
        if self.client is None:
            return
        with (self.run / "metrics.jsonl").open("rb") as file:
            file.seek(self.position)
            for line in file:
                self.position, self.line = self.position + len(line), self.line + 1
                if self.line > self.mine["lines"]:
                    self.mine["lines"] = self.line  # counted first: a kill can lose a line but not send one twice
                    write_json(self.run / "tracking.json", self.kept)
                    self._guarded(self._send, json.loads(line))

    def close(self) -> None:
        """Flush and close the client."""
        if self.client is not None:
            self._guarded(self.client[1])

    def _send(self, line: dict[str, Any]) -> None:
        if self.client is not None:
            self.client[0](flat(line), line["step"])

    def _open(self) -> None:
        self.client = {"tensorboard": _tensorboard, "wandb": _wandb, "mlflow": _mlflow}[self.kind](
            self.run, self.config, self.mine
        )

    def _guarded(self, do: Callable[..., None], *arguments: Any) -> None:
        try:
            do(*arguments)
        except Exception as error:  # no error of a tracker may stop the training
            self.client = None
            print(f"warning: logging to {self.kind} stopped ({one_line(error)})", file=sys.stderr, flush=True)


def flat(line: dict[str, Any]) -> Values:
    """Return the numbers of a line by path. Paths of an evaluation start with its split."""
    found: Values = {}

    def walk(value: Any, path: str) -> None:
        if isinstance(value, dict):
            for name, part in value.items():
                walk(part, f"{path}/{name}" if path else name)
        elif isinstance(value, (int, float)):
            found[path] = value

    split = line.get("split", "")
    # The training line of the same step already contains the epoch.
    left_out = ("step", "split", "epoch") if split else ("step",)
    walk({name: value for name, value in line.items() if name not in left_out}, split)
    return found


def _tensorboard(run: Path, config: Config, kept: dict[str, Any]) -> Client:
    """Write event files to the run directory. `tensorboard --logdir RUNS` shows all runs."""
    from tensorboardX import SummaryWriter  # does not need TensorBoard

    # A unique suffix, because a run that resumes within the same second would overwrite the previous file.
    writer = SummaryWriter(str(run / "tensorboard"), filename_suffix=f".{time.time_ns()}")
    events = writer.file_writer.event_writer
    close = events.close

    def close_quietly() -> None:
        with contextlib.suppress(OSError):
            close()

    events.close = close_quietly  # tensorboardX also closes at exit, where a full disk would print a traceback

    def send(values: Values, step: int) -> None:
        for name, value in values.items():
            writer.add_scalar(name, value, step)
        writer.flush()  # lines before a checkpoint must survive a kill

    return send, writer.close


def _wandb(run: Path, config: Config, kept: dict[str, Any]) -> Client:
    import wandb

    kept.setdefault("id", uuid.uuid4().hex)
    client = wandb.init(
        project=os.environ.get("WANDB_PROJECT", PROJECT),
        id=kept["id"],
        name=run.name,
        resume="allow",
        dir=str(run),
        config=config.model_dump(mode="json"),
        settings=wandb.Settings(console="off", silent=True),
    )
    return lambda values, step: client.log(values, step=step), client.finish


def _mlflow(run: Path, config: Config, kept: dict[str, Any]) -> Client:
    import mlflow
    from mlflow.entities import Metric, Param

    client = mlflow.MlflowClient()
    if "id" not in kept:
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
        experiment = client.get_experiment_by_name(name)
        number = experiment.experiment_id if experiment else client.create_experiment(name)
        kept["id"] = client.create_run(number, run_name=run.name).info.run_id
        sections = config.model_dump(mode="json").items()
        client.log_batch(kept["id"], params=[Param(key, json.dumps(value)) for key, value in sections])
    client.update_run(kept["id"], status="RUNNING")

    def send(values: Values, step: int) -> None:
        now = int(1000 * time.time())
        client.log_batch(kept["id"], metrics=[Metric(name, value, now, step) for name, value in values.items()])

    return send, lambda: client.set_terminated(kept["id"])
