"""Output of commands on the terminal: scores by language, sizes, weights of branches, costs."""

import statistics
from collections.abc import Sequence
from itertools import groupby
from typing import Any

from rich.cells import cell_len
from rich.table import Column, Table
from rich.text import Text

from mbkd.result import Metric, Result, temperatures
from mbkd.terminal.console import make_console
from mbkd.terminal.grid import FRAME, Columns, Row, beside, fitting

AVERAGES = {"AVG(S)": "S", "AVG(Z)": "Z", "AVG(A)": "A"}
METRICS: dict[Metric, str] = {"accuracy": "accuracy x100", "mae": "mean absolute error x100, lower is better"}


def print_results(results: Sequence[Result], split: str) -> None:
    """Print the scores of a split: accuracy, and MAE for ordinal labels."""
    console = make_console()
    for metric, title in METRICS.items():
        if metric == "accuracy" or any(r.scores(split, metric) for r in results):
            rows, columns = results_grid(results, split, metric)
            for table in fitting(rows, columns, console, f"{split}: {title}"):
                console.print(table)


def results_grid(results: Sequence[Result], split: str, metric: Metric = "accuracy") -> tuple[list[Row], Columns]:
    """Return the scores x100 of a split as a grid; `-` if a run did not measure a language.

    metric: accuracy, or mae (lower is better).
    """
    scores = [r.scores(split, metric) for r in results]
    teachers = [r.role == "teacher" for r in results]
    if all(teachers) and all(len(each) == 1 for each in scores):
        rows = [Row(r.system, [_score(*each.values())]) for r, each in zip(results, scores, strict=True)]
        return rows, [("", ["own language"])]
    supervised = list(dict.fromkeys(x for r in results for x in r.supervised))
    zero_shot = list(dict.fromkeys(x for r in results for x in r.zero_shot if x not in supervised))
    # No averages, because a teacher has a single language.
    averages = [] if all(teachers) else list(AVERAGES)
    rows = []
    for result, each, teacher in zip(results, scores, teachers, strict=True):
        means = {} if teacher else result.means(split, metric)
        cells = [Text(_score(each.get(x))) for x in (*supervised, *zero_shot)]
        cells += [Text(_score(means.get(AVERAGES[x])), "bold") for x in averages]
        rows.append(Row(result.system, cells))
    return rows, [("supervised", supervised), ("zero-shot", zero_shot), ("", averages)]


def _score(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.2f}"


def print_calibration(result: Result) -> None:
    """Print whether a model's probabilities are calibrated, and the calibration error."""
    found = result.calibration
    if not found or result.role == "teacher":
        return
    text = "the probabilities are not calibrated and do not tell how often a label is correct"
    if found["temperature"] is not None:
        text = f"probabilities: calibrated on dev, {temperatures(found)}"
        kinds = [found[x] for x in ("error_before", "error_overall", "error") if x in found]
        for split in found["error"]:
            means = [f"{100 * statistics.fmean(each[split].values()):.1f}" for each in kinds]
            text += f"; expected calibration error on {split} {' -> '.join(means)} %"
        if "error_overall" in found:
            text += " (raw, overall temperature, temperature of the language)"
    console = make_console()
    console.print(text, highlight=False, soft_wrap=not console.is_terminal)


def print_speed(result: Result) -> None:
    """Print the time of a training step, its FLOP/s, and the share of the device's peak."""
    found = result.step_seconds
    if "gflop_per_second" not in found:
        return
    text = f"{found['median']:.3g} s per step (median), {found['gflop_per_second']:,.1f} GFLOP/s"
    if "share_of_peak" in found:
        text += f", {found['share_of_peak']:.1%} of the device's peak"
    make_console().print(f"{result.system}: {text}", highlight=False, soft_wrap=True)


def print_spread(results: Sequence[Result], split: str) -> None:
    """Print the scores of a system's ensembles on a split: accuracy, and MAE for ordinal labels."""
    console = make_console()
    for metric in METRICS:
        if metric == "accuracy" or results[0].scores(split, metric):
            row, columns = spread_grid(results, split, metric)
            title = f"{split}: {metric} x100, mean ± standard deviation over {len(results)} groups"
            for table in fitting([row], columns, console, title):
                console.print(table)


def spread_grid(results: Sequence[Result], split: str, metric: Metric = "accuracy") -> tuple[Row, Columns]:
    """Return mean ± standard deviation x100 over several results of one system."""
    first = results[0]
    supervised, zero_shot = (
        [x for x in each if x in first.scores(split, metric)] for each in (first.supervised, first.zero_shot)
    )
    cells = [_spread([r.scores(split, metric)[x] for r in results]) for x in (*supervised, *zero_shot)]
    cells += [_spread([r.means(split, metric).get(x) for r in results]) for x in AVERAGES.values()]
    return Row(first.system, cells), [("supervised", supervised), ("zero-shot", zero_shot), ("", list(AVERAGES))]


def _spread(values: Sequence[float | None]) -> str:
    known = [100 * value for value in values if value is not None]
    if len(known) < len(values):
        return "-"
    deviation = f" ± {statistics.stdev(known):.2f}" if len(known) > 1 else ""
    return f"{statistics.mean(known):.2f}{deviation}"


