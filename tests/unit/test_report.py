"""Claims about the report: tables, intervals, verdicts, gaps at the top, and files for other programs."""

import csv
import json
import re
import sys
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from analysis import render, report
from analysis.claims import Claim
from analysis.tables import Cell, Table
from mbkd.config import Config, changed, paper
from mbkd.errors import UserError
from tests.conftest import full_disk
from tests.conftest import run as command
from tests.synthetic import CorrectRows, write_ensemble, write_run

ROWS = 600
SPLITS = ("dev", "test")
# A system's share of correct rows in supervised and zero-shot languages: the paper's order, exaggerated.
SHARES = {
    "MonoKD": (0.70, 0.55),
    "MultiTrain": (0.72, 0.60),
    "MultiKD": (0.80, 0.60),
    "MultiKD + MBLM": (0.80, 0.70),
    "MultiKD + MBLM - detaching": (0.80, 0.60),
    "MultiKD + MBLM + branches at the top": (0.80, 0.75),  # contradicts the paper
}


def correct(of: Config, share: tuple[float, float], seed: int, splits: tuple[str, ...] = SPLITS) -> CorrectRows:
    """Return correct rows. An item is equally hard in every language and for every system."""
    hard, noise = np.random.default_rng(0).random(ROWS), np.random.default_rng(seed + 1)
    return {
        split: {x: hard + noise.normal(0, 0.03, ROWS) < share[x not in of.task.supervised] for x in of.task.languages}
        for split in splits
    }


def configs(task: str, backbone: str = "mbert") -> dict[str, Config]:
    """Return a configuration of every system of SHARES."""
    full = paper.base(paper.TASKS[task](), paper.BACKBONES[backbone])
    found = [paper.system(full, name) for name in paper.SYSTEMS]
    found += [paper.ablation(full, name) for name in ("no-detach", "top")]
    return {of.system: of for of in found}


