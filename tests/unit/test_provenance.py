"""Claims about the inputs of a result: rows, teachers and backbone, independent of their files."""

import csv
import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from transformers import AutoTokenizer

from analysis import origins
from analysis.collect import Run
from mbkd import provenance, runs
from mbkd.config import Config, changed, parse
from mbkd.data.tokens import store_fingerprint
from mbkd.ensemble import runs as ensemble
from mbkd.errors import UserError
from mbkd.evaluate.folder import evaluate_folder
from mbkd.files import write_json
from mbkd.model import saved
from mbkd.model.mblm import MBLMForSequenceClassification
from mbkd.result import Result
from mbkd.train import checkpoint
from mbkd.train.launch import carry_out
from tests.synthetic import make_result
from tuning import protocols, trial
from tuning.experiments import System
from tuning.study import Sweep

ROWS = [("good", "yes"), ("bad", "no"), ("fine", "yes"), ("poor", "no")]


def write_rows(file: Path, rows: list[tuple[str, str]], **more: list[tuple[str, str]]) -> None:
    """A file of two languages: the given rows of fr, and constant rows of en."""
    with file.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["text", "label", "language"])
        for language, each in {"en": ROWS, "fr": rows, **more}.items():
            writer.writerows([text, label, language] for text, label in each)


