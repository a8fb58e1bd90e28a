"""Claims about result files: they are written and read without loss, including files of earlier versions."""

import json
from pathlib import Path

import pytest

from mbkd.errors import UserError
from mbkd.result import Result
from tests.synthetic import make_result


def test_a_result_is_written_and_read_without_loss(tmp_path: Path):
    accuracy = {"dev": {"en": 0.5, "de": 0.25}}
    averages = {"dev": {"S": 0.5, "Z": 0.25, "A": 0.375}}
    written = make_result(
        supervised=("en",), zero_shot=("de",), accuracy=accuracy, averages=averages, labels=("a", "b")
    )
    written.write(tmp_path)
    assert Result.read(tmp_path) == written
    assert written.scores("dev") == accuracy["dev"]
    assert written.means("dev") == averages["dev"]
    assert written.scores("test", "mae") == {}


def test_seeds_are_the_runs_seed_or_those_of_an_ensembles_members():
    assert make_result(seed=3).all_seeds == (3,)
    assert make_result(seed=None, seeds=(1, 2)).all_seeds == (1, 2)


def test_a_result_of_an_earlier_version_is_read_with_its_inputs(tmp_path: Path):
    earlier = make_result().as_json() | {"from_another_version": 1}
    prints = {"train": {"en": "a1", "fr": "b2"}, "teachers": {"en": "c3", "fr 2": "d4"}, "cache": {"en": "e5"}}
    (tmp_path / "result.json").write_text(json.dumps(earlier | {"fingerprints": prints}))
    assert Result.read(tmp_path).made_from == {
        "train tokens of en": "a1", "train tokens of fr": "b2", "teacher en": "c3", "teacher fr 2": "d4",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "no finished run here"),
        ("[]", "not a result of mbkd"),
        ('{"system": "MultiKD"}', "no role, task, backbone"),
    ],
)
def test_a_file_without_a_result_is_refused_by_name(tmp_path: Path, content: str, message: str):
    (tmp_path / "result.json").write_text(content)
    with pytest.raises(UserError, match=message):
        Result.read(tmp_path)
