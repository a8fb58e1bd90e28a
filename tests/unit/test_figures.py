"""Claims about the figures of a report: they show the values of the runs, and text remains text."""

import json

import numpy as np
import pytest

from analysis import confusion, curves, errors, figures, look, reliability, report
from analysis.collect import collect
from analysis.context import Context
from analysis.groups import choose
from mbkd.config import changed, paper, parse
from tests.synthetic import write_run


def config(system, seed=1, depth=None):
    full = paper.base(paper.xnli(), paper.BACKBONES["mbert"])
    found = paper.system(full, system).model_copy(update={"seed": seed})
    return found if depth is None else changed(found, {"student": {"branch_depth": depth}})


def read(root):
    collection = collect(root)
    return Context(collection, choose(collection))


def correct_rows(share, rows=20):
    """Return correct rows: the first ones of each language."""
    languages = paper.xnli().languages
    return {split: {x: np.arange(rows) < share * rows for x in languages} for split in ("dev", "test")}


@pytest.fixture(scope="module")
def context(tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    for seed in (1, 2):
        write_run(root, config("multitrain", seed), correct_rows(0.5))
        write_run(root, config("multikd", seed), correct_rows(0.6))
        folder = write_run(root, config("mblm", seed), correct_rows(0.7 if seed == 1 else 0.8))
        with (folder / "metrics.jsonl").open("w") as file:
            for step in range(1, 1001):
                values = {"loss": 1 + seed / 10, "kl": 1 / step}
                file.write(json.dumps({"step": step, "epoch": step / 500, "languages": {"en": values}}) + "\n")
            for epoch in (1, 2):
                averages = {"S": 0.5, "Z": 0.25 * epoch, "A": 0.4}
                line = {"epoch": epoch, "split": "dev", "accuracy": {}, "accuracy_averages": averages}
                file.write(json.dumps(line) + "\n")
        weights = [
            {"language": "sw", "mixer": "outer", "branch": x, "mean": mean, "std": 0.1}
            for x, mean in {"en": 0.2 * seed, "fr": 0.8 - 0.2 * seed, "zh": 0.2}.items()
        ]
        record = {"split": "test", "branches": ["en", "fr", "zh"], "rows": weights}
        (folder / f"mixers-test-{seed}.json").write_text(json.dumps(record))
    return read(root)


def test_figures_without_their_data_are_named(context):
    pictures, gaps = figures.draw(context, [])
    drawn = {picture.key.split("-")[0] for picture in pictures}
    assert drawn == {"languages", "confusion", "reliability", "curves", "mixers"}
    missing = " ".join(f"{gap.where}: {gap.what}" for gap in gaps)
    for title in ("Accuracy over branch depth", "Learning curves of MultiKD:", "Learning curves of MultiTrain:"):
        assert title in missing


def test_mixer_weights_of_two_seeds_are_averaged(context):
    (picture,) = [x for x in figures.draw(context, [])[0] if x.key.startswith("mixers")]
    cells = {text.get_text() for text in picture.figure.axes[0].texts}
    assert cells == {"30", "50", "20"}
    assert "2 runs" in picture.caption


def test_many_languages_are_listed_vertically_and_sorted_within_their_group(tmp_path):
    """Thirty languages in the figures, on the page and in the Markdown, with labelled languages first."""
    names = [f"l{number:02}" for number in range(30)]
    full = config("mblm", depth=2).model_dump(exclude_defaults=True)
    full["task"] = {"kind": "own", "files": {"train": "none.csv"}, "labels": ["a", "b"], "supervised": names[:3],
                    "zero_shot": names[3:]}  # fmt: skip
    full["teachers"] = {x: {"model": x} for x in names[:3]}
    one, order = parse(full, "test"), np.random.default_rng(0).permutation(30)
    shares = {x: np.arange(60) < 20 + order[i] for i, x in enumerate(names)}
    weights = [
        {"language": x, "mixer": "outer", "branch": y, "mean": 0.4 if x in names[:3] else 0.01 * i, "std": 0.1}
        for i, x in enumerate(names)
        for y in names[:3]
    ]
    folder = write_run(tmp_path, one, {"test": shares})
    (folder / "mixers-test.json").write_text(json.dumps({"split": "test", "branches": names[:3], "rows": weights}))
    collection, groups, tables, claims = report.make(tmp_path, draws=1000)
    report.write(collection, groups, tables, claims, tmp_path / "report")
    drawn = {x.key.split("-")[0]: x for x in figures.draw(Context(collection, groups), tables)[0]}
    rows = [text.get_text() for text in drawn["languages"].figure.axes[0].get_yticklabels()]
    assert rows == [
        *sorted(names[:3], key=lambda x: -shares[x].sum()),
        *sorted(names[3:], key=lambda x: -shares[x].sum()),
    ]
    assert "Each group starts with its best language" in drawn["languages"].caption
    assert [text.get_text() for text in drawn["mixers"].figure.axes[0].get_yticklabels()] == [*names[:3], "27 others"]
    assert "16" in {text.get_text() for text in drawn["mixers"].figure.axes[0].texts}  # the mean of 3 to 29
    lines = (tmp_path / "report" / "report.md").read_text().splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("### ") and "accuracy" in line)
    table = [line.split(" | ")[0].strip("| *") for line in lines[start + 4 : start + 13]]
    assert table == ["AVG(S)", "AVG(Z)", "AVG(A)", "runs", "Supervised", *names[:3], "Zero-shot"]


