"""Claims about sweeps without Ray: grids from lists, systems, protocols, the record, and conditions of a trial."""

import json
import re
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from rich.text import Text
from typer.testing import CliRunner

from mbkd import errors, runs
from mbkd.config import changed, paper, parse
from mbkd.errors import UNAVAILABLE, UserError
from mbkd.files import write_json
from mbkd.result import Result
from tests.synthetic import make_result
from tuning import grids, protocols, stages, sweep
from tuning.board import Board
from tuning.experiments import EXPERIMENTS, base
from tuning.protocols import Group, groups, record, wanted
from tuning.stages import Stages, _cached_teachers, _refusal, _single_inference, _to_cache, carry_out
from tuning.study import Sweep
from tuning.trial import Conditions, Job, TrialFailed, _environment, _fail, failure, needs_the_user, work

GRID = {"train.lr": [1e-5, 2e-5], "train.epochs": [2, 3]}


def full():
    return paper.base(paper.xnli(), paper.BACKBONES["mbert"])


def result(config, score: float, steps: int = 10) -> Result:
    averages = {"dev": {"S": score, "Z": score, "A": score}}
    return make_result(system=config.system, seed=config.seed, steps=steps, averages=averages)


def test_a_list_for_a_single_value_is_a_grid_but_a_list_of_languages_is_not():
    values = {
        "task": {"kind": "own", "supervised": ["en", "fr"], "labels": ["a", "b"]},
        "train": {"lr": ["1e-5", "2e-5"], "epochs": 3},
        "teachers": {"en": [{"model": "a"}, {"model": "b"}]},
        "seed": [1, 2],
    }
    single, lists = grids.split(values)
    assert lists == {"train.lr": ["1e-5", "2e-5"], "seed": [1, 2]}
    assert single["train"] == {"lr": "1e-5", "epochs": 3}
    assert single["task"] == values["task"]
    assert single["teachers"] == values["teachers"]


def test_an_empty_list_is_named():
    with pytest.raises(UserError, match=r"train\.lr: the list is empty"):
        grids.split({"train": {"lr": []}})


def test_values_are_validated_when_they_are_set():
    with pytest.raises(UserError, match=r"train\.lr = -1"):
        grids.with_values(full(), {"train.lr": -1})


def test_the_papers_grid_is_fifteen_configurations_of_every_system():
    config, lists = base("xnli-mbert", [], EXPERIMENTS["main"])
    assert not lists
    assert config.distill.signal == "cache"
    found = groups(
        EXPERIMENTS["main"].systems(config, []),
        grids.combinations({"train.lr": [1e-5, 2e-5, 3e-5], "train.epochs": [2, 3, 5, 7, 10]}),
    )
    assert [group.system for group in found] == ["MonoKD", "MultiTrain", "MultiKD", "MultiKD + MBLM"]
    assert [group.branch_depth for group in found] == [0, 0, 0, 4]
    assert all(len(group.choices) == 15 for group in found)
    left = [config for group in found for config in wanted(group, "full", [1, 2, 3, 4, 5], {}, set(), "all")]
    assert len({config.run_name for config in left}) == 4 * 15 * 5


def test_an_override_of_the_signal_is_kept():
    config, _ = base("xnli-mbert", ["distill.signal=online"], EXPERIMENTS["main"])
    assert config.distill.signal == "online"
    hidden, _ = base("xnli-mbert", ["distill.hidden=[{student: 4, teacher: 8}]"], EXPERIMENTS["main"])
    assert hidden.distill.signal == "online"


def test_settings_of_teachers_do_not_change_systems_without_teachers():
    asked = ["distill.hidden=[{student: 4, teacher: 8}]", "distill.temperatures={en: 4, fr: 2}"]
    config, _ = base("xnli-mbert", asked, EXPERIMENTS["main"])
    mono, labels, kd, _ = (system.run({}, 1).distill for system in EXPERIMENTS["main"].systems(config, []))
    assert (mono.temperatures, kd.temperatures) == ({"en": 4}, {"en": 4, "fr": 2})
    assert (mono.hidden, labels.hidden) == (config.distill.hidden, ())
    (depth,) = EXPERIMENTS["depth"].systems(config, [4])
    assert depth.run({}, 1).distill.hidden == ()


