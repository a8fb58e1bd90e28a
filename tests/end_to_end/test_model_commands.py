"""Claims about commands for trained models, each in a new process and offline."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

from mbkd import api
from tests.conftest import ENVIRONMENT, ROOT, mbkd, run
from tests.hub import REVISION


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def trained(toy_yaml: Path, runs: Path) -> Path:
    """The run directory of MultiTrain + MBLM on the small world."""
    done = mbkd("train", toy_yaml, "distill.signal=labels", "--runs", runs, "--ranks", "1")
    assert done.returncode == 0, done.stderr
    return Path(done.stdout.strip().splitlines()[-1])


def test_transformers_needs_only_the_import_of_mbkd(trained: Path):
    code = (
        "import mbkd\n"
        "from transformers import pipeline\n"
        f"classify = pipeline('text-classification', {str(trained / 'model')!r})\n"
        "pair = classify({'text': 'Das ist gut.', 'text_pair': 'kitchen'})\n"
        "for found in (classify('Das ist gut.'), classify(['bon', 'mauvais']), [pair]):\n"
        "    print(*(each['label'] for each in found))\n"
    )
    done = run("python", "-c", code)
    assert done.returncode == 0, done.stderr
    labels = [line.split() for line in done.stdout.strip().splitlines()[-3:]]
    assert [len(each) for each in labels] == [1, 2, 1]
    assert {x for each in labels for x in each} <= {"1", "2", "3", "4", "5"}
    assert "trust_remote_code" not in done.stderr
    assert "mblm" not in done.stderr


def test_predict_reads_a_pipe_and_continues_after_a_bad_row(trained: Path):
    done = run("bash", "-c", f"printf 'good\\n\\nbad\\n' | python -m mbkd predict {trained}")
    assert done.returncode == 1, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row["line"] for row in rows] == [1, 3]
    assert all(set(row["probabilities"]) == {"1", "2", "3", "4", "5"} for row in rows)
    assert "standard input, line 2: the text is empty" in done.stderr
    assert "rows/s" in done.stderr
    assert "Traceback" not in done.stderr


def test_predictions_match_the_runs_scores(trained: Path, world: Path, tmp_path: Path):
    """The test rows of a language, as a table of pairs, get the labels of the run's logits."""
    from mbkd import config
    from mbkd.config import paper
    from mbkd.data import tasks

    task = paper.find(str(trained / "config.yaml"), []).task
    assert isinstance(task, config.Task)
    rows = tasks.load(task, "test", "ja")
    source = tmp_path / "ja.jsonl"
    source.write_text(
        "".join(json.dumps({"a": a, "b": b}) + "\n" for a, b in zip(rows["text_a"], rows["text_b"], strict=True))
    )
    out = tmp_path / "out.jsonl"
    done = mbkd("predict", trained, source, "--out", out, "--text", "a", "--text-pair", "b")
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    temperature = json.loads((trained / "result.json").read_text())["calibration"]["temperature"]
    assert temperature != 1
    logits = np.load(trained / "logits" / "test.ja.npy") / temperature
    found = [json.loads(line) for line in out.read_text().splitlines()]
    expected = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    assert np.abs(np.array([list(row["probabilities"].values()) for row in found]) - expected).max() < 1e-5