def test_the_depth_figure_has_two_axes_and_every_depth(tmp_path):
    for depth, share in ((0, 0.5), (2, 0.6), (4, 0.8)):
        write_run(tmp_path, config("multitrain", depth=depth), correct_rows(share))
    pictures, _ = figures.draw(read(tmp_path), [])
    (picture,) = [x for x in pictures if x.key.startswith("depth")]
    left, right = picture.figure.axes
    for axes, name in ((left, "supervised"), (right, "zero-shot")):
        assert name in axes.get_ylabel()
        assert axes.lines[0].get_xydata() == pytest.approx(np.array([[0, 50], [2, 60], [4, 80]]))


def test_curves_are_thinned_and_averaged_over_seeds(context):
    (group,) = [group for group in context.groups if group.system == "MultiKD + MBLM"]
    loss = curves.training(group.runs, "loss")["en"]
    assert 100 < len(loss) <= curves.POINTS
    assert [value for _, value in loss] == pytest.approx([1.15] * len(loss))
    assert loss[-1][0] == pytest.approx(2, abs=0.02)
    assert curves.averages(group.runs, "dev")["Z"] == [(1, 25), (2, 50)]


def test_confusion_counts_every_row_once(context):
    (group,) = [group for group in context.groups if group.system == "MultiKD + MBLM"]
    languages = group.runs[0].languages
    counts = confusion.counts(group.runs, "test", languages)
    assert counts.sum() == 2 * 20 * len(languages)
    assert np.trace(counts) == (14 + 16) * len(languages)


def test_the_most_different_rows_are_those_that_one_system_gets_wrong(context):
    comparisons, gaps = errors.compare(context)
    first = comparisons[0]
    assert (first.first, first.second) == ("MultiKD + MBLM", "MultiKD")
    # One system is correct on rows 12 and 13 with both seeds, and on 14 and 15 with one. The other is wrong on them.
    german = [item for item in first.items if item.language == "de"]
    assert {item.id for item in german[:2]} == {"row 13", "row 14"}
    assert all(
        item.difference == pytest.approx(item.first[0] - item.second[0])
        for item in german
        if item.label == "entailment"
    )
    assert len(first.items) <= errors.ITEMS
    assert any("row numbers only" in gap.what for gap in gaps)


