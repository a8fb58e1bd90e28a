"""The paper's claims as a checklist: measured difference, interval, and verdict."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from analysis.bootstrap import holm
from analysis.groups import Group
from analysis.items import Resampled
from analysis.tables import NOTHING, Cell, Row, Table

LEVEL = 0.05
# Margin of "not worse": half a point is the standard error of one language's accuracy on the XNLI test set.
NOT_WORSE = 0.5
FEW = 3  # seeds that a verdict needs; two seeds say too little about their spread
Verdict = Literal["holds", "contradicted", "not decided", "not measured"]


@dataclass(frozen=True)
class Claim:
    """One line of the checklist; `text` claims that difference > margin.

    table: key of the table. difference: left - right in points (x100), or left / right for a `ratio`. interval: 95 %,
    uncorrected. p: two-sided, of difference = margin. holm: p after Holm's correction over the table; it decides the
    verdict.
    """

    table: str
    block: str
    text: str
    verdict: Verdict
    difference: float | None = None
    interval: tuple[float, float] | None = None
    p: float | None = None
    holm: float | None = None
    margin: float = 0.0
    n: str = ""
    ratio: bool = False
    few: bool = False  # one side has fewer than FEW seeds, so the claim is not decided


def compare(
    table: str,
    block: str,
    resampled: Resampled,
    left: Group | None,
    right: Group | None,
    average: str,
    text: str,
    margin: float = 0.0,
) -> Claim:
    """Claim that left exceeds right by more than `margin` points on AVG(S), AVG(Z) or AVG(A); see `decide`."""
    found = resampled.difference(left, right, average, margin) if left and right else None
    if found is None or left is None or right is None:
        return Claim(table, block, text, "not measured", margin=margin)
    interval, n = (found.low, found.high), resampled.size(average, left, right)
    few = resampled.seeds(average, left, right) < FEW
    return Claim(table, block, text, "not decided", found.value, interval, found.p, None, margin, n, few=few)


def decide(claims: Sequence[Claim]) -> list[Claim]:
    """The claims of one table with verdicts, by Holm's correction over the claims with a p-value."""
    tested = [claim for claim in claims if claim.p is not None]
    corrected = iter(holm([claim.p or 0.0 for claim in tested]))
    return [_decided(claim, next(corrected)) if claim.p is not None else claim for claim in claims]


def _decided(claim: Claim, p: float) -> Claim:
    if p >= LEVEL or claim.difference is None or claim.few:
        return replace(claim, holm=p)
    return replace(claim, holm=p, verdict="holds" if claim.difference > claim.margin else "contradicted")


def ratio(table: str, block: str, text: str, found: float | None, n: str) -> Claim:
    """Claim that a ratio is the paper's within 0.05. text ends in that ratio: `MBLM / Single = 1.1`."""
    if found is None:
        return Claim(table, block, text, "not measured", ratio=True)
    verdict: Verdict = "holds" if abs(found - float(text.rpartition(" ")[2])) <= 0.05 else "contradicted"
    return Claim(table, block, text, verdict, found, n=n, ratio=True)


def checklist(claims: Sequence[Claim]) -> Table:
    """The claims as a table."""
    rows = []
    for claim in claims:
        form = "{:.3f}" if claim.ratio else "{:+.2f}"
        interval = (
            f"[{form.format(claim.interval[0])}, {form.format(claim.interval[1])}]" if claim.interval else NOTHING
        )
        cells = [
            Cell(claim.difference, NOTHING if claim.difference is None else form.format(claim.difference)),
            Cell(None, interval),
            Cell(claim.p, NOTHING if claim.p is None else f"{claim.p:.4f}"),
            Cell(claim.holm, NOTHING if claim.holm is None else f"{claim.holm:.4f}"),
            Cell(None, claim.n or NOTHING),
            Cell(None, claim.verdict, bold=claim.verdict == "contradicted"),
        ]
        rows.append(Row(claim.text, cells, f"{claim.table}, {claim.block}"))
    notes = [
        f"Holds or contradicted: p after Holm's correction over the claims of a table is below {LEVEL}.",
        f"A system with fewer than {FEW} seeds decides no claim. With one seed, the interval covers that model only.",
        f"Not worse: lower by at most {NOT_WORSE} points. A ratio holds within 0.05.",
    ]
    columns = ["difference", "95 % interval", "p", "p (Holm)", "n", "verdict"]
    return Table("claims", "The paper's claims", columns, rows, notes)
