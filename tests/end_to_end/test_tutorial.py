"""Claims about the tutorial: its printed commands lead from own rows to a model in use."""

import re
import shutil
from pathlib import Path

import pytest

from mbkd.train.launch import free_port
from tests.conftest import ROOT, run

pytestmark = pytest.mark.skipif(shutil.which("curl") is None, reason="the tutorial sends requests with curl")
TUTORIAL = (ROOT / "docs" / "tutorial.md").read_text(encoding="utf-8")


def script(*headings: str) -> str:
    """Return the bash blocks under some of the tutorial's headings, in order, without the installation."""
    parts = re.split(r"^## (.+)$", TUTORIAL, flags=re.MULTILINE)[1:]
    sections = dict(zip(parts[::2], parts[1::2], strict=True))
    assert set(headings) <= set(sections)
    found = [block for name in headings for block in re.findall(r"^```bash\n(.*?)^```", sections[name], re.M | re.S)]
    assert found
    text = "\n".join(found).replace("source .venv/bin/activate\n", "").replace("make demo\n", "mbkd demo\n")
    return f"set -euo pipefail\ntrap 'kill $(jobs -p) 2>/dev/null || true' EXIT\n{text}"


@pytest.fixture
def folder(world: Path, tmp_path: Path) -> Path:
    """A folder like that of a finished demo, with the tests' tiny encoders."""
    (tmp_path / "runs" / "demo").mkdir(parents=True)
    (tmp_path / "runs" / "demo" / "world").symlink_to(world)
    return tmp_path


def test_a_csv_in_four_languages_becomes_a_model_behind_http(folder: Path):
    text = script("Your rows", "A configuration", "Train", "Serve it")
    text = (
        text.replace("2000", "100").replace("400", "20").replace("8000", free_port())
    )  # the same commands with less work
    done = run("bash", "-c", text, cwd=folder)
    assert done.returncode == 0, done.stderr
    assert '"label"' in done.stdout.splitlines()[-1]


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_whole_tutorial_works_as_printed(tmp_path: Path):
    every = re.findall(r"^## (.+)$", TUTORIAL, re.MULTILINE)[:-1]
    text = script(*every).replace("8000", free_port())
    done = run("bash", "-c", text, cwd=tmp_path, timeout=1800)
    assert done.returncode == 0, done.stderr
    assert "before" in done.stdout
    assert len(list(tmp_path.glob("runs/own-*/result.json"))) == 2
