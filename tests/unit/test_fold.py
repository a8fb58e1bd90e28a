"""Claims about an MBLM whose branches are averaged into one plain encoder."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from analysis.collect import collect
from mbkd import config as configuration
from mbkd import distributed
from mbkd.cli import app
from mbkd.errors import UserError
from mbkd.evaluate import mixers
from mbkd.evaluate.folded import _plain, fold_run, folded
from mbkd.model import saved
from mbkd.model.fold import fold
from mbkd.train.checkpoint import Schedule
from mbkd.train.run import run
from tests.unit.test_mblm import DIFFERENT, LANGUAGES, STRUCTURES, logits_of, mblm, ragged, trained


@pytest.mark.parametrize(
    ("backbone", "structure"), [*((x, "full") for x in DIFFERENT), *(("bert", x) for x in STRUCTURES)]
)
def test_equal_branches_fold_into_an_equivalent_model(backbone, structure):
    torch.manual_seed(0)
    model, inputs = mblm(backbone, structure).eval(), ragged(backbone)
    if len(model.heads):
        for head in model.heads[1:]:
            head.load_state_dict(model.heads[0].state_dict())
    folded = fold(model)
    assert not (len(folded.branches) + len(folded.inner))
    assert folded.outer is None
    torch.testing.assert_close(logits_of(folded, inputs, None), logits_of(model, inputs, None), rtol=0, atol=1e-5)


def test_a_folded_layer_is_the_mean_or_the_weighted_mean_of_the_branches():
    torch.manual_seed(0)
    model = trained(branch_depth=2)
    shares = [[0.5, 0.3, 0.2], [0.1, 0.1, 0.8]]
    plain, weighted = fold(model), fold(model, shares)
    for depth in range(2):
        for name, parameter in plain.shared[depth].named_parameters():
            each = [branch[depth].get_parameter(name) for branch in model.branches]
            torch.testing.assert_close(parameter, torch.stack(each).mean(dim=0))
            mixed = sum(share * x for share, x in zip(shares[depth], each, strict=True))
            torch.testing.assert_close(weighted.shared[depth].get_parameter(name), mixed)
    for before, after in zip(model.shared, plain.shared[2:], strict=True):
        assert all(map(torch.equal, before.state_dict().values(), after.state_dict().values()))


def test_a_model_without_branches_is_refused():
    with pytest.raises(UserError, match="no branches"):
        fold(mblm(structure="plain"))


@pytest.fixture(scope="module")
def finished(toy_yaml: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of MultiTrain + MBLM, and a plain run."""
    distributed.quiet()
    ranks, root = distributed.start(), tmp_path_factory.mktemp("runs")
    overrides = ["distill.signal=labels", "train.epochs=0.25"]
    run(configuration.read(toy_yaml, [*overrides, "student.branch_depth=0"]), root, ranks, Schedule())
    made = run(configuration.read(toy_yaml, [*overrides, "student.branch_depth=2"]), root, ranks, Schedule())
    distributed.stop()
    return made


def test_a_folded_run_is_a_separate_run_next_to_the_others(finished: Path, tmp_path: Path):
    done = CliRunner().invoke(app, ["fold", str(finished)])
    assert done.exit_code == 0, (done.output, done.exception)
    out = Path(done.stdout.splitlines()[-1])
    for system in ("MultiTrain + MBLM ", "MultiTrain + MBLM, folded", "MultiTrain "):
        assert done.stdout.count(system) >= 2, system  # on dev and on test
    result = json.loads((out / "result.json").read_text())
    plain = json.loads(next(finished.parent.glob("marc-multitrain-s1-*/result.json")).read_text())
    assert result["parameters"] == plain["parameters"]
    assert (result["branches"], result["folded_from"]) == ([], finished.name)
    config = json.loads((out / "model" / "config.json").read_text())
    assert config["calibration_temperatures"] == result["calibration"]["temperatures"]
    labels = np.load(out / "labels" / "test.ja.npy")
    logits = np.load(out / "logits" / "test.ja.npy")
    assert (logits.argmax(1) == labels).mean() == pytest.approx(result["accuracy"]["test"]["ja"])
    assert "# MultiTrain + MBLM, folded:" in (out / "model" / "README.md").read_text()
    assert sorted(each.system for each in collect(finished.parent).runs) == [
        "MultiTrain",
        "MultiTrain + MBLM",
        "MultiTrain + MBLM, folded",
    ]
    scores = tmp_path / "scores.json"
    arguments = ["evaluate", out, finished / "config.yaml", "--runs", finished.parent, "--out", scores]
    done = CliRunner().invoke(app, list(map(str, arguments)))
    assert done.exit_code == 0, (done.output, done.exception)
    evaluated = json.loads(scores.read_text())
    assert evaluated["system"] == "MultiTrain + MBLM, folded"
    assert evaluated["accuracy"]["test"] == result["accuracy"]["test"]


def test_a_run_is_folded_from_within_its_directory(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(shutil.copytree(finished, tmp_path / "run"))
    out, (_, result, *_) = fold_run(Path())
    assert (out, result.folded_from) == (tmp_path / "run-folded", "run")


def test_a_sweep_folds_a_retrained_run_again(finished: Path, tmp_path: Path):
    retrained = shutil.copytree(finished, tmp_path / finished.name)
    before = folded(retrained)
    result = retrained.with_name(f"{retrained.name}-folded") / "result.json"
    result.write_text(json.dumps(json.loads(result.read_text()) | {"system": "seen"}))
    assert folded(retrained).system == "seen"
    array = retrained / "logits" / "dev.ja.npy"
    np.save(array, -np.load(array))
    assert folded(retrained).system == before.system


def test_mixer_shares_are_the_mixers_mean_weights_on_dev(finished: Path, tmp_path: Path):
    out, _ = fold_run(finished, "mixers", tmp_path / "folded")
    found = mixers.measure(finished, configuration.read(finished / "config.yaml"), "dev", finished.parent)
    branches = found["branches"]
    shares = [
        [np.mean([x["mean"] for x in found["rows"] if x["branch"] == b and x["mixer"].startswith(m)]) for b in branches]
        for m in ("inner 1", "outer")
    ]
    expected = fold(saved.load(finished / "model"), shares).state_dict()
    for name, values in saved.load(out / "model").state_dict().items():
        torch.testing.assert_close(values, expected[name])
    assert len(branches) == len(LANGUAGES)


def test_an_unsupported_run_gives_one_message_and_leaves_no_files(finished: Path, tmp_path: Path):
    plain = next(finished.parent.glob("marc-multitrain-s1-*"))
    with pytest.raises(UserError, match="no branches"):
        fold_run(plain, "mean", tmp_path / "out")
    with pytest.raises(UserError, match="one of mean, mixers"):
        fold_run(finished, "other", tmp_path / "out")
    with pytest.raises(UserError, match="exists already"):
        fold_run(finished, "mean", plain)
    assert not list(tmp_path.iterdir())


def test_a_grown_run_is_compared_with_no_plain_run(finished: Path):
    config = configuration.read(finished / "config.yaml", ["student.grow=en"])
    assert _plain(config, finished.parent) == []
