"""Claims about configurations: strings that YAML reads as other types, invalid numbers and languages, run names."""

from pathlib import Path

import pytest
import yaml

from mbkd import config as configuration
from mbkd import runs
from mbkd.config import Config, paper
from mbkd.errors import UserError
from tests.synthetic import make_result

FINE_TUNED = {"model": "a", "fine_tuned": True}

BASE = """
task: {kind: own, files: {train: a.csv}, labels: [a, b], supervised: [en]}
student: {backbone: x}
distill: {signal: labels}
train: {epochs: 3}
"""


def read(tmp_path: Path, old: str = "", new: str = "", *overrides: str) -> Config:
    """Read the configuration above with a part of its text replaced."""
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
def test_labels_that_yaml_reads_as_dates_and_numbers_keep_their_text(tmp_path, labels, names):
    config = read(tmp_path, "[a, b]", labels)
    assert config.task.labels == names
    assert read(tmp_path, "", "", f"task.labels={labels}").task.labels == names
    assert configuration.parse(yaml.safe_load(config.dump()), "again") == config
    assert len(config.hash) == 8


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("task.supervised=en", r"task.supervised = 'en': must be a list, such as"),
        ("task=own", r"task = 'own': must be a mapping"),
        ("teachers=x", r"teachers = 'x': must be a mapping"),
        ("task.columns={text: label}", r"task.columns: column 'label' is both the text and the label"),
    ],
)
def test_a_wrong_value_is_explained_in_terms_of_yaml(tmp_path, override, message):
    with pytest.raises(UserError, match=message):
        read(tmp_path, "", "", override)


def test_a_new_field_renames_a_run_only_if_it_is_set():
    class Grown(Config):
        newer: int = 0

    values = paper.recipes()["marc-mbert-mblm"].model_dump(mode="json")
    assert Grown(**values).hash == Config(**values).hash != Grown(**values | {"newer": 1}).hash


def test_unused_teachers_do_not_change_a_runs_name():
    recipe = paper.recipes()["xnli-mbert-monokd"]

    def named(**teachers: dict[str, object]) -> str:
        return configuration.changed(recipe, {"teachers": teachers}).run_name

    assert named(en={"model": "a"}, zh={"model": "b"}) == named(en={"model": "a"}) != named(en={"model": "b"})
    untaught = configuration.changed(recipe, {"teaching": {"epochs": 1}, "teachers": {"en": FINE_TUNED}})
    assert untaught.run_name == named(en=FINE_TUNED)


@pytest.mark.parametrize(
    ("recipe", "name"),
    [
        ("xnli-mbert-monokd", "xnli-monokd-s1-44ad6b58"),
        ("xnli-mbert-multitrain", "xnli-multitrain-s1-d984cc3f"),
        ("xnli-mbert-multikd", "xnli-multikd-s1-d5cc978a"),
    ],
)
def test_a_finished_run_with_a_first_schema_name_is_found(tmp_path, recipe, name):
    """The expected names are those of the first schema, which hashed defaults too."""
    config = paper.recipes()[recipe]
    assert runs.folder(tmp_path, config) == tmp_path / config.run_name != tmp_path / name
    (tmp_path / name).mkdir()
    make_result().write(tmp_path / name)
    assert runs.folder(tmp_path, config) == tmp_path / name
    (tmp_path / config.run_name).mkdir()
    assert runs.folder(tmp_path, config) == tmp_path / config.run_name
    longer = configuration.changed(config, {"train": {"epochs": 9}})
    assert runs.folder(tmp_path, longer) == tmp_path / longer.run_name


def test_the_removed_field_placement_is_accepted_for_the_device_only():
    values = paper.recipes()["xnli-mbert-multikd"].model_dump(mode="json")
    old = values | {"distill": values["distill"] | {"placement": "device"}}
    assert configuration.parse(old, "old").hash == configuration.parse(values, "new").hash
    old["distill"]["placement"] = "on_demand"
    with pytest.raises(UserError, match=r"old: .*\n.*placement = 'on_demand': the field was removed.*Delete placement"):
        configuration.parse(old, "old")


