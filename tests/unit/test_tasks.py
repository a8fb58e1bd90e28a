"""Claims about tasks: every layout of XNLI, MARC and own rows gives the same rows; errors name their place."""

import csv
import json
import os
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = os.environ["HF_DATASETS_OFFLINE"] = "1"  # before `datasets` is imported

import datasets
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mbkd.config import Columns, Task
from mbkd.data import tasks
from mbkd.errors import UserError

SHARED = Path(__file__).parents[2] / "../shared/data/xnli"
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason="real XNLI rows are not here: ../shared/data/xnli")

PAIRS = [  # premise, hypothesis, label; unbalanced quotes as in XNLI, not a quoted CSV
    ('" He said', "He spoke .", "entailment"),
    ("A dog ran", 'The cat "sat', "contradiction"),
    ("One\u2028line", "Two", "neutral"),
]
REVIEWS = [
    {"review_id": "a1", "stars": "5", "review_body": "Great.\u2028Really.", "review_title": "Wow"},
    {"review_id": "a2", "stars": 1, "review_body": "Bad", "review_title": ""},
    {"review_id": "a3", "stars": "3", "review_body": "Fine", "review_title": None},
]
OWN_CSV = """text,label,language,key
"Hello, ""you""
there",pos,en,k1
Hi,neg,en,k2
Hallo,pos,de,k1
Tag,neg,de,k2
"""


def write(file: Path, text: str | bytes) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(text.encode() if isinstance(text, str) else text)
    return file


def tsv(rows: list[tuple[str, ...]], end: str = "\n") -> str:
    return "".join("\t".join(row) + end for row in rows)


def xnli(folder: Path, *languages: str, limit: int | None = None) -> Task:
    return Task(kind="xnli", path=str(folder), supervised=languages or ("en",), limit=limit)


def marc(folder: Path | str, *languages: str) -> Task:
    return Task(kind="marc", path=str(folder), supervised=languages or ("en",))


def own(file: Path | str, *languages: str, labels: tuple[str, ...] = ("neg", "pos"), **columns: str | None) -> Task:
    return Task(
        kind="own",
        files={"train": str(file)},
        labels=labels,
        columns=Columns(**columns),
        supervised=languages or ("en",),
    )


def texts(data: datasets.Dataset) -> list[tuple[str, str, int]]:
    return list(zip(data["text_a"], data["text_b"], data["label"], strict=True))


def refuses(task: Task, *parts: str, split: str = "train", language: str = "en") -> None:
    """Assert that loading raises a UserError with all parts in its message."""
    with pytest.raises(UserError) as caught:
        tasks.load(task, split, language)
    for part in parts:
        assert part in str(caught.value), str(caught.value)


EXPECTED = [(a, b, ("entailment", "neutral", "contradiction").index(label)) for a, b, label in PAIRS]


def xnli_mt(folder: Path, *languages: str) -> None:
    rows = [(a, b, label.replace("contradiction", "contradictory")) for a, b, label in PAIRS]
    for language in languages:
        write(folder / f"multinli.train.{language}.tsv", tsv([("premise", "hypo", "label"), *rows]))


def xnli_1_0(folder: Path, *languages: str, split: str = "dev") -> None:
    rows = [("language", "gold_label", "sentence1_parse", "sentence1", "sentence2", "promptID", "pairID", "match")]
    for language in languages:
        rows += [(language, label, "(ROOT", a, b, "1", f"p{i}", "True") for i, (a, b, label) in enumerate(PAIRS)]
    write(folder / f"xnli.{split}.tsv", tsv(rows))


def hub_folder(folder: Path, *languages: str, label_names: bool = True) -> None:
    """The layout of facebook/xnli: a folder and a configuration per language."""
    label = datasets.ClassLabel(names=["entailment", "neutral", "contradiction"])
    features = datasets.Features(
        {
            "premise": datasets.Value("string"),
            "hypothesis": datasets.Value("string"),
            "label": label if label_names else datasets.Value("int64"),
        }
    )
    lines = ["---", "configs:"]
    for language in languages:
        lines += [f"- config_name: {language}", "  data_files:"]
        for split in ("train", "validation"):
            rows = [{"premise": a, "hypothesis": b, "label": n} for a, b, n in EXPECTED]
            (folder / language).mkdir(parents=True, exist_ok=True)
            data = datasets.Dataset.from_list(rows, features=features)
            pq.write_table(data.data.table, folder / language / f"{split}-00000-of-00001.parquet")
            lines += [f"  - split: {split}", f"    path: {language}/{split}-*"]
    write(folder / "README.md", "\n".join([*lines, "---", ""]))


