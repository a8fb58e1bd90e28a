"""The edges of the command line: JSON instead of tables, no colours, completion, packages that are not installed."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ENVIRONMENT, ROOT, mbkd, run, scalars


def in_environment(*command: str | Path, **changes: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(x) for x in command],
        capture_output=True, text=True, check=False, cwd=ROOT, env=ENVIRONMENT | changes, stdin=subprocess.DEVNULL,
    )  # fmt: skip


@pytest.fixture(scope="module")
def trained(toy_yaml: Path, tmp_path_factory: pytest.TempPathFactory) -> dict:
    """What `mbkd train --json` prints, and where."""
    runs = tmp_path_factory.mktemp("runs")
    done = mbkd("train", toy_yaml, "distill.signal=labels", "--runs", runs, "--ranks", "1", "--log", "none", "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout) | {"runs": runs}


def test_train_as_json_is_the_result_and_its_directory(trained: dict):
    directory = Path(trained["directory"])
    result = json.loads((directory / "result.json").read_text())
    assert {name: trained[name] for name in result} == result
    assert not (directory / "tensorboard").exists()  # --log none


def test_teach_as_json_is_a_list(toy_yaml: Path, trained: dict):
    one = ["distill.languages=[en]", "teaching.epochs=1"]
    done = mbkd("teach", toy_yaml, *one, "--runs", trained["runs"], "--ranks", "1", "--json")
    assert done.returncode == 0, done.stderr
    (teacher,) = json.loads(done.stdout)
    assert teacher["system"] == "Teacher en"
    found = scalars(Path(teacher["directory"]))
    assert ("dev/accuracy/en", 8) in {(name, step) for name, step, _ in found}


def test_evaluate_as_json_is_what_it_writes(toy_yaml: Path, trained: dict, tmp_path: Path):
    out, runs = tmp_path / "scores.json", trained["runs"]
    done = mbkd("evaluate", trained["directory"], toy_yaml, "--runs", runs, "--out", out, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == json.loads(out.read_text())


def test_recipes_and_doctor_as_json():
    recipes = json.loads(mbkd("recipes", "--json").stdout)
    assert recipes["xnli-mbert-mblm"]["student"]["branch_depth"] == 4
    done = mbkd("doctor", "--json")
    assert done.returncode == 0, done.stdout
    assert "torch" in {each["what"] for each in json.loads(done.stdout)}


@pytest.mark.parametrize("way", ["option", "variable"])
def test_colours_are_off_when_asked(way: str):
    coloured = in_environment(sys.executable, "-m", "mbkd.cli", "recipes", FORCE_COLOR="1")
    assert "\x1b[" in coloured.stdout
    option, variable = (["--no-color"], {}) if way == "option" else ([], {"NO_COLOR": "1"})
    plain = in_environment(sys.executable, "-m", "mbkd.cli", *option, "recipes", FORCE_COLOR="1", **variable)
    assert "\x1b[3" not in plain.stdout  # bold may stay, colours do not


def test_an_unknown_tracker_is_refused_before_anything_starts(toy_yaml: Path, tmp_path: Path):
    done = mbkd("train", toy_yaml, "--runs", tmp_path / "runs", "--log", "tensorbord")
    assert done.returncode == 2
    assert done.stderr == "error: --log tensorbord: one of tensorboard, wandb, mlflow, none\n"
    assert not (tmp_path / "runs").exists()


def test_bash_completes_commands_and_options():
    script = 'eval "$(_MBKD_COMPLETE=source_bash mbkd)"\nCOMP_WORDS=({}) COMP_CWORD={}\n_mbkd_completion mbkd\n'
    for words, last, expected in (("mbkd tea", 1, "teach"), ("mbkd train --check", 2, "--checkpoint-steps")):
        done = run("bash", "-c", script.format(words, last) + 'echo "${COMPREPLY[@]}"')
        assert done.stdout.strip() == expected, done.stderr


@pytest.mark.skipif(not shutil.which("zsh"), reason="zsh is not installed")
def test_zsh_completes_commands():
    functions = '_arguments() { print -l -- "$@" }\ncompdef() { }\n'
    script = 'eval "$(_MBKD_COMPLETE=source_zsh mbkd)"\nwords=(mbkd tea) CURRENT=2\n_mbkd_completion\n'
    assert '"teach":' in run("zsh", "-f", "-c", functions + script).stdout


@pytest.mark.parametrize(
    ("package", "extra", "command"),
    [
        ("onnxruntime", "export", ["export", "{model}"]),
        ("matplotlib", "report", ["mixers", "{model}", "{config}", "--runs", "{runs}"]),
        ("tensorboardX", "", ["train", "{config}", "--runs", "{runs}"]),
    ],
)
def test_a_package_that_is_not_installed_is_named(
    package: str, extra: str, command: list[str], toy_yaml: Path, trained: dict, tmp_path: Path
):
    # Python's own way to say that a module is not to be found, as where it was never installed.
    (tmp_path / "sitecustomize.py").write_text(f"import sys\nsys.modules[{package!r}] = None\n")
    names = {"{model}": trained["directory"], "{config}": str(toy_yaml), "{runs}": str(trained["runs"])}
    typed = [names.get(x, x) for x in command]
    path = os.pathsep.join([str(tmp_path), str(ROOT)])
    done = in_environment(sys.executable, "-m", "mbkd.cli", *typed, PYTHONPATH=path)
    said = [line for line in done.stderr.splitlines() if package in line]
    assert len(said) == 1, done.stderr
    assert ("pip install 'mbkd[" + extra + "]'" if extra else f"pip install {package}") in said[0]
    assert "Traceback" not in done.stderr
    assert done.returncode == (0 if command[0] == "mixers" else 2)  # the weights are there without their picture
