"""Look of all figures: a system's colour and marker, and one SVG for light and dark pages."""

import html
import io
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
from matplotlib.figure import Figure

Draw = Callable[[], tuple[Figure, str]]  # a figure and its caption; raises NoData

# (light, dark) pairs: Okabe and Ito's colour-blind safe hues, each at least 3:1 against its background.
# Figures are drawn in the light colours. `themed` replaces the colours by CSS variables; the page sets these for both.
PALETTE = {
    "blue": ("#0072b2", "#56a9e8"),
    "vermillion": ("#d55e00", "#ff8a3d"),
    "green": ("#008a64", "#2cc79a"),
    "purple": ("#a8478a", "#e39ac8"),
    "ochre": ("#8f6a00", "#f0c040"),
    "grey": ("#5a5a5a", "#c4c4c4"),
    "brown": ("#7a3b00", "#c98b5a"),
    "teal": ("#007c91", "#5fd3e8"),
}
INK, FAINT = "#1f2328", "#d4d8dd"
THEME = {**PALETTE, "ink": (INK, "#e6e8eb"), "faint": (FAINT, "#42474e")}
MARKERS = "osD^vPX*"
WIDTH = 4.9  # inches; a phone shows this width at three quarters of its size
# A system keeps its place, and thus its look, in every figure of every report.
SYSTEMS = ("MonoKD", "MultiTrain", "MultiKD", "MultiKD + MBLM", "Ens2", "MultiTrain + MBLM")

STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",  # text remains text: searchable, readable aloud, and in the colour of the page
    "text.parse_math": False,  # a label such as $5 is text, not mathematics
    "font.size": 10,
    "text.color": INK,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.facecolor": "none",
    "axes.grid": True,
    "grid.color": FAINT,
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "axes.titlesize": 10,
}


class NoData(Exception):
    """A figure has no data; the message names the missing data."""


@dataclass(frozen=True)
class Style:
    """Look of a series. Colour and marker both differ, so either one identifies the series."""

    color: str
    marker: str


def looks(systems: Iterable[str]) -> dict[str, Style]:
    """Look of each system: the paper's main systems at fixed places, then the others by name."""
    others = sorted(set(systems) - set(SYSTEMS))
    return {system: series(place) for place, system in enumerate([*SYSTEMS, *others])}


def order(system: str) -> tuple[int, str]:
    """Sort key: the paper's order, then names."""
    return SYSTEMS.index(system) if system in SYSTEMS else len(SYSTEMS), system


def series(place: int) -> Style:
    """Look of a series by its place; after the last colour, colours repeat with other markers."""
    colors = [light for light, _ in PALETTE.values()]
    turn, at = divmod(place, len(colors))
    return Style(colors[at], MARKERS[(at + turn) % len(MARKERS)])


def new(width: float, height: float) -> Figure:
    """An empty figure with automatic layout; sizes in inches."""
    return Figure(figsize=(width, height), layout="constrained")


def legend(figure: Figure, handles: Sequence[Any], labels: Sequence[str]) -> None:
    """Add a legend above the panels, with as many columns as fit."""
    longest = max(map(len, labels))
    room = 72 * figure.get_figwidth() / (5.5 * longest + 36)  # points; a character is 5 to 6 points wide
    columns = min(4, max(1, int(room)))
    figure.legend(list(handles), list(labels), loc="outside upper center", ncols=columns, fontsize=9)


def standalone(figure: Figure, name: str, format: str) -> bytes:
    """A figure as a PNG or SVG file on white: the same bytes for the same figure."""
    stream = io.BytesIO()
    with matplotlib.rc_context(STYLE | {"svg.hashsalt": name}):
        metadata = {"Date": None} if format == "svg" else {"Software": None}
        figure.savefig(stream, format=format, dpi=150, facecolor="white", metadata=metadata)
    return stream.getvalue()


def themed(svg: str, name: str, title: str) -> str:
    """Adapt a standalone SVG to a page: CSS variables for colours, unique ids, transparent background."""
    svg = svg[svg.index("<svg") :].replace("<svg", f'<svg role="img" aria-label="{html.escape(title)}"', 1)
    svg = re.sub(r"<metadata>.*?</metadata>|<style[^>]*>.*?</style>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'\bid="', f'id="{name}-', svg)
    svg = re.sub(r'(url\(#|xlink:href="#)', rf"\g<1>{name}-", svg)
    svg = svg.replace("fill: #ffffff", "fill: none", 1)  # the figure's patch is always first
    for variable, (light, _) in THEME.items():
        svg = svg.replace(f": {light}", f": var(--{variable})")
    return svg


def css() -> tuple[str, str]:
    """CSS declarations of the colour variables for a light and a dark page."""
    light, dark = (";".join(f"--{name}:{pair[at]}" for name, pair in THEME.items()) for at in (0, 1))
    return light, dark
