"""What `mbkd init` sees in rows, and that what it writes is a configuration that reads them."""

import csv
import json
from itertools import islice
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from mbkd import config as configuration
from mbkd.config import Config
from mbkd.data import readers, tasks
from mbkd.demo import toy
from mbkd.errors import UserError
from mbkd.onboarding import divide
from mbkd.onboarding.init import Options, write

QUEUES = ("billing", "technical", "other")


def tickets(language: str, count: int, start: int = 0) -> list[dict[str, str]]:
    """Rows under names of a user's own, in turn of each label."""
    texts = islice(toy.unlabelled(language, start + count), start, None)
    return [
        {"nr": f"{language}{start + i}", "body": a, "subject": b, "queue": QUEUES[i % 3], "locale": language}
        for i, (a, b) in enumerate(texts)
    ]


def save(file: Path, rows: list[dict[str, str]]) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    if file.suffix == ".jsonl":
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif file.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), file)
    else:
        with file.open("w", newline="") as stream:
            writer = csv.DictWriter(stream, rows[0], delimiter="\t" if file.suffix == ".tsv" else ",")
            writer.writeheader()
            writer.writerows(rows)
    return file


def init(given: str | Path, tmp_path: Path, force: bool = False, **options: object) -> Config:
    """The configuration that is written without a question."""
    return configuration.read(write(str(given), tmp_path / "new.yaml", Options(**options), force, False))


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    """One file: en and fr with many rows, de with few."""
    return save(tmp_path / "tickets.csv", tickets("en", 300) + tickets("fr", 210) + tickets("de", 30))


def test_columns_labels_and_languages_are_seen(whole: Path, tmp_path: Path):
    task = init(whole, tmp_path, split=True).task
    assert task.columns.model_dump() == {
        "text": "body", "text_pair": "subject", "label": "queue", "language": "locale", "id": None,
        "header": True, "quoted": None,
    }  # fmt: skip
    assert (task.labels, task.ordinal) == (("billing", "other", "technical"), False)
    assert (task.supervised, task.zero_shot) == (("en", "fr"), ("de",))


def test_options_come_before_what_is_seen(whole: Path, tmp_path: Path):
    wishes = {"text": "subject", "text_pair": "-", "supervised": ("fr",), "zero_shot": ("en",), "labels": QUEUES}
    config = init(whole, tmp_path, split=True, teachers=False, backbone="a/b", **wishes)
    assert (config.task.columns.text, config.task.columns.text_pair) == ("subject", None)
    assert (config.task.supervised, config.task.zero_shot, config.task.labels) == (("fr",), ("en",), QUEUES)
    assert (config.student.backbone, config.distill.signal, config.teachers) == ("a/b", "labels", {})
    assert config.student.branch_depth == 0  # one language has nothing to branch from


def test_labelled_languages_get_teachers_that_are_known(whole: Path, tmp_path: Path):
    config = init(whole, tmp_path, split=True)
    assert (config.distill.signal, config.student.branch_depth) == ("online", 4)
    assert [x.model for several in config.teachers.values() for x in several] == [
        "FacebookAI/roberta-large", "almanach/camembert-large",
    ]  # fmt: skip


def test_numbers_in_a_column_of_stars_are_a_scale(tmp_path: Path):
    rows = [row | {"stars": str(1 + i % 10)} for i, row in enumerate(tickets("en", 300))]
    for row in rows:
        del row["queue"]
    task = init(save(tmp_path / "reviews.jsonl", rows), tmp_path, split=True).task
    assert (task.labels, task.ordinal) == (tuple(map(str, range(1, 11))), True)


@pytest.mark.parametrize("ending", ["csv", "tsv", "jsonl", "parquet"])
def test_splits_hold_every_row_once_in_the_file_s_own_format(tmp_path: Path, ending: str):
    rows = tickets("en", 60) + tickets("fr", 60) + tickets("de", 30)
    rows[0]["body"] = 'a "quoted", text\nof two lines\twith a tab'
    config = init(save(tmp_path / f"tickets.{ending}", rows), tmp_path, split=True, supervised=("en", "fr"))
    found = [
        (row["text_a"], row["text_b"], QUEUES.index(config.task.labels[row["label"]]), row["language"])
        for split in ("train", "dev", "test")
        for language in (config.task.supervised if split == "train" else config.task.languages)
        for row in tasks.load(config.task, split, language)
    ]
    assert sorted(found) == sorted((x["body"], x["subject"], QUEUES.index(x["queue"]), x["locale"]) for x in rows)
    counts = {(s, x): len(tasks.load(config.task, s, x)) for s in ("dev", "test") for x in config.task.languages}
    assert set(counts.values()) == {6, 15}  # two of twenty of each label; half of a language that is not trained on


def test_splits_are_the_same_again_and_keep_doubles_together():
    items = [divide.Item(f"text {i % 80}", "en", str(i % 2)) for i in range(100)]
    splits = divide.assign(items, {"en"})
    assert splits == divide.assign(items, {"en"})
    assert splits[80:] == splits[:20]
    assert {x: splits[:80].count(x) for x in ("train", "dev", "test")} == {"train": 64, "dev": 8, "test": 8}


