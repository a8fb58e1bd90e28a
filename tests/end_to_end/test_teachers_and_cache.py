"""Claims about teachers and their cache by commands: both signals train the same student, and no cache is misused."""

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
import yaml
from safetensors.torch import load_file, save_file

from tests.conftest import ENVIRONMENT, ROOT, mbkd

# The job of a rank, with chunks so small that the small world has several.
SMALL_CHUNKS = """
import sys
from mbkd.distill import cache
cache.TOKENS_PER_BATCH, cache.BATCHES_PER_CHUNK = 64, 1
from mbkd.train.job import main
main(sys.argv[1:])
"""


@pytest.fixture(scope="module")
def runs(toy_yaml: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of runs with three teachers."""
    folder = tmp_path_factory.mktemp("runs")
    done = mbkd("teach", toy_yaml, "--runs", folder, "--ranks", "1")
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def built(toy_yaml: Path, runs: Path) -> subprocess.CompletedProcess[str]:
    done = mbkd("cache", toy_yaml, "--runs", runs, "--ranks", "2")
    assert done.returncode == 0, done.stderr
    return done


@pytest.fixture(scope="module")
def online(toy_yaml: Path, runs: Path) -> Path:
    """The run directory of two epochs with online teachers."""
    return directory(mbkd("train", toy_yaml, "train.epochs=2", "--runs", runs, "--ranks", "1"))


@pytest.fixture
def fine_tuned(toy_yaml: Path, runs: Path, tmp_path: Path) -> Path:
    """The same experiment in a separate folder, with one language and a fine-tuned copy of its teacher."""
    values = yaml.safe_load(toy_yaml.read_text())
    (teacher,) = runs.glob("marc-teacher-en-*")
    shutil.copytree(teacher / "model", tmp_path / "teacher")
    values["teachers"] = {"en": {"model": str(tmp_path / "teacher"), "fine_tuned": True}}
    values["distill"] |= {"signal": "cache", "languages": ["en"]}
    file = tmp_path / "own.yaml"
    file.write_text(yaml.safe_dump(values))
    return file


def directory(done: subprocess.CompletedProcess[str]) -> Path:
    assert done.returncode == 0, done.stderr
    return Path(done.stdout.strip().splitlines()[-1])


def job(config: Path, runs: Path) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", SMALL_CHUNKS, str(config), "--cache", "--runs", str(runs)],
        env=ENVIRONMENT, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def finish(process: "subprocess.Popen[str]") -> str:
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    return errors


def logits_file(runs: Path) -> Path:
    (file,) = runs.glob("store/logits/en-*/logits.npy")
    return file


def test_the_cache_shows_the_teachers_and_is_built_once(toy_yaml: Path, runs: Path, built):
    for language in ("en", "fr", "zh"):
        assert built.stderr.count(f"logits of the teacher of {language}  0/") == 1
    assert "own dev accuracy" in built.stderr
    again = mbkd("cache", toy_yaml, "--runs", runs)
    assert again.returncode == 0, again.stderr
    assert "logits of the teacher" not in again.stderr
    assert not [p for p in (runs / "store" / "logits").iterdir() if p.suffix in {".parts", ".whole"}]


def test_a_cached_run_matches_the_online_run(toy_yaml: Path, runs: Path, built, online: Path):
    done = mbkd("train", toy_yaml, "train.epochs=2", "distill.signal=cache", "--runs", runs, "--ranks", "1")
    cached = directory(done)
    assert "logits of the teacher" not in done.stderr
    same = []
    for file in sorted(online.glob("logits/*.npy")):
        a, b = np.load(file), np.load(cached / "logits" / file.name)
        assert np.abs(a - b).max() < 5e-3, file.name
        same.append(a.argmax(1) == b.argmax(1))
    assert len(same) == 12
    assert np.concatenate(same).mean() >= 0.999
    results = [json.loads((x / "result.json").read_text()) for x in (online, cached)]
    assert results[0]["teacher_accuracy"] == results[1]["teacher_accuracy"]
    assert set(results[0]["teacher_accuracy"]) == {"en", "fr", "zh"}
    assert results[0]["made_from"] == results[1]["made_from"]
    assert {"teacher en", "teacher fr", "teacher zh", "backbone", "train rows of en"} <= set(results[1]["made_from"])
    assert json.loads((cached / "environment.json").read_text())["teacher_precision"]["en"] in {"float16", "float32"}


def test_hidden_states_are_matched_and_the_projections_are_not_saved(toy_yaml: Path, runs: Path, online: Path):
    hidden = ["distill.hidden=[{student: 1, teacher: 2}, {student: 2, teacher: 1}]", "distill.hidden_weight=3"]
    matched = directory(mbkd("train", toy_yaml, "train.epochs=2", *hidden, "--runs", runs, "--ranks", "2"))
    names = [load_file(x / "model" / "model.safetensors").keys() for x in (matched, online)]
    assert names[0] == names[1]
    results = [json.loads((x / "result.json").read_text()) for x in (matched, online)]
    assert results[0]["parameters"] == results[1]["parameters"]
    first, second = (
        [json.loads(line)["languages"] for line in (x / "metrics.jsonl").read_text().splitlines() if "kl" in line]
        for x in (matched, online)
    )
    assert len(first) == len(second) > 1
    for ours, theirs in zip(first, second, strict=True):
        assert all(ours[x]["loss"] > theirs[x]["loss"] + 0.1 for x in ours)  # includes the distance
    assert sum(x["loss"] for x in first[-1].values()) < sum(x["loss"] for x in first[0].values())  # decreases


def test_a_killed_build_resumes_to_the_same_bytes_and_two_builders_build_once(fine_tuned: Path, tmp_path: Path):
    two = [job(fine_tuned, tmp_path / "whole") for _ in range(2)]
    outputs = [finish(process) for process in two]
    assert sum("logits of the teacher" in errors for errors in outputs) == 1
    process = job(fine_tuned, tmp_path / "killed")
    while process.poll() is None and len(list(tmp_path.glob("killed/store/logits/*.parts/*.npy"))) < 5:
        time.sleep(0.001)
    psutil.Process(process.pid).kill()
    process.communicate()
    (parts,) = tmp_path.glob("killed/store/logits/*.parts")
    assert not list(tmp_path.glob("killed/store/logits/*/logits.npy"))
    kept = {f.name: f.stat().st_mtime_ns for f in parts.glob("[0-9]*.npy")}
    assert len(kept) >= 5
    finish(job(fine_tuned, tmp_path / "killed"))
    assert logits_file(tmp_path / "killed").read_bytes() == logits_file(tmp_path / "whole").read_bytes()


def test_a_changed_teacher_is_run_again_and_a_resume_is_refused(fine_tuned: Path, tmp_path: Path):
    runs = tmp_path / "runs"
    command = [sys.executable, "-m", "mbkd", "train", str(fine_tuned), "train.epochs=200", "--runs", str(runs)]
    process = subprocess.Popen(
        [*command, "--ranks", "1", "--checkpoint-steps", "5"],
        env=ENVIRONMENT, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    while process.poll() is None and not list(runs.glob("*/checkpoints/step-*")):
        time.sleep(0.01)
    below = psutil.Process(process.pid).children(recursive=True)
    for each in [*below, process]:
        each.kill()
    process.communicate()
    assert list(runs.glob("*/checkpoints/step-*"))
    first = logits_file(runs)
    weights = load_file(tmp_path / "teacher" / "model.safetensors")
    weights["classifier.out_proj.bias"][0] += 1
    save_file(weights, tmp_path / "teacher" / "model.safetensors", metadata={"format": "pt"})
    done = mbkd(*command[3:], "--ranks", "1")
    assert done.returncode == 2, done.stderr
    assert "cannot be resumed" in done.stderr
    assert "teachers en: was" in done.stderr
    assert "cache en: was" in done.stderr
    caches = set(runs.glob("store/logits/en-*/logits.npy"))
    assert len(caches) == 2
    assert first in caches


def test_a_teacher_at_chance_is_refused_with_its_accuracy(fine_tuned: Path, tmp_path: Path):
    done = mbkd("train", fine_tuned, "distill.allow_chance_teachers=false", "distill.signal=online",
                "--runs", tmp_path / "runs", "--ranks", "1")  # fmt: skip
    assert done.returncode == 2
    assert "no better than chance" in done.stderr
    assert "Traceback" not in done.stderr