# --- XNLI ---


@pytest.mark.parametrize("inside", ["", "multinli", "XNLI-MT-1.0/multinli"])
def test_xnli_mt_is_read_with_quotes_as_text_in_each_official_folder_layout(tmp_path, inside):
    xnli_mt(tmp_path / inside, "en", "fr")
    data = tasks.load(xnli(tmp_path, "en", "fr"), "train", "fr")
    assert texts(data) == EXPECTED
    assert data["id"] == ["train-0", "train-1", "train-2"]
    assert set(data["language"]) == {"fr"}
    assert data.column_names == ["text_a", "text_b", "label", "language", "id"]


@pytest.mark.parametrize("inside", ["", "XNLI-1.0"])
def test_xnli_1_0_gives_one_language_with_its_pair_ids(tmp_path, inside):
    xnli_1_0(tmp_path / inside, "ar", "en")
    data = tasks.load(xnli(tmp_path, "en", "ar"), "dev", "en")
    assert texts(data) == EXPECTED
    assert data["id"] == ["p0", "p1", "p2"]


def test_xtreme_is_read_as_plain_lines(tmp_path):
    write(tmp_path / "dev-en.tsv", tsv(PAIRS))
    assert texts(tasks.load(xnli(tmp_path), "dev", "en")) == EXPECTED


def test_quoting_added_by_xtremes_script_is_removed(tmp_path):
    with (tmp_path / "dev-en.tsv").open("w", newline="") as file:
        csv.writer(file, delimiter="\t").writerows(PAIRS)
    assert b'"" He said"' in (tmp_path / "dev-en.tsv").read_bytes()
    assert texts(tasks.load(xnli(tmp_path), "dev", "en")) == EXPECTED


@pytest.mark.parametrize("rows", [[pair[:2] for pair in PAIRS], [(*pair[:2], "neutral") for pair in PAIRS]])
def test_an_xtreme_test_file_without_labels_is_refused_and_is_not_a_split(tmp_path, rows):
    xnli_mt(tmp_path, "en")
    write(tmp_path / "dev-en.tsv", tsv(PAIRS))
    write(tmp_path / "test-en.tsv", tsv(rows))
    task = xnli(tmp_path)
    assert tasks.splits(task) == ("train", "dev")
    refuses(task, "test-en.tsv", "has no labels", "xnli.test.tsv", split="test")


def test_xnli_mt_and_xnli_1_0_work_together_in_one_folder(tmp_path):
    xnli_mt(tmp_path / "XNLI-MT-1.0/multinli", "en")
    xnli_1_0(tmp_path / "XNLI-1.0", "en", split="dev")
    xnli_1_0(tmp_path / "XNLI-1.0", "en", split="test")
    assert tasks.splits(xnli(tmp_path)) == ("train", "dev", "test")
    assert texts(tasks.load(xnli(tmp_path), "test", "en")) == texts(tasks.load(xnli(tmp_path), "train", "en"))


@pytest.mark.parametrize("label_names", [True, False])
def test_a_local_folder_in_the_hub_layout_is_read(tmp_path, label_names):
    hub_folder(tmp_path, "en", "fr", label_names=label_names)
    task = xnli(tmp_path, "en", "fr")
    assert tasks.splits(task) == ("train", "dev")
    data = tasks.load(task, "dev", "fr")
    assert texts(data) == EXPECTED
    assert data["id"] == ["dev-0", "dev-1", "dev-2"]


def test_a_local_folder_in_the_hub_layout_is_read_without_its_readme(tmp_path):
    hub_folder(tmp_path, "en", "fr")
    (tmp_path / "README.md").unlink()
    assert texts(tasks.load(xnli(tmp_path, "en", "fr"), "train", "fr")) == EXPECTED


