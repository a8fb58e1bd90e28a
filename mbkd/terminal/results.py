"""Results on the terminal: one row per run, languages as columns, the averages behind."""

from collections.abc import Sequence
from typing import Any

from rich.table import Table

from mbkd.terminal.console import make_console


def results_table(results: Sequence[dict[str, Any]], split: str, metric: str = "accuracy") -> Table:
    """Scores x100 of a split for results as in result.json; `-` where a run did not measure a language.

    metric: accuracy, or mae (lower is better).
    """
    languages = list(dict.fromkeys(x for r in results for x in [*r["supervised"], *r["zero_shot"]]))
    title = {"accuracy": "accuracy x100", "mae": "mean absolute error x100, lower is better"}[metric]
    table = Table(title=f"{split}: {title}", title_justify="left")
    table.add_column("system")
    for language in languages:
        table.add_column(language, justify="right")
    # A teacher knows one language: an average over it would say nothing.
    with_means = [r for r in results if r["role"] != "teacher"]
    for name in ("AVG(S)", "AVG(Z)", "AVG(A)") if with_means else ():
        table.add_column(name, justify="right", style="bold")
    for result in results:
        scores = result[metric].get(split, {})
        cells = [scores.get(x) for x in languages]
        if with_means:
            means = result["averages" if metric == "accuracy" else "mae_averages"].get(split, {})
            cells += [means.get(x) if result["role"] != "teacher" else None for x in "SZA"]
        table.add_row(result["system"], *["-" if x is None else f"{100 * x:.2f}" for x in cells])
    return table


def print_results(results: Sequence[dict[str, Any]], split: str) -> None:
    """Print the tables of a split: accuracy, and MAE where the labels are ordinal."""
    console = make_console()
    console.print(results_table(results, split))
    if any(r["mae"].get(split) for r in results):
        console.print(results_table(results, split, "mae"))


def print_export(report: dict[str, Any]) -> None:
    """Print what export.json holds: size, speed and agreement of every graph beside torch's."""
    console = make_console()
    title = f"{report['rows']:,} rows ({report['rows_from']}) on the CPU, threads: {report['threads']}"
    table = Table("", "MB", "rows/s", "same label %", "largest difference", title=title, title_justify="left")
    for name, found in report["engines"].items():
        agreement = f"{100 * found['agreement']:.2f}" if "agreement" in found else "-"
        difference = f"{found['largest_difference']:.1e}" if "largest_difference" in found else "-"
        table.add_row(name, f"{found['bytes'] / 1e6:,.1f}", f"{found['rows_per_second']:,.1f}", agreement, difference)
    console.print(table)


def print_mixers(found: dict[str, Any]) -> None:
    """Print the weights of the branches, mean and spread x100, by language and mixer."""
    console = make_console()
    title = f"{found['split']}: weight of each branch x100, mean ± standard deviation over features and examples"
    table = Table("language", "mixer", *found["branches"], title=title, title_justify="left")
    cells: dict[tuple[str, str], list[str]] = {}
    for row in found["rows"]:
        each = cells.setdefault((row["language"], row["mixer"]), [])
        each.append(f"{100 * row['mean']:.1f} ± {100 * row['std']:.1f}")
    before = ""
    for (language, mixer), values in cells.items():
        if before and language != before:
            table.add_section()
        table.add_row("" if language == before else language, mixer, *values)
        before = language
    console.print(table)


def print_plan(found: dict[str, Any]) -> None:
    """Print what `mbkd.measure.plan.estimate` returns: a line per system, the sum, the assumptions, the savings."""
    console = make_console()
    table = Table("task", "backbone", "system", title="what is left to run", title_justify="left")
    for name in ("runs", "steps", "PFLOP", "hours", "GB a rank", "GB on disk", "GB of checkpoints"):
        table.add_column(name, justify="right")
    groups: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    left = [run for run in found["runs"] if not run["finished"]]
    for run in left:
        groups.setdefault((run["task"], run["backbone"].rsplit("/", 1)[-1], run["system"]), []).append(run)
    for names, each in groups.items():
        flops = sum(sum(run["flops"].values()) for run in each)
        table.add_row(
            *names,
            f"{len(each):,}",
            f"{sum(run['steps'] for run in each):,}",
            f"{flops / 1e15:,.4g}",
            f"{sum(run['hours'] for run in each):,.2f}",
            f"{max(sum(run['memory'].values()) for run in each) / 1e9:.2f}",
            f"{sum(run['disk']['finished'] for run in each) / 1e9:.2f}",
            f"{max(run['disk']['checkpoints'] for run in each) / 1e9:.2f}",
        )
    total = found["total"]
    console.print(table)
    if left:
        largest = max(left, key=lambda run: sum(run["memory"].values()))
        parts = ", ".join(f"{part} {size / 1e9:.2f}" for part, size in largest["memory"].items())
        console.print(f"GB of a rank of {largest['system']}: {parts}", highlight=False, soft_wrap=True)
    lines = [
        f"sum: {total['runs']:,} runs, {total['steps']:,} steps, {total['flops'] / 1e15:,.4g} PFLOP, "
        f"{total['hours']:,.2f} hours of one device, {total['disk'] / 1e9:.2f} GB on disk"
        + (f"; {total['finished']:,} runs are finished already" if total["finished"] else ""),
        f"speed: {found['machine']}",
        *(f"text: {source}" for source in found["text"]),
    ]
    if found["cache"]:
        online, cache = found["cache"]["online"], found["cache"]["cache"]
        lines.append(
            f"distill.signal: online takes {online:,.2f} hours; cache, its teachers asked once, {cache:,.2f}: "
            f"{online / cache:.2f} times less"
        )
    if found["confirm"]:
        full, confirm = found["confirm"]["full"], found["confirm"]["confirm"]
        lines.append(
            f"protocol: every seed searches takes {full:,.2f} hours; one seed searches, the others confirm, at most "
            f"{confirm:,.2f}: {full / confirm:.2f} times less"
        )
    for line in lines:
        console.print(line, highlight=False, soft_wrap=True)
