"""A table of the report, independent of its rendering: rows of cells with numbers and annotations."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from itertools import groupby

NOTHING = "–"
ACROSS = 20  # number of languages above which languages become rows
WITHIN = Decimal("0.05")  # distance from the best that is bold, inclusive: the caption of Table 3


@dataclass(frozen=True)
class Cell:
    """One printed number.

    value: in printed units (x100 for scores), or None. text: the printed form. std: over n runs. interval: 95 %.
    reference: the paper's number. difference: value - reference.
    """

    value: float | None
    text: str
    bold: bool = False
    note: str = ""
    std: float | None = None
    n: int = 0
    interval: tuple[float, float] | None = None
    reference: float | None = None
    difference: float | None = None


@dataclass(frozen=True)
class Row:
    """A row for a system. block: its heading, such as `mBERT-based model`."""

    label: str
    cells: list[Cell]
    block: str = ""


@dataclass(frozen=True)
class Table:
    """A table in the paper's layout.

    key: its name in file names (table-3). columns: headings of the cells, without the label column. spans: (heading,
    number of columns) above the columns, from the left.
    """

    key: str
    title: str
    columns: list[str]
    rows: list[Row]
    notes: list[str] = field(default_factory=list)
    spans: list[tuple[str, int]] = field(default_factory=list)


def empty(note: str = "") -> Cell:
    """A cell without a number."""
    return Cell(None, NOTHING, note=note)


def embolden(rows: Sequence[Row], lowest: bool = False) -> list[Row]:
    """Bold every number within 0.05 of its block's best in its column, decided on the printed decimals.

    lowest: the smallest number is the best (MAE). A number without competitors is not bold.
    """
    found = list(rows)
    for block in dict.fromkeys(row.block for row in rows):
        mine = [i for i, row in enumerate(rows) if row.block == block]
        for column in range(len(rows[mine[0]].cells)):
            printed = {
                i: Decimal(found[i].cells[column].text) for i in mine if found[i].cells[column].value is not None
            }
            best = (min if lowest else max)(printed.values(), default=Decimal(0))
            for i, number in printed.items():
                if len(printed) > 1 and abs(number - best) <= WITHIN:
                    cells = list(found[i].cells)
                    cells[column] = replace(cells[column], bold=True)
                    found[i] = replace(found[i], cells=cells)
    return found


def upright(table: Table) -> Table:
    """The table, transposed with averages first if it has more than ACROSS languages."""
    languages = sum(count for _, count in table.spans)
    if languages <= ACROSS:
        return table
    headings = [heading for heading, count in table.spans for _ in range(count)]
    headings += [""] * (len(table.columns) - languages)
    places = sorted(range(len(headings)), key=lambda i: headings[i] != "")
    rows = [Row(table.columns[i], [row.cells[i] for row in table.rows], headings[i]) for i in places]
    blocks = [(block, len(list(mine))) for block, mine in groupby(table.rows, key=lambda row: row.block)]
    return replace(
        table, columns=[row.label for row in table.rows], rows=rows, spans=blocks if any(x for x, _ in blocks) else []
    )
