"""The report as one self-contained HTML page: gaps, claims, tables, figures and rows."""

import base64
import hashlib
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from analysis import errors, figures, look
from analysis.claims import Claim, checklist
from analysis.collect import Collection
from analysis.context import Context, systems_table
from analysis.groups import Group
from analysis.tables import Cell, Row, Table, upright
from mbkd.files import write_whole

TEMPLATE = Path(__file__).parent / "template"
FEW = 6  # up to this number of classes, a row shows all probabilities
# A sign in addition to the colour, because some readers do not see the colours.
MARKS = {"holds": "✓", "contradicted": "✗", "not decided": "?", "not measured": "–"}


def write(
    collection: Collection,
    groups: Sequence[Group],
    tables: Sequence[Table],
    claims: Sequence[Claim],
    out: Path,
    split: str | None = None,
) -> list[Path]:
    """Write OUT/report.html, and each figure as OUT/figures/KEY.png and .svg; return the files, the page first.

    split: the only split of figures and rows; None for test if measured, else dev.
    """
    context = Context(collection, list(groups), split)
    pictures, without = figures.draw(context, tables)
    comparisons, unread = errors.compare(context)
    written = []
    (out / "figures").mkdir(parents=True, exist_ok=True)
    shown = []
    for picture in pictures:
        for format in ("svg", "png"):
            content = look.standalone(picture.figure, picture.key, format)
            written.append(out / "figures" / f"{picture.key}.{format}")
            write_whole(written[-1], content)
            if format == "svg":
                # matplotlib escapes all text in the SVG
                svg = Markup(look.themed(content.decode(), picture.key, picture.title))
        width = round(picture.figure.get_figwidth() * 96)  # CSS pixels
        shown.append(
            {"key": picture.key, "title": picture.title, "caption": picture.caption, "svg": svg, "width": width}
        )
    page = out / "report.html"
    text = (
        _environment()
        .get_template("page.html")
        .render(
            title=f"Report on {collection.root.resolve().name}",
            summary=_summary(collection, groups),
            gaps=list(dict.fromkeys([*collection.problems, *without, *unread])),
            claims=claims,
            rules=checklist(claims).notes,
            tables=[*map(upright, tables), systems_table(groups)],
            pictures=shown,
            comparisons=comparisons,
            most=errors.ITEMS,
            **_assets(),
        )
    )
    write_whole(page, text.encode())
    return [page, *written]


def _environment() -> Environment:
    # Texts, labels and names come from untrusted data and folders, so everything is escaped.
    environment = Environment(
        loader=FileSystemLoader(TEMPLATE), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    environment.globals |= {function.__name__: function for function in (blocks, lines, evidence, answer, shares)}
    environment.globals |= {"marks": MARKS, "few": FEW}
    return environment


def _assets() -> dict[str, Markup]:
    """Style, script and colours of the page. Browsers run only the script whose hash is `script_hash`."""
    script = (TEMPLATE / "page.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    light, dark = look.css()
    style = (TEMPLATE / "page.css").read_text(encoding="utf-8")
    texts = {"script": script, "script_hash": f"sha256-{digest}", "style": style, "light": light, "dark": dark}
    return {name: Markup(text) for name, text in texts.items()}


def _summary(collection: Collection, groups: Sequence[Group]) -> str:
    systems = len({group.system for group in groups})
    seeds = sorted({len(group.seeds) for group in groups}) or [0]
    many = str(seeds[0]) if len(seeds) == 1 else f"{seeds[0]} to {seeds[-1]}"
    return f"{len(collection.runs)} finished runs, {systems} systems, {many} seed{'' if many == '1' else 's'} each"


def blocks(table: Table) -> Iterator[tuple[str, list[Row]]]:
    """Rows of a table grouped by their headings, in the table's order."""
    for block, rows in groupby(table.rows, key=lambda row: row.block):
        yield block, list(rows)


def lines(cell: Cell) -> Iterator[str]:
    """Small print below a number: spread, interval, and the paper's number."""
    if cell.std is not None:
        yield f"± {cell.std:.2f}, n={cell.n}"
    if cell.interval is not None:
        yield "[{:.2f}, {:.2f}]".format(*cell.interval)
    if cell.reference is not None:
        difference = "" if cell.difference is None else f" ({cell.difference:+.2f})"
        yield f"paper {cell.reference:.2f}{difference}"


def evidence(claim: Claim) -> str:
    """Evidence of a verdict in one line: difference, interval, p, and n."""
    form = "{:.3f}" if claim.ratio else "{:+.2f}"
    parts = []
    if claim.difference is not None:
        parts.append(f"{'ratio' if claim.ratio else 'difference'} {form.format(claim.difference)}")
    if claim.interval is not None:
        parts.append("95 % interval [{}, {}]".format(*map(form.format, claim.interval)))
    if claim.holm is not None:
        parts.append(f"p {claim.p:.4f}, after Holm {claim.holm:.4f}")
    return "; ".join([*parts, claim.n] if claim.n else parts)


def shares(probabilities: Sequence[float], labels: Sequence[str]) -> str:
    """Percent of each class in order; for more than FEW classes, the three largest with their names."""
    percents = [f"{100 * p:.0f}" for p in probabilities]
    if len(labels) <= FEW:
        return " · ".join(percents)
    largest = sorted(range(len(labels)), key=lambda i: -probabilities[i])[:3]
    return " · ".join(f"{labels[i]} {percents[i]}" for i in largest)


def answer(probabilities: Sequence[float], label: str, labels: Sequence[str]) -> str:
    """Answer of a system to a row, such as `✗ neutral`."""
    said = labels[max(range(len(labels)), key=probabilities.__getitem__)]
    return f"{'✓' if said == label else '✗'} {said}"