def write_model(folder: Path, weights: bytes = b"weights") -> str:
    """Write the files of a model folder that are read without loading the model."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.safetensors").write_bytes(weights)
    (folder / "config.json").write_text('{"model_type": "bert"}')
    (folder / "tokenizer.json").write_text("{}")
    return str(folder)


@pytest.fixture
def config(tmp_path: Path) -> Config:
    """A student with a fine-tuned teacher of en and a teacher of fr for `mbkd teach`."""
    for split in ("train", "dev"):
        write_rows(tmp_path / f"{split}.csv", ROWS)
    files = {split: str(tmp_path / f"{split}.csv") for split in ("train", "dev")}
    return parse(
        {
            "task": {"kind": "own", "files": files, "labels": ["no", "yes"], "supervised": ["en", "fr"]},
            "student": {"backbone": write_model(tmp_path / "backbone")},
            "teachers": {
                "en": {"model": write_model(tmp_path / "teacher-en"), "fine_tuned": True},
                "fr": {"model": write_model(tmp_path / "plain-fr")},
            },
        },
        "test",
    )


def finish(config: Config, root: Path) -> Path:
    """A finished run of a configuration, without training."""
    run = runs.folder(root, config)
    write_model(run / "model", config.run_name.encode())
    (run / "config.yaml").write_text(config.dump(), encoding="utf-8")
    make_result(system=config.system, role=config.role, made_from=provenance.made_from(config, root)).write(run)
    return run


@pytest.fixture
def finished(config: Config, tmp_path: Path) -> Path:
    """The student's finished run, and its teacher's."""
    finish(config.teacher_run("fr"), tmp_path)
    return finish(config, tmp_path)


def swap_labels(root: Path) -> None:
    write_rows(root / "train.csv", [(text, {"yes": "no", "no": "yes"}[label]) for text, label in ROWS])


def add_a_row(root: Path) -> None:
    write_rows(root / "dev.csv", [*ROWS, ("well", "yes")])


def replace_the_backbone(root: Path) -> None:
    write_model(root / "backbone", b"others")


def retrain_a_teacher(root: Path) -> None:
    write_model(root / "teacher-en", b"others!")


def touch_all(root: Path) -> None:
    for file in root.rglob("*.csv"):
        file.write_bytes(file.read_bytes())
    for file in root.rglob("*.safetensors"):
        os.utime(file, ns=(1, 1))


def add_unused_rows(root: Path) -> None:
    write_rows(root / "train.csv", ROWS, it=[("buono", "yes")])


CHANGES: list[tuple[Callable[[Path], None], list[str]]] = [
    (swap_labels, ["train rows of fr"]),
    (add_a_row, ["dev rows of fr"]),
    (replace_the_backbone, ["backbone"]),
    (retrain_a_teacher, ["teacher en"]),
    (touch_all, []),
    (add_unused_rows, []),
]


@pytest.mark.parametrize(("change", "expected"), CHANGES, ids=lambda x: getattr(x, "__name__", ""))
def test_changed_inputs_are_named_and_equal_inputs_are_reused(
    config: Config, finished: Path, tmp_path: Path, change: Callable[[Path], None], expected: list[str]
):
    change(tmp_path)
    assert provenance.stale({finished: config}, tmp_path) == ({finished: expected} if expected else {})
    if not expected:
        assert carry_out([config], [], tmp_path, 1)[finished].made_from
        return
    with pytest.raises(UserError, match=rf"{finished}: {expected[0]}\n.*--fresh"):
        carry_out([config], [], tmp_path, 1)
    assert (finished / "result.json").is_file()


def test_a_retrained_teacher_is_named(config: Config, finished: Path, tmp_path: Path):
    teacher = runs.folder(tmp_path, config.teacher_run("fr"))
    write_model(teacher / "model", b"another training")
    assert provenance.stale({finished: config}, tmp_path) == {finished: ["teacher fr"]}


def test_a_student_is_not_trained_with_a_stale_teacher(config: Config, finished: Path, tmp_path: Path):
    swap_labels(tmp_path)
    with pytest.raises(UserError, match=r"train rows of fr\n.*`mbkd teach --fresh`"):
        provenance.teacher_path(config, "fr", 0, tmp_path)


def test_nothing_is_deleted_before_all_inputs_of_a_fresh_run_exist(config: Config, finished: Path, tmp_path: Path):
    swap_labels(tmp_path)
    with pytest.raises(UserError, match="mbkd teach"):
        carry_out([config], [], tmp_path, 1, fresh=True)
    assert (finished / "result.json").is_file()


def test_missing_inputs_cannot_be_compared_and_the_result_is_kept(config: Config, finished: Path, tmp_path: Path):
    (tmp_path / "train.csv").unlink()
    (tmp_path / "backbone" / "model.safetensors").unlink()
    assert provenance.stale({finished: config}, tmp_path) == {}


def test_a_language_with_new_rows_is_reported_as_new(config: Config, tmp_path: Path):
    plain = changed(config, {"distill": {"signal": "labels"}})
    run = finish(plain, tmp_path)
    result = Result.read(run)
    del result.made_from["dev rows of fr"]
    result.write(run)
    assert provenance.stale({run: plain}, tmp_path) == {run: ["dev rows of fr (new)"]}


def test_a_run_of_an_earlier_version_is_compared_by_its_tokens(config: Config, finished: Path, tmp_path: Path):
    backbone, length = config.student.backbone, config.train.max_length
    before = {x: store_fingerprint(tmp_path, config.task, "train", x, backbone, length) for x in ("en", "fr")}
    write_json(finished / "result.json", make_result().as_json() | {"fingerprints": {"train": before}})
    assert provenance.stale({finished: config}, tmp_path) == {}
    swap_labels(tmp_path)
    assert provenance.stale({finished: config}, tmp_path) == {finished: ["train rows of en", "train rows of fr"]}


def test_an_evaluation_uses_the_current_labels(config: Config, world: Path, tmp_path: Path):
    torch.manual_seed(0)
    encoder, names = world / "models" / "student", {0: "no", 1: "yes"}
    model = MBLMForSequenceClassification.from_pretrained(
        encoder,
        branch_languages=("en",),
        branch_depth=1,
        mixer_length=12,
        id2label=names,
        label2id={name: i for i, name in names.items()},
    )
    saved.save(model, AutoTokenizer.from_pretrained(encoder), tmp_path / "model")
    before = evaluate_folder(tmp_path / "model", config, "dev", tmp_path)
    write_rows(tmp_path / "dev.csv", [(text, {"yes": "no", "no": "yes"}[label]) for text, label in ROWS[:3]])
    after = evaluate_folder(tmp_path / "model", config, "dev", tmp_path)
    assert {x for x in after.made_from if after.made_from[x] != before.made_from[x]} == {"dev rows of fr"}
    assert after.accuracy["dev"]["en"] == before.accuracy["dev"]["en"]
    assert (before.rows["dev"]["fr"], after.rows["dev"]["fr"]) == (4, 3)
    assert after.accuracy["dev"]["fr"] != before.accuracy["dev"]["fr"]


def sweep_of(config: Config, root: Path, fresh: bool = False) -> Sweep:
    groups = protocols.groups([System(config)], [{"train.lr": lr} for lr in (1e-5, 2e-5)])
    return Sweep("grid", groups, "full", [1, 2], "all", root, "python -m tuning.sweep", fresh=fresh)


def test_a_sweep_names_all_stale_runs_and_teachers_before_it_starts(config: Config, tmp_path: Path):
    names = [finish(config.teacher_run("fr"), tmp_path).name]
    names += [finish(run, tmp_path).name for run in sweep_of(config, tmp_path).configs()]
    sweep_of(config, tmp_path).refuse_stale()
    swap_labels(tmp_path)
    with pytest.raises(UserError) as caught:
        sweep_of(config, tmp_path).refuse_stale()
    assert len(names) == 5
    assert all(f"{tmp_path / name}: train rows of fr\n" in str(caught.value) for name in names)
    assert all((tmp_path / name / "result.json").is_file() for name in names)


@pytest.mark.parametrize(("change", "expected"), CHANGES, ids=lambda x: getattr(x, "__name__", ""))
def test_a_sweep_and_a_report_name_the_same_changes_as_a_run(
    config: Config, tmp_path: Path, change: Callable[[Path], None], expected: list[str]
):
    finish(config.teacher_run("fr"), tmp_path)
    found = [finish(run, tmp_path) for run in sweep_of(config, tmp_path).configs()]
    shown = [Run(x, x.name, Result.read(x), yaml.safe_load((x / "config.yaml").read_text())) for x in found]
    change(tmp_path)
    reported = [problem.what.partition(" changed since training;")[0] for problem in origins.changed(shown, tmp_path)]
    assert reported == expected
    if not expected:
        sweep_of(config, tmp_path).refuse_stale()
        return
    with pytest.raises(UserError) as caught:
        sweep_of(config, tmp_path).refuse_stale()
    assert all(f"{run}: {expected[0]}\n" in str(caught.value) for run in found)


@pytest.mark.parametrize(("change", "expected"), CHANGES, ids=lambda x: getattr(x, "__name__", ""))
def test_an_ensemble_needs_runs_with_the_same_inputs(
    config: Config, tmp_path: Path, change: Callable[[Path], None], expected: list[str]
):
    members = []
    for seed in (1, 2):
        finish(config.teacher_run("fr"), tmp_path)
        members.append(finish(changed(config, {"seed": seed}), tmp_path))
        change(tmp_path)
    if not expected:
        assert [member.run for member in ensemble.read(members)] == members
        return
    with pytest.raises(UserError, match=rf"differs from {members[0]} in its inputs \({expected[0]}\)"):
        ensemble.read(members)


def test_a_fresh_sweep_keeps_runs_that_are_not_stale(config: Config, tmp_path: Path):
    teacher = finish(config.teacher_run("fr"), tmp_path)
    runs_of_it = [finish(run, tmp_path) for run in sweep_of(config, tmp_path).configs()]
    retrain_a_teacher(tmp_path)
    study = sweep_of(config, tmp_path, fresh=True)
    study.refuse_stale()
    assert teacher.is_dir()
    assert not any(run.exists() for run in runs_of_it)


def test_a_fresh_sweep_retrains_a_stale_teacher_and_its_students(config: Config, tmp_path: Path):
    labels = changed(config, {"distill": {"signal": "labels"}})

    def new_sweep(fresh: bool = False) -> Sweep:
        groups = protocols.groups([System(config), System(labels)], [{}])
        return Sweep("grid", groups, "full", [1, 2], "all", tmp_path, "", fresh=fresh)

    def finish_all() -> list[Path]:
        return [finish(run, tmp_path) for run in (config.teacher_run("fr"), *new_sweep().configs())]

    teacher, *students, one, other = finish_all()
    write_model(tmp_path / "plain-fr", b"another encoder")
    with pytest.raises(UserError) as caught:
        new_sweep().refuse_stale()
    named = str(caught.value).splitlines()[1:-1]
    assert named == [f"  {teacher}: backbone", *(f"  {student}: teacher fr" for student in students)]
    with runs.lock(tmp_path, config.teacher_run("fr")), pytest.raises(UserError, match="another process"):
        new_sweep(fresh=True).refuse_stale()
    assert [run.exists() for run in (teacher, *students)] == [True, False, False]  # the next start names the teacher
    (study := new_sweep(fresh=True)).refuse_stale()
    study.read_finished()
    assert [run.exists() for run in (teacher, one, other)] == [False, True, True]
    assert [runs.folder(tmp_path, run) for run in study.wanted()] == students
    finish_all()
    (study := new_sweep()).refuse_stale()
    study.read_finished()
    assert study.wanted() == []


def test_a_fresh_sweep_restarts_a_stopped_run_that_cannot_be_resumed(config: Config, tmp_path: Path):
    finish(config.teacher_run("fr"), tmp_path)
    study = sweep_of(config, tmp_path)
    first, second = study.configs()[:2]
    stopped = [runs.folder(tmp_path, run) for run in (first, second)]
    for run, before in zip(stopped, ("other rows", "rows"), strict=True):
        (run / "checkpoints" / "step-7").mkdir(parents=True)
        manifest = {"made_from": {"train fr": before}, "files": {}}
        (run / "checkpoints" / "step-7" / "manifest.json").write_text(json.dumps(manifest))
    assert checkpoint.newest(stopped[1], {"train fr": "rows"}) is not None
    with pytest.raises(UserError) as refused:
        checkpoint.newest(stopped[0], {"train fr": "rows"})
    trial._fail(trial.Job(first), tmp_path, 2, f"error: {refused.value}".splitlines())
    trial._fail(trial.Job(second), tmp_path, 2, ["error: no space left"])
    study.refuse_stale()
    assert [run.exists() for run in stopped] == [True, True]
    sweep_of(config, tmp_path, fresh=True).refuse_stale()
    assert [run.exists() for run in stopped] == [False, True]
    restored = finish(first, tmp_path)  # with the old rows back, without a sweep
    trial._fail(trial.Job(first), tmp_path, 2, f"error: {refused.value}".splitlines())
    sweep_of(config, tmp_path, fresh=True).refuse_stale()
    assert restored.exists()


@pytest.mark.parametrize("retrained", [False, True])
def test_a_sweep_and_a_report_name_a_stale_single_run(config: Config, tmp_path: Path, retrained: bool):
    def new_sweep(fresh: bool = False) -> Sweep:
        groups = protocols.groups([System(trained)], [{}])
        return Sweep("ablations", groups, "fixed", [1], "all", tmp_path, "", fresh=fresh)

    trained = changed(config, {"student": {"branch_depth": 1, "mixers": "none"}})
    alone = changed(trained, {"student": {"inference": "single"}})
    finish(config.teacher_run("fr"), tmp_path)
    run, single = finish(trained, tmp_path), finish(alone, tmp_path)
    noted = provenance.made_from(alone, tmp_path, run.name)
    result = replace(Result.read(single), trained_as=run.name, made_from=noted)
    result.write(single)
    new_sweep().refuse_stale()
    if retrained:
        write_model(run / "model", b"another training")
    else:
        swap_labels(tmp_path)
    what = f"weights of {run.name}" if retrained else "train rows of fr"
    shown = Run(single, single.name, result, yaml.safe_load((single / "config.yaml").read_text()))
    (problem,) = origins.changed([shown], tmp_path)
    assert problem.what == f"{what} changed since training; train again with --fresh"
    with pytest.raises(UserError, match=f"{single}: {what}\n"):
        new_sweep().refuse_stale()
    new_sweep(fresh=True).refuse_stale()
    assert (run.exists(), single.exists()) == (retrained, False)
    new_sweep().refuse_stale()


def test_a_sweep_counts_finished_runs_with_first_schema_names(config: Config, tmp_path: Path):
    finish(config.teacher_run("fr"), tmp_path)
    study = sweep_of(config, tmp_path)
    (first, *_) = study.configs()
    finish(first, tmp_path).rename(tmp_path / (first.first_run_name or ""))
    study.read_finished()
    assert list(study.results) == [first.run_name]
    assert len(study.wanted()) == 3
    (group,) = json.loads(study.record(False).read_text())["groups"]
    assert [each["runs"] for each in group["searched"]] == [[first.first_run_name], []]


def test_a_report_names_differing_and_changed_inputs_of_its_runs(config: Config, tmp_path: Path):
    finish(config.teacher_run("fr"), tmp_path)
    first, second = (finish(changed(config, {"seed": seed}), tmp_path) for seed in (1, 2))
    shown = [Run(x, x.name, Result.read(x), yaml.safe_load((x / "config.yaml").read_text())) for x in (first, second)]
    assert not [*origins.differing(shown), *origins.changed(shown, tmp_path)]
    swap_labels(tmp_path)
    (now,) = origins.changed(shown, tmp_path)
    assert now.where == f"{first.name}, {second.name}"
    assert now.what == "train rows of fr changed since training; train again with --fresh"
    shown[1].result.made_from["train rows of fr"] = "another"
    (line,) = origins.differing(shown)
    assert line.what == (
        f"the runs have different train rows of fr: {first.name} versus {second.name}. The tables contain all of them"
    )


def test_a_configuration_with_fewer_finished_seeds_is_reported_as_not_considered(config: Config, tmp_path: Path):
    study = sweep_of(config, tmp_path)
    (first, second, third, _) = study.configs()
    for run in (first, second, third):
        averages = {"dev": {"S": 0.5, "Z": None, "A": 0.5}}
        study.results[run.run_name] = make_result(seed=run.seed, averages=averages, steps=1)
    (group,) = json.loads(study.record(False).read_text())["groups"]
    assert group["not_considered"] == ["train.lr=2e-05 (1 of 2 seeds finished)"]


def test_a_report_names_an_ensemble_and_a_folded_run_whose_members_were_retrained(tmp_path: Path):
    (tmp_path / "member" / "logits").mkdir(parents=True)
    file = tmp_path / "member" / "logits" / "dev.en.npy"
    file.write_bytes(b"logits")
    noted = provenance.member(tmp_path / "member") | {"member gone": "x"}
    result = make_result(role="ensemble", seeds=(1, 2), members=("member", "gone"), made_from=noted)
    ensemble = Run(tmp_path / "ens2", "ens2", result, {})
    assert not list(origins.changed([ensemble], tmp_path))
    file.write_bytes(b"others")
    (problem,) = origins.changed([ensemble], tmp_path)
    assert (problem.where, problem.what[:21]) == ("ens2", "member changed since;")
    folded = Run(tmp_path / "f", "f", make_result(folded_from="member", made_from=noted), {})
    (problem,) = origins.changed([folded], tmp_path)
    assert problem.what == "member changed since; fold it again with `mbkd fold`"