def test_a_hub_folder_without_a_language_or_split_is_refused_with_the_existing_ones(tmp_path):
    hub_folder(tmp_path, "en", "fr")
    refuses(xnli(tmp_path, "en", "de"), "'de'", "available: en, fr", language="de")
    refuses(xnli(tmp_path), "'test'", split="test")


def test_a_script_in_a_data_folder_is_never_run(tmp_path):
    folder = tmp_path / "xnli"
    hub_folder(folder, "en")
    write(folder / "xnli.py", f"open({str(tmp_path / 'ran')!r}, 'w')")
    refuses(xnli(folder), "scripts are no longer supported", "xnli.py")
    assert not (tmp_path / "ran").exists()


def test_reading_local_data_leaves_no_file_in_the_cache_of_datasets(tmp_path, monkeypatch):
    cache = tmp_path / "cache"
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", cache)
    hub_folder(tmp_path / "hub", "en")
    xnli_mt(tmp_path / "plain", "en")
    for task in (xnli(tmp_path / "hub"), xnli(tmp_path / "plain")):
        tasks.splits(task)
        tasks.load(task, "train", "en")
    assert not cache.exists()


@needs_shared
def test_real_xnli_rows_are_complete_balanced_and_aligned():
    languages = ("en", "fr", "zh", "ar", "bg", "de", "el", "es", "hi", "ru", "sw", "th", "tr", "ur", "vi")
    task = Task(kind="xnli", path=str(SHARED), zero_shot=languages[3:])
    assert tasks.splits(task) == ("train", "dev")
    trains = [tasks.load(task, "train", language) for language in task.supervised]
    assert [len(train) for train in trains] == [15_001] * 3
    assert trains[0]["id"] == trains[2]["id"]
    gold = tasks.load(task, "dev", "en")["label"][:]
    for language in languages:
        labels = tasks.load(task, "dev", language)["label"][:]
        assert [labels.count(label) for label in range(3)] == [830, 830, 830]
        assert labels == gold


# --- MARC ---


def reviews(file: Path, *changes: dict, language: str = "en") -> Path:
    rows = [{**row, "language": language, "product_category": "toy"} for row in REVIEWS]
    for row, change in zip(rows, changes, strict=False):
        row.update(change)
    return write(file, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


@pytest.mark.parametrize("inside", ["", "train"])
def test_marc_pairs_the_body_with_title_and_category(tmp_path, inside):
    reviews(tmp_path / inside / "dataset_en_train.json")
    data = tasks.load(marc(tmp_path), "train", "en")
    assert texts(data) == [("Great.\u2028Really.", "Wow toy", 4), ("Bad", "toy", 0), ("Fine", "toy", 2)]
    assert data["id"] == ["a1", "a2", "a3"]
    assert tasks.splits(marc(tmp_path)) == ("train",)


def test_marc_mirror_with_a_language_column_is_read(tmp_path):
    rows = [{**row, "stars": int(row["stars"]), "product_category": "toy"} for row in REVIEWS]
    table = pa.Table.from_pylist([{**row, "language": x} for x in ("de", "en") for row in rows])
    for split in ("train", "validation"):
        pq.write_table(table, tmp_path / f"{split}.parquet")
    task = marc(tmp_path, "en", "de")
    assert tasks.splits(task) == ("train", "dev")
    assert texts(tasks.load(task, "dev", "de"))[0] == ("Great.\u2028Really.", "Wow toy", 4)
    refuses(marc(tmp_path, "fr"), "no rows for language 'fr'", "de, en", language="fr")


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        ({"stars": "6"}, ("line 2", "'6'", "1, 2, 3, 4, 5")),
        ({"stars": None}, ("line 2", "unknown label ''")),
        ({"review_body": " ", "product_category": ""}, ("line 2", "review_body and title and category are empty")),
        ({"review_id": "a1"}, ("line 2", "'a1'", "line 1")),
    ],
)
def test_an_invalid_marc_row_is_named_with_its_line(tmp_path, change, parts):
    reviews(tmp_path / "dataset_en_train.json", {}, change)
    refuses(marc(tmp_path), "dataset_en_train.json", *parts)


