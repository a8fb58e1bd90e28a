"""Claims about real files: separators, quotes, encodings, JSON. Files are read correctly or refused with a fix."""

import contextlib
import csv
import gzip
import json
from pathlib import Path

import datasets
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mbkd.data import readers
from mbkd.data.readers import table
from mbkd.errors import UserError
from mbkd.predict.stream import Bad, _rows


def write(file: Path, text: str | bytes) -> Path:
    file.write_bytes(text.encode() if isinstance(text, str) else text)
    return file


def cells(file: Path, **how: bool) -> list[tuple[str, ...]]:
    """Return the rows of a file."""
    return list(zip(*(column.to_pylist() for column in table(file, **how).columns.values()), strict=True))


def predicted(file: Path, *columns: str, **how: bool) -> list[tuple[str | None, ...]]:
    """Return the rows that `mbkd predict` reads: a text, and the second text of a pair; None for a refused row."""
    found = _rows(file, str(file), *columns, *[None] * (2 - len(columns)), **how)
    return [(None,) if isinstance(row, Bad) else (row.text, row.pair)[: len(columns)] for row in found]


def refused(file: Path, *parts: str, predict: str | None = "text", **how: bool) -> None:
    """Assert that training refuses the file with these parts, and that `mbkd predict` refuses the file or each row."""
    with pytest.raises(UserError) as caught:
        found = table(file, **how)
        found.column("text")
        found.column("label")
    for part in parts:
        assert part in str(caught.value), str(caught.value)
    if predict:
        with contextlib.suppress(UserError):
            assert set(predicted(file, predict, **how)) == {(None,)}


# --- separators ---

ROWS = [("text", "label"), ('a "b", c; d | e', "x"), ("two\nlines", "y"), ("plain", "x")]


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("ending", [".csv", ".tsv"])
@pytest.mark.parametrize("quoting", [csv.QUOTE_MINIMAL, csv.QUOTE_ALL])
def test_any_separator_is_detected_in_training_and_prediction(tmp_path, delimiter, ending, quoting):
    with (tmp_path / f"rows{ending}").open("w", newline="") as stream:
        csv.writer(stream, delimiter=delimiter, quoting=quoting).writerows(ROWS)
    assert cells(tmp_path / f"rows{ending}") == ROWS[1:]
    assert predicted(tmp_path / f"rows{ending}", "text", "label") == ROWS[1:]


def test_a_separator_in_a_column_name_is_not_the_files_separator(tmp_path):
    file = write(tmp_path / "a.csv", "Text (de, en);label\nHallo, du;x\nTag;y\n")
    assert cells(file) == [("Hallo, du", "x"), ("Tag", "y")]
    assert cells(write(tmp_path / "b.csv", "text;a,label\nx;y,1\n")) == [("x;y", "1")]
    assert cells(write(tmp_path / "c.csv", "text\none, two\n".replace(",", ";"))) == [("one; two",)]


# --- quotes of tab-separated files ---

PLAIN = {
    "quotes that open and never close": ['"I said', "neg", 'he said "no', "pos"],
    "an open quote that another line's would close": ['"One', "neg", 'two"', "pos"],
    "text in quotes": ['"Stay."', "neg", '"Go!" she said', "pos"],
    "inches and feet": ['6" by 4"', "neg", '"', "pos"],
    "an empty pair of quotes": ['""', "neg", '"" and ""', "pos"],
}


@pytest.mark.parametrize("case", PLAIN)
def test_quotes_of_a_plain_tsv_are_text(tmp_path, case):
    a, x, b, y = PLAIN[case]
    file = write(tmp_path / "rows.tsv", f"text\tlabel\n{a}\t{x}\nmore\tneg\n{b}\t{y}\n")
    assert cells(file) == [(a, x), ("more", "neg"), (b, y)]
    assert predicted(file, "text") == [(a,), ("more",), (b,)]


def test_a_quoted_tsv_is_detected_from_the_whole_file(tmp_path):
    file = tmp_path / "rows.tsv"
    frame = pd.DataFrame({"text": ['a "word"', "b", "tab\there"], "label": [1, 2, 1]})
    for quoting in (csv.QUOTE_MINIMAL, csv.QUOTE_NONNUMERIC, csv.QUOTE_ALL):
        frame.to_csv(file, sep="\t", index=False, quoting=quoting)
        assert [x for x, _ in cells(file)] == ['a "word"', "b", "tab\there"]
        assert predicted(file, "text") == [('a "word"',), ("b",), ("tab\there",)]


def test_ambiguous_quotes_lead_to_a_question_and_either_answer_is_used(tmp_path):
    file = write(tmp_path / "rows.tsv", 'text\tlabel\n"One\tneg\nno label\ntwo"\tpos\nthree\tneg\n')
    refused(file, "--quoting yes or no", "task.columns.quoted")
    assert cells(file, quoted=True) == [("One\tneg\nno label\ntwo", "pos"), ("three", "neg")]
    refused(file, "line 3", "expected 2 fields", "found 1;", quoted=False, predict=None)
    assert predicted(file, "text", quoted=False) == [('"One',), (None,), ('two"',), ("three",)]
    comma = write(tmp_path / "rows.csv", 'text,label\n"a,x\nb","y\n')
    assert cells(comma, quoted=False) == [('"a', "x"), ('b"', '"y')]


