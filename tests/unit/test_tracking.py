"""Claims about metrics in TensorBoard, Weights & Biases and MLflow: names of metrics.jsonl, each line once."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from mbkd import runs
from mbkd.config import Config
from mbkd.errors import UserError
from mbkd.train import tracking
from mbkd.train.tracking import Tracker
from tests.conftest import scalars

CONFIG = Config.model_validate(
    {
        "task": {"kind": "xnli", "path": "facebook/xnli"},
        "student": {"backbone": "a/b"},
        "distill": {"signal": "labels"},
    }
)


def training(step: int) -> dict[str, Any]:
    return {"step": step, "epoch": step / 40, "lr": 0.5, "languages": {"en": {"loss": 1 / step, "kl": 0.25}}}


DEV = {"step": 40, "epoch": 1, "split": "dev", "accuracy": {"de": 0.5}, "accuracy_averages": {"S": None, "A": 0.5}}
LINES = [training(20), training(40), DEV, training(60)]
EXPECTED = {
    **{("languages/en/loss", s): 1 / s for s in (20, 40, 60)},
    **{("languages/en/kl", s): 0.25 for s in (20, 40, 60)},
    **{("lr", s): 0.5 for s in (20, 40, 60)},
    **{("epoch", s): s / 40 for s in (20, 40, 60)},
    ("dev/accuracy/de", 40): 0.5,
    ("dev/accuracy_averages/A", 40): 0.5,
}


def follow(kind: str, run: Path, lines: list[dict[str, Any]]) -> None:
    """Simulate one process of a run, which opens the tracker, records some lines, and exits."""
    tracker = Tracker(kind, run, CONFIG)
    for line in lines:
        runs.append_metrics(run, [line])
        tracker.follow()
    tracker.close()


def resume(run: Path, lines: int) -> None:
    """Simulate a resume, which drops the lines after the checkpoint and writes them again."""
    file = run / "metrics.jsonl"
    file.write_text("".join(file.read_text().splitlines(keepends=True)[:lines]))


def assert_once(found: list[tuple[str, int, float]]) -> None:
    assert set(Counter((name, step) for name, step, _ in found).values()) == {1}
    assert {(name, step): value for name, step, value in found} == pytest.approx(EXPECTED)


def test_tensorboard_receives_every_number_by_name(tmp_path: Path):
    follow("tensorboard", tmp_path, LINES)
    assert_once(scalars(tmp_path))


def test_a_resumed_run_sends_no_step_twice(tmp_path: Path):
    follow("tensorboard", tmp_path, LINES[:3])
    resume(tmp_path, 1)
    follow("tensorboard", tmp_path, LINES[1:2])  # stopped again before reaching the earlier step
    resume(tmp_path, 1)
    follow("tensorboard", tmp_path, LINES[1:])
    assert_once(scalars(tmp_path))


def test_a_run_that_is_tracked_later_sends_its_earlier_steps(tmp_path: Path):
    follow("none", tmp_path, LINES[:2])
    assert not scalars(tmp_path)
    follow("tensorboard", tmp_path, LINES[2:])
    assert_once(scalars(tmp_path))


def test_tensorboard_reads_the_written_files(tmp_path: Path):
    module = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    follow("tensorboard", tmp_path, LINES)
    reader = module.EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [(x.step, x.value) for x in reader.Scalars("dev/accuracy/de")] == [(40, 0.5)]


def test_a_failing_tracker_does_not_stop_training(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "tensorboard").write_text("a file where a folder should be")
    follow("tensorboard", tmp_path, LINES)
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 4
    output = capsys.readouterr().err
    assert output.count("warning: logging to tensorboard stopped") == 1


def test_unknown_and_missing_trackers_are_refused(monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(UserError, match="one of tensorboard, wandb, mlflow, none"):
        tracking.refuse_missing("tensorbord")
    monkeypatch.setitem(tracking.PACKAGES, "wandb", "a_package_that_is_not_there")
    with pytest.raises(UserError, match="not installed; pip install a_package_that_is_not_there"):
        tracking.refuse_missing("wandb")


def test_mlflow_receives_the_same_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "store").as_uri())
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    follow("mlflow", tmp_path, LINES[:3])
    resume(tmp_path, 1)
    follow("mlflow", tmp_path, LINES[1:])
    client = mlflow.MlflowClient()
    (run,) = client.search_runs([client.get_experiment_by_name("mbkd").experiment_id])
    assert run.info.status == "FINISHED"
    assert json.loads(run.data.params["student"])["backbone"] == "a/b"
    names = run.data.metrics
    assert_once([(n, x.step, x.value) for n in names for x in client.get_metric_history(run.info.run_id, n)])


def test_wandb_receives_the_same_numbers_under_one_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    follow("wandb", tmp_path, LINES[:3])
    resume(tmp_path, 1)
    follow("wandb", tmp_path, LINES[1:])
    files = sorted((tmp_path / "wandb").glob("offline-run-*/*.wandb"))
    assert len(files) == 2
    assert {file.stem for file in files} == {
        f"run-{json.loads((tmp_path / 'tracking.json').read_text())['wandb']['id']}"
    }
    assert_once([scalar for file in files for scalar in _wandb_scalars(file.read_bytes())])


def _wandb_scalars(data: bytes) -> list[tuple[str, int, float]]:
    """Return the numbers in a file of an offline run: protocol buffers in a log of LevelDB's format."""
    from wandb.proto import wandb_internal_pb2

    found, at, whole = [], 7, b""  # after the file's header
    while at + 7 <= len(data):
        if 32768 - at % 32768 < 7:  # no record begins in the last bytes of a block
            at += 32768 - at % 32768
        length, kind = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
        whole += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # a complete record, or the last part of a record
            record, whole = wandb_internal_pb2.Record.FromString(whole), b""
            for item in record.history.item:
                name = item.key or "/".join(item.nested_key)
                if not name.startswith("_"):
                    found.append((name, record.history.step.num, json.loads(item.value_json)))
    return found
