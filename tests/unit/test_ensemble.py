"""Claims about ensembles: saved logits and the model agree, and only comparable runs are combined."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml
from typer.testing import CliRunner

from mbkd import config as configuration
from mbkd import distributed
from mbkd.cli import app
from mbkd.data.tokens import open_store
from mbkd.ensemble import runs
from mbkd.errors import UserError
from mbkd.evaluate import measure
from mbkd.model import saved
from mbkd.result import Result
from mbkd.terminal.results import spread_grid
from mbkd.train.checkpoint import Schedule
from mbkd.train.run import run
from tests.conftest import mbkd as command


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def seeds(toy_yaml: Path, root: Path) -> list[Path]:
    """Three finished runs of MultiTrain + MBLM that differ in the seed."""
    distributed.quiet()
    ranks = distributed.start()
    overrides = ["distill.signal=labels", "train.epochs=0.5"]
    configs = [configuration.read(toy_yaml, [*overrides, f"seed={seed}"]) for seed in (1, 2, 3)]
    made = [run(config, root, ranks, Schedule()) for config in configs]
    distributed.stop()
    return made


@pytest.mark.parametrize("size", [2, 3])
def test_saved_logits_and_the_ensemble_model_agree_bitwise(seeds: list[Path], root: Path, tmp_path: Path, size: int):
    """Members are reproducible in fp32 on one kind of device, with equal threads and batches."""
    config = configuration.read(seeds[0] / "config.yaml")
    runs.write_model(seeds[:size], tmp_path / "model")
    _, expected = runs.combine(runs.read(seeds[:size]))
    model = saved.load(tmp_path / "model")
    ranks = distributed.start()
    for language in config.task.languages:
        tokens = open_store(root / "store", config.task, "test", language, str(tmp_path / "model"), 128)
        assert np.array_equal(measure.logits(model, tokens, ranks, language=language), expected["test"][language])
    distributed.stop()
    members = [np.load(each / "logits" / "test.ja.npy") for each in seeds[:size]]
    assert np.abs(expected["test"]["ja"] - np.mean(members, axis=0)).max() < 1e-6
    assert not np.array_equal(expected["test"]["ja"], members[0])


def test_every_pair_gets_a_directory_like_a_run(seeds: list[Path], tmp_path: Path):
    found = runs.write_scores(seeds, tmp_path)
    assert [result.seeds for result in found.values()] == [(1, 2), (1, 3), (2, 3)]
    one, two = (Result.read(seed) for seed in seeds[:2])
    for folder, result in found.items():
        assert folder.name.startswith("marc-ens2-multitrain-mblm-s")
        assert Result.read(folder) == result
        for split in ("dev", "test"):
            for language, score in result.accuracy[split].items():
                logits = np.load(folder / "logits" / f"{split}.{language}.npy")
                labels = np.load(folder / "labels" / f"{split}.{language}.npy")
                assert (logits.argmax(1) == labels).mean() == pytest.approx(score)
    first = next(iter(found.values()))
    assert (first.system, first.role, first.branch_depth) == ("Ens2", "ensemble", 1)
    assert first.members == (seeds[0].name, seeds[1].name)
    assert {f"member {seeds[0].name}", f"member {seeds[1].name}", "train rows of fr", "backbone"} <= set(
        first.made_from
    )
    assert first.parameters == one.parameters + two.parameters
    assert first.train_seconds == one.train_seconds + two.train_seconds
    assert first.step_seconds["median"] == one.step_seconds["median"] + two.step_seconds["median"]
    assert first.rows == one.rows
    row, columns = spread_grid(list(found.values()), "test")
    assert len(row.cells) == sum(len(names) for _, names in columns) == 6 + 3


def changed_result(field: str, value: object) -> Callable[[Path], None]:
    def change(run: Path) -> None:
        result = json.loads((run / "result.json").read_text())
        (run / "result.json").write_text(json.dumps(result | {field: value}))

    return change


def changed_config(section: str, field: str) -> Callable[[Path], None]:
    def change(run: Path) -> None:
        values = yaml.safe_load((run / "config.yaml").read_text())
        values[section][field] -= 1
        (run / "config.yaml").write_text(yaml.safe_dump(values))

    return change


def other_rows(run: Path) -> None:
    labels = np.load(run / "labels" / "test.de.npy")
    np.save(run / "labels" / "test.de.npy", labels[::-1])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (changed_result("task", "xnli"), r"different task \(xnli; "),
        (changed_result("labels", ["5", "4", "3", "2", "1"]), r"order of labels \(5, 4, 3, 2, 1; 1, 2"),
        (changed_result("zero_shot", ["de"]), "zero-shot languages"),
        (changed_result("system", "MultiKD"), r"different system \(MultiKD; "),
        (changed_result("trained", ["en"]), r"different trained languages \(en; "),
        (changed_config("student", "branch_depth"), r"different student.branch_depth \("),
        (changed_config("train", "max_length"), r"different train.max_length \("),
        (changed_result("made_from", {"train rows of fr": "x"}), r"differs from .* in its inputs \(train rows of fr\)"),
        (other_rows, "different rows of test"),
        (lambda run: shutil.rmtree(run / "logits"), "saved logits cannot be read"),
        (lambda run: (run / "ids" / "dev.en.json").write_text("[", encoding="utf-8"), "saved logits cannot be read"),
        (lambda run: (run / "result.json").unlink(), "no finished run"),
    ],
)
def test_runs_that_cannot_be_compared_are_refused(
    seeds: list[Path], tmp_path: Path, change: Callable[[Path], None], message: str
):
    other = tmp_path / "other"
    shutil.copytree(seeds[1], other)
    change(other)
    with pytest.raises(UserError, match=message):
        runs.write_scores([seeds[0], other], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_runs_without_dev_and_test_rows_give_no_scores(seeds: list[Path], tmp_path: Path):
    copies = [shutil.copytree(seed, tmp_path / seed.name) for seed in seeds[:2]]
    for copy in copies:
        changed_result("accuracy", {})(copy)
    with pytest.raises(UserError, match="neither dev nor test rows"):
        runs.write_scores(copies, tmp_path / "out")


def test_an_ensemble_needs_different_runs(seeds: list[Path], tmp_path: Path):
    with pytest.raises(UserError, match="named twice"):
        runs.write_scores([seeds[0], seeds[0]], tmp_path)
    with pytest.raises(UserError, match="must be 2 to 3"):
        runs.write_scores(seeds, tmp_path, 4)
    with pytest.raises(UserError, match="needs two runs or more"):
        runs.write_scores(seeds[:1], tmp_path)


def test_the_exported_ensemble_serves_the_other_commands(seeds: list[Path], toy_yaml: Path, root: Path, tmp_path: Path):
    def mbkd(*arguments: object) -> str:
        done = CliRunner().invoke(app, [str(x) for x in arguments])
        assert done.exit_code == 0, (done.output, done.exception)
        return done.output

    out = tmp_path / "ens2"
    assert str(out) in mbkd("ensemble", *seeds[:2], "--out", out)
    assert "# Ens2 of MultiTrain + MBLM, seeds 1, 2" in (out / "README.md").read_text()
    assert "model.safetensors" in mbkd("push", out, "me/ens2", "--dry-run")
    (tmp_path / "rows.txt").write_text("good\nbad\n")
    mbkd("predict", out, tmp_path / "rows.txt", "--out", tmp_path / "labels.jsonl")
    assert len((tmp_path / "labels.jsonl").read_text().splitlines()) == 2
    mbkd("evaluate", out, toy_yaml, "--runs", root, "--out", tmp_path / "scores.json")
    result, _ = runs.combine(runs.read(seeds[:2]))
    assert json.loads((tmp_path / "scores.json").read_text())["accuracy"]["test"] == result.accuracy["test"]
    with pytest.raises(UserError, match="already exists"):
        runs.write_model(seeds[:2], out)


@pytest.mark.slow
def test_an_ensemble_exports_to_one_onnx_graph(seeds: list[Path], tmp_path: Path):
    pytest.importorskip("onnxruntime")
    from mbkd.predict.export import export

    runs.write_model(seeds[:2], tmp_path / "ens2")
    report, _ = export(tmp_path / "ens2", ["fp32"], None)
    assert report["engines"]["onnx fp32"]["agreement"] >= 0.999


def test_an_unwritable_folder_gives_one_message(seeds: list[Path], tmp_path: Path):
    (tmp_path / "file").touch()
    done = command("ensemble", *seeds, "--runs", tmp_path / "file")
    assert done.returncode == 2
    assert done.stderr == f"error: --runs {tmp_path / 'file'}: is a file; name a folder\n"
