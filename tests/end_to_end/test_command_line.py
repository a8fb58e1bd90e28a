"""Claims about the command line: JSON instead of tables, no colours, completion, early refusals."""

import json
import shutil
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from rich.text import Text

from mbkd import __version__
from mbkd.config import paper
from tests.conftest import mbkd, run


def test_recipes_and_doctor_print_json():
    recipes = json.loads(mbkd("recipes", "--json").stdout)
    assert recipes["xnli-mbert-mblm"]["student"]["branch_depth"] == 4
    done = mbkd("doctor", "--json")
    assert done.returncode == 0, done.stdout
    assert "torch" in {each["what"] for each in json.loads(done.stdout)}


@pytest.mark.parametrize("width", [80, 120])
def test_recipe_names_are_complete_in_a_narrow_window(width: int):
    names = list(paper.recipes())
    shown = run(sys.executable, "-m", "mbkd", "recipes", FORCE_COLOR="1", NO_COLOR="1", COLUMNS=str(width)).stdout
    lines = [line.strip("│ ") for line in Text.from_ansi(shown).plain.splitlines()]
    assert [line.split()[0] for line in lines if line.startswith(("xnli", "marc", "sib200"))] == names


def test_the_version_equals_the_packages():
    assert mbkd("--version").stdout == f"mbkd {__version__}\n"


def test_the_help_names_the_commands_of_the_other_packages():
    lines = mbkd("--help").stdout.splitlines()
    for module in ("tuning.sweep", "tuning.efficiency", "analysis.report"):
        assert any(f"python -m {module}" in line for line in lines), module
        assert find_spec(module) is not None


def test_an_output_path_is_checked_before_any_work(tmp_path: Path):
    """The model does not exist, so the message about --out must come first."""
    (tmp_path / "rows.txt").write_text("good\n")
    nowhere, there = tmp_path / "nowhere", tmp_path / "there.json"
    rows = tmp_path / "rows.txt"
    cases = (("predict", rows, "a.tsv"), ("evaluate", "-", "a.json"), ("mixers", "-", "a.csv"), ("init", "", "a.yaml"))
    for command, source, name in cases:
        done = mbkd(command, tmp_path, *([source] if source else []), "--out", nowhere / name)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.startswith(f"error: --out {nowhere / name}: the folder {nowhere} does not exist; create it")
    there.write_text("x")
    done = mbkd("evaluate", tmp_path, "-", "--out", there)
    assert done.stderr.splitlines()[0] == f"{there}: exists and will be overwritten"
    assert there.read_text() == "x"
    done = mbkd("export", tmp_path, "--out", there)
    assert done.stderr == f"error: --out {there}: is a file; name a folder\n"
    done = mbkd("export", tmp_path, "--out", tmp_path)
    assert done.stderr.splitlines()[0] == f"{tmp_path}: exists; its files of the same names will be overwritten"
    assert "use .json, .csv" in mbkd("mixers", tmp_path, "toy", "--out", tmp_path / "a.txt").stderr


@pytest.mark.parametrize("command", [["demo"], ["train", "xnli-mbert-mblm"], ["ensemble", "a", "b"]])
def test_a_file_in_place_of_the_folder_of_runs_is_refused_before_any_work(command: list[str], tmp_path: Path):
    (tmp_path / "runs").touch()
    done = mbkd(*command, "--runs", tmp_path / "runs")
    assert (done.returncode, done.stderr) == (2, f"error: --runs {tmp_path / 'runs'}: is a file; name a folder\n")


def test_the_demo_refuses_a_number_of_processes_before_any_work(tmp_path: Path):
    done = mbkd("demo", "--ranks", "0", "--runs", tmp_path / "runs")
    assert (done.returncode, list(tmp_path.iterdir())) == (2, [])


def test_other_libraries_draw_no_bars_without_a_terminal():
    code = (
        "from mbkd.terminal.bars import no_bars_in_files; no_bars_in_files()\n"
        "import tqdm; list(tqdm.tqdm(range(3)))\n"
        "import datasets; datasets.Dataset.from_dict({'a': [1, 2]}).map(lambda row: row)\n"
        "from huggingface_hub.utils import are_progress_bars_disabled; print(are_progress_bars_disabled())\n"
    )
    done = run(sys.executable, "-c", code)
    assert (done.stdout, done.stderr) == ("True\n", "")


@pytest.mark.parametrize("way", ["option", "variable"])
def test_colours_can_be_disabled(way: str):
    coloured = run(sys.executable, "-m", "mbkd", "recipes", FORCE_COLOR="1")
    assert "\x1b[" in coloured.stdout
    option, variable = (["--no-color"], {}) if way == "option" else ([], {"NO_COLOR": "1"})
    plain = run(sys.executable, "-m", "mbkd", *option, "recipes", FORCE_COLOR="1", **variable)
    assert "\x1b[3" not in plain.stdout  # bold may remain, colours may not


def test_an_unknown_tracker_is_refused_before_anything_starts(toy_yaml: Path, tmp_path: Path):
    done = mbkd("train", toy_yaml, "--runs", tmp_path / "runs", "--log", "tensorbord")
    assert done.returncode == 2
    assert done.stderr == "error: --log tensorbord: must be one of tensorboard, wandb, mlflow, none\n"
    assert not (tmp_path / "runs").exists()


def test_bash_completes_commands_and_options():
    script = 'eval "$(_MBKD_COMPLETE=source_bash mbkd)"\nCOMP_WORDS=({}) COMP_CWORD={}\n_mbkd_completion mbkd\n'
    for words, last, expected in (("mbkd tea", 1, "teach"), ("mbkd train --checkpoint-s", 2, "--checkpoint-steps")):
        done = run("bash", "-c", script.format(words, last) + 'echo "${COMPREPLY[@]}"')
        assert done.stdout.strip() == expected, done.stderr


@pytest.mark.skipif(not shutil.which("zsh"), reason="zsh is not installed")
def test_zsh_completes_commands():
    functions = '_arguments() { print -l -- "$@" }\ncompdef() { }\n'
    script = 'eval "$(_MBKD_COMPLETE=source_zsh mbkd)"\nwords=(mbkd tea) CURRENT=2\n_mbkd_completion\n'
    assert '"teach":' in run("zsh", "-f", "-c", functions + script).stdout