def test_rows_without_text_or_label_stay_out_of_the_splits(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    rows = [
        *tickets("en", 300),
        {**tickets("en", 1)[0], "queue": ""},
        {**tickets("en", 1)[0], "body": " ", "subject": ""},
    ]
    config = init(save(tmp_path / "tickets.csv", rows), tmp_path, split=True)
    assert sum(len(tasks.load(config.task, split, "en")) for split in ("train", "dev", "test")) == 300
    assert "2 rows without text or label" in capsys.readouterr().err


def test_dev_and_test_are_found_beside_training_rows_by_their_usual_names(tmp_path: Path):
    for name, start in (("train", 0), ("valid", 300), ("test", 330)):
        save(tmp_path / f"{name}.csv", tickets("en", 300 if name == "train" else 30, start))
    files = init(tmp_path / "train.csv", tmp_path).task.files
    assert {split: Path(file).name for split, file in files.items()} == {
        "train": "train.csv", "dev": "valid.csv", "test": "test.csv",
    }  # fmt: skip


def test_files_by_language_are_found_from_their_pattern(tmp_path: Path):
    for language, count in (("en", 300), ("de", 30)):
        rows = [{k: v for k, v in row.items() if k != "locale"} for row in tickets(language, count + 30)]
        save(tmp_path / f"reviews-{language}.dev.csv", rows[count:])
        if language == "en":
            save(tmp_path / f"reviews-{language}.train.csv", rows[:count])
            save(tmp_path / "reviews-fr.train.csv", rows[:count])  # without dev rows
    task = init(tmp_path / "reviews-{language}.train.csv", tmp_path).task
    assert (task.supervised, task.zero_shot, task.columns.language) == (("en",), ("de",), None)
    assert Path(task.files["dev"]).name == "reviews-{language}.dev.csv"
    assert len(tasks.load(task, "dev", "de")) == 30


def test_a_language_without_labels_is_left_out_and_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    save(tmp_path / "train.csv", tickets("en", 300))
    bare = [row | {"queue": ""} for row in tickets("es", 9)]
    save(tmp_path / "dev.csv", tickets("en", 30, 300) + tickets("de", 30) + bare)
    task = init(tmp_path / "train.csv", tmp_path).task
    assert task.languages == ("en", "de")
    assert "es: 9 dev rows have no label" in capsys.readouterr().err


def test_a_local_folder_in_the_hub_s_layout_is_read(tmp_path: Path):
    for language, count in (("en", 300), ("de", 30)):
        for split in ("train", "validation"):
            rows = [{k: v for k, v in row.items() if k != "locale"} for row in tickets(language, count)]
            save(tmp_path / "mine" / language / f"{split}-00000-of-00001.parquet", rows)
    task = init(tmp_path / "mine", tmp_path).task
    assert task.path == str(tmp_path / "mine")
    assert task.files == {"train": "train", "dev": "validation"}
    assert (task.supervised, task.zero_shot) == (("en",), ("de",))
    assert len(tasks.load(task, "dev", "de")) == 30


def test_what_cannot_be_known_is_asked_for_by_its_option(tmp_path: Path):
    rows = [{"body": row["body"], "a": row["queue"], "b": str(i % 4)} for i, row in enumerate(tickets("en", 60))]
    file = save(tmp_path / "tickets.csv", rows)
    with pytest.raises(UserError, match="--language; the columns are body, a, b"):
        init(file, tmp_path, label="a")
    with pytest.raises(UserError, match="--label; the columns are body, a, b; it could be a, b"):
        init(file, tmp_path, language="en")
    with pytest.raises(UserError, match="--split or --no-split"):
        init(file, tmp_path, label="a", language="en")
    assert [x.name for x in tmp_path.iterdir()] == ["tickets.csv"]
    assert init(file, tmp_path, label="a", language="en", split=False).task.supervised == ("en",)


def test_wrong_names_are_refused_with_those_there(whole: Path, tmp_path: Path):
    with pytest.raises(UserError, match="no column 'queu'; did you mean 'queue'"):
        init(whole, tmp_path, split=True, label="queu")
    with pytest.raises(UserError, match="no rows of pl"):
        init(whole, tmp_path, split=True, supervised=("pl",))
    with pytest.raises(UserError, match="also have the label 'other'"):
        init(whole, tmp_path, split=True, labels=("billing", "technical"))
    with pytest.raises(UserError, match="no such file"):
        init(tmp_path / "nothing.csv", tmp_path)


def test_nothing_is_written_over_without_force(whole: Path, tmp_path: Path):
    init(whole, tmp_path, split=True)
    before = {file: file.read_bytes() for file in tmp_path.iterdir()}
    with pytest.raises(UserError, match="--force"):
        init(whole, tmp_path, split=True)
    (tmp_path / "new.yaml").unlink()
    with pytest.raises(UserError, match=r"tickets\.train\.csv: is there already"):
        divide.write(str(whole), {"train": readers.table(whole)}, header=True, force=False)
    assert all(file.read_bytes() == content for file, content in before.items() if file.name != "new.yaml")
    assert init(whole, tmp_path, force=True).task.files["train"].endswith("tickets.train.csv")


def test_the_file_explains_itself(whole: Path, tmp_path: Path):
    init(whole, tmp_path, split=True)
    text = (tmp_path / "new.yaml").read_text()
    assert yaml.safe_load(text)["task"]["supervised"] == ["en", "fr"]
    assert all(
        "#" in line for line in text.splitlines() if line.startswith(("  ordinal", "  branch_depth", "  signal"))
    )
    assert "rows: en 300, fr 210" in text
