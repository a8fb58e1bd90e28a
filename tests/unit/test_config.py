"""What YAML makes of a value that was meant as a text, and numbers and languages that no run could use."""

from pathlib import Path

import pytest
import yaml

from mbkd import config as configuration
from mbkd.config import Config
from mbkd.errors import UserError

BASE = """
task: {kind: own, files: {train: a.csv}, labels: [a, b], supervised: [en]}
student: {backbone: x}
distill: {signal: labels}
train: {epochs: 3}
"""


def read(tmp_path: Path, old: str = "", new: str = "", *overrides: str) -> Config:
    """The configuration above with a part of its text in other words."""
    assert old in BASE
    (tmp_path / "c.yaml").write_text(BASE.replace(old, new))
    return configuration.read(tmp_path / "c.yaml", list(overrides))


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        ("[2021-05-01, 2021-06-01]", ("2021-05-01", "2021-06-01")),
        ("[1, 2.5]", ("1", "2.5")),
        ("['yes', 'no']", ("yes", "no")),
    ],
)
def test_labels_that_yaml_takes_for_dates_and_numbers_are_the_texts_that_were_written(tmp_path, labels, names):
    config = read(tmp_path, "[a, b]", labels)
    assert config.task.labels == names
    assert read(tmp_path, "", "", f"task.labels={labels}").task.labels == names
    assert configuration.parse(yaml.safe_load(config.dump()), "again") == config
    assert len(config.hash) == 8


@pytest.mark.parametrize(
    ("old", "new", "field"),
    [
        ("[a, b]", "[yes, no]", "task.labels.0 = True"),
        ("[a, b]", "[a, null]", "task.labels.1 = None"),
        ("[a, b]", "[2021-05-01T10:00:00Z, b]", "task.labels.0 = "),
        ("[en]", "[en, no]", "task.supervised.1 = False"),
        ("student", "teachers: {no: {model: x}}\nstudent", "teachers, a key = False"),
        ("backbone: x", "backbone: 2021-05-01", "student.backbone = "),
    ],
)
def test_a_text_that_yaml_took_for_something_else_is_named_with_its_field_and_the_cure(tmp_path, old, new, field):
    with pytest.raises(UserError) as caught:
        read(tmp_path, old, new)
    assert f"  {field}" in str(caught.value)
    assert "in quotes, or YAML takes yes and no for true and false" in str(caught.value)


def test_a_date_that_is_none_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"c\.yaml: month .*in quotes"):
        read(tmp_path, "[a, b]", "[2021-13-01, b]")
    with pytest.raises(UserError, match="not valid YAML"):
        read(tmp_path, "", "", "task.labels=[2021-13-01, b]")


@pytest.mark.parametrize("number", [".inf", "-.inf", ".nan"])
@pytest.mark.parametrize("field", ["train.epochs", "train.lr", "distill.temperature", "distill.temperatures"])
def test_a_number_that_is_not_finite_is_refused_by_its_field(tmp_path, number, field):
    value = f"{{en: {number}}}" if field == "distill.temperatures" else number
    with pytest.raises(UserError, match=rf"{field}.* = -?(inf|nan)"):
        read(tmp_path, "", "", f"{field}={value}")


@pytest.mark.parametrize("field", ["supervised", "zero_shot"])
def test_a_language_that_cannot_be_in_the_name_of_a_file_is_refused(tmp_path, field):
    with pytest.raises(UserError, match=r"'zh/Hans'.*no slash"):
        read(tmp_path, "", "", f"task.{field}=[zh/Hans]")
    assert read(tmp_path, "", "", f"task.{field}=[zh-Hans, pt_BR]").task.languages[-2:] == ("zh-Hans", "pt_BR")


def test_an_override_changes_one_of_two_sections_that_share_an_anchor(tmp_path):
    config = read(tmp_path, "train: {epochs: 3}", "train: &same {epochs: 3}\nteaching: *same", "train.epochs=2")
    assert (config.train.epochs, config.teaching.epochs) == (2, 3)
