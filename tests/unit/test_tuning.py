"""What a sweep plans, without Ray: lists that span a grid, systems, protocols, the record."""

import pytest

from mbkd import paper
from mbkd.config import parse
from mbkd.errors import UserError
from tuning import grids, protocols
from tuning.experiments import EXPERIMENTS, base
from tuning.protocols import groups, record, wanted
from tuning.stages import _twins
from tuning.study import Sweep

GRID = {"train.lr": [1e-5, 2e-5], "train.epochs": [2, 3]}


def full():
    return paper.base(paper.xnli(), paper.BACKBONES["mbert"])


def result(config, score: float, steps: int = 10) -> dict:
    return {
        "system": config.system,
        "seed": config.seed,
        "steps": steps,
        "averages": {"dev": {"S": score, "Z": score, "A": score}},
    }


def test_a_list_at_a_single_value_is_a_grid_and_a_list_of_languages_is_not():
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


def test_values_are_validated_where_they_are_set():
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


def test_an_override_of_the_signal_stays():
    config, _ = base("xnli-mbert", ["distill.signal=online"], EXPERIMENTS["main"])
    assert config.distill.signal == "online"
    hidden, _ = base("xnli-mbert", ["distill.hidden=[{student: 4, teacher: 8}]"], EXPERIMENTS["main"])
    assert hidden.distill.signal == "online"


def test_depth_is_the_papers_training_unless_a_value_is_given():
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


def test_other_teachers_are_another_run_only_where_they_are_asked():
    config, _ = base("xnli-mbert", [], EXPERIMENTS["main"])
    other = grids.with_values(config, {"teachers.en": {"model": "another"}, "teaching.epochs": 9})
    systems = zip(EXPERIMENTS["main"].systems(config, []), EXPERIMENTS["main"].systems(other, []), strict=True)
    same = [mine.full.system for mine, theirs in systems if mine.full.run_name == theirs.full.run_name]
    assert same == ["MultiTrain"]


def test_a_teacher_is_searched_by_its_own_values_with_one_seed():
    config, _ = base("marc-mbert", [], EXPERIMENTS["teachers"])
    found = groups(EXPERIMENTS["teachers"].systems(config, []), grids.combinations({"teaching.lr": [1e-5, 3e-5]}))
    assert [group.system for group in found] == ["Teacher en", "Teacher fr", "Teacher zh"]
    runs = wanted(found[0], "full", [1, 2, 3], {}, set(), "all")
    assert [run.train.lr for run in runs] == [1e-5, 3e-5]
    assert {run.role for run in runs} == {"teacher"}


def test_confirm_searches_with_one_seed_and_gives_the_winner_the_others():
    (group,) = groups(EXPERIMENTS["grid"].systems(full(), []), grids.combinations(GRID))
    results: dict = {}
    first = wanted(group, "confirm", [1, 2, 3], results, set(), "all")
    assert [run.seed for run in first] == [1] * 4
    for run, score in zip(first, (0.5, 0.7, 0.6, 0.4), strict=True):
        results[run.run_name] = result(run, score)
    then = wanted(group, "confirm", [1, 2, 3], results, set(), "all")
    assert [(run.train.lr, run.train.epochs, run.seed) for run in then] == [(1e-5, 3, 2), (1e-5, 3, 3)]
    for run in then:
        results[run.run_name] = result(run, 0.1)  # what the others say does not undo the choice
    assert wanted(group, "confirm", [1, 2, 3], results, set(), "all") == []
    found = record(group, "confirm", [1, 2, 3], results, {}, "all")
    assert found["chosen"] == {"train.lr": 1e-5, "train.epochs": 3}
    assert len(found["runs"]) == 3
    assert found["score"] == pytest.approx(0.3)
    assert [each["score"] for each in found["searched"]] == [0.5, 0.7, 0.6, 0.4]
    assert found["missing"] == []


def test_a_failed_run_is_not_asked_for_again_and_is_in_the_record():
    (group,) = groups(EXPERIMENTS["grid"].systems(full(), []), grids.combinations({"train.lr": [1e-5, 2e-5]}))
    one, other = wanted(group, "full", [1], {}, set(), "all")
    results = {other.run_name: result(other, 0.5)}
    assert wanted(group, "full", [1], results, {one.run_name}, "all") == []
    found = record(group, "full", [1], results, {one.run_name: "exit code 1"}, "all")
    assert found["failed"] == [{"run": one.run_name, "reason": "exit code 1"}]
    assert found["chosen"] == {"train.lr": 2e-5}


def test_the_row_single_is_measured_from_the_training_that_was_chosen(tmp_path):
    found = groups(EXPERIMENTS["ablations"].systems(full(), []), grids.combinations({"train.lr": [1e-5, 2e-5]}))
    results = {}
    for group in found:
        for run in wanted(group, "full", [1, 2], {}, set(), "all"):
            results[run.run_name] = result(run, run.train.lr * 1e4)
    study = Sweep("ablations", found, "full", [1, 2], "all", tmp_path, "", results=results)
    (twin,) = _twins(study)
    assert twin.system == "MultiKD + MBLM - all mixers (single)"
    runs = wanted(twin, "full", [1, 2], results, set(), "all")
    assert [(run.train.lr, run.seed, run.student.inference) for run in runs] == [
        (2e-5, 1, "single"),
        (2e-5, 2, "single"),
    ]
    study.groups.append(twin)
    assert _twins(study) == []


def test_a_setting_that_is_not_there_is_named():
    with pytest.raises(UserError, match="xnli-bert: neither a file nor one of the paper's settings"):
        base("xnli-bert", [], EXPERIMENTS["main"])


def test_two_branch_depths_are_two_rows():
    config = parse(full().model_dump(mode="json"), "test")
    found = groups(EXPERIMENTS["grid"].systems(config, []), grids.combinations({"student.branch_depth": [2, 4]}))
    assert [group.label for group in found] == ["MultiKD + MBLM, K=2", "MultiKD + MBLM, K=4"]
    assert protocols.chosen(found[0], [1], {}, "all") is None
