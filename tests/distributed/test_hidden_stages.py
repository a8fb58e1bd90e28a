"""Claims about hidden-state matching on two ranks: all ZeRO stages train the same student, also after a kill."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml
from safetensors.numpy import load_file

from tests.conftest import mbkd, run
from tests.distributed.test_resume import assert_same, command, kill_everything, outcome, start, wait_for_step

pytestmark = pytest.mark.slow  # a launcher and two ranks for each of nine runs


@pytest.fixture(scope="module")
def config(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MultiKD + MBLM with the second layers matched, in a folder with the teachers' runs."""
    models = world / "models"
    values = {
        "task": {"kind": "marc", "path": str(world / "data"), "supervised": ["en", "fr"], "zero_shot": ["de"]},
        "student": {"backbone": str(models / "student"), "branch_depth": 1},
        "teachers": {x: {"model": str(models / f"teacher-{x}")} for x in ("en", "fr")},
        "teaching": {"lr": 1e-3, "epochs": 1, "batch_size": 8},
        "distill": {
            "hidden": [{"student": 1, "teacher": 1}, {"student": 2, "teacher": 2}],
            "allow_chance_teachers": True,
        },
        # For gradients as small as eps, AdamW turns rounding errors of sums into steps, so eps is larger here.
        "train": {"lr": 1e-3, "epochs": 3, "batch_size": 8, "eps": 1e-5},
    }
    folder = tmp_path_factory.mktemp("hidden")
    (folder / "config.yaml").write_text(yaml.safe_dump(values))
    done = mbkd("teach", folder / "config.yaml", "--runs", folder, "--ranks", "1")
    assert done.returncode == 0, done.stderr
    return folder / "config.yaml"


def with_teachers(config: Path, runs: Path) -> Path:
    """Copy the teachers' runs into a folder of runs and return the folder."""
    for teacher in config.parent.glob("marc-teacher-*"):
        shutil.copytree(teacher, runs / teacher.name)
    return runs


def student(runs: Path) -> dict[str, object]:
    """Return the outcome of the student, after a removal of the teachers' runs."""
    for teacher in runs.glob("marc-teacher-*"):
        shutil.rmtree(teacher)
    return outcome(runs)


@pytest.fixture(scope="module")
def uninterrupted(config: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[int, tuple[Path, dict[str, object]]]:
    found = {}
    for stage in (0, 1, 2):
        runs = with_teachers(config, tmp_path_factory.mktemp(f"stage{stage}"))
        done = run(*command(config, runs, f"train.zero_stage={stage}", ranks=2))
        assert done.returncode == 0, done.stderr
        found[stage] = (runs, student(runs))
    return found


@pytest.mark.parametrize("stage", [1, 2])
def test_every_stage_trains_the_same_student(uninterrupted, stage: int):
    plain, sliced = (load_file(next(uninterrupted[x][0].glob("*/model/model.safetensors"))) for x in (0, stage))
    assert plain.keys() == sliced.keys()
    assert not any("matching" in name for name in plain)  # the projections are not saved
    assert max(float(np.abs(plain[name] - sliced[name]).max()) for name in plain) < 1e-6


@pytest.mark.parametrize("stage", [0, 1, 2])
def test_a_killed_run_resumes_to_the_same_result(config: Path, uninterrupted, tmp_path: Path, stage: int):
    runs = with_teachers(config, tmp_path)
    process = start(config, runs, f"train.zero_stage={stage}", ranks=2)
    wait_for_step(runs, 14, process)
    kill_everything(process)
    done = run(*command(config, runs, f"train.zero_stage={stage}", ranks=2))
    assert done.returncode == 0, done.stderr
    assert "resuming after step" in done.stderr
    assert_same(student(runs), uninterrupted[stage][1])
