"""A grid of numbers as tables that fit the window; columns become rows if they do not fit."""

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import NamedTuple

from rich.cells import cell_len
from rich.console import Console, Group, RenderableType
from rich.table import Column, Table
from rich.text import Text

FRAME = 3  # width of a table's column in addition to its text
LABEL = 24  # labels may wrap to this width to keep the rows as rows
HEADING_LINES = 3  # a label above a column wraps to about this number of lines


class Row(NamedTuple):
    """A row of a grid; block: the heading above the row."""

    label: str
    cells: Sequence[str | Text]
    block: str = ""


Columns = Sequence[tuple[str, Sequence[str]]]  # (heading, names of columns), in the order of the cells


def fitting(rows: Sequence[Row], columns: Columns, console: Console, title: str = "") -> Iterator[RenderableType]:
    """Yield tables that show every cell in full in the console's width.

    Rows stay rows if all columns fit side by side. Otherwise the table is transposed: columns become rows under their
    headings, and columns without a heading come first. Each block then has its own table, or several tables if its
    rows do not fit side by side.
    """
    whole = across(rows, [name for _, names in columns for name in names])
    tables = [("", whole)] if fits(whole, console) else list(_down(rows, columns, console.width))
    for number, (block, table) in enumerate(tables):
        heading = ", ".join(x for x in (title if number == 0 or block else "", block) if x)
        yield Group(Text(heading, "italic"), table) if heading else table


def across(rows: Sequence[Row], names: Sequence[str]) -> Table:
    """Return one table with the rows as rows."""
    headings = (Column(Text(name), justify="right", no_wrap=True) for name in names)
    table = Table(Column("", overflow="fold"), *headings)
    for number, (block, mine) in enumerate(groupby(rows, key=lambda row: row.block)):
        if number:
            table.add_section()
        if block:
            table.add_row(Text(block, "italic"))
        for row in mine:
            table.add_row(Text(row.label), *map(_text, row.cells))
    return table


def fits(table: Table, console: Console, spare: int = 0) -> bool:
    """Whether every cell fits in the console's width less `spare`. Labels may wrap to a width of LABEL."""
    table.columns[0].max_width = LABEL
    needed = table.__rich_measure__(console, console.options.update(max_width=1_000_000)).maximum
    table.columns[0].max_width = None
    return needed <= console.width - spare


def beside(widths: Sequence[int], room: int) -> Iterator[range]:
    """Yield the columns of each table: as many as fit into `room`, at least one."""
    start, used = 0, 0
    for number, width in enumerate(widths):
        if used + width + FRAME > room and number > start:
            yield range(start, number)
            start, used = number, 0
        used += width + FRAME
    yield range(start, len(widths))


def _down(rows: Sequence[Row], columns: Columns, width: int) -> Iterator[tuple[str, Table]]:
    """Yield (block, table) of the transposed grid: rows become columns."""
    names = [name for _, group in columns for name in group]
    places: dict[str, list[int]] = {heading: [] for heading, _ in sorted(columns, key=lambda column: bool(column[0]))}
    place = 0
    for heading, group in columns:
        places[heading] += range(place, place + len(group))
        place += len(group)
    first = max(map(cell_len, [*names, *places]))
    for block, each in groupby(rows, key=lambda row: row.block):
        mine = list(each)
        widths = [_width(row) for row in mine]
        for part in beside(widths, width - first - FRAME - 1):
            headings = (Column(Text(mine[i].label), justify="right", overflow="fold", width=widths[i]) for i in part)
            table = Table(Column("", no_wrap=True), *headings)
            for heading, wanted in places.items():
                table.add_section()
                if heading and wanted:
                    table.add_row(Text(heading, "italic"))
                for i in wanted:
                    table.add_row(Text(names[i]), *(_text(mine[j].cells[i]) for j in part))
            yield block, table


def _text(cell: str | Text) -> Text:
    """Return a cell as text without markup."""
    return Text(cell) if isinstance(cell, str) else cell


def _width(row: Row) -> int:
    """Return the width of a row shown as a column: full cells, the label in a few lines."""
    word = max(map(cell_len, row.label.split()), default=0)
    cell = max(cell_len(str(cell)) for cell in row.cells)
    return max(cell, min(word, LABEL), -(-cell_len(row.label) // HEADING_LINES))