def test_a_malformed_record_is_named_with_its_line_and_prediction_continues(tmp_path):
    file = write(tmp_path / "rows.tsv", '"text"\t"label"\n"a ""b"""\t"x"\n"c"d\t"y"\n"e"\t"x"\n')
    refused(file, "line 3", "check the quotes", predict=None)
    assert predicted(file, "text") == [('a "b"',), (None,), ("e",)]


# --- names ---

TWICE = {
    "a.csv": "text,label,text\na,x,b\n",
    "b.tsv": "label\ttext\tlabel\nx\ta\ty\n",
    "c.jsonl": '{"text": "a", "label": "x", "text": "b"}\n',
    "d.json": '[{"text": "a", "label": "x", "label": "y"}]',
    "e.jsonl": '{"text": {"a": 1, "a": 2}, "label": "x"}\n',
    "f.jsonl": '{"text.a": "x", "text": {"a": 1}, "label": "x"}\n',
    "g.csv": ";text;;label\n1;a;;x\n",
}


@pytest.mark.parametrize("name", TWICE)
def test_a_repeated_column_name_is_refused(tmp_path, name):
    refused(write(tmp_path / name, TWICE[name]), "is repeated" if "json" in name else "2 columns are named")


def test_a_repeated_column_name_in_parquet_is_refused(tmp_path):
    columns = [pa.array(["a"]), pa.array(["b"]), pa.array(["x"])]
    pq.write_table(pa.table(columns, names=["text", "text", "label"]), tmp_path / "a.parquet")
    refused(tmp_path / "a.parquet", "2 columns are named 'text'")


def test_a_file_without_a_header_has_numbered_columns(tmp_path):
    file = write(tmp_path / "rows.tsv", "a\tx\nb\ty\n")
    assert table(file, header=False).columns.keys() == {"1", "2"}
    assert cells(file, header=False) == predicted(file, "1", "2", header=False) == [("a", "x"), ("b", "y")]


def test_a_repeated_header_among_the_rows_is_refused(tmp_path):
    for name, sign in (("a.csv", ","), ("b.tsv", "\t")):
        file = write(tmp_path / name, f"text{sign}label\na{sign}x\ntext{sign}label\nb{sign}y\n")
        refused(file, "line 3", "repeats the header", predict=None)
        assert predicted(file, "text") == [("a",), (None,), ("b",)]


# --- values that are not text ---

LISTS = {
    "a list of one": ({"text": "a", "label": ["billing"]}, "'label' holds a list", "label[0]"),
    "a list of objects": ({"text": [{"part": "a"}], "label": "x"}, "'text' holds a list", "text[0]"),
    "an empty list": ({"text": "a", "label": []}, "'label' holds a list", "[]"),
    "an object": ({"text": {"en": "a", "de": "b"}, "label": "x"}, "'text' holds objects", "text.en, text.de"),
    "an object in an object": ({"text": "a", "label": {"gold": {"id": 1}}}, "'label' holds objects", "label.gold.id"),
}


@pytest.mark.parametrize("case", LISTS)
@pytest.mark.parametrize("ending", ["jsonl", "json", "parquet"])
def test_a_list_or_an_object_is_refused_with_the_path_to_the_value(tmp_path, case, ending):
    row, *parts = LISTS[case]
    file = tmp_path / f"rows.{ending}"
    if ending == "parquet":
        if case == "an empty list":
            parts = ["not text"]
        pq.write_table(pa.Table.from_pylist([row, row]), file)
    else:
        write(file, json.dumps(row) + "\n" if ending == "jsonl" else json.dumps([row, row], indent=2))
    refused(file, *parts, predict="text" if "'text'" in parts[0] else None)


def test_a_nested_value_is_a_column(tmp_path):
    row = {"text": {"en": "a", "de": None}, "meta": {"tags": ["x"]}}
    write(tmp_path / "a.jsonl", json.dumps(row) + "\n")
    write(tmp_path / "a.json", json.dumps([row]))
    pq.write_table(pa.Table.from_pylist([row]), tmp_path / "a.parquet")
    for name in ("a.jsonl", "a.json", "a.parquet"):
        assert table(tmp_path / name).column("text.en").to_pylist() == ["a"]
        assert table(tmp_path / name).column("text.de").to_pylist() == [""]
        assert predicted(tmp_path / name, "text.en") == [("a",)]
        with pytest.raises(UserError, match=r"meta\.tags.* holds a list"):
            table(tmp_path / name).column("meta.tags")


def test_json_values_of_every_type_are_read(tmp_path):
    write(tmp_path / "a.jsonl", '{"a": true, "b": NaN, "c": 12, "d": null, "e": 1.50}\n')
    assert cells(tmp_path / "a.jsonl") == [("true", "", "12", "", "1.5")]


# --- parquet ---


