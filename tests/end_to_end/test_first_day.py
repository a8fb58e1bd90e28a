"""The first day with rows of one's own: init, data, train, as typed; and the dialogue on a terminal."""

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
    """One CSV file: en and fr with labels enough, de with few."""
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
    """What `mbkd init` writes for them, without a question."""
    out = tickets.with_suffix(".yaml")
    student = world / "models" / "student"
    done = mbkd("init", tickets, "--out", out, "--split", "--no-teachers", "--backbone", student)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [str(out)]
    return out


def test_what_init_writes_trains(configuration: Path, tmp_path: Path):
    done = mbkd("train", configuration, "train.epochs=1", "train.batch_size=16", "--runs", tmp_path, "--ranks", "1")
    assert done.returncode == 0, done.stderr
    result = json.loads((Path(done.stdout.splitlines()[-1]) / "result.json").read_text())
    assert result["system"] == "MultiTrain + MBLM"
    assert (result["supervised"], result["zero_shot"]) == (["en", "fr"], ["de"])
    assert set(result["accuracy"]) == {"dev", "test"}


def test_a_finished_training_is_reused_for_the_same_rows_and_named_for_others(configuration: Path, tmp_path: Path):
    asked = (configuration, "train.epochs=0.2", "train.batch_size=16", "--runs", tmp_path, "--ranks", "1")
    run = Path(mbkd("train", *asked).stdout.splitlines()[-1])
    (file,) = {
        Path(x) for x in yaml.safe_load((run / "config.yaml").read_text())["task"]["files"].values() if "train" in x
    }
    before = file.read_bytes()
    file.write_bytes(before)  # touched
    again = mbkd("train", *asked)
    assert (again.returncode, "finished before" in again.stderr) == (0, True)
    try:
        swapped = {b"billing": b"technical", b"technical": b"billing"}
        file.write_bytes(re.sub(b"billing|technical", lambda found: swapped[found[0]], before))
        other = mbkd("train", *asked)
    finally:
        file.write_bytes(before)
    assert other.returncode == 2
    assert f"  {run}: train rows of en, train rows of fr" in other.stderr
    assert "--fresh" in other.stderr
    assert (run / "result.json").is_file()


def test_data_says_the_same_as_tables_and_as_json(configuration: Path):
    tables, document = mbkd("data", configuration), mbkd("data", configuration, "--json")
    assert (tables.returncode, document.returncode) == (0, 0), tables.stderr + document.stderr
    found = json.loads(document.stdout)
    assert [x["rows"] for x in found["splits"]] == [240, 240, 30, 30, 16, 30, 30, 16]
    for title in ("rows", "tokens a row", "some rows"):
        assert title in tables.stdout
    assert 0 < tables.stdout.count("\nwarning ") <= len(found["warnings"])  # a fact is said once, with its languages


def test_data_shows_what_it_can_without_the_models_and_ends_with_what_would_stop_a_training(configuration: Path):
    done = mbkd("data", configuration, "student.backbone=nobody/nothing", "task.zero_shot=[de, pl]")
    assert done.returncode == 2
    assert "not looked at: tokens of student: nobody/nothing" in done.stdout
    assert done.stdout.count(" 240 ") == 2
    assert done.stderr.splitlines()[-1].startswith("error: ")
    assert "'pl'" in done.stderr


def test_the_dialogue_takes_answers_and_guesses(tickets: Path, tmp_path: Path):
    out = tmp_path / "asked.yaml"
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "mbkd", "init", str(tickets), "--out", str(out), "--no-split", "--label", "queue"],
        stdin=theirs, stdout=theirs, stderr=theirs, env=ENVIRONMENT | {"NO_COLOR": "1"}, cwd=ROOT, close_fds=True,
    )  # fmt: skip
    os.close(theirs)
    answers = {"Column with the text": "body", "Languages to train on": "klingon", "distil them": "n"}
    seen = ""
    while True:
        try:
            part = os.read(ours, 4096).decode()
        except OSError:  # the other end is closed
            break
        seen += part
        question = seen.rsplit("\n", 1)[-1]
        if question.rstrip().endswith("]:"):
            answer = next((x for words, x in answers.items() if words in question), "")
            answers.pop("Languages to train on" if answer == "klingon" else "", None)
            os.write(ours, f"{answer}\n".encode())
            seen += "\n"
    assert process.wait(60) == 0, seen
    assert "no rows of klingon" in seen  # and the question came again
    assert "Column with the label" not in seen  # it was known
    text = out.read_text()
    assert "supervised: [en, fr]" in text
    assert "signal: labels" in text
    assert "#   en: {model: FacebookAI/roberta-large}" in text