def test_depth_uses_the_papers_training_unless_a_value_is_given():
    config, _ = base("xnli-mbert", [], EXPERIMENTS["depth"])
    assert (config.train.lr, config.train.epochs) == (1e-5, 3)
    config, _ = base("xnli-mbert", ["train.epochs=1"], EXPERIMENTS["depth"])
    assert (config.train.lr, config.train.epochs) == (1e-5, 1)
    runs = [system.run({}, 1) for system in EXPERIMENTS["depth"].systems(config, [0, 4, 12])]
    assert [run.system for run in runs] == ["MultiTrain", "MultiTrain + MBLM", "MultiTrain + MBLM"]


def test_systems_share_their_runs_between_experiments():
    config, _ = base("xnli-mbert", [], EXPERIMENTS["main"])
    names = {
        name: {system.run({"train.lr": 1e-5}, 1).run_name for system in EXPERIMENTS[name].systems(config, [])}
        for name in ("main", "ablations", "efficiency")
    }
    assert names["efficiency"] <= names["main"]
    assert len(names["main"] & names["ablations"]) == 2


def test_other_teachers_give_another_run_only_if_they_are_used():
    config, _ = base("xnli-mbert", [], EXPERIMENTS["main"])
    other = grids.with_values(config, {"teachers.en": {"model": "another"}, "teaching.epochs": 9})
    systems = zip(EXPERIMENTS["main"].systems(config, []), EXPERIMENTS["main"].systems(other, []), strict=True)
    same = [mine.full.system for mine, theirs in systems if mine.full.run_name == theirs.full.run_name]
    assert same == ["MultiTrain"]


def test_a_teacher_is_searched_over_its_own_values_with_one_seed():
    config, _ = base("marc-mbert", [], EXPERIMENTS["teachers"])
    found = groups(EXPERIMENTS["teachers"].systems(config, []), grids.combinations({"teaching.lr": [1e-5, 3e-5]}))
    assert [group.system for group in found] == ["Teacher en", "Teacher fr", "Teacher zh"]
    runs = wanted(found[0], "full", [1, 2, 3], {}, set(), "all")
    assert [run.train.lr for run in runs] == [1e-5, 3e-5]
    assert {run.role for run in runs} == {"teacher"}


def test_confirm_searches_with_one_seed_and_runs_the_other_seeds_of_the_winner():
    (group,) = groups(EXPERIMENTS["grid"].systems(full(), []), grids.combinations(GRID))
    results: dict = {}
    first = wanted(group, "confirm", [1, 2, 3], results, set(), "all")
    assert [run.seed for run in first] == [1] * 4
    for run, score in zip(first, (0.5, 0.7, 0.6, 0.4), strict=True):
        results[run.run_name] = result(run, score)
    then = wanted(group, "confirm", [1, 2, 3], results, set(), "all")
    assert [(run.train.lr, run.train.epochs, run.seed) for run in then] == [(1e-5, 3, 2), (1e-5, 3, 3)]
    for run in then:
        results[run.run_name] = result(run, 0.1)  # results of the other seeds do not change the choice
    assert wanted(group, "confirm", [1, 2, 3], results, set(), "all") == []
    found = record(group, "confirm", [1, 2, 3], results, {}, "all")
    assert found["chosen"] == {"train.lr": 1e-5, "train.epochs": 3}
    assert len(found["runs"]) == 3
    assert found["score"] == pytest.approx(0.3)
    assert [each["score"] for each in found["searched"]] == [0.5, 0.7, 0.6, 0.4]
    assert found["missing"] == []


def test_a_failed_run_is_not_repeated_and_is_in_the_record():
    (group,) = groups(EXPERIMENTS["grid"].systems(full(), []), grids.combinations({"train.lr": [1e-5, 2e-5]}))
    one, other = wanted(group, "full", [1], {}, set(), "all")
    results = {other.run_name: result(other, 0.5)}
    assert wanted(group, "full", [1], results, {one.run_name}, "all") == []
    found = record(group, "full", [1], results, {one.run_name: "exit code 1"}, "all")
    assert found["failed"] == [{"run": one.run_name, "reason": "exit code 1"}]
    assert found["chosen"] == {"train.lr": 2e-5}