def print_export(report: dict[str, Any]) -> None:
    """Print the content of export.json: size, speed and agreement of every graph, compared with torch."""
    console = make_console()
    title = f"{report['rows']:,} rows ({report['rows_from']}) on the CPU, threads: {report['threads']}"
    table = Table("", "MB", "rows/s", "same label %", "largest difference", title=title, title_justify="left")
    for name, found in report["engines"].items():
        agreement = f"{100 * found['agreement']:.2f}" if "agreement" in found else "-"
        difference = f"{found['largest_difference']:.1e}" if "largest_difference" in found else "-"
        table.add_row(name, f"{found['bytes'] / 1e6:,.1f}", f"{found['rows_per_second']:,.1f}", agreement, difference)
    console.print(table)
    engines = report["engines"]
    if languages := list(engines["torch fp32"]["accuracy"]):
        for field, title in (("accuracy", "accuracy x100"), ("agreement_by_language", "same label as torch, %")):
            there = {name: found[field] for name, found in engines.items() if field in found}
            rows = [Row(name, [_score(found[x]) for x in languages]) for name, found in there.items()]
            for part in fitting(rows, [("", languages)], console, title):
                console.print(part)
    for found in engines.values():
        if found.get("good") is False:
            before, after = engines["torch fp32"]["accuracy"], found["accuracy"]
            worst = max(before, key=lambda x: before[x] - after[x])
            console.print(
                f"warning: {found['file']} is kept but loses accuracy: in {worst}, accuracy fell from "
                f"{100 * before[worst]:.2f} to {100 * after[worst]:.2f} on {report['rows_by_language'][worst]:,} rows",
                highlight=False,
                soft_wrap=not console.is_terminal,
            )


def print_mixers(found: dict[str, Any]) -> None:
    """Print the weights of the branches, mean and standard deviation x100, by language and mixer."""
    console = make_console()
    title = f"{found['split']}: weight of each branch x100, mean ± standard deviation over features and examples"
    lines: dict[tuple[str, str], list[str]] = {}
    for row in found["rows"]:
        each = lines.setdefault((row["language"], row["mixer"]), [])
        each.append(f"{100 * row['mean']:.1f} ± {100 * row['std']:.1f}")
    names = [Column(x, no_wrap=True) for x in ("language", "mixer")]
    widths = [max(map(cell_len, x)) for x in zip(found["branches"], *lines.values(), strict=True)]
    left = [max(map(cell_len, x)) + FRAME for x in zip(("language", "mixer"), *lines, strict=True)]
    console.print(Text(title, "italic"))
    for part in beside(widths, console.width - sum(left) - 1):
        table = Table(*names, *(Column(found["branches"][i], no_wrap=True) for i in part))
        for language, mine in groupby(lines, key=lambda line: line[0]):
            table.add_section()
            for number, (_, mixer) in enumerate(mine):
                cells = lines[language, mixer]
                table.add_row(language if number == 0 else "", mixer, *(cells[i] for i in part))
        console.print(table)


def print_plan(found: dict[str, Any]) -> None:
    """Print the result of `mbkd.estimate.plan.estimate`: lines per system, sum, assumptions, savings."""
    console = make_console()
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    left = [run for run in found["runs"] if not run["finished"]]
    for run in left:
        where = f"{run['task']}, {run['backbone'].rsplit('/', 1)[-1]}"
        groups.setdefault((where, run["system"]), []).append(run)
    names = ("runs", "steps", "PFLOP", "hours", "GB per rank", "GB on disk", "GB of checkpoints")
    rows = []
    for (where, system), each in groups.items():
        cells = [
            f"{len(each):,}",
            f"{sum(run['steps'] for run in each):,}",
            f"{sum(sum(run['flops'].values()) for run in each) / 1e15:,.4g}",
            f"{sum(run['hours'] for run in each):,.2f}",
            f"{max(sum(run['memory'].values()) for run in each) / 1e9:.2f}",
            f"{sum(run['disk']['finished'] for run in each) / 1e9:.2f}",
            f"{max(run['disk']['checkpoints'] for run in each) / 1e9:.2f}",
        ]
        rows.append(Row(system, cells, where))
    for table in fitting(rows, [("", names)], console, "remaining runs") if rows else ():
        console.print(table)
    total = found["total"]
    if left:
        largest = max(left, key=lambda run: sum(run["memory"].values()))
        parts = ", ".join(f"{part} {size / 1e9:.2f}" for part, size in largest["memory"].items())
        console.print(
            f"GB per rank of {largest['system']}: {parts}", highlight=False, soft_wrap=not console.is_terminal
        )
    lines = [
        f"sum: {total['runs']:,} runs, {total['steps']:,} steps, {total['flops'] / 1e15:,.4g} PFLOP, "
        f"{total['hours']:,.2f} hours of one device, {total['disk'] / 1e9:.2f} GB on disk"
        + (f"; {total['finished']:,} runs are already finished" if total["finished"] else ""),
        f"speed: {found['machine']}",
        *(f"text: {source}" for source in found["text"]),
    ]
    if found["cache"]:
        online, cache = found["cache"]["online"], found["cache"]["cache"]
        lines.append(
            f"distill.signal: {online:,.2f} hours with online; {cache:,.2f} hours with cache, which runs the teachers "
            f"once (a factor of {online / cache:.2f})"
        )
    if found["confirm"]:
        full, confirm = found["confirm"]["full"], found["confirm"]["confirm"]
        lines.append(
            f"protocol: {full:,.2f} hours with full, which searches with every seed; at most {confirm:,.2f} hours with "
            f"confirm, which searches with one seed (a factor of {full / confirm:.2f} or more)"
        )
    for line in lines:
        console.print(line, highlight=False, soft_wrap=not console.is_terminal)
