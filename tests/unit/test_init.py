"""Claims about `mbkd init`: what it detects in rows, and that its configuration reads them."""

import csv
import json
from contextlib import ExitStack
from itertools import islice
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from mbkd import config as configuration
from mbkd.config import Config, Task
from mbkd.data import readers, tasks
from mbkd.demo import toy
from mbkd.errors import UserError
from mbkd.onboarding import divide, languages
from mbkd.onboarding.init import Options, write

QUEUES = ("billing", "technical", "other")


def tickets(language: str, count: int, start: int = 0) -> list[dict[str, str]]:
    """Return rows with the user's column names and alternating labels."""
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
    """Return the configuration that is written without questions."""
    return configuration.read(write(str(given), tmp_path / "new.yaml", Options(**options), force, False))


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    """One file: en and fr with many rows, de with few."""
    return save(tmp_path / "tickets.csv", tickets("en", 300) + tickets("fr", 210) + tickets("de", 30))


def test_columns_labels_and_languages_are_detected(whole: Path, tmp_path: Path):
    task = init(whole, tmp_path, split=True).task
    assert task.columns.model_dump() == {
        "text": "body", "text_pair": "subject", "label": "queue", "language": "locale", "id": None,
        "header": True, "quoted": None,
    }  # fmt: skip
    assert (task.labels, task.ordinal) == (("billing", "other", "technical"), False)
    assert (task.supervised, task.zero_shot) == (("en", "fr"), ("de",))


def test_options_override_guesses(whole: Path, tmp_path: Path):
    options = {"text": "subject", "text_pair": "-", "supervised": ("fr",), "zero_shot": ("en",), "labels": QUEUES}
    config = init(whole, tmp_path, split=True, teachers=False, backbone="a/b", **options)
    assert (config.task.columns.text, config.task.columns.text_pair) == ("subject", None)
    assert (config.task.supervised, config.task.zero_shot, config.task.labels) == (("fr",), ("en",), QUEUES)
    assert (config.student.backbone, config.distill.signal, config.teachers) == ("a/b", "labels", {})
    assert config.student.branch_depth == 0  # one language needs no branches


def test_labelled_languages_get_known_teachers(whole: Path, tmp_path: Path):
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
def test_splits_hold_every_row_once_in_the_files_format(tmp_path: Path, ending: str):
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
    assert set(counts.values()) == {6, 15}  # two of twenty per label; half of a language without training


def test_splits_are_reproducible_and_keep_duplicates_together():
    items = [divide.Item(f"text {i % 80}", "en", str(i % 2)) for i in range(100)]
    splits = divide.assign(items, {"en"})
    assert splits == divide.assign(items, {"en"})
    assert splits[80:] == splits[:20]
    assert {x: splits[:80].count(x) for x in ("train", "dev", "test")} == {"train": 64, "dev": 8, "test": 8}


