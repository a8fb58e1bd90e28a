"""Claims about items: rows of two languages are the same item exactly if their ids are equal, in any order."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest

from analysis.collect import collect
from analysis.groups import choose
from analysis.items import Answers, Resampled
from mbkd.config import Config, parse
from tests.synthetic import write_run

ROWS = 40
RIGHT = np.arange(ROWS) % 4 > 0  # by item


def own_task(seed: int = 1) -> Config:
    task = {"kind": "own", "labels": ["a", "b"], "supervised": ["en", "fr"], "files": {"train": "x.csv"}}
    return parse(
        {"task": task, "student": {"backbone": "mbert"}, "distill": {"signal": "labels"}, "seed": seed}, "test"
    )


def resampled(root: Path, ids: Mapping[str, Sequence[str]], seeds: int = 1) -> Resampled:
    """Runs that are correct on the same items in both languages, with equal labels in each row."""
    for seed in range(1, seeds + 1):
        correct = {"test": {"en": RIGHT, "fr": RIGHT[::-1]}}
        run = write_run(root, own_task(seed), correct)
        for language in ("en", "fr"):
            answers = np.load(run / "logits" / f"test.{language}.npy").argmax(1)
            right = correct["test"][language]
            labels = np.where(right, 1, 0)
            assert len(answers) == len(labels)
            np.save(run / "labels" / f"test.{language}.npy", np.zeros(ROWS, np.int64))
            np.save(run / "logits" / f"test.{language}.npy", np.eye(2, dtype=np.float32)[1 - labels])
        for language, names in ids.items():
            (run / "ids").mkdir(exist_ok=True)
            (run / "ids" / f"test.{language}.json").write_text(json.dumps(list(names)))
    collection = collect(root)
    problems = collection.problems
    return Resampled(choose(collection), "test", "accuracy", 1000, problems, Answers())


def test_rows_with_the_same_ids_are_paired_by_id_in_any_order(tmp_path: Path):
    names = [f"item-{i}" for i in range(ROWS)]
    found = resampled(tmp_path, {"en": names, "fr": names[::-1]})
    assert found.blocks == [("en", "fr")]
    ((group, _), *_) = found.columns
    (shares,) = found._scores(group, "S")
    assert sorted(shares[0].tolist()) == sorted(RIGHT.astype(float).tolist())  # correct in both languages or in neither


def test_rows_with_equal_labels_and_other_ids_are_not_translations(tmp_path: Path):
    found = resampled(tmp_path, {x: [f"test-{x}-{i}" for i in range(ROWS)] for x in ("en", "fr")})
    assert found.blocks == [("en",), ("fr",)]
    assert any("Rows of en, fr are not translations" in note for note in found.notes)


def test_languages_that_share_some_ids_are_separate_with_a_note(tmp_path: Path):
    names = [f"r-{i}" for i in range(ROWS)]
    ids = {"en": names, "fr": [*names[1:], "another"]}
    found = resampled(tmp_path, ids)
    assert found.blocks == [("en",), ("fr",)]
    (note,) = [note for note in found.notes if "Only some row ids" in note]
    assert note.startswith("Only some row ids are the same in en, fr; each language is resampled separately")
    assert not any("not translations" in note for note in found.notes)
    assert not any("Only some" in note for note in resampled(tmp_path / "same", {"en": names, "fr": names}).notes)


def test_older_runs_without_ids_are_paired_by_labels_with_a_note(tmp_path: Path):
    found = resampled(tmp_path, {})
    assert found.blocks == [("en", "fr")]
    assert any("No row ids of en, fr are stored" in note for note in found.notes)


def test_a_task_with_more_than_256_labels_has_intervals(tmp_path: Path):
    run = write_run(tmp_path, own_task(), {"test": {"en": RIGHT, "fr": RIGHT}})
    for language in ("en", "fr"):
        np.save(run / "labels" / f"test.{language}.npy", np.full(ROWS, 299))
        np.save(run / "logits" / f"test.{language}.npy", np.eye(300, dtype=np.float32)[np.where(RIGHT, 299, 0)])
    collection = collect(tmp_path)
    found = Resampled(choose(collection), "test", "accuracy", 1000, collection.problems, Answers())
    assert found.names and not collection.problems


def test_a_run_of_other_rows_with_equal_labels_is_named(tmp_path: Path):
    resampled(tmp_path, {"en": [f"a-{i}" for i in range(ROWS)]}, seeds=2)
    (run,) = tmp_path.glob("*-s2-*")
    (run / "ids" / "test.en.json").write_text(json.dumps([f"b-{i}" for i in range(ROWS)]))
    collection = collect(tmp_path)
    found = Resampled(choose(collection), "test", "accuracy", 1000, collection.problems, Answers())
    assert not found.columns
    assert any("row ids differ from the first run's" in problem.what for problem in collection.problems)
    assert pytest.approx(0.75) == collection.runs[0].scores("test")["en"]
