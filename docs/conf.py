"""Sphinx: the pages of this folder, and a reference made from docstrings and from the command line itself."""

import re
import sys
from pathlib import Path
from typing import Any

import typer
import typer.cli

DOCS = Path(__file__).parent
ROOT = DOCS.parent
sys.path.insert(0, str(ROOT))

project = "mbkd"
copyright = "the mbkd authors, Apache-2.0"
extensions = ["myst_parser", "sphinx.ext.autodoc"]
source_suffix = {".md": "markdown"}
exclude_patterns = ["_build"]
myst_enable_extensions = ["dollarmath", "amsmath", "substitution", "colon_fence"]
myst_heading_anchors = 3
highlight_language = "text"
html_theme = "furo"
html_title = "mbkd"
autodoc_member_order = "bysource"
autodoc_typehints = "signature"


def equations() -> dict[str, str]:
    """Where each equation of the paper is computed: the lines whose comment cites it, such as `# Eq. 10`."""
    found: dict[str, list[str]] = {}
    for file in sorted((ROOT / "mbkd").rglob("*.py")):
        for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
            code, _, comment = line.partition("#")
            if code.strip() and (cited := re.match(r" Eq\. (\d+)\b", comment)):
                found.setdefault(f"eq{cited[1]}", []).append(f"`{file.relative_to(ROOT)}`, line {number}")
    return {name: "; ".join(places) for name, places in found.items()}


def modules() -> list[str]:
    """The modules of the library that have something to say."""
    files = sorted((ROOT / "mbkd").rglob("*.py"))
    names = [".".join(file.relative_to(ROOT).with_suffix("").parts) for file in files]
    return [name for name in names if not name.endswith("__init__")]


def write_reference() -> None:
    """The pages that are made: every command with its options, and every module."""
    import mbkd.cli
    import tuning.sweep

    folder = DOCS / "reference"
    folder.mkdir(exist_ok=True)
    parts = ["# Commands"]
    for name, app in {"mbkd": mbkd.cli.app, "python -m tuning.sweep": tuning.sweep.app}.items():
        command = typer.main.get_command(app)
        text = typer.cli.get_docs_for_click(obj=command, ctx=typer.Context(command), name=name)
        parts.append(re.sub(r"^#", "##", text, flags=re.MULTILINE))
    (folder / "commands.md").write_text("\n\n".join(parts), encoding="utf-8")
    parts = ["# Modules", "What the docstrings say. Shapes use the letters of [Design](../design.md)."]
    for name in modules():
        parts += [f"## `{name}`", f"```{{eval-rst}}\n.. automodule:: {name}\n   :members:\n```"]
    (folder / "python.md").write_text("\n\n".join(parts) + "\n", encoding="utf-8")


def as_written(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Docstrings are plain text: the first paragraph flows, what follows keeps its lines and columns."""
    first, _, rest = "\n".join(lines).strip().partition("\n\n")
    parts = re.split(r"`+([^`]*)`+", first)
    parts[::2] = [re.sub(r"([*_|\\<])", r"\\\1", part) for part in parts[::2]]
    parts[1::2] = [f"``{part}``" for part in parts[1::2]]
    lines[:] = "".join(parts).split("\n")
    if rest:
        lines += ["", "::", "", *(f"    {line}".rstrip() for line in rest.split("\n")), ""]


def setup(app: Any) -> None:
    write_reference()
    app.connect("autodoc-process-docstring", as_written)


myst_substitutions = equations()
