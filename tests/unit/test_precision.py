"""Claims about the precision of a model: the same in training, evaluation, prediction and serving."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from mbkd import config as configuration
from mbkd import distributed, precision
from mbkd.ensemble.model import save
from mbkd.errors import UserError
from mbkd.evaluate.folder import evaluate_folder
from mbkd.predict.classifier import Classifier
from mbkd.result import Result
from mbkd.train.checkpoint import Schedule
from mbkd.train.run import run

CPU = torch.device("cpu")


@pytest.mark.parametrize("kind", ["fp32", "bf16"])
def test_evaluate_reproduces_the_runs_scores_in_every_precision(toy_yaml: Path, tmp_path: Path, kind: str):
    """The scores are bitwise equal, because the saved weights are evaluated in the same way."""
    config = configuration.read(toy_yaml, ["distill.signal=labels", f"train.precision={kind}"])
    distributed.quiet()
    directory = run(config, tmp_path, distributed.start(), Schedule())
    distributed.stop()
    found = evaluate_folder(directory, config, "test", tmp_path)
    assert found.accuracy["test"] == Result.read(directory).accuracy["test"]
    assert found.mae["test"] == Result.read(directory).mae["test"]
    model = Classifier(directory)._model
    assert precision.of_model(model.config, CPU) == kind
    assert {p.dtype for p in model.parameters()} == {torch.float32}


@pytest.mark.parametrize(("second", "kind"), [("bf16", "bf16"), ("fp32", "fp32")])
def test_an_ensemble_computes_in_its_members_common_precision(student: Path, tmp_path: Path, second: str, kind: str):
    for name, trained in (("first", "bf16"), ("second", second)):
        shutil.copytree(student, tmp_path / name)
        file = tmp_path / name / "config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | {"train_precision": trained}))
    save([tmp_path / "first", tmp_path / "second"], tmp_path / "ensemble")
    assert Classifier(tmp_path / "ensemble")._precision == kind


def test_auto_is_fp32_on_a_cpu_and_an_unsupported_precision_is_refused():
    assert precision.choose("auto", CPU) == "fp32"
    if "fp16" not in precision._supported(CPU):
        with pytest.raises(UserError, match=r"train\.precision = fp16"):
            precision.choose("fp16", CPU)


def test_a_model_trained_elsewhere_runs_in_a_precision_of_this_device():
    class Trained:
        train_precision = "int3"

    assert precision.of_model(Trained, CPU) == "fp32"


def test_autocast_ends_where_full_precision_is_required():
    a = torch.randn(3, 3)
    with precision.autocast("bf16", CPU):
        assert (a @ a).dtype == torch.bfloat16
        with precision.without_autocast(CPU):
            assert (a @ a).dtype == torch.float32
    with precision.autocast("fp32", CPU):
        assert (a @ a).dtype == torch.float32
