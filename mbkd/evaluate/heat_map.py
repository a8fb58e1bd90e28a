"""Heat map of mixer weights: one panel per mixer, one row per language, one column per branch; no torch."""

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mbkd.errors import UserError
from mbkd.files import write_whole

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DARK = 0.7  # share of the colour range above which a cell's number is white
LONGEST = 4  # longest branch name, in characters, that is written horizontally


def draw(found: dict[str, Any]) -> "Figure":
    """Draw the result of `mixers.measure`: mean weight x100 per cell, coloured relative to equal weights.

    Raises UserError if matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise UserError("a heat map needs matplotlib; pip install 'mbkd[report]'") from None
    branches, rows = found["branches"], found["rows"]
    languages, mixers = (list(dict.fromkeys(row[key] for row in rows)) for key in ("language", "mixer"))
    mean = {(row["mixer"], row["language"], row["branch"]): row["mean"] for row in rows}
    even = 1 / len(branches)
    span = max(0.01, *(abs(row["mean"] - even) for row in rows))
    decimals = 0 if span > 0.05 else 1
    # The inner mixers of one layer, one per branch, share a line of panels; each layer has its own line.
    columns = min(len(mixers), len(branches))
    lines = -(-len(mixers) // columns)
    below = 0.7 if max(map(len, branches)) <= LONGEST else 1.1
    size = (1.5 + columns * (0.3 + 0.4 * len(branches)), lines * (below + 0.22 * len(languages)))
    figure = Figure(figsize=size, layout="constrained")
    panels = figure.subplots(lines, columns, squeeze=False).flatten()
    for place, (panel, mixer) in enumerate(zip(panels, mixers, strict=False)):
        values = [[mean[mixer, language, branch] for branch in branches] for language in languages]
        # Cells, not an image: vector formats then contain no pixels.
        mesh = panel.pcolormesh(values, vmin=even - span, vmax=even + span, cmap="RdBu_r")
        for row, cells in enumerate(values):
            for column, value in enumerate(cells):
                color = "white" if abs(value - even) > DARK * span else "#222222"
                center = (column + 0.5, row + 0.5)
                panel.annotate(f"{100 * value:.{decimals}f}", center, ha="center", va="center", fontsize=7, color=color)
        panel.set_title(mixer, fontsize=8)
        long = {"rotation": 40, "ha": "right"} if max(map(len, branches)) > LONGEST else {}
        panel.set_xticks([x + 0.5 for x in range(len(branches))], branches, **long)
        names = languages if place % columns == 0 else [""] * len(languages)
        panel.set_yticks([y + 0.5 for y in range(len(languages))], names)
        panel.tick_params(length=0, labelsize=8)
        panel.grid(False)
        panel.invert_yaxis()
    for panel in panels[len(mixers) :]:
        panel.set_axis_off()
    figure.colorbar(mesh, ax=list(panels), label=f"mean weight, {found['split']}", shrink=1 / lines)
    return figure


def write(figure: "Figure", file: Path) -> None:
    """Write the figure in the format of the file's ending. Raises UserError for a full disk."""
    picture = io.BytesIO()
    figure.savefig(picture, format=file.suffix.removeprefix("."), dpi=150)
    write_whole(file, picture.getvalue())