def test_a_line_without_a_json_object_is_named(tmp_path):
    file = reviews(tmp_path / "dataset_en_train.json")
    good = file.read_text()
    write(file, good + '{"stars": 3,\n')
    refuses(marc(tmp_path), "dataset_en_train.json, line 4", "not valid JSON")
    write(file, good + "[1]\n")
    refuses(marc(tmp_path), "line 4", "expected a JSON object")


BAD_JSON = {
    "half of a surrogate pair in a text": (
        r'{"text": "cut \ud83d", "label": "neg"}',
        "'text' holds half of a character",
    ),
    "half of a surrogate pair in a name": (r'{"\ud83d": "x", "label": "neg"}', r"'\ud83d' holds half of a character"),
    "deep nesting": ('{"text": ' + "[" * 100_000, "nested too deeply"),
    "an integer that Python refuses": ('{"text": ' + "1" * 5000 + "}", "thousands of digits"),
}


@pytest.mark.parametrize("case", BAD_JSON)
def test_an_invalid_json_line_is_refused(tmp_path, case):
    line, reason = BAD_JSON[case]
    file = write(tmp_path / "train.jsonl", '{"text": "a", "label": "pos", "language": "en"}\n' + line + "\n")
    refuses(own(file), "train.jsonl, line 2", reason)


def test_json_escapes_of_a_whole_pair_are_a_character(tmp_path):
    rows = [{"text": "\U0001f600", "label": "pos"}, {"text": "b", "label": "neg"}]
    file = write(tmp_path / "train.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    assert "\\ud83d" in file.read_text()
    assert tasks.load(own(file, language=None), "train", "en")["text_a"] == ["\U0001f600", "b"]


# --- the user's own rows ---


def own_file(folder: Path, ending: str) -> Path:
    """The rows of OWN_CSV in another format."""
    rows = list(csv.DictReader(OWN_CSV.splitlines(keepends=True)))
    file = folder / f"train{ending}"
    if ending == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), file)
    elif ending == ".jsonl":
        write(file, "".join(json.dumps(row) + "\n" for row in rows))
    else:
        with file.open("w", newline="", encoding="utf-8-sig") as stream:  # with a byte order mark, as written by Excel
            writer = csv.DictWriter(stream, list(rows[0]), delimiter="\t" if ending == ".tsv" else ",")
            writer.writeheader()
            writer.writerows(rows)
    return file


@pytest.mark.parametrize("ending", [".csv", ".tsv", ".jsonl", ".parquet"])
def test_own_rows_are_the_same_from_every_format(tmp_path, ending):
    file = own_file(tmp_path, ending)
    data = tasks.load(own(file, "en", "de"), "train", "en")
    assert texts(data) == [('Hello, "you"\nthere', None, 1), ("Hi", None, 0)]
    assert data["id"] == ["train-en-0", "train-en-1"]
    assert tasks.load(own(file, "en", "de", id="key"), "train", "de")["id"] == ["k1", "k2"]


def test_one_file_per_language_needs_no_language_column(tmp_path):
    for language in ("en", "de"):
        write(tmp_path / f"train.{language}.csv", f"a,b,y\n{language} one,x,1\n{language} two,y,5\n")
    labels = ("1", "2", "3", "4", "5")
    task = own(tmp_path / "train.{language}.csv", "en", "de", labels=labels, text="a", text_pair="b", label="y")
    assert texts(tasks.load(task, "train", "de")) == [("de one", "x", 0), ("de two", "y", 4)]
    refuses(task, "train.fr.csv", "available languages: de, en", language="fr")