def test_rows_without_text_or_label_are_left_out_of_the_splits(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    rows = [
        *tickets("en", 300),
        {**tickets("en", 1)[0], "queue": ""},
        {**tickets("en", 1)[0], "body": " ", "subject": ""},
    ]
    config = init(save(tmp_path / "tickets.csv", rows), tmp_path, split=True)
    assert sum(len(tasks.load(config.task, split, "en")) for split in ("train", "dev", "test")) == 300
    assert "2 rows without text or label" in capsys.readouterr().err


def test_too_few_rows_for_a_split_are_refused_and_leave_no_file(tmp_path: Path):
    file = save(tmp_path / "tickets.csv", tickets("en", 6))  # two rows of each label
    with pytest.raises(UserError, match=r"too few rows for a split \(train 6, dev 0, test 0\)"):
        init(file, tmp_path, split=True)
    assert [each.name for each in tmp_path.iterdir()] == ["tickets.csv"]


def test_dev_and_test_files_are_found_by_their_usual_names(tmp_path: Path):
    for name, start in (("train", 0), ("valid", 300), ("test", 330)):
        save(tmp_path / f"{name}.csv", tickets("en", 300 if name == "train" else 30, start))
    files = init(tmp_path / "train.csv", tmp_path).task.files
    assert {split: Path(file).name for split, file in files.items()} == {
        "train": "train.csv", "dev": "valid.csv", "test": "test.csv",
    }  # fmt: skip


def test_files_by_language_are_found_by_their_pattern(tmp_path: Path):
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


def test_a_language_without_labels_is_left_out_with_a_message(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    save(tmp_path / "train.csv", tickets("en", 300))
    bare = [row | {"queue": ""} for row in tickets("es", 9)]
    save(tmp_path / "dev.csv", tickets("en", 30, 300) + tickets("de", 30) + bare)
    task = init(tmp_path / "train.csv", tmp_path).task
    assert task.languages == ("en", "de")
    assert "es: 9 dev rows have no label" in capsys.readouterr().err


def test_a_local_folder_in_the_hubs_layout_is_read(tmp_path: Path):
    for language, count in (("en", 300), ("de", 30)):
        for split in ("train", "validation"):
            rows = [{k: v for k, v in row.items() if k != "locale"} for row in tickets(language, count)]
            save(tmp_path / "mine" / language / f"{split}-00000-of-00001.parquet", rows)
    task = init(tmp_path / "mine", tmp_path).task
    assert task.path == str(tmp_path / "mine")
    assert task.files == {"train": "train", "dev": "validation"}
    assert (task.supervised, task.zero_shot) == (("en",), ("de",))
    assert len(tasks.load(task, "dev", "de")) == 30


def test_missing_information_is_requested_by_option_name(tmp_path: Path):
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


def test_wrong_names_are_refused_with_the_existing_ones(whole: Path, tmp_path: Path):
    with pytest.raises(UserError, match="no column 'queu'; did you mean 'queue'"):
        init(whole, tmp_path, split=True, label="queu")
    with pytest.raises(UserError, match="no rows of pl"):
        init(whole, tmp_path, split=True, supervised=("pl",))
    with pytest.raises(UserError, match="--zero-shot fr: is a language to train on"):
        init(whole, tmp_path, split=True, supervised=("en", "fr"), zero_shot=("fr",))
    with pytest.raises(UserError, match="column 'queue' has the text; name another column with --label"):
        init(whole, tmp_path, split=True, text="queue", label="queue")
    with pytest.raises(UserError, match="also have the label 'other'"):
        init(whole, tmp_path, split=True, labels=("billing", "technical"))
    with pytest.raises(UserError, match="no such file"):
        init(tmp_path / "nothing.csv", tmp_path)
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(UserError, match="is a folder; name a file"):
        init(tmp_path / "folder.csv", tmp_path)


def test_nothing_is_overwritten_without_force(whole: Path, tmp_path: Path):
    init(whole, tmp_path, split=True)
    before = {file: file.read_bytes() for file in tmp_path.iterdir()}
    with pytest.raises(UserError, match="--force"):
        init(whole, tmp_path, split=True)
    (tmp_path / "new.yaml").unlink()
    with pytest.raises(UserError, match=r"tickets\.train\.csv: exists already"):
        divide.write(str(whole), {"train": readers.table(whole)}, header=True, force=False, written=ExitStack())
    assert all(file.read_bytes() == content for file, content in before.items() if file.name != "new.yaml")
    assert init(whole, tmp_path, force=True).task.files["train"].endswith("tickets.train.csv")


def test_the_written_file_explains_its_fields(whole: Path, tmp_path: Path):
    init(whole, tmp_path, split=True)
    text = (tmp_path / "new.yaml").read_text()
    assert yaml.safe_load(text)["task"]["supervised"] == ["en", "fr"]
    assert all(
        "#" in line for line in text.splitlines() if line.startswith(("  ordinal", "  branch_depth", "  signal"))
    )
    assert "rows: en 300, fr 210" in text


# --- detection in files of other conventions ---


def texts(language: str, count: int) -> list[tuple[str, str]]:
    return list(islice(toy.unlabelled(language, count), count))


def rows_of(count: int, *columns: str, language: str = "en", labels: tuple[str, ...] = ("yes", "no")) -> list[dict]:
    """Return rows with a first text, a second text and a label in columns of these names."""
    return [
        dict(zip(columns, [*pair[: len(columns) - 1], labels[i % len(labels)]], strict=True))
        for i, pair in enumerate(texts(language, count))
    ]


def init_one(file: Path, tmp_path: Path, **options: object) -> Task:
    """Return the task of unsplit rows in one language."""
    return init(file, tmp_path, force=True, **({"language": "en", "split": False} | options)).task


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("sentence_A", "sentence_B"), ("Sentence1", "Sentence2"), ("PREMISE", "HYPOTHESIS"), ("text_a", "text_b"),
        ("texta", "textb"), ("question1", "question2"), ("s1", "s2"), ("Q1", "Q2"), ("query", "passage"),
        ("claim", "evidence"), ("utterance_one", "utterance_two"), ("firstSentence", "secondSentence"),
        ("text0", "text1"), ("title_left", "title_right"), ("a", "b"), ("question", "answer"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("turned", [False, True])
def test_two_columns_of_a_pair_are_taken_together(tmp_path: Path, first: str, second: str, turned: bool):
    order = (second, first) if turned else (first, second)
    columns = init_one(save(tmp_path / "pairs.tsv", rows_of(60, *order, "gold")), tmp_path).columns
    assert (columns.text, columns.text_pair, columns.label) == (first, second, "gold")


def test_the_plain_form_of_a_pair_is_preferred_to_the_parsed_form(tmp_path: Path):
    rows = [
        {"sentence1_parse": f"({a})", "sentence1": a, "sentence2_parse": f"({b})", "sentence2": b, "y": i % 2}
        for i, (a, b) in enumerate(texts("en", 60))
    ]
    columns = init_one(save(tmp_path / "parsed.csv", rows), tmp_path).columns
    assert (columns.text, columns.text_pair) == ("sentence1", "sentence2")
    given = init_one(tmp_path / "parsed.csv", tmp_path, text="sentence2_parse").columns
    assert (given.text, given.text_pair) == ("sentence2_parse", "sentence1_parse")


@pytest.mark.parametrize("names", [("premise", "conclusion"), ("question1", "rephrased"), ("sentence_a", "paraphrase")])
def test_half_of_a_pair_leads_to_a_question_and_is_not_used_alone(tmp_path: Path, names: tuple[str, str]):
    file = save(tmp_path / "half.csv", rows_of(60, *names, "label"))
    with pytest.raises(UserError, match=f"--text-pair .* it could be {names[1]}"):
        init_one(file, tmp_path)
    assert init_one(file, tmp_path, text_pair="-").columns.text_pair is None
    assert init_one(file, tmp_path, text_pair=names[1]).columns.text_pair == names[1]


def test_three_sentences_lead_to_a_question(tmp_path: Path):
    for names in (("text1", "text2", "text3"), ("sentence_a", "sentence_b", "sentence_c")):
        rows = [row | {names[2]: row[names[0]]} for row in rows_of(60, names[0], names[1], "label")]
        file = save(tmp_path / "three.csv", rows)
        with pytest.raises(UserError, match=f"--text; .* it could be {names[0]}"):
            init_one(file, tmp_path)
        assert init_one(file, tmp_path, text=names[1], text_pair=names[2]).columns.text == names[1]


def test_columns_that_end_in_the_language_code_are_used(tmp_path: Path):
    for ends in (("_En", "_Fr"), ("_eng", "_fra")):
        rows = [
            {f"text_A{x}": a for x in ends} | {f"text_B{x}": b for x in ends} | {f"label{x}": i % 2 for x in ends}
            for i, (a, b) in enumerate(texts("fr", 60))
        ]
        file = save(tmp_path / "both.tsv", rows)
        columns = init_one(file, tmp_path, language="fr").columns
        assert (columns.text, columns.text_pair, columns.label) == tuple(
            f"{x}{ends[1]}" for x in ("text_A", "text_B", "label")
        )
        with pytest.raises(UserError, match=r"--language; .* columns end in"):
            init_one(file, tmp_path, language=None)


def test_an_empty_second_text_changes_nothing(tmp_path: Path):
    rows = rows_of(60, "sentence1", "sentence2", "label")
    rows[3]["sentence2"] = ""
    task = init_one(save(tmp_path / "pairs.csv", rows), tmp_path)
    assert tasks.load(task, "train", "en")["text_b"][3] == ""


@pytest.mark.parametrize(
    ("written", "names", "ordinal"),
    [
        (["1.0", "2.0", "10.0"], ("1", "2", "10"), False),
        (["1.0", "3.0", "2.0"], ("1", "2", "3"), True),
        (["0.5", "1.0", "1.5", "2.0"], ("0.5", "1", "1.5", "2"), True),
        (["-1", "0", "1"], ("-1", "0", "1"), True),
        (["Good", "good ", "BAD", "bad", "bad"], ("Good", "bad"), False),
        (["yes", "no", "nan", "NaN", "<NA>"], ("no", "yes"), False),
    ],
)
def test_label_names_match_the_intended_labels(
    tmp_path: Path, capsys, written: list[str], names: tuple[str, ...], ordinal: bool
):
    file = save(tmp_path / "train.csv", rows_of(120, "review", "rating", labels=tuple(written)))
    save(
        tmp_path / "dev.csv", rows_of(120, "review", "rating", labels=tuple(x for x in written if "n" not in x.lower()))
    )
    without = any("n" in x.lower() for x in written[2:]) and "yes" in written
    if without:  # rows without a label are counted, and the file needs a split to leave them out
        with pytest.raises(UserError, match="Languages to train on"):
            init(file, tmp_path, language="en")
        (tmp_path / "dev.csv").unlink()
        task = init(file, tmp_path, language="en", split=True).task
        assert "72 rows without text or label" in capsys.readouterr().err
    else:
        task = init(file, tmp_path, language="en").task
        output = capsys.readouterr().err
        assert all(repr(x) in output for x in written if x not in names)
    assert (task.labels, task.ordinal) == (names, ordinal)
    assert len(tasks.load(task, "train", "en")) > 30


def test_labels_that_the_user_distinguishes_remain_distinct(tmp_path: Path):
    file = save(tmp_path / "train.csv", rows_of(60, "text", "label", labels=("A", "a")))
    assert init_one(file, tmp_path, labels=("A", "a")).labels == ("A", "a")
    with pytest.raises(UserError, match="no usable language has rows of two labels"):
        init_one(file, tmp_path, labels=("x", "a"))


def test_measurements_are_not_classes_but_many_intents_are(tmp_path: Path):
    scores = [row | {"score": f"{i / 7:.3f}"} for i, row in enumerate(rows_of(120, "text", "label"))]
    file = save(tmp_path / "scores.csv", scores)
    with pytest.raises(UserError, match="--label score: 120 different numbers"):
        init_one(file, tmp_path, label="score")
    for name in ("intent", "Label"):
        many = tuple(f"i{i}" for i in range(60))
        rows = rows_of(180, "text", name, labels=many)
        assert init_one(save(tmp_path / "many.csv", rows), tmp_path).labels == tuple(sorted(many))


def test_rows_without_a_language_are_counted_and_case_of_codes_is_ignored(tmp_path: Path, capsys):
    codes = ["en"] * 6 + ["EN", "enn", "", "eng"]
    rows = [row | {"language": codes[i % 10]} for i, row in enumerate(rows_of(600, "text", "label"))]
    task = init(save(tmp_path / "train.csv", rows), tmp_path, split=True, supervised=("en",), zero_shot=()).task
    output = capsys.readouterr().err
    for part in ("'en' and 'EN' are en", "enn: 60 rows, not a language's code", "'': 60 rows without a language"):
        assert part in output
    assert "en and eng are codes of one language" in output
    assert sum(len(tasks.load(task, x, "en")) for x in ("train", "dev", "test")) == 420
    capsys.readouterr()
    for row in rows:
        row["language"] = row["language"].replace("enn", "Englisch?").replace("EN", "En")
    init(save(tmp_path / "other.csv", rows), tmp_path, force=True, split=True, supervised=("en",))
    assert "Englisch?: 60 rows, not a language's code" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("codes", "teacher"),
    [
        (("eng_Latn", "deu_Latn"), "deepset/gbert-large"), (("english", "German"), "deepset/gbert-large"),
        (("en-GB", "zho_Hans"), "hfl/chinese-roberta-wwm-ext-large"),
        (("eng", "arb_Arab"), "aubmindlab/bert-large-arabertv02"),
    ],
)  # fmt: skip
def test_codes_with_scripts_three_letters_and_names_are_languages(tmp_path: Path, codes: tuple[str, str], teacher: str):
    rows = [row | {"lang": codes[i // 300]} for i, row in enumerate(rows_of(600, "text", "label"))]
    config = init(save(tmp_path / "train.csv", rows), tmp_path, split=True)
    assert set(config.task.supervised) == set(codes)
    assert config.teachers[codes[1]][0].model == teacher
    for code in codes:
        save(tmp_path / code / "train.csv", rows_of(300, "text", "label"))
        save(tmp_path / code / "validation.csv", rows_of(60, "text", "label"))
    by_file = init(tmp_path / "{language}" / "train.csv", tmp_path, force=True).task
    assert (set(by_file.supervised), set(by_file.files)) == (set(codes), {"train", "dev"})


def test_words_that_equal_rare_language_codes_are_not_languages():
    for word in ("dev", "val", "raw", "csv", "pos", "neg", "yes", "not", "all", "old", "mul", "und", "text", "other"):
        assert not languages.is_code(word), word
    assert {languages.base(x) for x in ("arb_Arab", "swh_Latn", "cmn", "pt_BR")} == {"ar", "sw", "zh", "pt"}


@pytest.mark.parametrize(
    "names", [("SICK_NL", "SICK_BR"), ("pairs.de", "pairs.fr"), ("train-swh_Latn", "train-eng_Latn")]
)
def test_unnamed_files_are_ignored(tmp_path: Path, capsys, names: tuple[str, str]):
    for name in names:
        save(tmp_path / f"{name}.csv", rows_of(300, "text", "label"))
    task = init(tmp_path / f"{names[0]}.csv", tmp_path, language="nl", split=True).task
    assert task.languages == ("nl",)
    assert not list(tmp_path.glob(f"{names[1]}.*.csv"))
    with pytest.raises(UserError, match="--language"):  # the name implies another language than the rows, or none
        init(tmp_path / f"{names[0]}.csv", tmp_path, force=True, split=True)
    assert "are next to it" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["dev-{}", "val-{}", "{}_test", "tickets-{}-trial"])
def test_a_splits_short_name_is_not_part_of_a_language(tmp_path: Path, capsys, name: str):
    for language in ("en", "fr"):
        lines = [f"{a}\t{b}\t{XNLI[i % 3]}\n" for i, (a, b) in enumerate(texts(language, 210))]
        (tmp_path / f"{name.format(language)}.tsv").write_text("".join(lines))
    file = tmp_path / f"{name.format('{language}')}.tsv"
    with pytest.raises(
        UserError, match=rf"header \(.+, .+, {XNLI[0]}\)"
    ):  # includes columns that the files do not share
        init(file, tmp_path)
    assert init(file, tmp_path, header=False, split=False).task.supervised == ("en", "fr")
    (tmp_path / "new.yaml").unlink()
    assert init(str(file).format(language="fr"), tmp_path, header=False, split=False).task.supervised == ("fr",)
    assert "Files of en are next to it" in capsys.readouterr().err


def test_a_language_in_a_file_name_counts_if_the_rows_match(tmp_path: Path):
    for name in ("reviews-fr", "fra_Latn/train", "Valid-french"):
        file = save(
            tmp_path / name.lower() / f"{name.split('/')[-1]}.csv", rows_of(300, "text", "label", language="fr")
        )
        if "/" in name:
            file = save(tmp_path / f"{name}.csv", rows_of(300, "text", "label", language="fr"))
        (language,) = init(file, tmp_path, force=True, split=True).task.supervised
        assert language in ("fr", "fra_Latn", "french")


def test_a_header_that_looks_like_a_row_leads_to_a_question(tmp_path: Path):
    for name, rows in {
        "labels.tsv": [(a, ("good", "bad")[i % 2]) for i, (a, _) in enumerate(texts("en", 60))],
        "numbers.csv": [(str(i + 3), a, ("x", "y")[i % 2]) for i, (a, _) in enumerate(texts("en", 60))],
        "long.csv": [(f"{a} {a} {a} {a}", str(i)) for i, (a, _) in enumerate(texts("en", 60))],
    }.items():
        with (tmp_path / name).open("w", newline="") as stream:
            csv.writer(stream, delimiter="\t" if name.endswith("tsv") else ",").writerows(rows)
        with pytest.raises(UserError, match=r"looks like a row\. Use --header yes or --header no"):
            init_one(tmp_path / name, tmp_path)
    task = init_one(tmp_path / "labels.tsv", tmp_path, header=False)
    assert (task.columns.text, task.columns.label, task.columns.header) == ("1", "2", False)
    assert len(tasks.load(task, "train", "en")) == 60
    split = init(tmp_path / "labels.tsv", tmp_path, force=True, language="en", header=False, split=True).task
    assert sum(len(tasks.load(split, x, "en")) for x in split.files) == 60


def test_a_training_file_without_rows_gives_one_message(tmp_path: Path):
    (tmp_path / "a.csv").write_text("text,label\n")
    with pytest.raises(UserError, match="no usable language has rows of two labels"):
        init(tmp_path / "a.csv", tmp_path, language="en", text="text", label="label", header=True, split=False)


def test_equal_texts_in_the_files_of_two_languages_get_the_same_split(tmp_path: Path):
    for language in ("en", "de"):
        rows = rows_of(100, "text", "label") + rows_of(100, "text", "label", language=language)
        save(tmp_path / f"a.{language}.csv", rows)
    task = init(tmp_path / "a.{language}.csv", tmp_path, supervised=["en"], split=True).task
    found = {
        (split, x): {row["text_a"] for row in tasks.load(task, split, x)} for split in task.files for x in ("en", "de")
    }
    held_out = found["dev", "de"] | found["test", "de"]
    assert len(held_out) > 100 and not held_out & found["train", "en"]


def test_two_files_of_one_language_with_other_spellings_are_refused(tmp_path: Path):
    for spelling in ("pt-BR", "pt_BR"):
        save(tmp_path / f"r.{spelling}.csv", rows_of(50, "text", "label"))
    with pytest.raises(UserError, match="pt-BR and pt_BR are one language; join the two files"):
        init(tmp_path / "r.{language}.csv", tmp_path, split=False)


def test_pandas_headers_and_label_names_are_headers(tmp_path: Path):
    rows = [{"0": a, "1": ("x", "y")[i % 2]} for i, (a, _) in enumerate(texts("en", 60))]
    assert init_one(save(tmp_path / "pandas.csv", rows), tmp_path, text="0", label="1").columns.text == "0"
    rows = [{"text": a, "label": ("x", "y")[i % 2], "": str(i)} for i, (a, _) in enumerate(texts("en", 60))]
    assert init_one(save(tmp_path / "index.csv", rows), tmp_path).columns.label == "label"


def test_split_files_without_a_common_column_are_named(tmp_path: Path):
    save(tmp_path / "train.csv", rows_of(60, "text", "label"))
    for other in (rows_of(60, "Satz", "Klasse"), rows_of(60, "sentence", "text")):
        save(tmp_path / "dev.csv", other)
        with pytest.raises(UserError, match=r"dev\.csv|label"):
            init(tmp_path / "train.csv", tmp_path, language="en", label="label")


@pytest.mark.parametrize(
    "words", [("TRAIN", "TRIAL", "TEST"), ("train", "validation", "eval"), ("training", "", "test")]
)
@pytest.mark.parametrize("ending", ["csv", "parquet", "jsonl"])
def test_an_official_split_column_is_used(tmp_path: Path, words: tuple[str, ...], ending: str):
    words = tuple(x for x in words if x)
    rows = [row | {"set": words[i % 7 % len(words)]} for i, row in enumerate(rows_of(420, "text", "label"))]
    file = save(tmp_path / f"rows.{ending}", rows)
    with pytest.raises(UserError, match="--split-column set, --split or --no-split"):
        init(file, tmp_path, language="en")
    with pytest.raises(UserError, match=r"'[yn][eo]s?' is not a split"):
        init(file, tmp_path, language="en", split_column="label")
    task = init(file, tmp_path, language="en", split_column="set").task
    for split, word in zip(("train", "dev", "test") if len(words) > 2 else ("train", "test"), words, strict=True):
        expected = [row["text"] for row in rows if row["set"] == word]
        assert tasks.load(task, split, "en")["text_a"] == expected
    assert tuple(task.files) == (("train", "dev", "test") if len(words) > 2 else ("train", "test"))


def test_many_languages_lead_to_a_question_with_the_cost(tmp_path: Path):
    codes = ["en", "fr", "de", "es", "it", "nl", "pt", "pl", "ru", "tr", "ar", "zh"]
    rows = [row | {"language": x} for x in codes for row in rows_of(220, "text", "label")]
    file = save(tmp_path / "many.csv", rows)
    with pytest.raises(UserError, match=r"12 languages have training rows .* 2\.2 times .* 1\.2 times"):
        init(file, tmp_path, split=True)
    assert init(file, tmp_path, split=True, supervised=("en", "zh")).task.supervised == ("en", "zh")
    few = [row for row in rows if row["language"] in codes[:10]]
    assert len(init(save(tmp_path / "ten.csv", few), tmp_path, force=True, split=True).task.supervised) == 10


def test_the_summary_has_six_lines_followed_by_missing_splits(tmp_path: Path, capsys):
    rows = [
        row | {"nr": f"n{i % 9}", "source": ("a", "b")[i % 2]} for i, row in enumerate(rows_of(300, "text", "label"))
    ]
    save(tmp_path / "train.csv", rows)
    init(tmp_path / "train.csv", tmp_path, language="en", split=False)
    output = capsys.readouterr().err.splitlines()
    assert [line.split()[0] for line in output[:6]] == ["files", "columns", "labels", "train", "evaluate", "unused"]
    assert output[1].endswith("text = text, label = label")
    assert output[2].endswith("no, yes (not ordinal)")
    assert output[3].endswith("en (300 rows)")
    assert output[5].endswith("columns nr, source")
    assert output[6].startswith("no dev or test rows: mbkd cannot evaluate")
    for name, missing in (("dev", "no test rows"), ("test", "no dev rows")):
        save(tmp_path / f"{name}.csv", rows)
        init(tmp_path / "train.csv", tmp_path, force=True, language="en")
        assert missing in capsys.readouterr().err
        (tmp_path / f"{name}.csv").unlink()


def test_official_files_and_language_folders_are_recognised(tmp_path: Path):
    for language in ("en", "fr"):
        save(tmp_path / "xnli" / f"multinli.train.{language}.tsv", rows_of(9, "premise", "hypo", "label", labels=XNLI))
    for language in ("en", "fr", "de"):
        lines = [f"{a}\t{b}\t{XNLI[i % 3]}\n" for i, (a, b) in enumerate(texts(language, 9))]
        (tmp_path / "xnli" / f"dev-{language}.tsv").write_text("".join(lines).replace("contradictory", "contradiction"))
    task = init(tmp_path / "xnli", tmp_path).task
    assert (task.kind, task.supervised, task.zero_shot) == ("xnli", ("en", "fr"), ("de",))
    assert len(tasks.load(task, "dev", "de")) == 9
    for code in ("eng_Latn", "yor_Latn"):
        for split in ("train", "dev") if code == "eng_Latn" else ("dev",):
            save(tmp_path / "sib" / code / f"{split}.tsv", rows_of(210, "text", "category"))
    task = init(tmp_path / "sib", tmp_path, force=True).task
    assert (task.supervised, task.zero_shot) == (("eng_Latn",), ("yor_Latn",))


def test_a_word_as_file_name_is_a_language_only_if_the_columns_match(tmp_path: Path, capsys):
    for code in ("en", "fr"):
        save(tmp_path / f"{code}.csv", rows_of(210, "text", "label"))
    for word in ("bar", "latin"):  # Bavarian, and Latin
        save(tmp_path / f"{word}.csv", rows_of(210, "drink", "price"))
    init(tmp_path / "en.csv", tmp_path, language=None, split=False)
    assert "Files of fr are next to it" in capsys.readouterr().err
    task = init(tmp_path / "{language}.csv", tmp_path, force=True, split=False).task
    assert task.languages == ("en", "fr")
    output = capsys.readouterr().err
    assert all(f"{word}.csv: not read as {word!r}, because its columns differ (drink, price)" in output
               for word in ("bar", "latin"))  # fmt: skip
    save(tmp_path / "bar.csv", rows_of(210, "text", "label"))
    init(tmp_path / "en.csv", tmp_path, force=True, split=False)
    assert "Files of bar, fr are next to it" in capsys.readouterr().err
    assert init(tmp_path / "{language}.csv", tmp_path, force=True, split=False).task.languages == ("bar", "en", "fr")


def test_split_rows_are_split_again_only_on_request(whole: Path, tmp_path: Path):
    init(whole, tmp_path, split=True)
    save(whole, tickets("en", 330))
    with pytest.raises(UserError, match=r"tickets\.train\.csv: exists already; --force"):
        write(str(whole), tmp_path / "other.yaml", Options(split=True), False, False)
    task = init(whole, tmp_path, force=True, split=True).task
    assert sum(len(tasks.load(task, split, "en")) for split in task.files) == 330
    for option in ({"split": True}, {"split_column": "queue"}):
        with pytest.raises(UserError, match=r"splits exist already \(train .*tickets\.train\.csv, dev"):
            init(tmp_path / "tickets.train.csv", tmp_path, force=True, **option)


def test_a_language_is_accepted_in_any_spelling_of_its_code(tmp_path: Path, capsys):
    codes = ["zho_Hans"] * 3 + ["zho-hans", "pt_BR"]
    rows = [row | {"language": codes[i % 5]} for i, row in enumerate(rows_of(600, "text", "label"))]
    file = save(tmp_path / "rows.csv", rows)
    task = init(file, tmp_path, split=True, supervised=("ZHO-hans",), zero_shot=("pt-br",)).task
    assert (task.supervised, task.zero_shot) == (("zho_Hans",), ("pt_BR",))
    assert sum(len(tasks.load(task, x, "zho_Hans")) for x in task.files) == 480
    assert "'zho_Hans' and 'zho-hans' are zho_Hans" in capsys.readouterr().err


def test_the_summary_describes_how_a_file_is_read(tmp_path: Path, capsys):
    (tmp_path / "rows.tsv").write_text("".join(f"{a}\t{'xy'[i % 2]}\n" for i, (a, _) in enumerate(texts("en", 60))))
    init(tmp_path / "rows.tsv", tmp_path, language="en", header=False, quoting=False, split=False)
    assert "columns   text = 1, label = 2, no header, quotes are text" in capsys.readouterr().err


def test_a_file_in_a_language_folder_identifies_the_other_languages_files(tmp_path: Path, capsys):
    for code in ("eng_Latn", "fra_Latn", "yor_Latn"):
        for split in ("train", "dev", "test") if code != "yor_Latn" else ("dev", "test"):
            save(tmp_path / code / f"{split}.tsv", rows_of(210, "text", "category"))
    with pytest.raises(UserError, match="no training rows found"):
        init(tmp_path / "yor_Latn" / "dev.tsv", tmp_path)
    pattern = tmp_path / "{language}" / "dev.tsv"
    assert f"Files of eng_Latn, fra_Latn are next to it; '{pattern}' selects all of them" in capsys.readouterr().err
    task = init(pattern, tmp_path).task
    assert (task.supervised, task.zero_shot) == (("eng_Latn", "fra_Latn"), ("yor_Latn",))
    assert task.files["train"] == str(tmp_path / "{language}" / "train.tsv")


XNLI = ("entailment", "neutral", "contradictory")
