"""Claims about prediction: rows keep their order, bad rows are named, and memory does not depend on the order."""

import csv
import json
import shutil
import subprocess
import sys

import pyarrow.parquet
import pytest
import torch

from mbkd.data.tokens import load_tokenizer
from mbkd.demo import toy
from mbkd.errors import UserError
from mbkd.model import saved
from mbkd.predict import stream as module
from mbkd.predict.stream import predict
from tests.conftest import ENVIRONMENT

LABELS = ("bad", "fair", "good")


@pytest.fixture(scope="module")
def model(student):
    return student


def lines(file):
    return [json.loads(line) for line in file.read_text().splitlines()]


def classify(model, source, out, text="text", pair=None, batch_tokens=256):
    """Return the number of bad rows and the output."""
    return predict(model, source, out, text, pair, batch_tokens), lines(out) if out.suffix == ".jsonl" else None


@pytest.mark.parametrize("pair", [None, "title"])
def test_every_row_of_a_batch_gets_the_answer_that_it_gets_alone(model, tmp_path, monkeypatch, pair):
    monkeypatch.setattr(module, "WINDOW", 16)  # several windows, the last one not full
    reviews = [pair for language in toy.LANGUAGES for pair in toy.unlabelled(language, 7)]
    source = tmp_path / "in.jsonl"
    source.write_text("".join(json.dumps({"text": a, "title": b}) + "\n" for a, b in reviews))
    bad, found = classify(model, source, tmp_path / "out.jsonl", pair=pair)
    assert bad == 0
    assert [row["line"] for row in found] == list(range(1, len(reviews) + 1))
    student, words = saved.load(model), load_tokenizer(model)
    for (text, title), row in zip(reviews, found, strict=True):
        inputs = words(text, title if pair else None, truncation="longest_first", max_length=128, return_tensors="pt")
        with torch.no_grad():
            expected = student(**inputs).logits.softmax(dim=-1)[0]
        assert row["probabilities"] == pytest.approx(dict(zip(LABELS, expected.tolist(), strict=True)), abs=2e-6)
        assert row["label"] == LABELS[int(expected.argmax())]
        assert sum(row["probabilities"].values()) == pytest.approx(1, abs=1e-5)


def test_every_kind_of_file_gives_the_same_answers(model, tmp_path):
    texts = ['a "good" thing, really', "bon ou mauvais", "质量很好。", "x" * 500]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": x}, ensure_ascii=False) + "\n" for x in texts))
    (tmp_path / "a.txt").write_text("\n".join(texts))
    for name, delimiter in (("a.csv", ","), ("a.tsv", "\t")):
        with (tmp_path / name).open("w", newline="") as stream:
            writer = csv.writer(stream, delimiter=delimiter)
            writer.writerows([["id", "text"], *(["1", x] for x in texts)])
    answers = []
    for name in ("a.jsonl", "a.txt", "a.csv", "a.tsv"):
        bad, found = classify(model, tmp_path / name, tmp_path / f"{name}.jsonl")
        assert bad == 0
        answers.append([(row["label"], row["probabilities"]) for row in found])
    assert answers[1:] == answers[:1] * 3