def test_the_row_single_is_measured_on_the_chosen_run(tmp_path):
    found = groups(EXPERIMENTS["ablations"].systems(full(), []), grids.combinations({"train.lr": [1e-5, 2e-5]}))
    results = {}
    for group in found:
        for run in wanted(group, "full", [1, 2], {}, set(), "all"):
            results[run.run_name] = result(run, run.train.lr * 1e4)
    study = Sweep("ablations", found, "full", [1, 2], "all", tmp_path, "", results=results)
    (single,) = _single_inference(study)
    assert single.system == "MultiKD + MBLM - all mixers (single)"
    runs = wanted(single, "full", [1, 2], results, set(), "all")
    assert [(run.train.lr, run.seed, run.student.inference) for run in runs] == [
        (2e-5, 1, "single"),
        (2e-5, 2, "single"),
    ]
    study.groups.append(single)
    assert _single_inference(study) == []


@pytest.fixture
def own_data(tmp_path: Path) -> list[Path]:
    """Two configurations with the same teacher and other rows; their teachers are finished runs in tmp_path/runs."""
    files = []
    for name in ("tickets", "reviews"):
        task = {"kind": "own", "files": {"train": f"{name}.csv"}, "labels": ["a", "b"], "supervised": ["en"]}
        values = {"task": task, "student": {"backbone": "mbert"}, "teachers": {"en": {"model": "roberta"}}}
        config = parse(values, name).teacher_run("en")
        folder = runs.folder(tmp_path / "runs", config)
        folder.mkdir(parents=True)
        result(config, 0.5).write(folder)
        files.append(tmp_path / f"{name}.yaml")
        files[-1].write_text(yaml.safe_dump(values))
    return files


def swept(*arguments: str | Path) -> str:
    done = CliRunner().invoke(sweep.app, [*map(str, arguments), "--protocol", "fixed"])
    if done.exception is not None:
        raise done.exception
    return done.stdout


def test_two_data_sets_in_one_folder_of_runs_have_separate_files_of_teachers(own_data, tmp_path):
    said = [swept("teachers", "--on", file, "--runs", tmp_path / "runs") for file in [*own_data, own_data[0]]]
    files = [line.split()[-1] for text in said for line in text.splitlines() if "for --teachers" in line]
    assert (files[0] == files[2], files[0] == files[1]) == (True, False)
    for file, given in zip(files, own_data, strict=False):
        config, _ = base(str(given), [], EXPERIMENTS["main"], Path(file))
        expected = base(str(given), [], EXPERIMENTS["main"])[0].teacher_run("en")
        assert config.teachers["en"][0].model == str(tmp_path / "runs" / expected.run_name / "model")


def test_a_list_of_the_other_section_does_not_replace_the_papers_grid(own_data, tmp_path):
    rates = {"train.lr": [1e-4, 2e-4], "teaching.lr": [3e-4, 4e-4]}
    full, _ = base(str(own_data[0]), [], EXPERIMENTS["main"])
    assert list(sweep._effective("teachers", EXPERIMENTS["teachers"].systems(full, []), rates)) == ["teaching.lr"]
    tuned = changed(full, {"teachers": {x: {"model": "x", "fine_tuned": True} for x in full.teachers}})
    assert list(sweep._effective("main", EXPERIMENTS["main"].systems(tuned, []), rates)) == ["train.lr"]


def test_two_data_sets_of_one_kind_are_refused_in_one_sweep(own_data, tmp_path):
    with pytest.raises(UserError, match=r"tickets.yaml and .*reviews.yaml are different tasks of kind own"):
        swept("teachers", "--on", own_data[0], "--on", own_data[1], "--runs", tmp_path / "runs")


def test_a_teacher_of_two_settings_is_written_once(own_data, tmp_path):
    other = tmp_path / "other.yaml"
    other.write_text(own_data[0].read_text().replace("mbert", "xlm-r"))
    swept("teachers", "--on", own_data[0], "--on", other, "--runs", tmp_path / "runs")
    (file,) = (tmp_path / "runs" / "sweeps").glob("*.yaml")
    assert len(base(str(other), [], EXPERIMENTS["main"], file)[0].teachers["en"]) == 1


