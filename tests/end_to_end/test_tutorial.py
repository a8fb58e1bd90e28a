"""The tutorial, command by command as it is printed: from rows of one's own to a model in use."""

import json
import re
from pathlib import Path

import pytest

from tests.conftest import ROOT, run

TUTORIAL = (ROOT / "docs" / "tutorial.md").read_text(encoding="utf-8")


def script(*headings: str) -> str:
    """The bash blocks under some of the tutorial's headings, in its order; the environment is there already."""
    parts = re.split(r"^## (.+)$", TUTORIAL, flags=re.MULTILINE)[1:]
    sections = dict(zip(parts[::2], parts[1::2], strict=True))
    assert set(headings) <= set(sections)
    found = [block for name in headings for block in re.findall(r"^```bash\n(.*?)^```", sections[name], re.M | re.S)]
    assert found
    text = "\n".join(found).replace("source .venv/bin/activate\n", "").replace("make demo\n", "mbkd demo\n")
    return f"set -euo pipefail\n{text}"


def small_steps(text: str) -> str:
    """The same commands with less to do."""
    return text.replace("2000", "100").replace("500, 500", "20, 20").replace("200", "20")


@pytest.fixture
def folder(world: Path, tmp_path: Path) -> Path:
    """An empty folder in which the demo seems to have run, with the tests' tiny encoders."""
    (tmp_path / "runs" / "demo").mkdir(parents=True)
    (tmp_path / "runs" / "demo" / "world").symlink_to(world)
    return tmp_path


def test_from_a_csv_to_a_model_that_answers(folder: Path):
    text = small_steps(script("Your rows", "A configuration", "Train"))
    done = run("bash", "-c", text + "\nprintf 'Das ist gut.\\n' | mbkd predict $MODEL", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["label"] in "12345"


@pytest.mark.slow
def test_the_whole_tutorial_works_as_it_is_printed(tmp_path: Path):
    every = re.findall(r"^## (.+)$", TUTORIAL, re.MULTILINE)[:-1]
    done = run("bash", "-c", script(*every), cwd=tmp_path, timeout=1800)
    assert done.returncode == 0, done.stderr
    assert "before" in done.stdout
    assert len(list(tmp_path.glob("runs/own-*/result.json"))) == 2