def write(root: Path, task: str, seeds: range, splits: tuple[str, ...] = SPLITS) -> None:
    """Write runs of the systems of SHARES and of teachers, and ensembles of all pairs of MultiKD."""
    for system, of in configs(task).items():
        members = [changed(of, {"seed": seed}) for seed in seeds]
        for one in members:
            write_run(
                root, one, correct(one, SHARES[system], one.seed, splits), parameters=132 if "MBLM" in system else 100
            )
        if system == "MultiKD":
            for pair in combinations(members, 2):
                found = correct(pair[0], (0.84, 0.63), sum(x.seed for x in pair), splits)
                write_ensemble(root, pair, found, parameters=200)
    for language in ("en", "fr", "zh"):
        teacher = configs(task)["MultiKD"].teacher_run(language)
        write_run(root, teacher, correct(teacher, (0.9, 0.0), 1, splits))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Table], list[Claim], Path]:
    """Three seeds of every system on XNLI, one of MARC."""
    root = tmp_path_factory.mktemp("runs")
    write(root, "xnli", range(1, 4))
    write(root, "marc", range(1, 2))
    _, _, tables, claims = report.make(root, draws=2000)
    return {table.key: table for table in tables}, claims, root


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two finished systems on one split, and a run that is not finished."""
    root = tmp_path_factory.mktemp("small")
    for name in ("MultiTrain", "MultiKD"):
        one = configs("xnli")[name]
        write_run(root, one, correct(one, SHARES[name], 1, ("test",)))
    (root / "xnli-unfinished").mkdir()
    (root / "xnli-unfinished" / "config.yaml").write_text("seed: 1")
    return root


def row(table: Table, label: str) -> dict[str, Cell]:
    (found,) = [x for x in table.rows if x.label == label]
    return dict(zip(table.columns, found.cells, strict=True))


def test_all_tables_appear_in_the_papers_order(made: tuple[dict[str, Table], list[Claim], Path]):
    keys = [key for key in made[0] if not key.endswith("-intervals")]
    assert keys[:8] == [f"table-{n}" for n in range(1, 9)]
    assert keys[8:] == ["marc-ablations", "marc-dev", "marc-dev-mae", "marc-efficiency"]


def test_a_cell_is_the_mean_over_seeds_with_its_deviation(made: tuple[dict[str, Table], list[Claim], Path]):
    tables, _, root = made
    results = [json.loads((x / "result.json").read_text()) for x in root.glob("xnli-multikd-s*")]
    values = [100 * result["accuracy"]["test"]["th"] for result in results]
    cell = row(tables["table-3"], "MultiKD")["th"]
    assert (cell.text, cell.n) == (f"{np.mean(values):.2f}", 3)
    assert cell.std == pytest.approx(np.std(values, ddof=1))
    means = [100 * result["averages"]["test"]["Z"] for result in results]
    assert row(tables["table-3"], "MultiKD")["AVG(Z)"].value == pytest.approx(np.mean(means))
    assert row(tables["table-3"], "MultiKD")["runs"].text == "3"


def test_rows_of_tables_5_and_6_are_ordered_as_in_the_paper(made: tuple[dict[str, Table], list[Claim], Path]):
    labels = [x.label for x in made[0]["table-5"].rows]
    assert labels == ["mBERT", "+ MBLM", "- detaching", "+ branches at the top"]
    assert [x.label for x in made[0]["table-6"].rows] == ["Single", "Ens2", "MBLM"]
    assert [row(made[0]["table-6"], x)["Params"].text for x in ("Single", "Ens2", "MBLM")] == [
        "1.00×",
        "2.00×",
        "1.32×",
    ]
    assert "dev" in made[0]["table-5"].title and "dev" in made[0]["table-6"].title


def test_time_comes_from_the_efficiency_record_not_from_runs_with_cached_teachers(tmp_path: Path):
    for name in ("MultiKD", "MultiKD + MBLM"):
        one = changed(configs("xnli")[name], {"distill": {"signal": "cache"}})
        write_run(tmp_path, one, correct(one, SHARES[name], 1, ("dev",)))
    tables, claims = report.make(tmp_path, draws=1000)[2:]
    (time,) = [claim for claim in claims if claim.text.startswith("Time")]
    assert time.verdict == "not measured"
    assert "teachers cache" in " ".join(next(table for table in tables if table.key == "table-6").notes)

    def system(parameters: int, seconds: float) -> dict[str, object]:
        return {"parameters": parameters, "step_seconds": {"online": {"median": seconds}}}

    record = {
        "kind": "efficiency", "task": "xnli", "backbone": paper.BACKBONES["mbert"], "machine": "a GPU", "rounds": 30,
        "systems": {"Single": system(100, 1.0), "Ens2": system(200, 2.0), "MBLM": system(132, 1.2)},
        "ratios": {"measured": {"online": 1.12, "cache": 1.3}},
    }  # fmt: skip
    (tmp_path / "efficiency-1.json").write_text(json.dumps(record))
    record |= {"systems": {"Single": system(100, 1.0), "MBLM, rank 8": system(104, 1.1)}}
    record |= {"ratios": {"measured": {"online": 1.07}}}
    (tmp_path / "efficiency-0.json").write_text(json.dumps(record))
    low = changed(configs("xnli")["MultiKD + MBLM"], {"student": {"branch_rank": 8}, "distill": {"signal": "cache"}})
    write_run(tmp_path, low, correct(low, SHARES["MultiKD + MBLM"], 1, ("dev",)))
    tables, claims = report.make(tmp_path, draws=1000)[2:]
    table = next(table for table in tables if table.key == "table-6")
    assert [row(table, "MBLM")[x].text for x in ("Params", "Time")] == ["1.32×", "1.12×"]
    assert [row(table, "MBLM, rank 8")[x].text for x in ("Params", "Time")] == ["1.04×", "1.07×"]
    assert "Params and Time measured in turn, teachers online, 30 rounds (a GPU)" in " ".join(table.notes)
    (time,) = [claim for claim in claims if claim.text.startswith("Time")]
    assert (time.verdict, time.n) == ("holds", "30 rounds")
    for depth in (2, 4, None):  # a record of K = 4 is preferred to records of another K or without K
        other = {**record, "systems": {"Single": system(100, 1.0), "MBLM": system(100 + (depth or 0), 1.1)}}
        other |= {"branch_depth": depth} if depth else {}
        (tmp_path / f"efficiency-0{depth}.json").write_text(json.dumps(other))
        tables = report.make(tmp_path, draws=1000)[2]
        table = next(table for table in tables if table.key == "table-6")
        assert row(table, "MBLM")["Params"].text == ("1.32×" if depth == 2 else "1.04×")
    (tmp_path / "efficiency-04.json").unlink()
    problems = report.make(tmp_path, draws=1000)[0].problems
    assert any("2 records of tuning.efficiency contain MBLM without a branch depth" in x.what for x in problems)


def test_table_2_shows_each_teacher_in_its_language(made: tuple[dict[str, Table], list[Claim], Path]):
    table = made[0]["table-2"]
    assert [x.label for x in table.rows] == ["(en) RoBERTa", "(fr) CamemBERT", "(zh) RoBERTa-wwm-ext", "Average"]
    assert table.columns == ["XNLI", "MARC"]
    each = [row(table, x)["XNLI"].value or 0.0 for x in ("(en) RoBERTa", "(fr) CamemBERT", "(zh) RoBERTa-wwm-ext")]
    assert row(table, "Average")["XNLI"].value == pytest.approx(np.mean(each))


def test_dev_chooses_between_two_teachers_of_a_language_for_the_average_of_table_2(tmp_path: Path):
    of = configs("xnli")["MultiKD"]
    write_run(tmp_path, of, correct(of, (0.8, 0.7), 1))
    other = changed(of, {"teachers": {"en": {"model": "other/encoder"}}})
    for one, shares in ((of.teacher_run("en"), (0.9, 0.6)), (other.teacher_run("en"), (0.5, 0.8))):
        right = [correct(one, (share, 0.0), 1, (split,)) for split, share in zip(SPLITS, shares, strict=True)]
        write_run(tmp_path, one, {**right[0], **right[1]})
    for language in ("fr", "zh"):
        write_run(tmp_path, of.teacher_run(language), correct(of.teacher_run(language), (0.6, 0.0), 1))
    table = {table.key: table for table in report.make(tmp_path, draws=1000)[2]}["table-2"]
    assert row(table, "(en) encoder")["XNLI"].value == pytest.approx(80, abs=5)
    assert row(table, "Average")["XNLI"].value == pytest.approx(60, abs=5)


def test_table_2_has_the_preferred_of_two_sweeps_of_teachers(tmp_path: Path):
    one, other = (
        changed(configs("xnli")["MultiKD"], {"teaching": {"lr": lr}}).teacher_run("en") for lr in (1e-5, 2e-5)
    )
    for teacher, share in ((one, 0.9), (other, 0.5)):
        write_run(tmp_path, teacher, correct(teacher, (share, 0.0), 1))
    for name, chosen in (("teachers-1", one), ("teachers-2", other)):
        write_sweep(tmp_path, name, {"en": [chosen]})
    collection, _, tables, _ = report.make(tmp_path, draws=1000)
    assert row({table.key: table for table in tables}["table-2"], "(en) RoBERTa")["XNLI"].value == pytest.approx(
        90, abs=5
    )
    assert any(problem.where.startswith("teachers sweeps") for problem in collection.problems)


def test_students_of_other_devices_precisions_and_code_are_named(tmp_path: Path):
    conditions = (("MultiKD", "cpu, 2 threads a rank", "fp32"), ("MultiKD + MBLM", "NVIDIA H100", "bf16"))
    for system, device, precision in conditions:
        one = configs("xnli")[system]
        folder = write_run(tmp_path, one, correct(one, (0.8, 0.7), 1))
        environment = {"device": device, "precision": precision, "git": "0123abc"}
        (folder / "environment.json").write_text(json.dumps(environment))
    collection, _, tables, _ = report.make(tmp_path, draws=1000)
    said = [problem.what for problem in collection.problems]
    assert any(what.startswith("the runs have different device, precision: xnli-multikd-mblm-s1") for what in said)
    table = {table.key: table for table in tables}["table-6"]
    assert row(table, "MBLM")["Time"].text == "–" and row(table, "Single")["Time"].text == "1.00×"


def test_backbones_with_the_same_heading_are_named(tmp_path: Path):
    for backbone in ("one/student", "two/student"):
        one = changed(configs("xnli")["MultiKD"], {"student": {"backbone": backbone}})
        write_run(tmp_path, one, correct(one, (0.8, 0.7), 1))
    said = [problem.what for problem in report.make(tmp_path, draws=1000)[0].problems]
    assert any(what.startswith("one/student, two/student have the same heading") for what in said)


def test_only_translated_rows_are_resampled_together(made: tuple[dict[str, Table], list[Claim], Path]):
    tables = made[0]
    assert any("resampled together" in note for note in tables["table-3-intervals"].notes)
    assert any("each language is resampled separately" in note for note in tables["table-4-intervals"].notes)

    def width(name: str) -> float:
        low, high = row(tables[name], "MonoKD")["AVG(A)"].interval or (0, 0)
        return high - low

    # items are equally hard in all languages: 15 languages with shared items carry less information than 6 without
    assert width("table-3-intervals") > 1.5 * width("table-4-intervals")


@pytest.mark.parametrize(
    ("table", "text", "verdict"),
    [
        ("table-3", "MultiKD > MultiTrain on AVG(S)", "holds"),
        ("table-3", "MBLM > MultiKD on AVG(Z)", "holds"),
        ("table-5", "- detaching below MBLM on AVG(A)", "holds"),
        ("table-5", "+ branches at the top below MBLM on AVG(A)", "contradicted"),
        ("table-5", "branches at the top below mBERT on AVG(A)", "contradicted"),
        ("table-5", "- inner-mixers below MBLM on AVG(A)", "not measured"),
        ("table-6", "Ens2 > MBLM on AVG(S)", "holds"),
        ("table-6", "Ens2 < MBLM on AVG(Z)", "holds"),
        ("table-6", "Params: MBLM / Single = 1.3", "holds"),
        ("table-6", "Time: MBLM / Single = 1.1", "contradicted"),
    ],
)
def test_claims_get_the_verdict_of_the_data(
    made: tuple[dict[str, Table], list[Claim], Path], table: str, text: str, verdict: str
):
    (claim,) = [claim for claim in made[1] if (claim.table, claim.text) == (table, text)]
    assert claim.verdict == verdict
    if claim.p is not None and claim.interval is not None:
        assert claim.holm is not None and claim.holm >= claim.p
        assert (verdict == "not decided") or not claim.interval[0] <= 0 <= claim.interval[1]


def test_a_claim_about_equal_systems_is_not_decided(tmp_path: Path):
    for name in ("MultiTrain", "MultiKD"):
        for seed in (1, 2, 3):
            one = changed(configs("xnli")[name], {"seed": seed})
            write_run(tmp_path, one, correct(one, (0.8, 0.7), seed + 10 * len(name), ("test",)))
    claims = report.make(tmp_path, draws=2000)[3]
    (claim,) = [claim for claim in claims if claim.text.startswith("MultiKD > MultiTrain")]
    assert claim.verdict == "not decided" and claim.n == "3 seeds, 600 rows"


def test_one_seed_leaves_claims_undecided(made: tuple[dict[str, Table], list[Claim], Path]):
    found = [claim for claim in made[1] if claim.table == "table-4"]
    assert [claim.p is not None for claim in found] == [True, True, True] and found[0].holm == pytest.approx(
        0.003, abs=0.003
    )
    assert {claim.verdict for claim in found} == {"not decided"}


def test_missing_systems_and_seeds_are_named_first(tmp_path: Path):
    for name, seeds in (("MultiKD", (1, 2, 3)), ("MultiTrain", (1,))):
        for seed in seeds:
            one = changed(configs("xnli")[name], {"seed": seed})
            write_run(tmp_path, one, correct(one, (0.8, 0.7), seed, ("test",)))
    collection = report.make(tmp_path, draws=1000)[0]
    found = [problem.what for problem in collection.problems]
    assert found == [
        "no finished runs of MonoKD, MultiKD + MBLM",
        "MultiTrain has no run with seed 2, 3, but other systems have",
    ]


def test_a_run_that_has_not_learned_is_named(tmp_path: Path):
    for name in ("MonoKD", "MultiTrain", "MultiKD", "MultiKD + MBLM"):
        for seed in (1, 2):
            one = changed(configs("xnli")[name], {"seed": seed})
            stuck = {"at_chance": True} if (name, seed) == ("MultiTrain", 2) else {}
            write_run(tmp_path, one, correct(one, (0.8, 0.7), seed, ("test",)), **stuck)
    (found,) = report.make(tmp_path, draws=1000)[0].problems
    name = changed(configs("xnli")["MultiTrain"], {"seed": 2}).run_name
    assert found.what == (
        f"MultiTrain, {name}: no better than the most frequent class on dev. The tables contain such runs"
    )


def test_only_the_splits_that_were_measured_have_tables(tmp_path: Path):
    write(tmp_path, "xnli", range(1, 3), ("dev",))
    keys = {table.key for table in report.make(tmp_path, draws=1000)[2]}
    assert "table-7" in keys and "table-3" not in keys


def test_the_option_split_shows_one_split_only(made: tuple[dict[str, Table], list[Claim], Path]):
    tables = {table.key: table for table in report.make(made[2], split="test", draws=1000)[2]}
    assert "table-7" not in tables and "table-3" in tables
    assert "test" in tables["table-5"].title


def test_an_average_needs_the_scores_of_all_its_languages(tmp_path: Path):
    for seed in (1, 2):
        one = changed(configs("xnli")["MultiKD"], {"seed": seed})
        folder = write_run(tmp_path, one, correct(one, (0.8, 0.7), seed, ("test",)))
        if seed == 2:
            (folder / "logits" / "test.ur.npy").write_bytes(b"\x93NUMPY broken")
    one = configs("xnli")["MultiTrain"]
    folder = write_run(tmp_path, one, correct(one, (0.8, 0.7), 1, ("test",)))
    for file in folder.glob("logits/test.[dr]*.npy"):
        file.write_bytes(b"")
    collection, _, found, claims = report.make(tmp_path, draws=1000)
    table = {table.key: table for table in found}["table-3"]
    cells = row(table, "MultiKD")
    assert (cells["ur"].n, cells["AVG(S)"].n, cells["AVG(Z)"].n, cells["AVG(A)"].n) == (1, 2, 1, 1)
    cells = row(table, "MultiTrain")
    assert cells["AVG(S)"].value is not None
    assert cells["AVG(Z)"].text == cells["AVG(A)"].text == cells["de"].text == "–"
    assert "MultiKD, seed 2: no test score for ur; its averages over them are missing" in table.notes
    assert "mBERT-based model: not measured: MonoKD, MultiKD + MBLM" in table.notes
    assert any("test ur" in problem.where for problem in collection.problems)
    texts = {table.key: table for table in found}["table-3-intervals"]
    assert row(texts, "MultiKD")["AVG(S)"].value == pytest.approx(row(table, "MultiKD")["AVG(S)"].value, abs=0.01)
    assert {claim.verdict for claim in claims if "MultiKD > MultiTrain" not in claim.text} == {"not measured"}


def test_an_interval_has_the_runs_of_its_average(tmp_path: Path):
    for system in ("MultiTrain", "MultiKD"):
        for seed in (1, 2, 3):
            one = changed(configs("xnli")[system], {"seed": seed})
            right = dict(correct(one, (0.6 if (system, seed) == ("MultiKD", 3) else 0.8, 0.7), seed, ("test",))["test"])
            if (system, seed) == ("MultiKD", 3):
                del right["ur"]
            write_run(tmp_path, one, {"test": right})
    _, _, found, claims = report.make(tmp_path, draws=1000)
    tables = {table.key: table for table in found}
    for name, runs in (("AVG(S)", 3), ("AVG(Z)", 2)):
        cell = row(tables["table-3"], "MultiKD")[name]
        assert cell.n == runs
        assert row(tables["table-3-intervals"], "MultiKD")[name].value == pytest.approx(cell.value, abs=0.01)
    first = next(claim for claim in claims if claim.text == "MultiKD > MultiTrain on AVG(S)")
    assert first.n.startswith("3 seeds") and first.difference == pytest.approx(-20 / 3, abs=0.5)


def test_a_zero_shot_language_without_dev_rows_gives_one_note_and_no_averages(tmp_path: Path):
    for system in ("MultiTrain", "MultiKD"):
        for seed in (1, 2, 3):
            one = changed(configs("xnli")[system], {"seed": seed, "task": {"zero_shot": ["de", "es"]}})
            folder = write_run(tmp_path, one, correct(one, (0.9 if system == "MultiKD" else 0.5, 0.7), seed, ("dev",)))
            result = json.loads((folder / "result.json").read_text())
            for language in ("de", "es"):
                del result["accuracy"]["dev"][language]
            result["averages"]["dev"] |= {"Z": None, "A": None}
            (folder / "result.json").write_text(json.dumps(result))
    collection, _, found, claims = report.make(tmp_path, draws=1000)
    tables = {table.key: table for table in found}
    assert [note for note in tables["table-7"].notes if "dev" in note] == [
        "no dev rows of de, es; averages over them are missing"
    ]
    assert len({problem for problem in collection.problems if "dev rows" in problem.what}) == 1
    assert tables["table-7-intervals"].columns == ["AVG(S)"]
    first, *_ = (claim for claim in claims if claim.text == "MultiKD > MultiTrain on AVG(S)")
    assert first.verdict == "holds"


def write_sweep(root: Path, name: str, chosen: dict[str, list[Config]]) -> None:
    """Write the record of a sweep with the chosen runs of each system."""
    (root / "sweeps").mkdir(exist_ok=True)
    groups = [
        {"runs": [x.run_name for x in runs], "chosen": {"train.lr": runs[0].train.lr}} for runs in chosen.values()
    ]
    sweep = {"experiment": name.partition("-")[0], "protocol": "fixed", "rule": "all", "groups": groups}
    (root / "sweeps" / f"{name}.json").write_text(json.dumps(sweep))


def write_rates(root: Path, shares: dict[float, float], systems: tuple[str, ...], seeds: int = 3) -> dict[Any, Config]:
    """Write runs whose share of correct rows depends on the learning rate only; return them by system, seed, rate."""
    found = {}
    for system in systems:
        for seed in range(1, seeds + 1):
            for lr, share in shares.items():
                one = changed(configs("xnli")[system], {"seed": seed, "train": {"lr": lr}})
                write_run(root, one, correct(one, (share, share), seed))
                found[system, seed, lr] = one
    return found


def test_the_ablations_are_compared_within_their_own_sweep(tmp_path: Path):
    systems = ("MultiKD", "MultiKD + MBLM", "MultiKD + MBLM - detaching")
    runs = write_rates(tmp_path, {2e-5: 0.6, 3e-5: 0.8}, systems)
    write_sweep(tmp_path, "main-1", {x: [runs[x, seed, 2e-5] for seed in (1, 2)] for x in systems[:2]})
    write_sweep(tmp_path, "ablations-1", {x: [runs[x, seed, 3e-5] for seed in (1, 2, 3)] for x in systems})
    collection, _, found, _ = report.make(tmp_path, draws=1000)
    assert [problem.what for problem in collection.problems] == ["no finished runs of MonoKD, MultiTrain"]
    tables = {table.key: table for table in found}
    for label in ("mBERT", "+ MBLM", "- detaching"):
        assert row(tables["table-5"], label)["AVG(A)"].value == pytest.approx(80, abs=5)
    assert row(tables["table-3"], "MultiKD")["AVG(A)"].value == pytest.approx(60, abs=5)


@pytest.mark.parametrize("names", [("main-1", "main-2"), ("main-2", "main-1")])
def test_the_systems_of_a_table_come_from_one_of_several_sweeps(tmp_path: Path, names: tuple[str, str]):
    systems = ("MultiTrain", "MultiKD", "MultiKD + MBLM")
    runs = write_rates(tmp_path, {2e-5: 0.6, 3e-5: 0.8}, systems)
    (tmp_path / runs["MultiKD + MBLM", 3, 3e-5].run_name / "result.json").unlink()  # a failed seed
    runs[("MultiTrain", 4, 3e-5)] = more = changed(configs("xnli")["MultiTrain"], {"seed": 4, "train": {"lr": 3e-5}})
    write_run(tmp_path, more, correct(more, (0.8, 0.8), 4))
    for name, lr in zip(names, (2e-5, 3e-5), strict=True):
        write_sweep(tmp_path, name, {x: [one for (y, _, z), one in runs.items() if (x, lr) == (y, z)] for x in systems})
    collection, _, found, claims = report.make(tmp_path, draws=1000)
    table = {table.key: table for table in found}["table-3"]
    values = [row(table, x)["AVG(A)"].value for x in systems]
    assert max(values) - min(values) < 3
    assert not any(claim.verdict == "contradicted" for claim in claims if not claim.ratio)
    said = [problem.what for problem in collection.problems if problem.where.startswith("main sweeps")]
    assert len(said) == 1 and said[0].startswith("2 sweeps have different runs of MultiTrain, MultiKD, MultiKD + MBLM")


def test_a_grid_of_one_seed_does_not_hide_the_runs_of_other_seeds(tmp_path: Path):
    runs = write_rates(tmp_path, {2e-5: 0.7}, ("MultiKD",), 5) | write_rates(tmp_path, {3e-5: 0.8}, ("MultiKD",), 1)
    write_sweep(tmp_path, "grid-1", {"MultiKD": [runs["MultiKD", 1, 3e-5]]})
    table = {table.key: table for table in report.make(tmp_path, draws=1000)[2]}["table-3"]
    assert row(table, "MultiKD")["runs"].value == 5


def test_folded_models_are_those_of_the_chosen_runs(tmp_path: Path):
    runs = write_rates(tmp_path, {2e-5: 0.6, 3e-5: 0.8}, ("MultiKD", "MultiKD + MBLM"))
    for (system, seed, lr), one in runs.items():
        if system == "MultiKD + MBLM":
            folder = write_run(
                tmp_path / "folded",
                one,
                correct(one, (0.6 if lr == 2e-5 else 0.8,) * 2, seed),
                system=f"{system}, folded",
                folded_from=one.run_name,
            )
            folder.rename(tmp_path / f"{one.run_name}-folded")
    write_sweep(
        tmp_path, "main-1", {x: [runs[x, seed, 2e-5] for seed in (1, 2, 3)] for x in ("MultiKD", "MultiKD + MBLM")}
    )
    collection, _, found, _ = report.make(tmp_path, draws=1000)
    table = {table.key: table for table in found}["table-3"]
    assert row(table, "MultiKD + MBLM, folded")["AVG(A)"].value == pytest.approx(60, abs=5)
    (left,) = [problem.where for problem in collection.problems if problem.what.startswith("omitted: folded from")]
    others = (f"{one.run_name}-folded" for (x, _, lr), one in runs.items() if "MBLM" in x and lr == 3e-5)
    assert left == ", ".join(sorted(others))


def test_teachers_that_a_run_does_not_use_make_no_configuration(tmp_path: Path):
    for seed in (1, 2, 3, 4):
        unused = {"en": {"model": "runs/teacher/model", "fine_tuned": True}}
        values = {"seed": seed} | ({"teachers": unused} if seed > 2 else {})
        one = changed(configs("xnli")["MultiTrain"], values)
        write_run(tmp_path, one, correct(one, (0.8, 0.7), seed))
    table = {table.key: table for table in report.make(tmp_path, draws=1000)[2]}["table-3"]
    assert row(table, "MultiTrain")["runs"].value == 4


def test_logits_that_contradict_the_result_give_no_interval(tmp_path: Path):
    one = configs("xnli")["MultiKD"]
    folder = write_run(tmp_path, one, correct(one, (0.8, 0.7), 1, ("test",)))
    file = folder / "logits" / "test.en.npy"
    np.save(file, np.load(file)[:, ::-1])
    collection, _, tables, _ = report.make(tmp_path, draws=1000)
    assert any("different accuracies" in problem.what for problem in collection.problems)
    assert tables[-1].rows[0].cells[0].text == "–"


def test_the_users_own_task_has_the_same_tables(tmp_path: Path):
    own = configs("xnli")["MultiKD"].model_dump(mode="json")
    own["task"] = {"kind": "own", "files": {"train": "a.csv"}, "labels": ["no", "yes"], "ordinal": True}
    own["task"] |= {"supervised": ["en", "fr", "zh"], "zero_shot": ["pl"]}
    for depth in (0, 2):
        one = changed(Config.model_validate(own), {"student": {"branch_depth": depth}})
        write_run(tmp_path, one, correct(one, (0.8, 0.7 + 0.1 * depth), 1, ("dev",)))
    tables = {table.key: table for table in report.make(tmp_path, draws=1000)[2]}
    assert tables["own-dev"].columns == ["en", "fr", "zh", "pl", "AVG(S)", "AVG(Z)", "AVG(A)", "runs"]
    assert "XLM" not in tables["own-dev"].rows[0].block
    assert any("K = 2" in note for note in tables["own-dev"].notes)
    assert "own-dev-mae" in tables


def test_an_output_that_is_a_file_is_refused_before_any_work(tmp_path: Path):
    (tmp_path / "out").touch()
    with pytest.raises(UserError, match="out: is a file; name a folder"):
        report.main([str(tmp_path / "nothing"), "--out", str(tmp_path / "out")])


def test_the_command_writes_files_that_other_programs_read(
    small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    root, out = small, tmp_path / "out"
    report.main([str(root), "--out", str(out), "--reference", "paper", "--draws", "1000"])
    printed = capsys.readouterr().out.splitlines()
    files = [Path(line) for line in printed if line.startswith(str(out))]
    assert printed[-len(files) :] == [str(file) for file in files]
    assert {"report.md", "tables.tex", "cells.csv", "report.json"} <= {file.name for file in files}
    assert "Missing from this report" in printed[:2]

    text = (out / "report.md").read_text()
    assert text.index("xnli-unfinished: not finished") < text.index("Table 1")
    whole = json.loads((out / "report.json").read_text())
    table = next(table for table in whole["tables"] if table["key"] == "table-3")
    lines = list(csv.DictReader((out / "cells.csv").open(encoding="utf-8", newline="")))
    (line,) = [x for x in lines if (x["table"], x["row"], x["column"]) == ("table-3", "MultiKD", "AVG(A)")]
    cell = next(r for r in table["rows"] if r["label"] == "MultiKD")["cells"][table["columns"].index("AVG(A)")]
    assert float(line["value"]) == cell["value"] and float(line["reference"]) == 70.42
    assert float(line["difference"]) == pytest.approx(cell["value"] - 70.42)
    assert f"{cell['text']}" in text


def test_latex_tables_have_as_many_cells_in_every_line_as_columns(made: tuple[dict[str, Table], list[Claim], Path]):
    tex = "\n".join(render.latex(table) for table in made[0].values())
    assert not re.search(r"[±×−–]", tex)
    tables = re.findall(r"\\begin\{tabular\}\{(l r*|lr*)\}(.*?)\\end\{tabular\}", tex, re.S)
    assert len(tables) == tex.count(r"\begin{table*}") == tex.count(r"\end{table*}") > 10
    for columns, body in tables:
        assert [body.count(rule) for rule in (r"\toprule", r"\bottomrule")] == [1, 1] and r"\midrule" in body
        for line in body.splitlines():
            if line.endswith(r"\\"):
                wide = sum(int(n) - 1 for n in re.findall(r"\\multicolumn\{(\d+)\}", line))
                assert len(re.findall(r"(?<!\\)&", line)) + 1 + wide == len(columns)


def test_an_empty_folder_gives_one_message_and_exit_code_2(tmp_path: Path):
    found = command(sys.executable, "-m", "analysis.report", tmp_path)
    assert found.returncode == 2
    assert found.stderr.splitlines()[-1] == f"error: {tmp_path}: no finished run in this folder"
    assert "Traceback" not in found.stderr and not (tmp_path / "report").exists()


def test_a_full_disk_gives_one_message_and_exit_code_2(small: Path, tmp_path: Path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "report.json").write_text("the one before")
    limited = f'ulimit -f 10; exec "{sys.executable}" -B -m analysis.report "{small}" --out "{out}" --draws 1000'
    found = command("bash", "-c", limited)  # no file of more than 10 KiB
    assert found.returncode == 2
    error = f"error: {out}/report.json: cannot be written (File too large); make room, then run the same command again"
    assert found.stderr.splitlines()[-1] == error
    assert "Traceback" not in found.stderr
    assert (out / "report.json").read_text() == "the one before"
    assert not list(out.glob(".*"))


@pytest.mark.parametrize(("limit", "file"), [(2_000, "report.md"), (60_000, "figures/*.png"), (400_000, "report.html")])
def test_on_a_full_disk_the_old_part_of_a_report_is_kept(small: Path, tmp_path: Path, limit: int, file: str):
    shown = report.make(small, draws=1000)
    report.write(*shown, tmp_path)
    report._page(*shown, tmp_path, None)
    before = {x: x.read_bytes() for x in tmp_path.rglob("*") if x.is_file()}
    with full_disk(limit), pytest.raises(UserError, match=r"cannot be written .*make room") as caught:
        report.write(*shown, tmp_path)
        report._page(*shown, tmp_path, None)
    assert Path(str(caught.value).partition(":")[0]).match(file)
    assert {x: x.read_bytes() for x in tmp_path.rglob("*") if x.is_file()} == before


def test_analysis_runs_without_torch(small: Path, tmp_path: Path):
    code = (
        "import sys; from analysis import report; report.main(sys.argv[1:]);"
        "sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    )
    found = command(sys.executable, "-c", code, small, "--out", tmp_path, "--draws", "1000")
    assert found.returncode == 0, found.stderr