def test_csv_output_equals_json_lines_output(model, tmp_path):
    (tmp_path / "a.txt").write_text("good\nbad\n")
    _, found = classify(model, tmp_path / "a.txt", tmp_path / "out.jsonl")
    classify(model, tmp_path / "a.txt", tmp_path / "out.csv")
    with (tmp_path / "out.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["label"] for row in rows] == [row["label"] for row in found]
    assert [int(row["line"]) for row in rows] == [1, 2]
    for row, other in zip(rows, found, strict=True):
        assert {x: float(row[x]) for x in LABELS} == other["probabilities"]


def test_bad_json_lines_are_named_and_other_lines_are_classified(model, tmp_path, capsys):
    (tmp_path / "a.jsonl").write_bytes(
        b'{"text": "good"}\n{broken\n\n["text"]\n{"text": " "}\n{"text": null}\n{"txt": "x"}\n{"text": ["x"]}\n'
        b'{"text": "\xff"}\n{"text": "\\ud800"}\n' + b"[" * 100_000 + b'\n{"text": 12}\n{"text": "last"}\n'
        b'{"text": ' + b"1" * 5000 + b"}"
    )
    bad, found = classify(model, tmp_path / "a.jsonl", tmp_path / "out.jsonl")
    assert [row["line"] for row in found] == [1, 12, 13]
    shown = capsys.readouterr().err
    assert bad == 10
    for line, reason in {
        2: "not valid JSON",
        4: "expected a JSON object",
        5: "empty",
        6: "empty",
        7: "no field 'text'",
        8: "holds a list",
        9: "not UTF-8",
        10: "not UTF-8",
        11: "not valid JSON",
        14: "thousands of digits",
    }.items():
        assert any(f"a.jsonl, line {line}: " in each and reason in each for each in shown.splitlines()), line
    assert "10 bad rows" in shown


def test_a_malformed_header_is_named_with_its_line(tmp_path):
    (tmp_path / "a.csv").write_text('\n"text"x,title\ngood,x\n')
    with pytest.raises(UserError, match=r"a\.csv, line 2: the header is not well-formed"):
        module.pairs(tmp_path / "a.csv", "text", None)


def test_bad_table_rows_are_named_and_other_rows_are_classified(model, tmp_path, capsys):
    (tmp_path / "a.csv").write_bytes(
        b'\xef\xbb\xbftext,title\ngood,x\nalone\n"two\nlines",x\n\n"bad"quote,x\n\xff,x\n,\nlast,\n"open,x\n'
    )
    bad, found = classify(model, tmp_path / "a.csv", tmp_path / "out.jsonl", pair="title")
    assert [row["line"] for row in found] == [2, 4, 10]
    assert bad == 5
    shown = capsys.readouterr().err
    for line, reason in {
        3: "expected 2 fields (text, title), found 1;",
        7: "quotes",
        8: "not UTF-8",
        9: "empty",
        11: "quotes",
    }.items():
        assert any(f"a.csv, line {line}: " in each and reason in each for each in shown.splitlines()), (line, shown)


def test_a_text_beyond_the_csv_modules_default_limit_is_classified(model, tmp_path):
    (tmp_path / "a.csv").write_text("text\n" + "x" * 300_000 + "\nlast\n")
    csv.field_size_limit(131_072)  # another test may have raised the limit
    bad, found = classify(model, tmp_path / "a.csv", tmp_path / "out.jsonl")
    assert (bad, [row["line"] for row in found]) == (0, [2, 3])


@pytest.mark.parametrize("by", ["its name", "another name", "a link", "a hard link", "standard input"])
def test_the_input_is_refused_as_the_output_and_stays_unchanged(model, tmp_path, monkeypatch, by):
    source = tmp_path / "rows.jsonl"
    source.write_text('{"text": "good"}\n')
    out = tmp_path / "out.jsonl"
    if by == "a link":
        out.symlink_to(source)
    elif by == "a hard link":
        out.hardlink_to(source)
    else:
        out = tmp_path / ".." / tmp_path.name / "rows.jsonl" if by == "another name" else source
    with source.open() as stream, pytest.raises(UserError, match="is also the input; choose another file"):
        monkeypatch.setattr("sys.stdin", stream)
        classify(model, None if by == "standard input" else source, out)
    assert source.read_text() == '{"text": "good"}\n'


def test_missing_files_are_refused_before_anything_is_written(model, tmp_path):
    (tmp_path / "a.csv").write_text("txt,title\ngood,x\n")
    (tmp_path / "a.jsonl").write_text('{"txt": "x"}\n')
    (tmp_path / "a.txt").write_text("x\n")
    (tmp_path / "a.doc").write_text("x\n")
    out = tmp_path / "out.jsonl"
    for source, pair, reason in (
        ("a.csv", None, "did you mean 'txt'"),
        ("a.jsonl", None, "no column 'text'"),
        ("a.txt", "title", "no pairs"),
        ("a.doc", None, "unknown ending"),
        ("none.csv", None, "cannot be read"),
    ):
        with pytest.raises(UserError, match=reason):
            classify(model, tmp_path / source, out, pair=pair)
    with pytest.raises(UserError, match=r"config\.json"):
        classify(tmp_path, tmp_path / "a.txt", out)
    with pytest.raises(UserError, match="unknown ending"):
        classify(model, tmp_path / "a.txt", tmp_path / "out.xls")
    assert not out.exists()


def test_rows_are_read_no_further_ahead_than_a_window(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "WINDOW", 4)
    read = []

    def rows():
        for i in range(100):
            read.append(i)
            yield module.Row(i, "x", None)

    windows = module._windows(rows())
    assert len(next(windows)) == 4
    assert len(read) == 4
    assert len(next(windows)) == 4
    assert len(read) == 8


def test_rows_of_an_open_pipe_are_classified_as_they_arrive(model, tmp_path):
    """The first answer arrives while the writer holds the pipe open, and later rows arrive in order."""
    command = [sys.executable, "-m", "mbkd", "predict", str(model)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=ENVIRONMENT
    ) as process:
        for lines_sent in (["good"], ["bad", "fair"]):
            process.stdin.write("".join(f"{line}\n" for line in lines_sent))
            process.stdin.flush()
            for _ in lines_sent:
                assert json.loads(process.stdout.readline())["label"] in LABELS
        process.stdin.close()
        assert process.stdout.read() == ""
    assert process.returncode == 0


def test_rows_that_arrive_together_form_one_window_and_an_error_follows_them(monkeypatch):
    monkeypatch.setattr(module, "WINDOW", 4)
    monkeypatch.setattr(module, "SECONDS_OPEN", 60.0)

    def rows():
        for i in range(10):
            yield module.Row(i, "x", None)
        raise UserError("the pipe broke")

    windows = module._windows_of_pipe(rows())
    assert [len(next(windows)) for _ in range(3)] == [4, 4, 2]
    with pytest.raises(UserError, match="the pipe broke"):
        next(windows)


def test_no_output_column_appears_twice(tmp_path):
    for ending, separator in (("csv", ","), ("tsv", "\t")):
        with (tmp_path / ending).open("w", newline="") as file:
            module._csv_writer(file, separator)(1, "line", {"line": 0.6, "label": 0.3, "a\tb,c": 0.1})
        with (tmp_path / ending).open(newline="") as file:
            (row,) = csv.DictReader(file, delimiter=separator)
        assert row == {
            "line": "1", "label": "line", "line (class)": "0.600000", "label (class)": "0.300000", "a\tb,c": "0.100000",
        }  # fmt: skip


def test_parquet_input_gives_tsv_output(model, tmp_path):
    texts = ["good thing", "bon ou mauvais"]
    (tmp_path / "a.txt").write_text("\n".join(texts))
    pyarrow.parquet.write_table(pyarrow.table({"id": [1, 2], "text": texts}), tmp_path / "a.parquet")
    _, found = classify(model, tmp_path / "a.txt", tmp_path / "out.jsonl")
    assert classify(model, tmp_path / "a.parquet", tmp_path / "out.tsv") == (0, None)
    with (tmp_path / "out.tsv").open(newline="") as stream:
        rows = list(csv.DictReader(stream, delimiter="\t"))
    assert [row["label"] for row in rows] == [row["label"] for row in found]
    assert [float(row["good"]) for row in rows] == [row["probabilities"]["good"] for row in found]


def test_a_pair_model_warns_about_single_texts(model, tmp_path, capsys):
    trained = shutil.copytree(model, tmp_path / "pairs")
    config = json.loads((trained / "config.json").read_text())
    (trained / "config.json").write_text(json.dumps(config | {"text_pairs": True}))
    (tmp_path / "a.jsonl").write_text('{"text": "good", "title": "x"}\n')
    for folder, pair, shown in ((trained, None, True), (trained, "title", False), (model, None, False)):
        classify(folder, tmp_path / "a.jsonl", tmp_path / "out.jsonl", pair=pair)
        assert ("trained on pairs of texts" in capsys.readouterr().err) == shown
