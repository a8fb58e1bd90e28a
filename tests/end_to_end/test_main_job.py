"""Claims about the main workflow by commands: teachers, students, evaluation, on toy and real text."""

import json
from pathlib import Path

import numpy as np
import pytest
import yaml

from tests.conftest import XNLI, deepspeed, mbkd, run, scalars


@pytest.fixture(scope="module")
def runs(toy_yaml: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of runs with the three teachers that `mbkd teach` trained."""
    folder = tmp_path_factory.mktemp("runs")
    done = mbkd("teach", toy_yaml, "--runs", folder)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.strip().splitlines()) >= 3
    return folder


@pytest.fixture(scope="module")
def student(toy_yaml: Path, runs: Path) -> Path:
    """The run directory of MultiKD + MBLM, from the last output line of `mbkd train`."""
    done = mbkd("train", toy_yaml, "--runs", runs, "--ranks", "2")
    assert done.returncode == 0, done.stderr
    return Path(done.stdout.strip().splitlines()[-1])


def test_train_writes_a_complete_run_directory(student: Path):
    result = json.loads((student / "result.json").read_text())
    assert result["system"] == "MultiKD + MBLM"
    for split in ("dev", "test"):
        assert list(result["accuracy"][split]) == ["en", "fr", "zh", "de", "es", "ja"]
        assert set(result["averages"][split]) == {"S", "Z", "A"}
        assert set(result["mae"][split]) == set(result["accuracy"][split])
        for language, score in result["accuracy"][split].items():
            logits = np.load(student / "logits" / f"{split}.{language}.npy")
            labels = np.load(student / "labels" / f"{split}.{language}.npy")
            assert logits.shape == (len(labels), 5)
            assert (logits.argmax(1) == labels).mean() == pytest.approx(score)
    trained = [(np.load(student / "logits" / f"dev.{x}.npy"), x) for x in ("en", "fr", "zh")]
    classes = [np.load(student / "labels" / f"dev.{x}.npy") for _, x in trained]
    share = max(np.mean(np.concatenate(classes) == each) for each in range(5))
    correct = np.concatenate([logits.argmax(1) == each for (logits, _), each in zip(trained, classes, strict=True)])
    stuck = correct.mean() <= share + 2 * np.sqrt(share * (1 - share) / len(correct))
    assert result.get("at_chance", False) == stuck
    lines = [json.loads(line) for line in (student / "metrics.jsonl").read_text().splitlines()]
    assert any("languages" in line for line in lines)
    assert {line["split"] for line in lines if "split" in line} == {"dev", "test"}
    assert yaml.safe_load((student / "config.yaml").read_text())["student"]["branch_depth"] == 1
    assert json.loads((student / "environment.json").read_text())["ranks"] == 2
    assert not list(student.glob(".*"))  # no partial files remain
    last = {name for name, step, _ in scalars(student) if step == result["steps"]}
    assert {"dev/accuracy/de", "test/accuracy_averages/Z", "lr"} <= last


def test_every_teacher_is_evaluated_on_its_own_language(runs: Path):
    results = [json.loads(f.read_text()) for f in sorted(runs.glob("marc-teacher-*/result.json"))]
    assert [list(r["accuracy"]["test"]) for r in results] == [["en"], ["fr"], ["zh"]]


def test_a_finished_run_is_shown_and_not_trained_again(toy_yaml: Path, runs: Path, student: Path):
    before = (student / "result.json").stat().st_mtime_ns
    done = mbkd("train", toy_yaml, "--runs", runs, "--ranks", "2")
    assert done.returncode == 0
    assert done.stdout.strip().splitlines()[-1] == str(student)
    assert (student / "result.json").stat().st_mtime_ns == before


def test_a_command_on_existing_stores_imports_no_large_packages(toy_yaml: Path, runs: Path, student: Path):
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from mbkd import cli, config, inputs\n"
        "from mbkd.terminal import results\n"
        "from mbkd.train import launch\n"
        f"inputs.prepare(config.read({str(toy_yaml)!r}), Path({str(runs)!r}))\n"
        "print(*{'torch', 'transformers', 'datasets', 'deepspeed'} & sys.modules.keys())"
    )
    done = run("python", "-c", code)
    assert (done.returncode, done.stdout.strip()) == (0, ""), done.stderr


def test_finished_runs_are_shown_as_json(toy_yaml: Path, runs: Path, student: Path):
    done = mbkd("train", toy_yaml, "--runs", runs, "--ranks", "2", "--json")
    result = json.loads((student / "result.json").read_text())
    assert json.loads(done.stdout) == {"directory": str(student), **result}
    teachers = json.loads(mbkd("teach", toy_yaml, "--runs", runs, "--json").stdout)
    assert [teacher["system"] for teacher in teachers] == ["Teacher en", "Teacher fr", "Teacher zh"]


def test_evaluate_reproduces_the_scores_of_the_run(toy_yaml: Path, runs: Path, student: Path, tmp_path: Path):
    out = tmp_path / "scores.json"
    done = mbkd("evaluate", student, toy_yaml, "--split", "test", "--runs", runs, "--out", out, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == json.loads(out.read_text())
    measured = json.loads(out.read_text())["accuracy"]["test"]
    assert measured == json.loads((student / "result.json").read_text())["accuracy"]["test"]


def test_the_trained_folder_loads_with_transformers_alone(student: Path):
    code = (
        "import mbkd\n"
        "from transformers import pipeline\n"
        f"classify = pipeline('text-classification', {str(student / 'model')!r})\n"
        "found = classify({'text': 'Das ist gut.', 'text_pair': 'kitchen'})\n"
        "print((found[0] if isinstance(found, list) else found)['label'])"
    )
    done = run("python", "-c", code)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[-1] in {"1", "2", "3", "4", "5"}


def test_launcher_script_and_command_give_bitwise_equal_results(
    toy_yaml: Path, runs: Path, student: Path, tmp_path: Path
):
    for teacher in runs.glob("marc-teacher-*"):
        (tmp_path / teacher.name).symlink_to(teacher)
    done = deepspeed(2, "launchers/distill.py", toy_yaml, "--runs", tmp_path)
    assert done.returncode == 0, done.stderr
    assert str(tmp_path / student.name) in done.stdout
    for file in [student / "model" / "model.safetensors", *student.glob("logits/*.npy")]:
        assert file.read_bytes() == (tmp_path / student.name / file.relative_to(student)).read_bytes(), file.name


def test_a_student_without_its_teachers_is_refused_with_the_command_to_train_them(toy_yaml: Path, tmp_path: Path):
    done = mbkd("train", toy_yaml, "--runs", tmp_path)
    assert done.returncode == 2
    assert "mbkd teach" in done.stderr
    assert "Traceback" not in done.stderr


def test_data_shows_rows_and_balance(toy_yaml: Path):
    done = mbkd("data", toy_yaml)
    assert done.returncode == 0, done.stderr
    assert "train" in done.stdout
    assert "ja" in done.stdout


def test_recipes_doctor_and_help_run():
    assert "xnli-mbert-mblm" in mbkd("recipes").stdout
    found = mbkd("doctor")
    assert found.returncode == 0, found.stdout
    assert "gloo" in found.stdout or "nccl" in found.stdout
    assert "MultiKD" in mbkd("--help").stdout


@pytest.mark.skipif(not XNLI.is_dir(), reason="real XNLI text is not next to the checkout (../shared/data/xnli)")
def test_real_xnli_is_trained_in_three_languages_and_evaluated_in_fifteen(world: Path, tmp_path: Path):
    zero_shot = "[de, es, ru, ar, hi, vi, bg, el, sw, th, tr, ur]"
    models = world / "models"
    config = tmp_path / "xnli.yaml"
    config.write_text(
        f"""
task: {{kind: xnli, path: {XNLI}, zero_shot: {zero_shot}, limit: 96}}
student: {{backbone: {models}/student, branch_depth: 1}}
teachers:
  en: {{model: {models}/teacher-en}}
  fr: {{model: {models}/teacher-fr}}
  zh: {{model: {models}/teacher-zh}}
teaching: {{lr: 1e-3, epochs: 1}}
distill: {{allow_chance_teachers: true}}
train: {{lr: 1e-3, epochs: 1}}
"""
    )
    taught = mbkd("teach", config, "--runs", tmp_path / "runs", "--ranks", "1")
    assert taught.returncode == 0, taught.stderr
    done = mbkd("train", config, "--runs", tmp_path / "runs", "--ranks", "2")
    assert done.returncode == 0, done.stderr
    result = json.loads((Path(done.stdout.strip().splitlines()[-1]) / "result.json").read_text())
    assert len(result["accuracy"]["dev"]) == 15
    assert result["labels"] == ["entailment", "neutral", "contradiction"]