def test_different_teachers_of_two_settings_are_not_merged(own_data, tmp_path):
    values = yaml.safe_load(own_data[0].read_text())
    values["teachers"]["en"]["model"] = "other"
    other = tmp_path / "other.yaml"
    other.write_text(yaml.safe_dump(values))
    settings = [base(str(file), [], EXPERIMENTS["teachers"])[0] for file in (own_data[0], other)]
    found = [group for full in settings for group in groups(EXPERIMENTS["teachers"].systems(full, []), [{}])]
    study = Sweep("teachers", found, "fixed", [1], "all", tmp_path, "")
    for config in study.configs():
        study.results[config.run_name] = result(config, 0.9)
    with pytest.raises(UserError, match="two settings have different teachers of en"):
        list(sweep.write_teachers(study))


def test_a_missing_file_of_teachers_gives_the_names_of_the_existing_ones(own_data, tmp_path):
    swept("teachers", "--on", own_data[0], "--runs", tmp_path / "runs")
    (file,) = (tmp_path / "runs" / "sweeps").glob("*.yaml")
    with pytest.raises(UserError, match=f"teachers-own.yaml: no such file; .*: {file}$"):
        base(str(own_data[0]), [], EXPERIMENTS["main"], file.with_name("teachers-own.yaml"))


def test_a_file_without_teachers_is_named(own_data, tmp_path):
    (tmp_path / "other.yaml").write_text("teacher: {en: {model: roberta}}")
    with pytest.raises(UserError, match=r"--teachers .*other.yaml: the file has no section `teachers`"):
        base(str(own_data[0]), [], EXPERIMENTS["main"], tmp_path / "other.yaml")


def test_a_file_in_place_of_the_folder_of_runs_is_refused(own_data):
    with pytest.raises(UserError, match=r"--runs .*tickets.yaml: is a file; name a folder"):
        swept("main", "--on", own_data[0], "--runs", own_data[0])


@pytest.mark.parametrize("seeds", ["[1, a]", "[1, 1.5]", "[1, null]"])
def test_seeds_that_are_not_whole_numbers_are_refused(seeds: str, own_data, tmp_path):
    with pytest.raises(UserError, match="seed = "):
        swept("main", "--on", own_data[0], f"seed={seeds}", "--plan", "--runs", tmp_path / "runs")


def test_a_damaged_record_of_a_search_is_named(tmp_path):
    found = groups(EXPERIMENTS["grid"].systems(full(), []), [{"train.lr": 1e-5}])
    study = Sweep("grid", found, "search", [1], "all", tmp_path, "", {"train.lr": (1e-5, 1e-4)}, 2)
    study.record(False)
    study.file.write_text(study.file.read_text()[:50])
    with pytest.raises(UserError, match=rf"{study.file}: cannot be read .*; delete the file to search again"):
        study.restore_proposals()


def test_an_unknown_setting_is_named():
    with pytest.raises(UserError, match="xnli-bert: neither a file nor one of the paper's settings"):
        base("xnli-bert", [], EXPERIMENTS["main"])


def test_two_branch_depths_are_two_rows():
    config = parse(full().model_dump(mode="json"), "test")
    found = groups(EXPERIMENTS["grid"].systems(config, []), grids.combinations({"student.branch_depth": [2, 4]}))
    assert [group.label for group in found] == ["MultiKD + MBLM, K=2", "MultiKD + MBLM, K=4"]
    assert protocols.chosen(found[0], [1], {}, "all") is None


def conditions(root: Path = Path("/"), cpus: float = 1, gpus: float | None = None) -> Conditions:
    return Conditions(root, root, None, cpus, gpus, silence=60)


def test_a_study_keeps_its_name_and_a_finished_study_does_nothing(tmp_path):
    def new_sweep() -> Sweep:
        systems = EXPERIMENTS["ablations"].systems(full(), [])
        found = groups(systems, grids.combinations({"train.lr": [1e-5, 2e-5]}))
        return Sweep("ablations", found, "full", [1, 2], "all", tmp_path, "")

    def finish(run) -> None:
        runs.folder(tmp_path, run).mkdir()
        result(run, run.train.lr * 1e4).write(runs.folder(tmp_path, run))

    for run in new_sweep().wanted():
        finish(run)
    study = new_sweep()  # stopped after the last training, before the measured row
    study.read_finished()
    study.groups += (singles := _single_inference(study))
    (file,) = {study.record(False), new_sweep().record(False)}
    for run in wanted(singles[0], "full", [1, 2], {}, set(), "all"):
        finish(run)
    study = new_sweep()
    assert carry_out(study, conditions(tmp_path), 0, "127.0.0.1:1")  # without a start of Ray
    assert study.record(True) == file
    assert list((tmp_path / "sweeps").iterdir()) == [file]
    content = json.loads(file.read_text())
    assert content["finished"]
    assert [group["missing"] for group in content["groups"]] == [[]] * 8
    assert content["groups"][-1]["system"] == "MultiKD + MBLM - all mixers (single)"
    assert len(content["groups"][-1]["runs"]) == 2


