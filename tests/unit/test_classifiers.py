"""Claims about model folders that are not loaded: labels match by name, and incomplete folders have no hash."""

import re
import shutil
from pathlib import Path

import pytest

from mbkd.data.classifiers import fingerprint, label_order
from mbkd.errors import UserError


def order(theirs: str, ours: str) -> list[int]:
    return label_order(dict(enumerate(theirs.split())), tuple(ours.split()), "some/model")


def test_labels_are_found_by_name_in_any_order_and_case():
    assert order("neg neu pos", "pos neg neu") == [2, 0, 1]
    assert order("NEG Pos", "pos neg") == [1, 0]


def test_labels_that_differ_in_case_only_are_distinct_if_both_sides_use_them():
    assert order("good Good bad", "Good bad good") == [1, 2, 0]


@pytest.mark.parametrize(
    ("theirs", "ours", "what"),
    [
        ("LABEL_0 LABEL_1", "neg pos", "only one side has 'label_0', 'label_1', 'neg', 'pos'"),
        ("neg neu pos", "neg pos", "only one side has 'neu'"),
        ("good Good bad", "GOOD good bad", "differ only in case"),
        ("pos pos neg", "pos neg", "or are equal"),
    ],
)
def test_other_labels_are_refused_with_the_differences_and_the_message_does_not_mention_a_teacher(theirs, ours, what):
    with pytest.raises(UserError, match=re.escape(what)) as caught:
        order(theirs, ours)
    assert str(caught.value).startswith("some/model: the model's labels are ")
    assert "teacher" not in str(caught.value)


@pytest.mark.parametrize("missing", ["model.safetensors", "config.json"])
def test_a_folder_without_weights_or_configuration_has_no_fingerprint(world: Path, tmp_path: Path, missing: str):
    folder = tmp_path / "teacher"
    shutil.copytree(world / "models" / "teacher-en", folder)
    assert len(fingerprint(str(folder), tmp_path)) == 64
    (folder / missing).unlink()
    with pytest.raises(UserError, match=f"{re.escape(str(folder))}: no model here.*{missing[-11:]}"):
        fingerprint(str(folder), tmp_path)
