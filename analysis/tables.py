"""What a table of the report is, whoever renders it: rows of cells, each a number and what stands beside it."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Cell:
    """One number as it is printed.

    value is in printed units (x100 for scores), None where there is none; text is what is shown for it. std is over
    n runs. interval is the 95 % one. reference is the paper's number, difference is value - reference.
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
    """A system; block is the heading that it stands under, such as `mBERT-based model`."""

    label: str
    cells: list[Cell]
    block: str = ""


@dataclass(frozen=True)
class Table:
    """A table in the paper's layout.

    key names it in file names (table-3); columns are the headings of the cells, without the one of the labels; spans
    are (heading, how many columns) above them, from the left.
    """

    key: str
    title: str
    columns: list[str]
    rows: list[Row]
    notes: list[str] = field(default_factory=list)
    spans: list[tuple[str, int]] = field(default_factory=list)
