"""Rendering of a table: Markdown, LaTeX with booktabs, CSV, JSON, and the terminal."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from itertools import groupby
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.text import Text

from analysis.tables import Cell, Row, Table
from mbkd.terminal import grid

CSV_COLUMNS = (
    "table", "block", "row", "column", "value", "text", "bold", "std", "n", "low", "high", "reference", "difference",
)  # fmt: skip
LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": "$<$", ">": "$>$",
    "±": r"$\pm$", "×": r"$\times$", "−": "$-$", "–": "--",
}  # fmt: skip
OF_WORDS = ("problems", "claims")  # keys of tables with words in some cells
WIDE = 12  # number of columns; wider tables shrink to the width of the page


def markdown(table: Table) -> str:
    """A heading, the table with ± standard deviations, and the notes."""
    lines = [f"### {table.title}", "", _line(["", *table.columns]), _line(["---"] + ["---:"] * len(table.columns))]
    for block, rows in groupby(table.rows, key=lambda row: row.block):
        if block:
            lines.append(_line([f"*{block}*"] + [""] * len(table.columns)))
        for row in rows:
            lines.append(_line([row.label, *map(_markdown_cell, row.cells)]))
    lines += ["", *[f"- {note}" for note in table.notes]]
    return "\n".join(lines).rstrip() + "\n"


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _markdown_cell(cell: Cell) -> str:
    text = f"**{cell.text}**" if cell.bold else cell.text
    return text + _interval(cell) if cell.std is None else f"{text} ± {cell.std:.2f}"


def _interval(cell: Cell) -> str:
    return f" [{cell.interval[0]:.2f}, {cell.interval[1]:.2f}]" if cell.interval else ""


def latex(table: Table) -> str:
    r"""A table environment; requires booktabs, and graphicx for \resizebox."""
    width = len(table.columns) + 1
    body = [rf"\begin{{tabular}}{{l{'r' * len(table.columns)}}}", r"\toprule"]
    if table.spans:
        spans = [rf"\multicolumn{{{n}}}{{c}}{{{escape(name)}}}" for name, n in table.spans]
        rest = [""] * (len(table.columns) - sum(n for _, n in table.spans))
        body.append(_latex_line(["", *spans, *rest]))
    body += [_latex_line(["", *map(escape, table.columns)]), r"\midrule"]
    for number, (block, rows) in enumerate(groupby(table.rows, key=lambda row: row.block)):
        if number:
            body.append(r"\midrule")
        if block:
            body.append(rf"\multicolumn{{{width}}}{{l}}{{\textit{{{escape(block)}}}}} \\")
        body += [_latex_line([escape(row.label), *map(_latex_cell, row.cells)]) for row in rows]
    body += [r"\bottomrule", r"\end{tabular}"]
    if len(table.columns) > WIDE:
        body = [r"\resizebox{\textwidth}{!}{%", *body[:-1], body[-1] + "}"]
    notes = [rf"\par\footnotesize {escape(' '.join(_sentence(note) for note in table.notes))}"] if table.notes else []
    begin = [r"\begin{table*}[t]", r"\centering", rf"\caption{{{escape(_caption(table))}}}", rf"\label{{{table.key}}}"]
    return "\n".join([*begin, *body, *notes, r"\end{table*}"]) + "\n"


def _latex_line(cells: Sequence[str]) -> str:
    return " & ".join(cells) + r" \\"


def _latex_cell(cell: Cell) -> str:
    text = escape(cell.text)
    text = rf"\textbf{{{text}}}" if cell.bold else text
    return text + _interval(cell) if cell.std is None else rf"{text}{{\scriptsize$\pm${cell.std:.2f}}}"


def _caption(table: Table) -> str:
    """The title without its number, which LaTeX adds."""
    before, colon, after = table.title.partition(": ")
    return after if colon and before.startswith("Table") else table.title


def _sentence(note: str) -> str:
    return note if note.endswith(".") else f"{note}."


def escape(text: str) -> str:
    """Escape text for LaTeX."""
    return "".join(LATEX.get(letter, letter) for letter in text)


def csv_lines(table: Table) -> Iterator[dict[str, Any]]:
    """One line per cell, with the columns CSV_COLUMNS."""
    for row in table.rows:
        for column, cell in zip(table.columns, row.cells, strict=True):
            low, high = cell.interval or (None, None)
            where = {"table": table.key, "block": row.block, "row": row.label, "column": column}
            numbers = {name: getattr(cell, name) for name in ("value", "text", "bold", "std", "n")}
            against = {"reference": cell.reference, "difference": cell.difference}
            yield where | numbers | {"low": low, "high": high} | against


def as_json(table: Table) -> dict[str, Any]:
    """The complete content of the table."""
    return asdict(table)


def on_terminal(table: Table, console: Console) -> Group:
    """Title, printed numbers without deviations, and notes, in the console's width."""
    rows = [
        grid.Row(row.label, [Text(cell.text, "bold" if cell.bold else "") for cell in row.cells], row.block)
        for row in table.rows
    ]
    shown: list[RenderableType]
    if table.key in OF_WORDS:
        whole = grid.across(rows, table.columns)
        shown = [whole] if grid.fits(whole, console) else list(_lines(table))
    else:
        columns, left = [], list(table.columns)
        for heading, count in table.spans:
            columns.append((heading, left[:count]))
            del left[:count]
        shown = list(grid.fitting(rows, [*columns, ("", left)], console))
    return Group(Text(f"\n{table.title}", "bold"), *shown, *map(Text, table.notes))


def _lines(table: Table) -> Iterator[RenderableType]:
    """A table of words that is too wide, as one paragraph per row."""
    for block, rows in groupby(table.rows, key=lambda row: row.block):
        if block:
            yield Text(block, "italic")
        for row in rows:
            cells = (f"{name} {cell.text}" for name, cell in zip(table.columns, row.cells, strict=True))
            yield Padding(Text(row.label), (0, 0, 0, 2))
            yield Padding(Text(", ".join(cells)), (0, 0, 0, 4))


def problems(found: Sequence[tuple[str, str]]) -> Table:
    """Omissions from a report as a table: (where, what)."""
    rows = [Row(where, [Cell(None, what)]) for where, what in found]
    return Table("problems", "Missing from this report", ["what"], rows)
