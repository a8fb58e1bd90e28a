"""The edges of the command line: JSON instead of tables, no colours, completion, what is refused at once."""

import json
import shutil
import sys
from pathlib import Path

import pytest

from tests.conftest import mbkd, run


def test_recipes_and_doctor_as_json():
    recipes = json.loads(mbkd("recipes", "--json").stdout)
    assert recipes["xnli-mbert-mblm"]["student"]["branch_depth"] == 4
    done = mbkd("doctor", "--json")
    assert done.returncode == 0, done.stdout
    assert "torch" in {each["what"] for each in json.loads(done.stdout)}


@pytest.mark.parametrize("way", ["option", "variable"])
def test_colours_are_off_when_asked(way: str):
    coloured = run(sys.executable, "-m", "mbkd", "recipes", FORCE_COLOR="1")
    assert "\x1b[" in coloured.stdout
    option, variable = (["--no-color"], {}) if way == "option" else ([], {"NO_COLOR": "1"})
    plain = run(sys.executable, "-m", "mbkd", *option, "recipes", FORCE_COLOR="1", **variable)
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
