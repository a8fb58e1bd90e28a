"""Report on finished runs: the paper's tables with intervals, its claims as a checklist, and figures.

usage: python -m analysis.report RUNS [--out DIR] [--split dev|test] [--reference paper] [--draws N]
"""

import argparse
import csv
import io
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from analysis import origins, reliability, render
from analysis.claims import Claim, checklist
from analysis.collect import Collection, Problem, collect
from analysis.context import Context, systems_table
from analysis.data_tables import data_tables
from analysis.gaps import missing
from analysis.groups import Group, choose
from analysis.main_tables import main_tables
from analysis.structure_tables import structure_tables
from analysis.tables import Table, upright
from mbkd.errors import UserError
from mbkd.files import write_whole
from mbkd.terminal.console import make_console
from mbkd.terminal.progress import ProgressBar

BESIDE = ("-intervals", "-paper")  # suffixes of tables that follow their main table


def make(
    root: Path, split: str | None = None, paper: bool = False, draws: int = 10_000
) -> tuple[Collection, list[Group], list[Table], list[Claim]]:
    """The content of a report on the runs below a folder. Raises UserError."""
    if draws < 1000:
        raise UserError(f"--draws {draws}: an interval needs at least 1000 draws")
    with ProgressBar("report", 4) as progress:
        collection = collect(root)
        groups = choose(collection)
        progress.advance({"runs": len(collection.runs)})
        context = Context(collection, groups, split, paper, draws)
        if split and not any(context.splits(task) for task in context.tasks):
            raise UserError(f"--split {split}: no run has scores of this split")
        collection.problems.extend(missing(context))
        shown = [run for group in groups for run in group.runs]
        collection.problems.extend([*origins.differing(shown), *origins.changed(shown, root)])
        tables = [*data_tables(context), *reliability.tables(context)]
        progress.advance()
        main, claims = main_tables(context)
        progress.advance()
        structures, others = structure_tables(context)
        progress.advance()
    tables = sorted([*tables, *main, *structures], key=_place)
    claims = sorted([*claims, *others], key=lambda claim: [table.key for table in tables].index(claim.table))
    return collection, groups, tables, claims


def _place(table: Table) -> tuple[bool, str, int]:
    """Sort key: the paper's tables first, in order, each followed by its intervals and comparison."""
    own = table.key
    for i, suffix in enumerate(BESIDE, start=1):
        if own.endswith(suffix):
            return not own.startswith("table"), own.removesuffix(suffix), i
    return not own.startswith("table"), own, 0


def write(
    collection: Collection, groups: Sequence[Group], tables: Sequence[Table], claims: Sequence[Claim], out: Path
) -> list[Path]:
    """Write report.md, tables.tex, cells.csv and report.json; return the files."""
    problems = list(dict.fromkeys(collection.problems))
    systems = systems_table(groups)
    whole = {
        "runs": str(collection.root),
        "problems": [asdict(problem) for problem in problems],
        "claims": [asdict(claim) for claim in claims],
        "tables": [render.as_json(table) for table in (systems, *tables)],
    }
    texts = {
        "report.md": _markdown(collection, problems, systems, tables, claims),
        "tables.tex": "% \\usepackage{booktabs,graphicx}\n" + "\n".join(map(render.latex, map(upright, tables))),
        "report.json": json.dumps(whole, indent=1, ensure_ascii=False) + "\n",
    }
    out.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        write_whole(out / name, text.encode())
    cells = io.StringIO(newline="")
    lines = csv.DictWriter(cells, render.CSV_COLUMNS)
    lines.writeheader()
    lines.writerows(line for table in tables for line in render.csv_lines(table))
    write_whole(out / "cells.csv", cells.getvalue().encode())
    return [out / name for name in (*texts, "cells.csv")]


def _markdown(
    collection: Collection,
    problems: Sequence[Problem],
    systems: Table,
    tables: Sequence[Table],
    claims: Sequence[Claim],
) -> str:
    parts = [f"# {collection.root}: {len(collection.runs)} finished runs\n"]
    if problems:
        parts.append("## Missing from this report\n\n" + "\n".join(f"- {x.where}: {x.what}" for x in problems) + "\n")
    parts += [render.markdown(checklist(claims)), *map(render.markdown, map(upright, tables)), render.markdown(systems)]
    return "\n".join(parts)


def _page(
    collection: Collection,
    groups: Sequence[Group],
    tables: Sequence[Table],
    claims: Sequence[Claim],
    out: Path,
    split: str | None,
) -> list[Path]:
    """The HTML page with its figures; without the `report` extra, a message and no page."""
    try:
        from analysis import page
    except ImportError as error:
        print(f"no HTML page: {error.name} is not installed; pip install 'mbkd[report]'", file=sys.stderr)
        return []
    return page.write(collection, groups, tables, claims, out, split)


def show(collection: Collection, tables: Sequence[Table], claims: Sequence[Claim]) -> None:
    """Print the gaps, the tables and the checklist. Intervals are in the files only."""
    console = make_console()
    problems = [(problem.where, problem.what) for problem in dict.fromkeys(collection.problems)]
    shown: list[Table] = [render.problems(problems)] if problems else []
    shown += [table for table in tables if not table.key.endswith("-intervals")]
    for table in [*shown, checklist(claims)]:
        console.print(render.on_terminal(table, console))


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the command line, write the report, and print it."""
    parser = argparse.ArgumentParser(prog="analysis.report", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("runs", type=Path, help="the runs folder, as given to `mbkd train --runs`")
    parser.add_argument("--out", type=Path, help="output folder (default: RUNS/report)")
    parser.add_argument("--split", choices=("dev", "test"), help="the only split to report (default: per table)")
    parser.add_argument("--reference", choices=("paper",), help="also print the paper's numbers and the differences")
    parser.add_argument("--draws", type=int, default=10_000, help="bootstrap draws (default: 10000)")
    asked: Any = parser.parse_args(arguments)
    out = asked.out or asked.runs / "report"
    if out.exists() and not out.is_dir():
        raise UserError(f"--out {out}: is a file; name a folder")
    collection, groups, tables, claims = make(asked.runs, asked.split, asked.reference == "paper", asked.draws)
    files = write(collection, groups, tables, claims, out)
    files = [*_page(collection, groups, tables, claims, out, asked.split), *files]
    show(collection, tables, claims)
    for file in files:
        print(file)


if __name__ == "__main__":
    try:
        main()
    except (UserError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
