"""Sphinx configuration: the pages of this folder, and reference pages made from docstrings and commands."""

import importlib
import inspect
import json
import re
import sys
from pathlib import Path
from typing import Any

import typer
import typer.cli
from docutils import nodes
from docutils.utils.math.latex2mathml import tex2mathml

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
html_math_renderer = "mathml"
html_title = "mbkd"
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_default_options = {"exclude-members": "model_config"}


def equations() -> dict[str, str]:
    """Return the lines that compute each equation of the paper: their comments cite it, such as `# Eq. 10`."""
    found: dict[str, list[str]] = {}
    for file in sorted((ROOT / "mbkd").rglob("*.py")):
        for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
            code, _, comment = line.partition("#")
            if code.strip() and (cited := re.match(r" Eq\. (\d+)\b", comment)):
                found.setdefault(f"eq{cited[1]}", []).append(f"`{file.relative_to(ROOT)}`, line {number}")
    return {name: "; ".join(places) for name, places in found.items()}


def modules() -> list[str]:
    """Return the modules of the library without the command line, which has a separate page."""
    files = sorted((ROOT / "mbkd").rglob("*.py"))
    names = [".".join(file.relative_to(ROOT).with_suffix("").parts) for file in files]
    return [name for name in names if not name.endswith(("__init__", "__main__")) and not name.startswith("mbkd.cli")]


def commands_page() -> str:
    """Return the page of all commands and options, by typer's generator."""
    import mbkd.cli

    apps = {"mbkd": mbkd.cli.app}
    for file in sorted((ROOT / "tuning").glob("*.py")):
        if "typer.Typer(" in file.read_text(encoding="utf-8"):
            apps[f"python -m tuning.{file.stem}"] = importlib.import_module(f"tuning.{file.stem}").app
    parts = ["# Commands"]
    for name, app in apps.items():
        command = typer.main.get_command(app)
        text = typer.cli.get_docs_for_click(obj=command, ctx=typer.Context(command), name=name)
        parts.append(re.sub(r"^#", "##", text, flags=re.MULTILINE))
    return "\n\n".join(parts)


def configuration_page() -> str:
    """Return the page of all configuration fields, by section, from the models that validate them."""
    from mbkd import config

    sections = {
        "task": config.Task,
        "task.columns": config.Columns,
        "student": config.Student,
        "teachers.LANGUAGE": config.Teacher,
        "distill": config.Distill,
        "distill.hidden": config.HiddenPair,
        "train, teaching": config.Training,
    }
    parts = [
        "# Configuration",
        "The fields of a YAML file. On the command line, write `section.field=value`. `seed` (1) has no section.",
    ]
    for name, section in sections.items():
        schema = section.model_json_schema()
        lines = ["| field | value | default | |", "| --- | --- | --- | --- |"]
        for field, about in schema["properties"].items():
            default = f"`{json.dumps(about['default'])}`" if "default" in about else "needed"
            if isinstance(about.get("default"), dict) and about["default"]:
                default = "as below"  # a section's own
            lines.append(f"| `{field}` | {value(about)} | {default} | {about.get('description', '')} |")
        parts += [f"## {name}", inspect.cleandoc(section.__doc__ or ""), "\n".join(lines)]
    return "\n\n".join(parts)


def value(schema: dict[str, Any]) -> str:
    """Return the values that a field accepts, in words, from its JSON schema."""
    if "$ref" in schema:
        return "a section"
    if "enum" in schema:
        return ", ".join(f"`{x}`" for x in schema["enum"])
    if "anyOf" in schema:
        return " or ".join(value(x) for x in schema["anyOf"])
    bounds = {"minimum": "from", "exclusiveMinimum": "above", "maximum": "to"}
    limits = "".join(f" {word} {schema[key]:g}" for key, word in bounds.items() if key in schema)
    names = {"array": "a list", "object": "a mapping", "boolean": "true, false", "string": "text", "null": "null"}
    return names.get(schema["type"], schema["type"]) + limits


def modules_page() -> str:
    """Return the page of all modules, by autodoc."""
    parts = [
        "# Modules",
        "The docstrings of all modules. [The method](../method.md) defines the letters of the shapes.",
    ]
    for name in modules():
        parts += [f"## `{name}`", f"```{{eval-rst}}\n.. automodule:: {name}\n   :members:\n```"]
    return "\n\n".join(parts)


def write_reference() -> None:
    """Write the generated pages."""
    folder = DOCS / "reference"
    folder.mkdir(exist_ok=True)
    for name, page in {"commands": commands_page, "configuration": configuration_page, "modules": modules_page}.items():
        (folder / f"{name}.md").write_text(page() + "\n", encoding="utf-8")


def as_written(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Convert a plain docstring to reST: text is reflowed; columns such as `states: (N, B, n, d)` keep their lines."""
    paragraphs = re.split(r"\n{2,}", "\n".join(lines).strip())
    lines[:] = []
    for number, text in enumerate(paragraphs):
        if number and re.search(r"\S {2,}\S|^ *[\w, ]+: |^returns ", text, re.MULTILINE):
            lines += ["::", "", *(f"    {line}" for line in text.split("\n")), ""]
            continue
        parts = re.split(r"`+([^`]*)`+", text)
        parts[::2] = [re.sub(r"([*_|\\<])", r"\\\1", part) for part in parts[::2]]
        parts[1::2] = [f"``{part}``" for part in parts[1::2]]
        lines += [*(line.strip() for line in "".join(parts).split("\n")), ""]


def mathml(self: Any, node: Any) -> None:
    """Write formulas as MathML, which browsers show without scripts: the pages need no network."""
    self.body.append(tex2mathml(node.astext(), as_block=isinstance(node, nodes.math_block)))
    raise nodes.SkipNode


def setup(app: Any) -> None:
    write_reference()
    app.add_html_math_renderer("mathml", (mathml, None), (mathml, None))
    app.connect("autodoc-process-docstring", as_written)


myst_substitutions = equations()
