"""Claims about folders of real runs: unfinished, failed, damaged, duplicate, and of another task."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from analysis.collect import Collection, collect
from analysis.groups import choose
from mbkd.config import Config, changed, paper
from mbkd.errors import UserError
from tests.synthetic import write_ensemble, write_run

ROWS = 40


def config(name: str = "multikd", seed: int = 1, **train: Any) -> Config:
    return changed(
        paper.system(paper.base(paper.xnli(), paper.BACKBONES["mbert"]), name), {"seed": seed, "train": train}
    )


def run(root: Path, of: Config, share: float = 0.8, rows: int = ROWS, **result: Any) -> Path:
    """A run with a share of correct rows, different in every language."""
    rng = np.random.default_rng(of.seed)
    correct = {s: {x: rng.permutation(rows) < share * rows for x in of.task.languages} for s in ("dev", "test")}
    return write_run(root, of, correct, **result)


def messages(collection: Collection) -> str:
    return "\n".join(f"{problem.where}: {problem.what}" for problem in collection.problems)


def test_a_run_is_read_without_loss(tmp_path: Path):
    folder = run(tmp_path, config("mblm", seed=3))
    (folder / "metrics.jsonl").write_text('{"step": 20}\n{"step": 40}\n')
    (found,) = collect(tmp_path).runs
    assert (found.system, found.task, found.role) == ("MultiKD + MBLM", "xnli", "student")
    assert (found.seeds, found.branch_depth, found.name) == ((3,), 4, folder.name)
    assert found.logits("dev", "ur").shape == (ROWS, 3)
    assert isinstance(found.logits("dev", "ur"), np.memmap)
    assert np.mean(found.logits("dev", "ur").argmax(axis=1) == found.labels("dev", "ur")) == 0.8
    assert [line["step"] for line in found.metrics()] == [20, 40]
    assert found.scores("test")["en"] == 0.8


def test_folders_that_are_not_runs_are_skipped(tmp_path: Path):
    run(tmp_path, config())
    (tmp_path / "store" / "tokens").mkdir(parents=True)
    (tmp_path / "notes.txt").write_text("mine")
    collection = collect(tmp_path)
    assert len(collection.runs) == 1 and not collection.problems


@pytest.mark.parametrize("make", [lambda root: None, lambda root: root.rmdir()])
def test_a_folder_without_runs_is_an_error_that_names_it(tmp_path: Path, make: Any):
    root = tmp_path / "runs"
    root.mkdir()
    make(root)
    with pytest.raises(UserError, match=str(root)):
        collect(root)


def test_unfinished_and_failed_runs_are_named(tmp_path: Path):
    run(tmp_path, config(seed=1))
    (run(tmp_path, config(seed=2)) / "result.json").unlink()
    failed = run(tmp_path, config(seed=3))
    (failed / "result.json").unlink()
    (failed / "failed.json").write_text(json.dumps({"reason": "out of memory", "attempts": 3, "log": []}))
    collection = collect(tmp_path)
    assert len(collection.runs) == 1
    assert "-s2-" in messages(collection) and "not finished" in messages(collection)
    assert "failed after 3 attempts: out of memory" in messages(collection)


def test_only_unfinished_runs_are_an_error_that_lists_them(tmp_path: Path):
    (run(tmp_path, config()) / "result.json").unlink()
    with pytest.raises(UserError, match=r"no finished run(.|\n)*not finished"):
        collect(tmp_path)


def test_truncated_logits_remove_only_their_cell(tmp_path: Path):
    folder = run(tmp_path, config())
    file = folder / "logits" / "test.sw.npy"
    file.write_bytes(file.read_bytes()[:-100])
    collection = collect(tmp_path)
    assert f"{folder.name}, test sw: damaged" in messages(collection)
    (found,) = collection.runs
    assert "sw" not in found.scores("test") and len(found.scores("test")) == 14
    assert "sw" in found.scores("dev")


def test_logits_and_labels_of_different_length_count_as_damaged(tmp_path: Path):
    folder = run(tmp_path, config())
    np.save(folder / "labels" / "dev.de.npy", np.zeros(7, int))
    assert "dev de: damaged, omitted (40 rows of logits, 7 labels)" in messages(collect(tmp_path))


def test_an_invalid_result_file_is_left_out(tmp_path: Path):
    run(tmp_path, config(seed=1))
    (run(tmp_path, config(seed=2)) / "result.json").write_text('{"system": ')
    (run(tmp_path, config(seed=3)) / "result.json").write_text('{"eval_loss": 1.0}')
    collection = collect(tmp_path)
    assert [x.seeds for x in collection.runs] == [(1,)]
    assert "cannot be read" in messages(collection) and "not a result of mbkd" in messages(collection)


def test_a_copy_counts_once(tmp_path: Path):
    folder = run(tmp_path, config())
    shutil.copytree(folder, tmp_path / "copy")
    collection = collect(tmp_path)
    assert len(collection.runs) == 1 and not collection.problems


def test_every_repetition_counts_and_a_copy_does_not(tmp_path: Path):
    folder = run(tmp_path, config(seed=1))
    run(tmp_path, config(seed=2))
    other = shutil.copytree(folder, tmp_path / "again")
    result = json.loads((other / "result.json").read_text())
    result["accuracy"]["dev"]["en"] += 0.1
    (other / "result.json").write_text(json.dumps(result))
    shutil.copytree(other, tmp_path / "copied")
    collection = collect(tmp_path)
    assert [x.seeds for x in collection.runs] == [(1,), (1,), (2,)]
    assert (
        folder.name in messages(collection)
        and "again" in messages(collection)
        and "repetitions" in messages(collection)
    )


def test_a_run_of_another_task_is_left_out_and_named(tmp_path: Path):
    for seed in (1, 2):
        run(tmp_path, config(seed=seed))
    small = run(tmp_path, config(seed=3), rows=10)
    fewer = changed(config(seed=4), {"task": {"zero_shot": ["de", "es"]}})
    less = run(tmp_path, fewer)
    marc = paper.system(paper.base(paper.marc(), paper.BACKBONES["mbert"]), "multikd")
    run(tmp_path, marc)  # a task with separate tables
    collection = collect(tmp_path)
    assert sorted((x.task, x.seeds) for x in collection.runs) == [("marc", (1,)), ("xnli", (1,)), ("xnli", (2,))]
    assert f"{small.name}: its xnli task differs from that of 2 runs: 10 rows in dev en, not 40" in messages(collection)
    assert f"{less.name}: its xnli task differs from that of 2 runs: supervised en fr zh, zero-shot de es" in messages(
        collection
    )


def test_teachers_belong_to_the_task_of_the_students(tmp_path: Path):
    run(tmp_path, config())
    run(tmp_path, config().teacher_run("fr"))
    collection = collect(tmp_path)
    assert {x.role for x in collection.runs} == {"student", "teacher"} and not collection.problems


def test_without_a_record_the_best_mean_over_dev_is_chosen(tmp_path: Path):
    for seed in (1, 2):
        run(tmp_path, config(seed=seed, lr=1e-5), share=0.9)
        run(tmp_path, config(seed=seed, lr=3e-5), share=0.7)
    run(tmp_path, config(seed=1, lr=2e-5), share=1.0)  # one lucky seed
    (group,) = choose(collect(tmp_path))
    assert group.values == {"train.lr": 1e-5} and group.seeds == (1, 2)
    assert group.how == "best dev AVG(A) of 3 configurations"


def test_a_sweeps_record_decides_and_names_the_missing_runs(tmp_path: Path):
    chosen = [run(tmp_path, config(seed=seed, lr=3e-5), share=0.7).name for seed in (1, 2)]
    run(tmp_path, config(lr=1e-5), share=0.9)
    (tmp_path / "sweeps").mkdir()
    record = {"runs": chosen, "chosen": {"train.lr": 3e-5}, "missing": ["xnli-multikd-s3-0"], "failed": []}
    sweep = {"experiment": "main", "protocol": "confirm", "rule": "supervised", "finished": False, "groups": [record]}
    (tmp_path / "sweeps" / "main-1.json").write_text(json.dumps(sweep))
    collection = collect(tmp_path)
    (group,) = choose(collection)
    assert {x.name for x in group.runs} == set(chosen) and group.values == {"train.lr": 3e-5}
    assert group.how == "sweep main (confirm, rule supervised), not finished"
    assert "xnli-multikd-s3-0: not finished yet" in messages(collection)


def test_sweeps_with_shared_runs_form_one_group(tmp_path: Path):
    names = [run(tmp_path, config(seed=seed)).name for seed in (1, 2)]
    (tmp_path / "sweeps").mkdir()
    for experiment in ("ablations", "main", "depth"):
        sweep = {"experiment": experiment, "protocol": "full", "rule": "all", "groups": [{"runs": names, "chosen": {}}]}
        (tmp_path / "sweeps" / f"{experiment}-1.json").write_text(json.dumps(sweep))
    (tmp_path / "sweeps" / "notes.json").write_text('{"mine": 1}')
    (tmp_path / "sweeps" / "typo.json").write_text(json.dumps(sweep | {"groups": 7}))
    collection = collect(tmp_path)
    assert [group.experiment for group in choose(collection)] == ["ablations", "depth"]
    assert "sweeps/typo.json: cannot be read, omitted (missing or of a wrong type: groups)" in messages(collection)
    everything = "missing or of a wrong type: experiment, protocol, rule, groups"
    assert f"sweeps/notes.json: cannot be read, omitted ({everything})" in messages(collection)


def test_a_sweep_repeated_with_more_seeds_replaces_its_earlier_record(tmp_path: Path):
    names = [run(tmp_path, config(seed=seed)).name for seed in (1, 2, 3)]
    (tmp_path / "sweeps").mkdir()
    for experiment, seeds in (("ablations", 2), ("ablations", 3), ("main", 1)):
        record = {"runs": names[:seeds], "chosen": {}}
        sweep = {"experiment": experiment, "protocol": "fixed", "rule": "all", "groups": [record]}
        (tmp_path / "sweeps" / f"{experiment}-{seeds}.json").write_text(json.dumps(sweep))
    found = [(group.experiment, group.seeds) for group in choose(collect(tmp_path))]
    assert found == [("ablations", (1, 2, 3)), ("main", (1,))]


def test_no_configuration_is_chosen_without_dev_rows(tmp_path: Path):
    for lr in (1e-5, 2e-5):
        of = config(lr=lr)
        write_run(tmp_path, of, {"test": {x: np.arange(ROWS) < 30 for x in of.task.languages}})
    collection = collect(tmp_path)
    assert choose(collection) == []
    assert "no configuration can be chosen" in messages(collection)


def test_ensembles_of_runs_that_were_not_chosen_are_left_out(tmp_path: Path):
    good = [config(seed=seed, lr=1e-5) for seed in (1, 2)]
    bad = [config(seed=seed, lr=3e-5) for seed in (1, 2)]
    for members, share in ((good, 0.9), (bad, 0.7)):
        for of in members:
            run(tmp_path, of, share)
        correct = {s: {x: np.arange(ROWS) < 35 for x in members[0].task.languages} for s in ("dev", "test")}
        write_ensemble(tmp_path, members, correct)
    collection = collect(tmp_path)
    groups = {group.system: group for group in choose(collection)}
    assert groups["Ens2"].runs[0].result.members == tuple(of.run_name for of in good)
    assert "omitted: ensembles of runs that are not chosen" in messages(collection)