def test_a_refused_teacher_fails_only_the_runs_that_use_it():
    config, _ = base("xnli-mbert", [], EXPERIMENTS["main"])
    mono, _, multi, mblm = (system.run({}, 1) for system in EXPERIMENTS["main"].systems(config, []))
    assert mono.languages == ("en",)
    assert _to_cache([mono, multi, mblm], set(), {}) == [multi]  # one job covers all teachers
    refused = {_cached_teachers(multi): "zh is at chance"}
    assert _to_cache([mono, multi, mblm], set(), refused) == [mono]
    assert [_refusal(each, refused) for each in (mono, multi, mblm)] == [None, "zh is at chance", "zh is at chance"]
    assert _to_cache([mono, multi, mblm], set(_cached_teachers(mono)), refused) == []
    refused[_cached_teachers(mono)] = "so is en"
    assert _refusal(mono, refused) == "so is en"


def test_a_killed_trial_names_the_signal(tmp_path):
    reason = "killed by signal 9 (often out of memory)"
    assert _fail(Job(full()), tmp_path, -9, ["step 3"]) == reason
    assert failure(Job(full()).home(tmp_path))["reason"] == reason


def test_a_successful_job_removes_the_failure_of_an_earlier_attempt(tmp_path):
    job = Job(full(), "measure")
    job.home(tmp_path).mkdir(parents=True)
    write_json(job.home(tmp_path) / "failed.json", {"reason": "exit code 247", "attempts": 1, "log": []})
    write_json(tmp_path / f"efficiency-{job.config.hash}.json", {})  # of the other attempt
    work(job, conditions(tmp_path), lambda _: None)
    assert failure(job.home(tmp_path)) == {}