@pytest.fixture(scope="module")
def hub(student: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment of a hub whose cache has the model someone/reviews."""
    home = tmp_path_factory.mktemp("hub")
    cached = home / "hub" / "models--someone--reviews"
    shutil.copytree(student, cached / "snapshots" / REVISION)
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text(REVISION)
    return {"HF_HOME": str(home)}


def test_predict_takes_the_id_of_a_model_on_the_hub(hub: dict[str, str], student: Path, tmp_path: Path):
    rows = tmp_path / "rows.txt"
    rows.write_text("good\nbad\n")
    done = run(sys.executable, "-m", "mbkd", "predict", "someone/reviews", rows, **hub)
    assert done.returncode == 0, done.stderr
    labels = [json.loads(line)["label"] for line in done.stdout.splitlines()]
    assert labels == api.load(student).classify(["good", "bad"])[0]


def test_serve_takes_the_id_of_a_model_on_the_hub_and_stops_even_before_the_first_request(hub: dict[str, str]):
    command = [sys.executable, "-m", "mbkd", "serve", "someone/reviews", "--port", "0"]
    server = subprocess.Popen(command, env=ENVIRONMENT | hub, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    try:
        assert server.stdout.readline().startswith("http://127.0.0.1:")
        server.terminate()
        assert server.wait(60) == 0
    finally:
        server.kill()


@pytest.mark.parametrize("command", ["evaluate", "mixers"])
def test_scores_of_a_model_on_the_hub_need_a_name_before_any_work(command: str, hub: dict[str, str]):
    done = run(sys.executable, "-m", "mbkd", command, "someone/reviews", "xnli-mbert-mblm", **hub)
    assert (done.returncode, done.stdout) == (2, "")
    assert "for the id of a model on the hub, name the output file with --out" in done.stderr


def test_a_missing_file_gives_one_message(trained: Path):
    done = mbkd("predict", trained, "nothing-here.csv")
    assert done.returncode == 2
    assert done.stderr.startswith("error: nothing-here.csv: cannot be read")
    assert len(done.stderr.splitlines()) == 1


def test_mixers_prints_writes_and_draws_the_weights(trained: Path, toy_yaml: Path, runs: Path, tmp_path: Path):
    pytest.importorskip("matplotlib")
    out = tmp_path / "weights.json"
    done = mbkd("mixers", trained, toy_yaml, "--runs", runs, "--out", out)
    assert done.returncode == 0, done.stderr
    assert "outer" in done.stdout
    assert done.stdout.split()[-1] == str(out)
    assert len(json.loads(out.read_text())["rows"]) == 6 * 3
    assert out.with_suffix(".png").is_file()


def test_export_writes_graphs_and_compares_them_in_each_language(trained: Path, toy_yaml: Path):
    pytest.importorskip("onnxruntime")
    done = mbkd("export", trained, toy_yaml, "--dtype", "fp32", "--dtype", "int8")
    assert done.returncode == 0, done.stderr
    for words in ("torch fp32", "onnx fp32", "onnx int8", "accuracy x100", "same label as torch, %"):
        assert words in done.stdout
    folder = Path(done.stdout.split()[-1])
    assert folder == trained / "model" / "onnx"
    engines = json.loads((folder / "export.json").read_text())["engines"]
    assert engines["onnx fp32"]["agreement"] >= 0.999
    measured = json.loads((trained / "result.json").read_text())["accuracy"]["dev"]
    assert engines["torch fp32"]["accuracy"] == pytest.approx(measured)
    assert set(engines["onnx int8"]["accuracy"]) == set(measured)
    assert done.stderr == ""


def test_push_lists_the_files_to_upload(trained: Path):
    done = mbkd("push", trained, "me/my-model", "--private", "--license", "mit", "--dry-run")
    assert done.returncode == 0, done.stderr
    for name in ("README.md", "model.safetensors", "config.json", "tokenizer.json"):
        assert name in done.stdout
    assert "would be uploaded to https://huggingface.co/me/my-model" in done.stdout


def test_push_reports_an_unreachable_hub_in_one_message(trained: Path):
    command = [sys.executable, "-m", "mbkd", "push", trained, "me/my-model"]
    for where in ({"HF_HUB_OFFLINE": "0", "HF_ENDPOINT": "http://127.0.0.1:9"}, {"HF_HUB_OFFLINE": "1"}):
        done = run(*command, **where)
        assert done.returncode == 2, done.stderr
        assert done.stderr.startswith("error: me/my-model: not uploaded (")
        assert "check the network connection" in done.stderr
        assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json"])
def test_a_damaged_model_gives_one_message(name: str, trained: Path, toy_yaml: Path, tmp_path: Path):
    shutil.copytree(trained / "model", tmp_path / "model")
    (tmp_path / "model" / name).write_bytes((tmp_path / "model" / name).read_bytes()[:300])
    for command, *more in (["serve", "--port", "0"], ["evaluate", toy_yaml, "--runs", tmp_path / "runs"]):
        done = mbkd(command, tmp_path / "model", *more)
        assert done.returncode == 2, done.stderr
        (said,) = (line for line in done.stderr.splitlines() if line.startswith("error: "))
        assert str(tmp_path / "model") in said
        assert "cannot be loaded" in said
        assert "Traceback" not in done.stderr


def test_a_model_with_mixers_has_one_inference_setting(trained: Path, toy_yaml: Path, runs: Path):
    done = mbkd("evaluate", trained, toy_yaml, "--runs", runs, "--inference", "single")
    assert done.returncode == 2
    assert "without mixers" in done.stderr
    assert "Traceback" not in done.stderr


# ------------------------------------------------------------------------------------------------- one more language


@pytest.fixture(scope="module")
def with_german(world: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the override that adds German training rows to the task."""
    from mbkd.demo import toy

    folder = tmp_path_factory.mktemp("german")
    for file in (world / "data").iterdir():
        (folder / file.name).symlink_to(file)
    rows = (json.dumps(row) for _, row in toy.reviews("de", "train", 60, 0))
    (folder / "dataset_de_train.json").write_text("\n".join(rows) + "\n")
    return f"task.path={folder}"


@pytest.fixture(scope="module")
def grown(trained: Path, toy_yaml: Path, with_german: str, runs: Path) -> Path:
    """The run directory of the model with a German branch."""
    done = mbkd("grow", trained, toy_yaml, with_german, "--language", "de", "--runs", runs, "--ranks", "1")
    assert done.returncode == 0, done.stderr
    assert "before" in done.stdout
    return Path(done.stdout.strip().splitlines()[-1])


def test_a_grown_model_has_one_more_branch_and_is_otherwise_bitwise_equal(trained: Path, grown: Path):
    from safetensors.numpy import load_file

    old, new = (load_file(run / "model" / "model.safetensors") for run in (trained, grown))
    assert all(np.array_equal(values, new[name]) for name, values in old.items())
    added = {name for name in new if name not in old}
    assert added == {name.replace("branches.0.", "branches.3.") for name in old if name.startswith("branches.0.")}
    mean = {name: sum(old[name.replace("branches.3.", f"branches.{i}.")] for i in range(3)) / 3 for name in added}
    assert any(np.abs(values - new[name]).max() > 1e-4 for name, values in mean.items())


def test_a_grown_run_reports_every_language_before_and_after(trained: Path, grown: Path):
    old, new = (json.loads((run / "result.json").read_text()) for run in (trained, grown))
    assert new["before"]["accuracy"] == old["accuracy"]
    assert new["before"]["mae"] == old["mae"]
    assert (new["system"], new["trained"], new["branches"]) == ("MBLM + de (labels)", ["de"], ["en", "fr", "zh", "de"])
    assert list(new["accuracy"]["test"]) == ["en", "fr", "zh", "de", "es", "ja"]
    assert "| branches | 1 layers for each of en, fr, zh, de |" in (grown / "model" / "README.md").read_text()


def test_a_grown_model_is_evaluated_like_any_other(grown: Path, toy_yaml: Path, runs: Path):
    done = mbkd("evaluate", grown, toy_yaml, "--runs", runs)
    assert done.returncode == 0, done.stderr
    measured = json.loads(Path(done.stdout.split()[-1]).read_text())["accuracy"]
    assert measured["test"] == json.loads((grown / "result.json").read_text())["accuracy"]["test"]


@pytest.mark.slow
def test_a_killed_grown_run_resumes_to_a_bitwise_equal_result(
    trained: Path, grown: Path, toy_yaml: Path, with_german: str, tmp_path: Path
):
    command = ["grow", str(trained), str(toy_yaml), with_german, "--language", "de", "--runs", str(tmp_path)]
    command += ["--ranks", "1", "--checkpoint-steps", "2"]
    process = subprocess.Popen([sys.executable, "-m", "mbkd", *command], env=ENVIRONMENT, cwd=ROOT)
    while not list(tmp_path.glob("*/checkpoints/step-*/manifest.json")):
        assert process.poll() is None
        time.sleep(0.05)
    ranks = [p for p in psutil.Process(process.pid).children(recursive=True) if "mbkd.train.job" in p.cmdline()]
    for rank in ranks:
        rank.kill()
    assert process.wait() != 0
    done = mbkd(*command)
    assert done.returncode == 0, done.stderr
    assert "resuming after step" in done.stderr
    file = Path("model") / "model.safetensors"
    assert (tmp_path / grown.name / file).read_bytes() == (grown / file).read_bytes()


@pytest.mark.parametrize(
    ("package", "extra", "command"),
    [
        ("onnxruntime", "export", ["export", "{model}"]),
        ("matplotlib", "report", ["mixers", "{model}", "{config}", "--runs", "{runs}"]),
        ("tensorboardX", "", ["train", "{config}", "--runs", "{runs}"]),
    ],
)
def test_a_missing_package_is_named(
    package: str, extra: str, command: list[str], toy_yaml: Path, trained: Path, runs: Path, tmp_path: Path
):
    # None in sys.modules fails an import as if the package was not installed.
    (tmp_path / "sitecustomize.py").write_text(f"import sys\nsys.modules[{package!r}] = None\n")
    names = {"{model}": str(trained), "{config}": str(toy_yaml), "{runs}": str(runs)}
    typed = [names.get(x, x) for x in command]
    path = os.pathsep.join([str(tmp_path), str(ROOT)])
    done = run(sys.executable, "-m", "mbkd", *typed, PYTHONPATH=path)
    said = [line for line in done.stderr.splitlines() if package in line]
    assert len(said) == 1, done.stderr
    assert ("pip install 'mbkd[" + extra + "]'" if extra else f"pip install {package}") in said[0]
    assert "Traceback" not in done.stderr
    assert done.returncode == (0 if command[0] == "mixers" else 2)  # the weights are written without the heat map