def test_integer_labels_of_a_file_match_their_names(tmp_path):
    rows = [{"text": "a", "label": 1, "language": "en"}, {"text": "b", "label": 2, "language": "en"}]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "train.parquet")
    write(tmp_path / "train.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    for ending in ("parquet", "jsonl"):
        assert tasks.load(own(tmp_path / f"train.{ending}", labels=("1", "2")), "train", "en")["label"] == [
            0,
            1,
        ]


@pytest.mark.parametrize("ending", [".csv", ".tsv"])
def test_a_text_may_exceed_the_csv_modules_default_limit(tmp_path, ending):
    rows = [("text", "label", "language"), ("x" * 300_000, "pos", "en"), ("b", "neg", "en")]
    separator = "," if ending == ".csv" else "\t"
    file = write(tmp_path / f"train{ending}", "".join(separator.join(row) + "\n" for row in rows))
    csv.field_size_limit(131_072)  # another test or the user's program may have raised the limit
    assert [len(x) for x in tasks.load(own(file), "train", "en")["text_a"]] == [300_000, 1]


def test_text_that_other_readers_treat_as_missing_remains_text(tmp_path):
    file = write(tmp_path / "train.csv", "text,label,language\nNA,NA,en\nnull,None,en\n")
    assert tasks.load(own(file, labels=("NA", "None")), "train", "en")["text_a"] == ["NA", "null"]


def test_own_rows_come_from_a_folder_in_the_hub_layout(tmp_path):
    hub_folder(tmp_path, "en", "fr")
    task = Task(
        kind="own",
        path=str(tmp_path),
        files={"train": "train", "dev": "validation"},
        columns=Columns(text="premise", text_pair="hypothesis"),
        labels=("contradiction", "neutral", "entailment"),
        supervised=("en", "fr"),
    )
    assert tasks.splits(task) == ("train", "dev")
    assert tasks.load(task, "dev", "fr")["label"] == [2, 0, 1]


# --- spelling of languages and labels ---


@pytest.mark.parametrize("spelt", ["PT-br", "pt_BR", " pt-br "])
def test_a_language_code_matches_in_any_case_and_with_hyphen_or_underscore(tmp_path, spelt):
    file = write(tmp_path / "train.csv", f"text,label,language\na,pos,pt-BR\nb,neg,{spelt}\nc,pos,pt\n")
    assert tasks.load(own(file, "pt-BR"), "train", "pt-BR")["text_a"] == ["a", "b"]


def test_rows_in_unlisted_languages_are_counted_and_named_once_per_file(tmp_path, caplog):
    rows = ["text,label,language", "a,pos,en", "b,neg,en", "c,pos,de", "d,neg,de", "e,pos,eng", "f,pos,", "g,neg,"]
    file = write(tmp_path / "train.csv", "\n".join(rows))
    task = own(file, "en", "de")
    assert tasks.unlisted(task, "train") == {"": 2, "eng": 1}
    for language in task.languages:
        tasks.load(task, "train", language)
    (message,) = [record.getMessage() for record in caplog.records]
    assert "train.csv: 2 rows of '', 1 row of 'eng', in neither supervised nor zero_shot" in message
    caplog.clear()
    tasks.load(own(write(tmp_path / "typo.csv", file.read_text().replace("eng", "em")), "en", "de"), "train", "de")
    assert "1 row of 'em'" in caplog.text
    for named in (own(file, "en", "de", "eng", "xx"), own(tmp_path / "train.{language}.csv", "en")):
        write(tmp_path / "train.en.csv", "text,label\na,pos\nb,neg\n")
        assert "eng" not in tasks.unlisted(named, "train")


def test_two_codes_of_one_language_are_one_language():
    with pytest.raises(ValueError, match="named twice: PT_br, pt-BR"):
        own("x.csv", "pt-BR", "PT_br")


@pytest.mark.parametrize("labels", [("1", "2", "10"), ("1.0", "2.0", "10.0")])
@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
def test_whole_numbers_are_the_same_labels_in_any_notation(tmp_path, labels, ending):
    rows = [{"text": x, "label": y, "language": "en"} for x, y in (("a", 1.0), ("b", 10.0), ("c", 2.0))]
    frame, file = pd.DataFrame(rows), tmp_path / f"train.{ending}"
    if ending == "parquet":
        frame.to_parquet(file)
    elif ending == "csv":
        frame.to_csv(file, index=False)
    else:
        write(file, "".join(json.dumps(row) + "\n" for row in rows))
    assert tasks.load(own(file, labels=labels), "train", "en")["label"] == [0, 2, 1]


def test_case_and_spaces_of_labels_are_ignored_unless_the_configuration_distinguishes_them(tmp_path):
    file = write(tmp_path / "train.csv", "text,label,language\na, Pos,en\nb,NEG,en\nc,pos ,en\n")
    assert tasks.load(own(file), "train", "en")["label"] == [1, 0, 1]
    file = write(tmp_path / "exact.csv", "text,label,language\na,PER,en\nb,per,en\n")
    assert tasks.load(own(file, labels=("per", "PER")), "train", "en")["label"] == [1, 0]
    file = write(tmp_path / "open.csv", "text,label,language\na,PER,en\nb,Per,en\n")
    refuses(own(file, labels=("per", "PER")), "line 3", "unknown label 'Per'")


def test_a_missing_number_is_not_a_label(tmp_path):
    table = pa.table({"text": ["a", "b", "c"], "label": [1.0, float("nan"), 2.0], "language": ["en"] * 3})
    pq.write_table(table, tmp_path / "train.parquet")
    refuses(own(tmp_path / "train.parquet", labels=("1", "2")), "row 2", "unknown label ''")
    file = write(tmp_path / "train.csv", "text,label,language\na,1,en\nb,nan,en\n")
    refuses(own(file, labels=("1", "2")), "line 3", "unknown label 'nan'")


def test_one_text_of_a_pair_may_be_empty_but_not_both(tmp_path):
    file = write(tmp_path / "train.csv", "text,more,label,language\na,,pos,en\n ,b,neg,en\n")
    assert tasks.load(own(file, text_pair="more"), "train", "en")["text_b"] == ["", "b"]
    refuses(own(file), "line 3", "text is empty")
    file = write(tmp_path / "both.csv", "text,more,label,language\na,,pos,en\n, ,neg,en\n")
    refuses(own(file, text_pair="more"), "line 3", "text and more are empty")


def test_the_configuration_sets_quotes_and_header_of_a_file(tmp_path):
    file = write(tmp_path / "train.tsv", '"a\tneg\n"b ""c""\tpos\n')
    columns = {"text": "1", "label": "2", "language": None, "header": False, "quoted": False}
    assert tasks.load(own(file, **columns), "train", "en")["text_a"] == ['"a', '"b ""c""']
    refuses(own(file, **columns | {"quoted": True}), "line 1", "check the quotes")
    assert tasks.fingerprint(own(file, **columns), "train", "en") != tasks.fingerprint(
        own(file, **columns | {"quoted": True}), "train", "en"
    )


BAD_OWN = {
    "a missing column, with the nearest one": (
        "texts,label,language\na,pos,en\n",
        ("'text'", "did you mean 'texts'"),
    ),
    "a missing label column": ("text,y,language\na,pos,en\n", ("'label'", "available: text, y, language")),
    "an unknown label after a quoted newline": (
        'text,label,language\n"a\nb",pos,en\nc,good,en\n',
        ("line 4", "'good'", "neg, pos"),
    ),
    "an empty text": ("text,label,language\na,pos,en\n  ,neg,en\n", ("line 3", "text is empty")),
    "a language without rows": ("text,label,language\na,pos,de\nb,neg,fr\n", ("'en'", "de, fr")),
    "a header without rows": ("text,label,language\n", ("no rows",)),
    "an empty file": ("", ("is empty",)),
    "a constant label": ("text,label,language\na,pos,en\nb,pos,en\n", ("all 2 rows", "'pos'")),
    "a line with too many fields": (
        "text,label,language\na,pos,en\nb, c,neg,en\n",
        ("line 3", "expected 3 fields", "found 4;"),
    ),
    "a quote that is never closed": (
        'text,label,language\na,pos,en\n"b,neg,en\n',
        ("line 3", "check the quotes"),
    ),
    "bytes that are not UTF-8": (b"text,label,language\na,pos,en\ncaf\xe9,neg,en\n", ("line 3", "not UTF-8")),
}


@pytest.mark.parametrize("case", BAD_OWN)
def test_an_invalid_own_file_is_refused(tmp_path, case):
    text, parts = BAD_OWN[case]
    refuses(own(write(tmp_path / "train.csv", text)), "train.csv", *parts)


def test_a_repeated_id_is_refused_within_a_language_only(tmp_path):
    file = write(tmp_path / "train.csv", OWN_CSV.replace("neg,en,k2", "neg,en,k1"))
    refuses(own(file, "en", "de", id="key"), "line 4", "'k1'", "line 2")
    assert len(tasks.load(own(file, "en", "de", id="key"), "train", "de")) == 2


def test_a_file_with_an_unknown_ending_is_refused(tmp_path):
    refuses(own(write(tmp_path / "train.xlsx", "x")), "'.xlsx'", ".csv, .tsv, .jsonl, .json", "save the sheet as CSV")


def test_a_file_with_a_false_parquet_ending_is_refused(tmp_path):
    refuses(own(write(tmp_path / "train.parquet", "x")), "train.parquet", "not a parquet file")


def test_missing_files_entries_and_language_columns_are_named(tmp_path):
    refuses(own(tmp_path / "none.csv"), "looked for", "none.csv")
    refuses(own(tmp_path / "none.csv"), "no entry for 'dev'", "train", split="dev")
    file = write(tmp_path / "train.csv", OWN_CSV)
    refuses(own(file, "en", "de", language=None), "task.columns.language", "{language}")
    refuses(own(file, "en", "de", language="lang"), "'lang'", "did you mean 'language'")


# --- folders, hub ids, and common rules of all kinds ---


@pytest.mark.parametrize("path", ["./nowhere", "/nowhere/at/all", "~/nowhere-at-all", "a/b/c"])
def test_a_missing_folder_is_reported_as_a_missing_folder(path):
    refuses(xnli(path), "no such folder", "nowhere" if "nowhere" in path else path)


def test_a_path_to_a_file_is_refused(tmp_path):
    refuses(xnli(write(tmp_path / "xnli.zip", "x")), "xnli.zip", "is a file")


def test_an_unreachable_hub_id_gives_one_line():
    with pytest.raises(UserError, match=r"nobody/nothing: cannot be reached .* write \./nobody/nothing") as caught:
        tasks.load(xnli(Path("nobody/nothing")), "train", "en")
    assert "\n" not in str(caught.value)


def test_a_missing_xnli_file_is_reported_with_the_expected_file_and_existing_languages(tmp_path):
    xnli_mt(tmp_path, "en", "fr")
    refuses(xnli(tmp_path, "de"), "multinli.train.de.tsv", "available languages: en, fr", language="de")
    refuses(xnli(tmp_path), "XNLI-1.0/xnli.dev.tsv", "dev-en.tsv", split="dev")


def test_a_zero_shot_language_may_lack_dev_rows(tmp_path):
    xnli_mt(tmp_path, "en")
    for name in ("dev-en", "test-en", "test-de"):
        write(tmp_path / f"{name}.tsv", tsv(PAIRS))
    task = Task(kind="xnli", path=str(tmp_path), supervised=("en",), zero_shot=("de",))
    assert tasks.languages(task, "train") == ("en",)
    assert tasks.languages(task, "dev") == ("en",)
    assert tasks.languages(task, "test") == ("en", "de")
    write(tmp_path / "dev-de.tsv", tsv(PAIRS))
    assert tasks.languages(task, "dev") == ("en", "de")


def test_supervised_languages_need_dev_rows_and_all_languages_need_test_rows(tmp_path):
    write(tmp_path / "dev-de.tsv", tsv(PAIRS))
    task = Task(kind="xnli", path=str(tmp_path), supervised=("en",), zero_shot=("de",))
    assert tasks.languages(task, "dev") == ("en", "de")  # `load` then names the missing files
    assert tasks.languages(task, "test") == ("en", "de")


def test_an_invalid_xnli_line_is_named(tmp_path):
    file = tmp_path / "multinli.train.en.tsv"
    header = "premise\thypo\tlabel\n"
    write(file, header + "a\tb\tneutral\nc\td\n")
    refuses(
        xnli(tmp_path),
        "multinli.train.en.tsv, line 3",
        "expected 3 tab-separated fields (premise, hypo, label), found 2;",
    )
    write(file, header + "a\tb\tneutral\nc\td\tmaybe\n")
    refuses(xnli(tmp_path), "line 3", "'maybe'", "entailment, neutral, contradiction")
    write(file, header.encode() + b"a\tb\tneutral\n\xff\td\tneutral\n")
    refuses(xnli(tmp_path), "line 3", "not UTF-8")
    write(tmp_path / "dev-en.tsv", tsv([*PAIRS, (" ", "", "neutral")]))
    refuses(xnli(tmp_path), "dev-en.tsv, line 4", "premise and hypothesis are empty", split="dev")


def test_an_empty_machine_translation_in_the_training_rows_is_kept(tmp_path):
    file = write(tmp_path / "multinli.train.en.tsv", "premise\thypo\tlabel\na\t\tneutral\nc\td\tentailment\n")
    assert tasks.load(xnli(tmp_path), "train", "en")["text_b"] == ["", "d"]
    write(file, "premise\thypo\tlabel\n\t\tneutral\nc\td\tentailment\n")
    refuses(xnli(tmp_path), "line 2", "premise and hypo are empty")


def test_limit_keeps_the_first_rows_of_every_language_after_the_checks(tmp_path):
    xnli_1_0(tmp_path, "en", "fr")
    assert texts(tasks.load(xnli(tmp_path, "en", "fr", limit=1), "dev", "fr")) == EXPECTED[:1]
    assert len(tasks.load(xnli(tmp_path, "en", "fr", limit=99), "dev", "fr")) == 3


def test_kinds_define_their_labels_and_their_order():
    assert tasks.label_names(xnli(Path("x"))) == ("entailment", "neutral", "contradiction")
    assert tasks.label_names(marc("x")) == ("1", "2", "3", "4", "5")
    assert tasks.label_names(own("x.csv")) == ("neg", "pos")
    ordinal = own("x.csv").model_copy(update={"ordinal": True})
    assert [tasks.is_ordinal(x) for x in (xnli(Path("x")), marc("x"), own("x.csv"), ordinal)] == [
        False,
        True,
        False,
        True,
    ]


def test_the_fingerprint_of_a_file_per_language_differs_from_that_of_a_file_with_a_language_column(tmp_path):
    file = write(tmp_path / "a.en.csv", "text,label,language\none,neg,en\ntwo,pos,fr\n")
    single, each = own(file, "en"), own(tmp_path / "a.{language}.csv", "en")
    assert [len(tasks.load(task, "train", "en", warn=False)) for task in (single, each)] == [1, 2]
    assert tasks.fingerprint(single, "train", "en") != tasks.fingerprint(each, "train", "en")


@pytest.mark.parametrize("layout", [xnli_mt, hub_folder])
def test_the_fingerprint_depends_on_the_bytes_and_the_relevant_fields(tmp_path, layout):
    layout(tmp_path / "a", "en", "fr")
    layout(tmp_path / "b", "en", "fr")
    task = xnli(tmp_path / "a", "en", "fr")
    print_ = tasks.fingerprint(task, "train", "en")
    assert len(print_) == 64
    # The fingerprint is independent of the folder and of other languages.
    assert print_ == tasks.fingerprint(xnli(tmp_path / "b", "en"), "train", "en")
    assert print_ == tasks.load(task, "train", "en")._fingerprint
    others = [
        tasks.fingerprint(task, "train", "fr"),
        tasks.fingerprint(xnli(tmp_path / "a", limit=2), "train", "en"),
    ]
    assert len({print_, *others}) == 3


def test_the_fingerprint_detects_a_changed_file_without_parsing(tmp_path):
    file = write(tmp_path / "train.csv", "this is no table")
    before = tasks.fingerprint(own(file), "train", "en")
    write(file, "this is another thing")
    assert before != tasks.fingerprint(own(file), "train", "en")
    assert tasks.fingerprint(own(file), "train", "en") != tasks.fingerprint(own(file, text="body"), "train", "en")