def test_a_trial_sees_exactly_the_gpus_assigned_by_ray(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    assert _environment(conditions(gpus=0).with_gpus(8))["CUDA_VISIBLE_DEVICES"] == ""
    assert _environment(conditions().with_gpus(0))["CUDA_VISIBLE_DEVICES"] == ""
    assert _environment(conditions().with_gpus(8))["CUDA_VISIBLE_DEVICES"] == "3"
    assert _environment(conditions(gpus=0.5).with_gpus(8))["CUDA_VISIBLE_DEVICES"] == "3"


def test_trials_are_counted_per_machine_because_no_trial_spans_two():
    head, worker = {"memory": 1e9}, {"CPU": 16.0, "GPU": 4.0, "memory": 1e9}
    assert conditions(cpus=1, gpus=0).capacity([worker]) == 16
    assert conditions(cpus=1, gpus=1).capacity([head, worker, worker]) == 8
    assert conditions(cpus=6, gpus=1).capacity([worker, worker]) == 4
    assert conditions(cpus=1, gpus=0.5).capacity([worker]) == 8
    assert conditions(cpus=2, gpus=3).capacity([worker, worker]) == 2


@pytest.mark.parametrize(
    ("cpus", "gpus", "machines", "message"),
    [
        (64, 0, [{"CPU": 2.0}], "64 cores and 0 GPUs fits on no machine; the largest has 2 cores and 0 GPUs"),
        (1, 2, [{"CPU": 8.0, "GPU": 1.0}], "1 cores and 2 GPUs fits on no machine; the largest has 8 cores and 1 GPUs"),
        (1, 1, [{"CPU": 2.0}], "the largest has 2 cores and 0 GPUs"),
        (20, 0, [{}, {"CPU": 16.0}, {"CPU": 8.0}], "the largest has 16 cores"),  # 24 cores in total
        (16, 1, [{"CPU": 64.0}, {"CPU": 8.0, "GPU": 4.0}], "the largest has 8 cores and 4 GPUs"),
    ],
)
def test_a_trial_that_fits_on_no_machine_is_refused(cpus, gpus, machines, message):
    with pytest.raises(UserError, match=message):
        conditions(cpus=cpus, gpus=gpus).capacity(machines)


@pytest.mark.parametrize(("busy", "tries", "ends"), [(2, 3, True), (9, 4, False)])
def test_a_trial_is_retried_a_limited_number_of_times_after_transient_errors(tmp_path, monkeypatch, busy, tries, ends):
    config = full()
    directory = runs.folder(tmp_path, config)
    directory.mkdir(parents=True)
    command = tmp_path / "python"  # the process of a trial: exits with 69 several times, then writes a result
    command.write_text(
        f"#!/bin/sh\necho >> {tmp_path}/tries\n[ $(wc -l < {tmp_path}/tries) -gt {busy} ] || exit {UNAVAILABLE}\n"
        f"cp {tmp_path}/made.json {directory}/result.json\n"
    )
    command.chmod(0o755)
    write_json(tmp_path / "made.json", {})
    monkeypatch.setattr(sys, "executable", str(command))
    monkeypatch.setattr(errors, "WAITS", (0.01, 0.01, 0.01))
    given = conditions(tmp_path).with_gpus(0)
    if ends:
        work(Job(config), given, print)
    else:
        with pytest.raises(TrialFailed, match="exit code 69"):
            work(Job(config), given, print)
    assert (tmp_path / "tries").read_text().count("\n") == tries
    assert not needs_the_user(directory)  # the next sweep may retry


@pytest.mark.parametrize("width", [80, 200])
def test_the_progress_table_lists_each_group_in_order_with_its_finished_runs(width: int, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", str(width))
    systems = ("MultiTrain", "MultiKD + MBLM", "MonoKD")  # in the given order, not by name or score
    expected = [(x, b) for b in ("xlm-r", "mbert") for x in systems]
    given = [Group("xnli", f"someone/{b}", x, 0) for x, b in expected]
    scores = {id(group): (i / 10 if i else None, i) for i, group in enumerate(given)}
    board = Board("grid", given, lambda group: scores[id(group)])
    board.begin("searching", {"a": 1.0, "b": 1.0}, 2)
    board.start("b")
    with board.console.capture() as shown:
        board.console.print(board.picture())
    lines = Text.from_ansi(shown.get()).plain.splitlines()
    assert max(map(len, lines)) <= width
    assert lines[1].split() == ["b", "0:00"]
    rows = [[cell.strip() for cell in line.strip("│").split("│")] for line in lines if line.startswith("│ xnli")]
    assert [(row[1], row[2]) for row in rows] == expected
    assert [row[3:] for row in rows] == [["0", "-"], *([str(i), f"{10 * i:.2f}"] for i in range(1, 6))]


@pytest.mark.parametrize(("between", "written"), [(30, 100), (2, 10)])
def test_a_record_is_written_after_every_run_unless_that_takes_a_twentieth_of_the_time(
    monkeypatch, between: float, written: int
):
    """A record takes a second here, and 100 runs end `between` seconds after each other."""
    clock, records = [0.0], []

    def slow(finished: bool) -> None:
        records.append(finished)
        clock[0] += 1

    monkeypatch.setattr(stages.time, "monotonic", lambda: clock[0])
    made = stages.Stages(SimpleNamespace(record=slow, root=None), None, None)
    for _ in range(100):
        clock[0] += between
        made._record()
    assert written - 1 <= len(records) <= written + 1


def search_of(root: Path, budget: int = 4) -> Sweep:
    """A search of MultiTrain's learning rate with three seeds, in a new command."""
    found = groups(EXPERIMENTS["grid"].systems(paper.system(full(), "multitrain"), []), [{"train.lr": 2e-5}])
    study = Sweep("grid", found, "search", [1, 2, 3], "all", root, "", {"train.lr": (1e-5, 1e-3)}, budget)
    study.restore_proposals()
    study.read_finished()
    return study


class Silent:
    """A board that shows nothing."""

    def __getattr__(self, name: str):
        return lambda *arguments, **others: None


class FakePool:
    """Finishes each run at once, with a dev average that grows with the learning rate, and proposes given rates."""

    def __init__(self, root: Path, rates: list[float]):
        self.root, self.rates = root, rates
        self.order: list[tuple[float, int]] = []
        self.seeds: list[int] = []

    def capacity(self) -> int:
        return 1

    def run(self, jobs, board, ended) -> bool:
        for job in jobs:
            config = job.config
            self.order.append((config.train.lr, config.seed))
            score = 0.5 + config.train.lr
            folder = runs.folder(self.root, config)
            folder.mkdir(parents=True, exist_ok=True)
            result(config, score).write(folder)
            ended(job, None)
        return True

    def search(self, ranges, find, proposed, known, seed, budget, rule, board, ended) -> bool:
        self.seeds.append(seed)
        for rate in self.rates[:budget]:
            proposed({"train.lr": rate})
            self.run([find({"train.lr": rate})], board, ended)
        return len(self.rates) >= budget


def test_a_killed_search_goes_on_with_other_proposals_and_confirms_only_the_best(tmp_path):
    killed = FakePool(tmp_path, [3e-5])
    assert not Stages(search_of(tmp_path), killed, Silent()).search()
    again = FakePool(tmp_path, [9e-5, 5e-5])
    stages = Stages(search_of(tmp_path), again, Silent())
    assert stages.search()
    assert stages.runs()
    assert killed.order == [(2e-5, 1), (3e-5, 1)]
    assert again.order == [(9e-5, 1), (5e-5, 1), (9e-5, 2), (9e-5, 3)]
    assert killed.seeds != again.seeds  # the same seed of the sampler would propose the same values again


def test_a_repeated_proposal_counts_in_the_budget_after_a_restart(tmp_path):
    Stages(search_of(tmp_path, budget=3), FakePool(tmp_path, [2.0001e-5]), Silent()).search()
    assert [choice.values["train.lr"] for choice in search_of(tmp_path).groups[0].choices] == [2e-5, 2e-5]


def test_optuna_gets_the_finished_runs_inside_the_range_and_proposes_whole_numbers():
    pytest.importorskip("optuna")
    from tuning.pool import optuna_search

    ranges = {"train.lr": (1e-5, 1e-3), "train.batch_size": (8, 64), "train.epochs": [2.0, 5.0]}
    inside = {"train.lr": 1e-4, "train.batch_size": 64, "train.epochs": 5.0}
    outside = [inside | {"train.lr": 2e-3}, inside | {"train.batch_size": 4}, inside | {"train.epochs": 3.0}]
    known = [(values, 0.5) for values in (inside, *outside)]

    def proposals(seed: int) -> list[dict]:
        searcher = optuna_search(ranges, known, seed)
        assert [trial.params for trial in searcher._ot_study.get_trials()] == [inside]
        return [searcher.suggest(str(number)) for number in range(5)]

    first, second = proposals(1), proposals(2)
    assert not any(values in second for values in first)
    for values in first + second:
        assert 1e-5 <= values["train.lr"] <= 1e-3
        assert isinstance(values["train.batch_size"], int)
        assert 8 <= values["train.batch_size"] <= 64
        assert values["train.epochs"] in (2.0, 5.0)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("train.lr=[1e-5, x]", "--range train.lr: .*train.lr = 'x'"),
        ("train.batch_size=1.5:9", "--range train.batch_size: .*fractional"),
        ("train.nope=1:9", "--range train.nope: .*unknown field"),
    ],
)
def test_a_range_with_values_that_the_field_refuses_is_refused(text: str, message: str, own_data, tmp_path):
    arguments = ["main", "--on", own_data[0], "--protocol", "search", "--range", text, "--runs", tmp_path / "runs"]
    error = CliRunner().invoke(sweep.app, [*map(str, arguments)]).exception
    assert isinstance(error, UserError)
    assert re.search(message, str(error), re.DOTALL)


def test_the_plan_of_a_finished_search_has_no_runs_left(own_data, tmp_path, capsys):
    stages = Stages(search_of(tmp_path), FakePool(tmp_path, [9e-5, 5e-5, 3e-5]), Silent())
    assert stages.search()
    assert stages.runs()
    study = search_of(tmp_path)
    sweep.show_plan(study, 1, "a100", 1)
    assert "0 runs" in capsys.readouterr().out


def test_a_sweep_names_runs_that_have_not_learned(tmp_path, capsys):
    study = search_of(tmp_path)
    for seed in (1, 2):
        config = study.groups[0].choices[0].run(seed)
        study.results[config.run_name] = replace(result(config, 0.5), at_chance=seed == 2)
    sweep.show(study)
    said = capsys.readouterr().err
    assert "warning: MultiTrain, seed 2: no better than the most frequent class on dev" in said
    assert "seed 1" not in said
