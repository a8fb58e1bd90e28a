"""Claims about output in windows of many widths: every number is complete, in its place, and printed once."""

import re
import time
import unicodedata
import zlib
from itertools import product
from typing import Any

import numpy as np
import pytest
from rich.cells import cell_len
from rich.text import Text

from analysis import render, tables
from mbkd.result import Result
from mbkd.terminal import data, grid, progress, results
from mbkd.terminal.console import make_console
from tests.synthetic import make_result

WIDTHS = (80, 100, 120, 200)
COUNTS = (6, 15, 48, 205)
STUDENTS = ("MultiTrain", "MultiKD", "MultiKD + MBLM")


@pytest.fixture(params=WIDTHS)
def window(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """A terminal: `window.width` sets its width, and `window.lines()` returns the output since the last call."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", str(request.param))

    class Window:
        width = request.param

        def lines(self) -> list[str]:
            found = Text.from_ansi(capsys.readouterr().out).plain.splitlines()
            assert all(cell_len(line) <= self.width for line in found)
            return found

    return Window()


def codes(count: int) -> list[str]:
    return [f"x{i:02}" if count < 20 else f"x{i:02}_Latn" for i in range(count)]


def result(system: str, languages: list[str], supervised: int = 3, role: str = "student") -> Result:
    """Return a finished run with unique scores."""
    draw = np.random.default_rng(zlib.crc32(system.encode()))
    scores = {x: float(draw.random()) for x in languages}
    return make_result(
        system=system,
        role=role,
        accuracy={"test": scores},
        averages={"test": {x: float(draw.random()) for x in "SZA"}},
        supervised=tuple(languages[:supervised]),
        zero_shot=tuple(languages[supervised:]),
    )


def shown(lines: list[str]) -> dict[str, list[str]]:
    """Return the cells of each row by label, joined over the tables."""
    found: dict[str, list[str]] = {}
    for line in lines:
        if line.startswith("│"):
            label, *cells = (cell.strip() for cell in line.strip("│").split("│"))
            found.setdefault(label, []).extend(cells)
    return found


def printed(value: float) -> str:
    return f"{100 * value:.2f}"


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize(
    "systems",
    [STUDENTS[-1:], STUDENTS, tuple(f"{x} (lr {lr}, epochs 10; n=5)" for x in STUDENTS for lr in ("1e-05", "2e-05"))],
    ids=["train", "grow", "sweep"],
)
def test_every_score_is_complete_and_in_its_place(window, systems: tuple[str, ...], count: int):
    runs = [result(x, codes(count)) for x in systems]
    results.print_results(runs, "test")
    lines = window.lines()
    assert "…" not in "".join(lines)
    found = shown(lines)
    if "supervised" not in found:  # languages are columns
        assert count < 48
        scores = [[*run.accuracy["test"].values(), *run.averages["test"].values()] for run in runs]
        cells = [re.findall(r"[\d.]+(?= │)", line.partition("│")[2].partition("│")[2]) for line in lines]
        assert [row for row in cells if row] == [[printed(x) for x in row] for row in scores]
        return
    languages = codes(count)
    order = ["AVG(S)", "AVG(Z)", "AVG(A)", "supervised", *languages[:3], "zero-shot", *languages[3:]]
    assert [label for label in found if label][-len(order) :] == order
    for language in languages:
        assert found[language] == [printed(run.accuracy["test"][language]) for run in runs]
    for name in "SZA":
        assert found[f"AVG({name})"] == [printed(run.averages["test"][name]) for run in runs]


@pytest.mark.parametrize("count", COUNTS)
def test_languages_are_columns_if_they_fit(window, count: int):
    results.print_results([result("MultiKD + MBLM", codes(count))], "test")
    across = "supervised" not in shown(window.lines())
    # A column has 3 characters of frame and 5 or more of content; the label has 14; the window has a margin of 1.
    assert across == (sum(3 + max(len(x), 5) for x in codes(count)) + 3 * 9 + 17 + 1 <= window.width)


@pytest.mark.parametrize("count", COUNTS)
def test_a_teacher_is_one_line_with_its_language(window, count: int):
    runs = [result(f"Teacher {x}", [x], 1, "teacher") for x in codes(count)]
    results.print_results(runs, "test")
    found = shown(window.lines())
    assert found == {run.system: [printed(*run.accuracy["test"].values())] for run in runs}


@pytest.mark.parametrize("branches", [3, 15])
def test_every_weight_of_a_branch_is_complete(window, branches: int):
    languages = codes(48)
    rows = [
        {"language": x, "mixer": mixer, "branch": branch, "mean": (i + 1) / 50, "std": 0.02}
        for x, mixer in product(languages, ("outer", "inner 1 x00_Latn"))
        for i, branch in enumerate(languages[:branches])
    ]
    results.print_mixers({"split": "dev", "branches": languages[:branches], "rows": rows})
    lines = [line for line in window.lines() if re.match(r"│ +x47_Latn ", line.replace("│ x47", "│  x47"))]
    cells = [cell.strip() for line in lines for cell in line.strip("│").split("│")[2:]]
    assert cells == [f"{2.0 * (i + 1):.1f} ± 2.0" for i in range(branches)]


def test_a_block_of_a_report_is_a_separate_table_if_languages_are_rows(window):
    languages = codes(15)
    rows = [
        tables.Row(system, [tables.Cell(None, f"{b}{s}.{i:02}") for i in range(15)], block)
        for b, block in enumerate(("mBERT-based model", "XLM-R-based model"), 1)
        for s, system in enumerate(("MonoKD", *STUDENTS))
    ]
    spans = [("Supervised", 3), ("Zero-shot", 12)]
    console = make_console()
    console.print(render.on_terminal(tables.Table("own-test", "Scores", languages, rows, spans=spans), console))
    lines = window.lines()
    found = shown(lines)
    if window.width < 200:
        assert found["x14"] == [f"{b}{s}.14" for b in (1, 2) for s in range(4)]
        assert [line.strip() for line in lines if "model" in line] == ["mBERT-based model", "XLM-R-based model"]
    else:
        assert found["MonoKD"] == [f"{b}0.{i:02}" for b in (1, 2) for i in range(15)]


def test_a_table_of_words_becomes_paragraphs_if_it_does_not_fit(window):
    what = "no run of MultiKD was found for seeds 3, 4 and 5, so that its mean is one of two runs only"
    console = make_console()
    console.print(render.on_terminal(render.problems([("runs/own-mblm", what)]), console))
    text = " ".join(" ".join(window.lines()).split())
    assert what in text and ("┃" in text) == (window.width >= 120)


def test_markup_in_a_label_is_text(window):
    console = make_console()
    for table in grid.fitting([grid.Row("[red]a[/red]", ["[b]1"])], [("", ["[i]n"])], console):
        console.print(table)
    assert shown(window.lines()) == {"[red]a[/red]": ["[b]1"]}


def split(language: str, labels: dict[str, int], text: str) -> dict[str, Any]:
    """Return one split and language of the report of `mbkd data`."""
    tokens = {"p50": 20, "p90": 40, "p99": 90, "longer": 0.01, "cut": 0.002, "unknown": 0.0123}
    found: dict[str, Any] = {"split": "train", "language": language, "rows": sum(labels.values()), "labels": labels}
    found |= {"duplicates": 7, "also_in": {"dev": 3}, "looks_like": {"own": 0.9, "others": {"de": 0.1}}}
    example = {"label": next(iter(labels)), "text": text, "text_pair": None}
    return found | {"tokens": {"student": tokens}, "examples": [example]}


LATIN = "The fission bomb works on the principle that it takes energy to put together a nucleus with many protons."


@pytest.mark.parametrize("count", [3, 7, 77])
def test_data_shows_complete_numbers_and_cuts_text_to_the_window(window, count: int):
    labels = {f"science/technology {i}": 10 + i for i in range(count)}
    splits = [split("eng_Latn", labels, LATIN), split("zho_Hans", labels, "裂变炸弹的工作原理是" * 12)]
    data.print_data({"splits": splits, "labels": list(labels), "max_length": 128, "tokenizers": {}, "warnings": []})
    lines = window.lines()
    rows = [line for line in lines if line.startswith("│ train │")]
    assert all("eng_Latn" in line or "zho_Hans" in line for line in rows)
    counted, lengths = rows[0], next(line for line in rows if "student" in line)
    assert f" {sum(labels.values()):,} " in counted and " 7 " in counted
    assert f" 10-{9 + count} " in counted or all(f" {10 + i} " in counted for i in range(count))
    assert all(f" {x} " in lengths for x in ("20", "40", "90", "1.0", "0.2", "1.23"))
    latin = next(line for line in rows if "The fission" in line)
    room = window.width - cell_len("│ train │ eng_Latn │ science/technology 0 │  │")
    assert (LATIN if len(LATIN) <= room else f"{LATIN[: room - 1].rstrip()}…") in latin


@pytest.mark.parametrize("pair", [None, "गति बहुत कम महत्व की हो जाती है और स्थिरता " * 9])
def test_a_text_fits_in_a_window_that_counts_the_cells_of_each_vowel_sign(window, pair: str | None):
    texts = {"tam_Taml": "காலாண்டில் இருந்து அரை மைல் " * 9, "tel_Telu": "తక్కువ ప్రాముఖ్యతను ", "eng_Latn": LATIN}
    splits = [split(language, {"a": 10, "b": 20}, text) for language, text in texts.items()]
    for each in splits:
        each["examples"][0]["text_pair"] = pair
    data.print_data({"splits": splits, "labels": ["a", "b"], "max_length": 128, "tokenizers": {}, "warnings": []})
    lines = window.lines()
    rows = [line for line in lines if "காலாண்" in line or "తక్కువ" in line or "The fission" in line]
    assert len(rows) == 3
    for line in lines:  # marks of category Mn have no cell; vowel signs of category Mc have one
        shown = [x for x in line if unicodedata.category(x) != "Mn"]
        assert sum(2 if unicodedata.east_asian_width(x) in "WF" else 1 for x in shown) <= window.width


def warning(kind: str, split: str, language: str, message: str) -> dict[str, str]:
    return {"kind": kind, "split": split, "language": language, "message": message}


def test_a_warning_is_printed_once_with_its_languages_and_numbers():
    found = [
        warning("unknown tokens", "dev", "am", "36.9% of the tokens are unknown to student"),
        warning("unknown tokens", "dev", "ar", "2.1% of the tokens are unknown to student"),
        warning("unknown tokens", "test", "am", "40.0% of the tokens are unknown to student"),
        warning("tiny class", "train", "am", "label 'grade 1': 3 rows only"),
        warning("tiny class", "train", "ar", "label 'grade 1': 3 rows only"),
        warning("tiny class", "train", "am", "label 'grade 2': 1,004 rows only"),
        warning("wrong language", "train", "am", "45% of the rows look like am (30% ti, 25% en)"),
        warning("wrong language", "train", "ar", "60% of the rows look like ar (40% fa)"),
    ]
    assert list(data.facts(found)) == [
        "2.1-40.0% of the tokens are unknown to student; dev test: am; dev: ar",
        "label 'grade 1': 3 rows only; train: am, ar",
        "train am: label 'grade 2': 1,004 rows only",
        "45-60% of the rows look like their own language; train: am, ar",
    ]


def test_lines_in_a_file_have_two_hundred_columns(monkeypatch: pytest.MonkeyPatch):
    for name in ("FORCE_COLOR", "COLUMNS", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)
    assert make_console().width == 200


def test_a_phase_shows_progress_only_after_a_delay(capsys: pytest.CaptureFixture[str]):
    with progress.ProgressBar("tokens", 3, patience=60) as quick:
        quick.advance()
    assert capsys.readouterr().err == ""
    with progress.ProgressBar("tokens", 3, patience=0.01) as slow:
        slow.advance()
        output, until = "", time.monotonic() + 60
        while "\n" not in output and time.monotonic() < until:  # no steps are counted yet
            time.sleep(0.01)
            output += capsys.readouterr().err
        slow.advance(steps=2)
    assert output == "tokens  1/3  started\n"
    assert capsys.readouterr().err == "tokens  3/3  done in 0:00\n"
    with progress.ProgressBar("over", 3, patience=60) as late:
        pass
    late._start()  # the timer fires when the work ends
    with progress.ProgressBar("another rank's", 3, show=False, patience=0.01):
        time.sleep(0.1)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("count", [6, 48])
def test_the_spread_of_ensembles_is_complete(window, count: int):
    groups = [result(f"Ens2 {i}", codes(count)) for i in range(3)]
    results.print_spread(groups, "test")
    text = " ".join(window.lines())
    for language in codes(count):
        values = [100 * each.scores("test")[language] for each in groups]
        assert f" {np.mean(values):.2f} ± {np.std(values, ddof=1):.2f} " in text


def test_every_number_of_a_plan_is_complete(window):
    def run(system: str, hours: float) -> dict[str, Any]:
        sizes = {"memory": {"weights": 4e9}, "disk": {"finished": 7e8, "checkpoints": 2e9}, "flops": {"forward": 1e18}}
        where = {"task": "xnli", "backbone": "google-bert/bert-base-multilingual-cased", "finished": False}
        return {"system": system, "hours": hours, "steps": 110_448, **where, **sizes}

    runs = [run("Teacher en", 12.34), run("MultiKD + MBLM", 56.78)]
    total = {"runs": 2, "steps": 220_896, "flops": 2e18, "hours": 69.12, "disk": 1.4e9, "finished": 0}
    results.print_plan({"runs": runs, "total": total, "machine": "", "text": [], "cache": None, "confirm": None})
    found = shown(window.lines())
    if "hours" in found:
        assert (found["hours"], found["steps"]) == (["12.34", "56.78"], ["110,448"] * 2)
    else:
        assert found["MultiKD + MBLM"] == ["1", "110,448", "1,000", "56.78", "4.00", "0.70", "2.00"]
