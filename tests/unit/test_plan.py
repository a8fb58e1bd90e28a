"""Claims about plans: the counts match the training loop, and assumptions are listed."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from typer.testing import CliRunner

from mbkd import config as configuration
from mbkd import distributed, runs
from mbkd.cli import app
from mbkd.config import Config, changed, paper
from mbkd.errors import UserError
from mbkd.estimate import cost, dry_run, machine, plan

EVEN = machine.Machine(
    1e12, 1e12, "bf16", True, "a TFLOP/s"
)  # with equal speeds of teacher and student, ratios are those of FLOPs


@pytest.fixture(scope="module")
def toy(toy_yaml: Path) -> Config:
    return configuration.read(toy_yaml)


def grid(full: Config) -> list[Config]:
    return [
        changed(full, {"seed": seed, "train": {"lr": lr, "epochs": epochs}})
        for lr in (1e-5, 2e-5, 3e-5)
        for epochs in (2, 3, 5, 7, 10)
        for seed in range(1, 6)
    ]


def test_steps_and_lengths_come_from_the_actual_data(toy: Config, tmp_path: Path):
    read = plan.text(toy, tmp_path)
    assert {x: len(rows) for x, rows in read.lengths.items()} == {"en": 60, "fr": 60, "zh": 60}
    assert read.heldout == {"dev": 6 * 20, "test": 6 * 20}
    found = plan.estimate([toy], tmp_path, EVEN)
    assert found["runs"][0]["steps"] == dry_run.plan(toy, read.lengths).steps == 3 * (60 // 8)
    assert "real rows, mean tokens en" in found["text"][0]


def test_dev_rows_are_counted_once_per_measurement(toy: Config, tmp_path: Path):
    read = plan.text(toy, tmp_path)
    counted = {
        (when, epochs): plan._answers(changed(toy, {"train": {"evaluate": when, "epochs": epochs}}), read)
        for when in ("epoch", "end")
        for epochs in (1, 3)
    }
    assert counted["epoch", 3] == pytest.approx(2 * counted["epoch", 1])  # 3 x dev + test, by 1 x dev + test
    assert counted["end", 3] == counted["end", 1] == counted["epoch", 1]


def test_a_finished_run_costs_nothing(toy: Config, tmp_path: Path):
    other = changed(toy, {"seed": 2})
    run = runs.folder(tmp_path, toy)
    run.mkdir()
    (run / "result.json").write_text("{}")
    both, one = (plan.estimate(x, tmp_path, EVEN)["total"] for x in ([toy, other], [other]))
    assert both == one | {"finished": 1}


def test_the_papers_plan_needs_no_data_and_lists_its_assumptions(tmp_path: Path):
    full = paper.find("xnli-mbert-mblm", [])
    found = plan.estimate([full], tmp_path, machine.on_gpu("a100"))
    assert found["runs"][0]["steps"] == 3 * 3 * (392_702 // 32)
    assert "64 tokens" in found["text"][0]
    assert "assumed 25%" in found["machine"]
    with pytest.raises(UserError, match="H100"):
        machine.on_gpu("abacus")


@pytest.mark.parametrize(
    ("depth", "three_epochs", "ten_epochs", "whole_grid"), [(4, 1.49, 1.79, 1.96), (0, 1.56, 1.95, 2.18)]
)
def test_the_cache_saves_the_time_of_its_flops(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    depth: int,
    three_epochs: float,
    ten_epochs: float,
    whole_grid: float,
):
    """The bounds for 128 tokens per row by hand: epochs (T + S) / (epochs S + T). Evaluation reduces them by 2 %."""
    monkeypatch.setattr(plan, "ASSUMED_LENGTH", 128)
    full = changed(paper.find("xnli-mbert-mblm", []), {"student": {"branch_depth": depth}})
    for configs, expected in (
        ([full], three_epochs),
        ([changed(full, {"train": {"epochs": 10}})], ten_epochs),
        (grid(full), whole_grid),
    ):
        saved = plan.estimate(configs, tmp_path, EVEN)["cache"]
        assert saved["online"] / saved["cache"] == pytest.approx(expected, rel=0.025)


def test_searching_with_one_seed_and_confirming_with_five_saves_at_least_a_factor_of_three(tmp_path: Path):
    configs = grid(paper.find("xnli-mbert-mblm", []))
    found = plan.estimate(configs, tmp_path, EVEN)
    assert len(configs) == 75
    assert found["confirm"]["full"] == pytest.approx(found["total"]["hours"])
    # 405 epochs against 81 + 4 x 10
    assert found["confirm"]["full"] / found["confirm"]["confirm"] == pytest.approx(405 / 121, rel=0.01)
    assert plan.estimate(configs[:1], tmp_path, EVEN)["confirm"] is None


def test_runs_with_a_cache_share_one_pass_of_the_teachers(tmp_path: Path):
    cached = changed(paper.find("xnli-mbert-mblm", []), {"distill": {"signal": "cache"}})
    one, two = (plan.estimate([cached, changed(cached, {"seed": 2})][:n], tmp_path, EVEN) for n in (1, 2))
    each = one["runs"][0]["hours"]
    assert one["runs"][0]["flops"]["teacher"] == 0
    assert two["total"]["hours"] - one["total"]["hours"] == pytest.approx(each)
    assert one["total"]["hours"] == pytest.approx(one["cache"]["cache"])


def test_a_step_takes_at_least_the_time_of_its_launches(tmp_path: Path):
    """The expected seconds of MBLM are those of `benchmarks.gpu` on one H200, in bf16 with cached logits."""
    full = changed(paper.find("xnli-mbert-mblm", []), {"distill": {"signal": "cache"}, "train": {"epochs": 1}})
    h200 = machine.on_gpu("h200")
    for rows, tokens, seconds in ((32, 40, 0.0385), (256, 128, 0.0918)):
        config = changed(full, {"train": {"batch_size": rows}})
        text = plan.Text({x: np.full(2560, tokens) for x in config.languages}, {}, "made up")
        run = plan._run(config, text, h200, 1)
        step = run["hours"] * 3600 / run["steps"]
        assert step == pytest.approx(seconds, rel=0.2)
        assert step == pytest.approx(max(run["flops"]["student"] / run["steps"] / h200.student, 2144 * h200.launch))


def test_a_measured_step_has_the_counted_flops(toy: Config, tmp_path: Path):
    distributed.quiet()
    ranks = distributed.start()
    lengths = plan.text(toy, tmp_path).lengths
    trainer = dry_run.trainer(toy, lengths, ranks)
    trainer.source = dry_run.sources(toy, lengths, ranks)["online"]
    width = dry_run.width(trainer.plan, 0, lengths)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        trainer.step(0)
    counted = cost.student_flops(toy, 8, width) + cost.teacher_flops(toy, 8, width)
    assert counter.get_total_flops() == pytest.approx(counted, rel=1e-4)
    assert torch.stack(trainer.finite).all()
    distributed.stop()


def test_made_up_rows_fit_a_vocabulary_of_bytes():
    rows = np.arange(2000)
    assert dry_run.MadeUp(np.full(len(rows), 4), 3).batch(rows)["input_ids"].max() < 256


def test_plan_measures_this_machine_and_shows_teachers_and_student(toy_yaml: Path, tmp_path: Path):
    done = CliRunner().invoke(app, ["plan", str(toy_yaml), "--runs", str(tmp_path), "--ranks", "1"])
    assert done.exit_code == 0, done.output
    for text in (
        "Teacher en",
        "Teacher zh",
        "MultiKD + MBLM",
        "GFLOP/s in steps of",
        "cache, which runs the teachers once",
    ):
        assert text in done.output
    assert re.search(r"sum: 4 runs, \d+ steps", done.output)
    assert not list(tmp_path.glob("marc-*"))  # no run was started
