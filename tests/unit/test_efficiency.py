"""Claims about the measurement of Table 6's Params and Time."""

import json
import sys
from pathlib import Path

import pytest

from mbkd import config as configuration
from mbkd.config import Config, changed
from mbkd.errors import UserError
from mbkd.estimate import cost
from tests.conftest import run
from tuning import efficiency


@pytest.fixture(scope="module")
def toy(toy_yaml: Path) -> Config:
    return configuration.read(toy_yaml)


def test_single_ens2_and_mblm_are_measured_on_the_same_steps(
    toy_yaml: Path, toy: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(sys, "argv", ["efficiency", str(toy_yaml), "--rounds", "3", "--runs", str(tmp_path)])
    efficiency.main()
    found = json.loads((tmp_path / f"efficiency-{toy.hash}.json").read_text())
    single, pair, mblm = (found["systems"][name] for name in ("Single", "Ens2", "MBLM"))
    assert found["rounds"] == len(found["widths"]) == 3
    for name in ("parameters", "parameters_without_embeddings"):
        assert pair[name] == 2 * single[name]
        assert mblm[name] > single[name]
    assert pair["flops_per_step"] == {x: 2 * flops for x, flops in single["flops_per_step"].items()}
    for each in (single, pair, mblm):
        for times in each["step_seconds"].values():
            assert 0 < times["low"] <= times["median"] <= times["high"]
        assert each["inference_seconds_per_row"] > 0
        assert each["inference_memory_bytes"] > 4 * each["parameters"]
    ratios = found["ratios"]
    assert ratios["predicted"]["cache"] == pytest.approx(
        mblm["flops_per_step"]["cache"] / single["flops_per_step"]["cache"]
    )
    assert {x: round(value, 3) for x, value in ratios["paper"].items()} == {
        "online": 1.102,
        "cache": 1.222,
        "online, - detaching": 1.306,
    }
    shown = capsys.readouterr().out
    assert "predicted by FLOPs" in shown
    assert "1.306" in shown


def test_a_structure_is_recorded_under_its_name(toy: Config, tmp_path: Path):
    """A report expects full branches in a system named MBLM."""
    found = efficiency.measure(changed(toy, {"student": {"branch_rank": 2, "detach": False}}), tmp_path, 1)
    assert list(found["systems"]) == ["Single", "Ens2", "MBLM - detaching, rank 2"]
    assert found["branch_depth"] == toy.student.branch_depth


def test_a_student_without_branches_is_refused(toy: Config, tmp_path: Path):
    with pytest.raises(UserError, match="branch_depth"):
        efficiency.measure(changed(toy, {"student": {"branch_depth": 0}}), tmp_path, 1)
    assert cost.student_size(toy).parameters > 0


def test_an_unwritable_folder_gives_one_message_before_any_measurement(toy_yaml: Path, tmp_path: Path):
    (tmp_path / "file").touch()
    done = run(sys.executable, "-m", "tuning.efficiency", toy_yaml, "--runs", tmp_path / "file" / "runs")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"error: [Errno 20] Not a directory: '{tmp_path / 'file' / 'runs'}'\n"