def test_a_class_label_keeps_its_names_in_parquet(tmp_path):
    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["ham", "spam", "eggs"])}
    )
    data = datasets.Dataset.from_dict({"text": ["a", "b", "c"], "label": [2, 0, -1]}, features=features)
    data.to_parquet(tmp_path / "a.parquet")
    pq.write_table(pq.read_table(tmp_path / "a.parquet"), tmp_path / "b.parquet")  # as copied by another program
    for name in ("a.parquet", "b.parquet"):
        assert table(tmp_path / name).column("label").to_pylist() == ["eggs", "ham", ""]


def test_pandas_columns_in_parquet_keep_their_meaning(tmp_path):
    frame = pd.DataFrame(
        {"stars": [1.0, 10.0, None], "kind": pd.Categorical(["a", None, "b"]), "yes": [True, False, True]}
    )
    frame.to_parquet(tmp_path / "a.parquet")
    assert cells(tmp_path / "a.parquet") == [("1", "a", "true"), ("10", "", "false"), ("", "b", "true")]
    pq.write_table(pa.table({"x": pa.array([float("nan"), 2.5])}), tmp_path / "b.parquet")
    assert cells(tmp_path / "b.parquet") == [("",), ("2.5",)]


# --- encodings and compression ---


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("name", ["a.csv", "b.tsv", "c.jsonl", "d.json"])
def test_marked_encodings_are_read_in_plain_and_compressed_files(tmp_path, encoding, packed, name):
    sign = "\t" if name.endswith("tsv") else ","
    text = f"text{sign}label\nGrüße 你好{sign}x\n"
    if "json" in name:
        text = json.dumps({"text": "Grüße 你好", "label": "x"}, ensure_ascii=False)
        text = f"[{text}]" if name.endswith("json") else text
    data = text.encode(encoding)
    file = write(tmp_path / (f"{name}.gz" if packed else name), gzip.compress(data) if packed else data)
    assert cells(file) == predicted(file, "text", "label") == [("Grüße 你好", "x")]


def test_utf_16_without_its_mark_or_damaged_gives_no_rows(tmp_path):
    unmarked = write(tmp_path / "a.txt", "first\nsecond\n".encode("utf-16-le"))
    assert set(predicted(unmarked)) == {(None,)}
    with pytest.raises(UserError, match=r"b\.txt: damaged UTF-16"):
        predicted(write(tmp_path / "b.txt", "first\n".encode("utf-16") + b"\x00"))


@pytest.mark.parametrize(
    ("encoding", "named"), [("cp1250", "iconv -f"), ("utf-16-be", "utf-16-be"), ("utf-16-le", "utf-16-le")]
)
def test_another_encoding_is_refused_with_a_command_to_convert(tmp_path, encoding, named):
    text = "text,label\n" + "Příliš žluťoučký kůň úpěl ďábelské ódy,x\n" * 20
    refused(write(tmp_path / "a.csv", text.encode(encoding)), named, "-t UTF-8", predict=None)


@pytest.mark.parametrize(
    ("name", "how"),
    [
        ("a.xlsx", "save the sheet as CSV"),
        ("a.csv.zip", "unzip"),
        ("a.tsv.bz2", "bunzip2"),
        ("dev_text.txt", "dev_labels.txt > rows.tsv"),
        ("us_tweets.txt", "paste"),
        ("a.dat", ".parquet"),
    ],
)
def test_a_file_of_another_format_is_refused_with_a_way_to_convert(tmp_path, name, how):
    write(tmp_path / "dev_labels.txt", "0\n1\n")
    refused(write(tmp_path / name, "a\nb\n"), name, how, predict=None)


def test_output_of_the_paste_command_is_read(tmp_path):
    file = write(tmp_path / "rows.tsv", 'I "love" it\t2\n"meh\t1\n')
    assert cells(file, header=False) == [('I "love" it', "2"), ('"meh', "1")]


def test_damaged_compression_and_json_documents_are_refused(tmp_path):
    refused(write(tmp_path / "a.csv.gz", b"text,label\na,x\n"), "incomplete or damaged gzip file")
    refused(
        write(tmp_path / "b.csv.gz", gzip.compress(b"text,label\na,x\n" * 99)[:-20]), "incomplete or damaged gzip file"
    )
    refused(write(tmp_path / "c.json", json.dumps({"rows": [{"text": "a"}]}, indent=1)), "jq -c '.rows[]'")
    refused(write(tmp_path / "d.json", "[1, 2]"), "row 1", "expected a JSON object")
    refused(write(tmp_path / "e.json", '[{"text": "a"'), "not valid JSON")


def test_carriage_returns_end_lines(tmp_path):
    assert cells(write(tmp_path / "a.csv", "text,label\ra,x\rb,y\r")) == [("a", "x"), ("b", "y")]
    assert cells(write(tmp_path / "b.tsv", "text\tlabel\r\na\tx\r\n\r\nb\ty\r\n")) == [("a", "x"), ("b", "y")]


def test_the_listed_file_endings_are_the_readable_ones():
    assert {readers.kind(Path(f"a{x}")) for x in readers.ENDINGS} == {".csv", ".tsv", ".jsonl", ".json", ".parquet"}
