"""The paper's printed numbers, and averages in the paper that contradict their cells."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import Any

from analysis.collect import Run
from analysis.scores import AVERAGES
from analysis.tables import Cell, Row, Table

BRANCH_DEPTH = 4  # of the paper's MBLM in Tables 3 to 8
SUPERVISED = 3  # number of supervised languages; these come first
HALF = Decimal("0.005")


@dataclass(frozen=True)
class Discrepancy:
    """A printed average that contradicts its cells."""

    table: str
    backbone: str
    system: str
    column: str
    printed: Decimal
    derived: Decimal
    rounding: bool  # whether rounding of the cells can explain the discrepancy

    def __str__(self) -> str:
        why = "rounding of the cells can explain the difference" if self.rounding else "an error in the paper"
        where = f"{backbone_name(self.backbone)} {self.system} {self.column}"
        return f"the paper prints {self.printed:.2f} for {where}, but its cells give {self.derived:.2f}: {why}"


@cache
def tables() -> dict[str, Any]:
    """Table -> backbone (mbert, xlmr) -> system -> column -> printed number, as Decimal."""
    file = Path(__file__).with_name("paper_tables.json")
    found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"), parse_float=Decimal, parse_int=Decimal)
    return dict(found["tables"])


def backbone_key(backbone: str) -> str:
    """mbert or xlmr for the paper's backbones, in any folder; the folder's name for other backbones."""
    name = Path(backbone).name
    return {"bert-base-multilingual-cased": "mbert", "xlm-roberta-base": "xlmr"}.get(name, name)


def backbone_name(key: str) -> str:
    """Backbone name as in the paper."""
    return {"mbert": "mBERT", "xlmr": "XLM-R base"}.get(key, key)


def printed(table: str, run: Run, columns: Sequence[str]) -> dict[str, Decimal]:
    """Printed numbers of a run's system; empty unless task, backbone, K and languages are the paper's.

    columns: languages and averages to look up.
    """
    if run.branch_depth not in (0, BRANCH_DEPTH):
        return {}
    found: dict[str, Decimal] = tables().get(table, {}).get(backbone_key(run.backbone), {}).get(run.system, {})
    languages = set(tables()["table-3" if run.task == "xnli" else "table-4"]["mbert"]["MultiKD"])
    same = languages - set(AVERAGES) == set(run.languages)
    return {x: found[x] for x in columns if x in found and (same or x not in AVERAGES)}


def beside(cell: Cell, number: Decimal | None) -> Cell:
    """The cell with the paper's number, and the difference of ours from the paper's."""
    if number is None or cell.value is None:
        return cell
    return replace(cell, reference=float(number), difference=cell.value - float(number))


def comparison(table: Table, columns: Sequence[str]) -> Table | None:
    """Ours, the paper's and the difference for some columns of a table; None without any number of the paper."""
    at = [table.columns.index(column) for column in columns if column in table.columns]
    rows = []
    for row in table.rows:
        cells = []
        for i in at:
            cell = row.cells[i]
            cells += [replace(cell, bold=False), number(cell.reference, "{:.2f}"), number(cell.difference, "{:+.2f}")]
        if any(row.cells[i].reference is not None for i in at):
            rows.append(Row(row.label, cells, row.block))
    if not rows:
        return None
    headings = [heading for i in at for heading in (table.columns[i], "paper", "difference")]
    notes = [str(discrepancy) for discrepancy in discrepancies() if discrepancy.table == table.key]
    return Table(f"{table.key}-paper", f"{table.title}: compared with the paper", headings, rows, notes)


def number(value: float | None, form: str) -> Cell:
    """A cell with only a number."""
    return Cell(value, "–" if value is None else form.format(value))


@cache
def discrepancies() -> tuple[Discrepancy, ...]:
    """Every average in Tables 3 to 8 that contradicts its cells."""
    return tuple(_discrepancies())


def _discrepancies() -> Iterator[Discrepancy]:
    for table in ("table-3", "table-4", "table-7", "table-8"):
        for backbone, systems in tables()[table].items():
            for system, cells in systems.items():
                languages = [column for column in cells if column not in AVERAGES]
                parts = (languages[:SUPERVISED], languages[SUPERVISED:], languages)
                for column, part in zip(AVERAGES, parts, strict=True):
                    derived = sum((cells[x] for x in part), Decimal(0)) / len(part)
                    if (off := abs(cells[column] - derived)) > HALF:
                        yield Discrepancy(table, backbone, system, column, cells[column], derived, off <= 2 * HALF)
    for table in ("table-5", "table-6"):  # without languages in the table: XNLI has 3 and 12
        for backbone, systems in tables()[table].items():
            for system, cells in systems.items():
                derived = (3 * cells["AVG(S)"] + 12 * cells["AVG(Z)"]) / 15
                # All three averages are rounded, so only a larger difference is a discrepancy.
                if abs(cells["AVG(A)"] - derived) > 2 * HALF:
                    yield Discrepancy(table, backbone, system, "AVG(A)", cells["AVG(A)"], derived, False)