@pytest.mark.parametrize(
    ("old", "new", "field"),
    [
        ("[a, b]", "[yes, no]", "task.labels.0 = True"),
        ("[a, b]", "[a, null]", "task.labels.1 = None"),
        ("[a, b]", "[2021-05-01T10:00:00Z, b]", "task.labels.0 = "),
        ("[en]", "[en, no]", "task.supervised.1 = False"),
        ("student", "teachers: {no: {model: x}}\nstudent", "teachers (key) = False"),
        ("backbone: x", "backbone: 2021-05-01", "student.backbone = "),
    ],
)
def test_a_string_that_yaml_reads_as_another_type_is_refused_with_its_field_and_the_fix(tmp_path, old, new, field):
    with pytest.raises(UserError) as caught:
        read(tmp_path, old, new)
    assert f"  {field}" in str(caught.value)
    assert "add quotes, because YAML reads yes and no as true and false" in str(caught.value)


def test_a_section_that_occurs_twice_is_refused_with_its_line(tmp_path):
    with pytest.raises(UserError, match=r"c\.yaml:6:1: not valid YAML: `train` occurs twice"):
        read(tmp_path, "train: {epochs: 3}", "train: {epochs: 3}\ntrain: {lr: 1e-5}")


def test_an_invalid_date_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"c\.yaml: month .*put quotes around"):
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
def test_a_language_with_a_slash_is_refused(tmp_path, field):
    with pytest.raises(UserError, match=r"'zh/Hans'.*must not contain a slash"):
        read(tmp_path, "", "", f"task.{field}=[zh/Hans]")
    assert read(tmp_path, "", "", f"task.{field}=[zh-Hans, pt_BR]").task.languages[-2:] == ("zh-Hans", "pt_BR")


def test_an_override_changes_one_of_two_sections_that_share_an_anchor(tmp_path):
    config = read(tmp_path, "train: {epochs: 3}", "train: &same {epochs: 3}\nteaching: *same", "train.epochs=2")
    assert (config.train.epochs, config.teaching.epochs) == (2, 3)


def test_a_relative_path_is_resolved_here_and_otherwise_next_to_the_yaml_file(tmp_path, monkeypatch):
    folder = tmp_path / "conf"
    for name in (
        "conf/data/train.en.csv",
        "conf/data/dev.csv",
        "conf/models/student/x",
        "conf/t1/x",
        "here/data/dev.csv",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    values = yaml.safe_load(BASE)
    values["task"]["files"] = {"train": "data/train.{language}.csv", "dev": "data/dev.csv", "test": "nowhere.csv"}
    values["student"]["backbone"] = "models/student"
    values["teachers"] = {"en": [{"model": "t1"}, {"model": "FacebookAI/roberta-large"}]}
    (folder / "c.yaml").write_text(yaml.safe_dump(values))
    monkeypatch.chdir(tmp_path / "here")
    found = configuration.read("../conf/c.yaml")
    beside = "../conf/data/train.{language}.csv"
    assert found.task.files == {"train": beside, "dev": "data/dev.csv", "test": "nowhere.csv"}
    assert found.student.backbone == "../conf/models/student"
    assert [x.model for x in found.teachers["en"]] == ["../conf/t1", "FacebookAI/roberta-large"]
    monkeypatch.chdir(folder)
    assert configuration.read("c.yaml").task.files["train"] == "data/train.{language}.csv"


def test_names_of_hub_splits_are_not_resolved_as_files(tmp_path):
    (tmp_path / "train").mkdir()
    found = read(tmp_path, "files: {train: a.csv}", "path: me/reviews, files: {train: train}")
    assert found.task.files == {"train": "train"}
