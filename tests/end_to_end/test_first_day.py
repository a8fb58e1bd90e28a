"""Claims about a user's first commands on own rows: init, data, train, and the dialogue on a terminal."""

import csv
import json
import os
import pty
import re
import subprocess
import sys
from itertools import islice
from pathlib import Path

import pytest
import yaml

from mbkd.demo import toy
from tests.conftest import ENVIRONMENT, ROOT, mbkd


@pytest.fixture(scope="module")
def tickets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One CSV file: en and fr with enough labels, de with few."""
    file = tmp_path_factory.mktemp("tickets") / "tickets.csv"
    with file.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["body", "queue", "lang"])
        for language, count in (("en", 300), ("fr", 300), ("de", 32)):
            for i, (text, _) in enumerate(islice(toy.unlabelled(language, count), count)):
                writer.writerow([f"{text} {i}", ("billing", "technical")[i % 2], language])
    return file


@pytest.fixture(scope="module")
def configuration(tickets: Path, world: Path) -> Path:
    """The configuration that `mbkd init` writes for these rows without questions."""
    out = tickets.with_suffix(".yaml")
    student = world / "models" / "student"
    done = mbkd("init", tickets, "--out", out, "--split", "--no-teachers", "--backbone", student)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [str(out)]
    return out


def test_the_configuration_of_init_trains(configuration: Path, tmp_path: Path):
    done = mbkd("train", configuration, "train.epochs=1", "train.batch_size=16", "--runs", tmp_path, "--ranks", "1")
    assert done.returncode == 0, done.stderr
    result = json.loads((Path(done.stdout.splitlines()[-1]) / "result.json").read_text())
    assert result["system"] == "MultiTrain + MBLM"
    assert (result["supervised"], result["zero_shot"]) == (["en", "fr"], ["de"])
    assert set(result["accuracy"]) == {"dev", "test"}


def test_a_finished_run_is_reused_for_the_same_rows_and_refused_for_others(configuration: Path, tmp_path: Path):
    arguments = (configuration, "train.epochs=0.2", "train.batch_size=16", "--runs", tmp_path, "--ranks", "1")
    run = Path(mbkd("train", *arguments).stdout.splitlines()[-1])
    (file,) = {
        Path(x) for x in yaml.safe_load((run / "config.yaml").read_text())["task"]["files"].values() if "train" in x
    }
    before = file.read_bytes()
    file.write_bytes(before)  # a new modification time
    again = mbkd("train", *arguments)
    assert (again.returncode, "already finished" in again.stderr) == (0, True)
    try:
        swapped = {b"billing": b"technical", b"technical": b"billing"}
        file.write_bytes(re.sub(b"billing|technical", lambda found: swapped[found[0]], before))
        other = mbkd("train", *arguments)
    finally:
        file.write_bytes(before)
    assert other.returncode == 2
    assert f"  {run}: train rows of en, train rows of fr" in other.stderr
    assert "--fresh" in other.stderr
    assert (run / "result.json").is_file()


def test_data_prints_the_same_as_tables_and_as_json(configuration: Path):
    tables, document = mbkd("data", configuration), mbkd("data", configuration, "--json")
    assert (tables.returncode, document.returncode) == (0, 0), tables.stderr + document.stderr
    found = json.loads(document.stdout)
    assert [x["rows"] for x in found["splits"]] == [240, 240, 30, 30, 16, 30, 30, 16]
    for title in ("rows", "tokens per row", "some rows"):
        assert title in tables.stdout
    assert (
        0 < tables.stdout.count("\nwarning ") <= len(found["warnings"])
    )  # a warning is printed once with its languages


def test_data_works_without_the_models_and_ends_with_the_problems(configuration: Path):
    done = mbkd("data", configuration, "student.backbone=nobody/nothing", "task.zero_shot=[de, pl]")
    assert done.returncode == 2
    assert "not checked: tokens of student: nobody/nothing" in done.stdout
    assert done.stdout.count(" 240 ") == 2
    assert done.stderr.splitlines()[-1].startswith("error: ")
    assert "'pl'" in done.stderr


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of one language without a header, in a folder with the files of ten other languages."""
    folder = tmp_path_factory.mktemp("many")
    for language in ("en", "fr", "de", "es", "it", "nl", "pt", "pl", "ru", "tr", "ar"):
        lines = [
            f"{text} {i}\t{('good', 'bad')[i % 2]}\n"
            for i, (text, _) in enumerate(islice(toy.unlabelled("en", 200), 200))
        ]
        (folder / f"dev-{language}.tsv").write_text("".join(lines))
    return folder / "dev-en.tsv"


def test_header_and_quoting_are_set_with_yes_or_no(many: Path, tmp_path: Path):
    arguments = ("init", many, "--out", tmp_path / "new.yaml", "--no-split", "--language", "en", "--quoting", "no")
    done = mbkd(*arguments)
    assert (done.returncode, "--header yes or --header no" in done.stderr) == (2, True), done.stderr
    done = mbkd(*arguments, "--header", "no")
    assert done.returncode == 0, done.stderr
    columns = yaml.safe_load((tmp_path / "new.yaml").read_text())["task"]["columns"]
    assert (columns["text"], columns["label"], columns["header"], columns["quoted"]) == ("1", "2", False, False)
    assert mbkd(*arguments, "--header", "maybe").returncode == 2


def test_the_dialogue_asks_for_the_other_files_and_the_languages_with_branches(many: Path, tmp_path: Path):
    out = tmp_path / "new.yaml"
    seen = dialogue(
        {"the first line the header": "n", "Languages to train on": "en,tr"}, many, "--out", out, "--no-split"
    )
    assert "(ar, de, es, fr, it, nl, pl, pt, ru, tr). Use all of them?" in seen.replace("\r\n", "")
    assert "11 languages have training rows" in seen
    assert "Zero-shot languages" not in seen  # no rows for an evaluation exist
    task = yaml.safe_load(out.read_text())["task"]
    assert task["files"] == {"train": str(many).replace("-en", "-{language}")}
    assert task["supervised"] == ["en", "tr"]


def dialogue(answers: dict[str, str], *arguments: object) -> str:
    """Return the output of `mbkd init` on a terminal. Each answer is given once; other questions get Enter."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "mbkd", "init", *map(str, arguments)],
        stdin=theirs, stdout=theirs, stderr=theirs, env=ENVIRONMENT | {"NO_COLOR": "1"}, cwd=ROOT, close_fds=True,
    )  # fmt: skip
    os.close(theirs)
    left, seen = dict(answers), ""
    while True:
        try:
            part = os.read(ours, 4096).decode(errors="replace")
        except OSError:  # the other end is closed
            break
        seen += part
        question = seen.rsplit("\n", 1)[-1]
        if question.rstrip().endswith("]:"):
            words = next((x for x in left if x in question), "")
            os.write(ours, f"{left.pop(words, '')}\n".encode())
            seen += "\n"
    os.close(ours)
    assert process.wait(60) == 0, seen
    return seen


def test_the_dialogue_accepts_answers_and_guesses(tickets: Path, tmp_path: Path):
    out = tmp_path / "asked.yaml"
    answers = {"Column with the text": "body", "Languages to train on": "klingon", "distil them": "n"}
    seen = dialogue(answers, tickets, "--out", out, "--no-split", "--label", "queue")
    assert "no rows of klingon" in seen  # the question is repeated
    assert "Column with the label" not in seen  # given as an option
    text = out.read_text()
    assert "supervised: [en, fr]" in text
    assert "signal: labels" in text
    assert "#   en: {model: FacebookAI/roberta-large}" in text