def test_only_the_most_probable_of_many_classes_are_shown():
    from analysis.page import shares

    assert shares([0.1, 0.7, 0.2], ["a", "b", "c"]) == "10 · 70 · 20"
    many = [0.01] * 50
    many[7], many[30] = 0.31, 0.21
    assert shares(many, [f"l{i}" for i in range(50)]).startswith("l7 31 · l30 21 · ")


def test_a_systems_style_does_not_depend_on_the_other_systems():
    alone, together = look.looks(["MultiKD"]), look.looks(["a system", "MultiTrain", "MultiKD"])
    assert alone["MultiKD"] == together["MultiKD"]
    many = look.looks(f"system {i}" for i in range(40))
    assert len(set(many.values())) == len(many)


@pytest.mark.parametrize("dark", [False, True])
def test_every_colour_contrasts_with_the_background(dark):
    def luminance(color):
        channels = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    page = luminance("#16181c" if dark else "#ffffff")
    for pair in look.PALETTE.values():
        low, high = sorted((page, luminance(pair[dark])))
        assert (high + 0.05) / (low + 0.05) >= 3  # WCAG 1.4.11


def test_labels_in_a_figure_remain_text():
    figure = look.new(2, 2)
    figure.subplots().set_title("</svg><script>alert(1)</script> $x_1$")
    svg = look.themed(look.standalone(figure, "name", "svg").decode(), "name", 'a "title" <b>')
    assert "<script>" not in svg and "&lt;script&gt;alert(1)" in svg
    assert "$x_1$" in svg
    assert "<b>" not in svg


def test_the_calibration_table_has_the_means_over_runs_and_languages(tmp_path):
    languages = paper.xnli().languages
    supervised = paper.xnli().supervised
    for seed, temperature in ((1, 0.5), (2, 1.5)):
        errors = {x: 0.1 * seed if x in supervised else 0.2 * seed for x in languages}
        noted = {
            "temperature": temperature,
            "error_before": {"test": dict.fromkeys(languages, 0.4)},
            "error": {"test": errors},
            **(
                {"error_overall": {"test": dict.fromkeys(languages, 0.3)}} if seed == 1 else {}
            ),  # 2: an earlier version
            "accuracy_at_coverage": {"test": {x: {"0.9": 0.6, "0.75": 0.7, "0.5": 0.8} for x in languages}},
        }
        write_run(tmp_path, config("multikd", seed), correct_rows(0.6), calibration=noted)
    write_run(tmp_path, config("multitrain"), correct_rows(0.6))  # without calibration, as in earlier versions
    (table,) = reliability.tables(read(tmp_path))
    ((label, texts),) = [(row.label, [cell.text for cell in row.cells]) for row in table.rows]
    assert label == "MultiKD"
    assert texts == ["1.00", "40.00", "40.00", "25.00", "35.00", "10.00", "20.00", "60.00", "70.00", "80.00"]


def test_a_reliability_bin_has_the_confidence_of_the_calibrated_model(context):
    (run, *_) = context.find("xnli", context.backbones("xnli")[0], "MultiKD").runs
    sure = np.exp(1) / (np.exp(1) + 2)  # synthetic logits of three classes: 1 for the answer, 0 otherwise
    ((rows, confidence, right),) = reliability.bins([run], "test", "supervised")
    assert (rows, confidence, right) == (60, pytest.approx(sure), pytest.approx(0.6))
    run.result.calibration["temperature"] = 0.5
    ((_, confidence, _),) = reliability.bins([run], "test", "supervised")
    run.result.calibration["temperatures"] = dict.fromkeys(run.result.supervised, 0.25)
    ((_, own, _),) = reliability.bins([run], "test", "supervised")
    del run.result.calibration["temperature"], run.result.calibration["temperatures"]
    assert confidence == pytest.approx(np.exp(2) / (np.exp(2) + 2))
    assert own == pytest.approx(np.exp(4) / (np.exp(4) + 2))
