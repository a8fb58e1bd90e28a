"""Claims about the baseline: a logistic regression on a frozen encoder's mean states."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from transformers import AutoModel, AutoTokenizer
from typer.testing import CliRunner

from analysis.collect import collect
from mbkd import config as configuration
from mbkd.cli import app
from mbkd.data import tasks
from mbkd.evaluate import baseline


@pytest.fixture(scope="module")
def made(toy_yaml: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(baseline, "STRENGTHS", (100.0, 1.0, 10.0))  # the first value is not the best on dev
        # The second call has nothing to do, because the baseline has no teachers.
        for overrides in ([], ["distill.hidden=[{student: 1, teacher: 1}]"]):
            done = CliRunner().invoke(app, ["baseline", str(toy_yaml), *overrides, "--runs", str(root)])
            assert done.exit_code == 0, (done.output, done.exception)
    return Path(done.stdout.splitlines()[-1])


def test_the_baseline_is_a_logistic_regression_on_unit_mean_states_regularized_by_dev(made: Path, toy_yaml: Path):
    """The oracle uses transformers and scikit-learn only, one text at a time."""
    config = configuration.read(toy_yaml)
    words = AutoTokenizer.from_pretrained(config.student.backbone)
    encoder = AutoModel.from_pretrained(config.student.backbone).eval()

    def rows(split, language):
        found, classes = [], []
        for row in tasks.load(config.task, split, language):
            inputs = words(row["text_a"], row["text_b"] or None, truncation="longest_first", max_length=128)
            with torch.no_grad():
                states = encoder(**{x: torch.tensor([y]) for x, y in inputs.items()}).last_hidden_state
            found.append(states[0].mean(0).numpy())
            classes.append(row["label"])
        return np.array(found), np.array(classes)

    parts = [rows("train", x) for x in config.languages]
    train, classes = (np.concatenate(each) for each in zip(*parts, strict=True))

    def unit(states):
        return states / np.sqrt((states**2).sum(axis=1, keepdims=True))

    dev = [rows("dev", x) for x in config.task.languages]
    fitted = [LogisticRegression(C=c, max_iter=1000).fit(unit(train), classes) for c in (100, 1, 10)]
    means = [np.mean([(each.predict(unit(x)) == y).mean() for x, y in dev]) for each in fitted]
    assert max(means) > means[0]
    expected = fitted[int(np.argmax(means))]
    texts, labels = rows("test", "de")
    found = np.exp(np.load(made / "logits" / "test.de.npy"))
    assert np.abs(found - expected.predict_proba(unit(texts))).max() < 0.01
    assert np.array_equal(np.load(made / "labels" / "test.de.npy"), labels)
    result = json.loads((made / "result.json").read_text())
    assert result["accuracy"]["test"]["de"] == pytest.approx((found.argmax(1) == labels).mean())


def test_reports_find_the_baselines_run(made: Path):
    (run,) = collect(made.parent).runs
    assert (run.system, run.role, run.branch_depth) == ("Baseline (frozen encoder)", "student", 0)
    assert set(run.scores("test")) == {"en", "fr", "zh", "de", "es", "ja"}


def test_a_task_without_dev_and_test_rows_is_refused(toy_yaml: Path, tmp_path: Path):
    task = configuration.read(toy_yaml).task
    files = {"train": f"{task.path}/dataset_{{language}}_train.json"}
    own = {"kind": "own", "files": files, "labels": ["1", "2"], "supervised": ["en", "fr", "zh"]}
    done = CliRunner().invoke(app, ["baseline", str(toy_yaml), f"task={json.dumps(own)}", "--runs", str(tmp_path)])
    assert "neither" in str(done.exception)
