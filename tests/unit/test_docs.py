"""Claims about the documentation: its commands, configurations and messages match the code."""

import ast
import importlib
import importlib.util
import re
import shlex
from itertools import groupby
from pathlib import Path

import pytest
import typer.main
import yaml

from mbkd import config as configuration
from mbkd.cli import app
from mbkd.config import paper
from mbkd.errors import UserError
from mbkd.train import job
from tests.conftest import ROOT

PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("*/README.md")])
FENCE = re.compile(r"^ {0,3}```(\w+)[^\n]*\n(.*?)^ {0,3}```", re.MULTILINE | re.DOTALL)


def blocks(page: Path, language: str) -> list[str]:
    """Return the fenced blocks of a language on a page."""
    return [body for name, body in FENCE.findall(page.read_text(encoding="utf-8")) if name == language]


def commands(page: Path) -> list[str]:
    """Return the commands in a page's bash blocks, without here-documents. A pipe is several commands."""
    found = []
    for block in blocks(page, "bash"):
        lines = iter(block.replace("\\\n", " ").splitlines())
        for line in lines:
            if end := re.search(r"<<'?(\w+)'?", line):
                while next(lines) != end[1]:
                    pass
            words = shlex.split(re.sub(r"^\w+=\$\((.*)\)$", r"\1", line), comments=True)
            parts = [list(part) for pipe, part in groupby(words, lambda word: word == "|") if not pipe]
            found += [shlex.join(part) for part in parts]
    return found


def sentences(text: str) -> list[str]:
    """Return a page's sentences without code blocks, tables and headings. Inline code counts as a word."""
    text = re.sub(r"\$\$.*?\$\$|^ {0,3}(```+|:::+).*?^ {0,3}\1", "\n\n", text, flags=re.MULTILINE | re.DOTALL)
    text = re.sub(r"^\s*(?:\||#|!\[|<).*$", "", text, flags=re.MULTILINE)
    text = re.sub(r"\$[^$]+\$", "formula", re.sub(r"`+[^`]+`+", "code", text))
    text = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", text.replace("Eq. ", "Eq ").replace("et al. ", "et al "))
    end = r"\n\s*\n|^\s*(?:[-*]|\d+\.) |(?<=[.!?])[)\"*]*\s+(?=[(\"*]*[A-Z0-9]|code|formula|mbkd)"
    return re.split(end, text, flags=re.MULTILINE)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_no_sentence_of_the_documentation_has_more_than_25_words(page: Path):
    text = page.read_text(encoding="utf-8")
    long = [each for each in sentences(text) if len(re.findall(r"\w[\w'’.,-]*", each)) > 25]
    assert not long, "\n".join(long)


COMMANDS = [pytest.param(page, line, id=f"{page.name}: {line[:60]}") for page in PAGES for line in commands(page)]


def parse(words: list[str]) -> None:
    """Raise if `mbkd` refuses a command line before any work."""
    group = typer.main.get_command(app)
    name, *rest = words
    with group.commands[name].make_context(name, rest) as context:
        values = context.params
    written = [x for x in values.get("overrides") or [] if "=" in x]
    if values.get("config") in paper.recipes():
        paper.find(values["config"], written)
    else:
        check_fields(written)


def check_fields(overrides: list[str]) -> None:
    """Raise for an override whose field the configuration does not have."""
    values = paper.recipes()["xnli-mbert-mblm"].model_dump(mode="json")
    for each in overrides:
        try:
            configuration.parse(configuration.override(values, [each]), each)
        except UserError as error:  # combinations of values are not checked here
            assert "unknown field" not in str(error), error


@pytest.mark.parametrize(("page", "line"), COMMANDS)
def test_every_command_in_the_documentation_is_valid(page: Path, line: str):
    words = shlex.split(line)
    while "=" in words[0]:  # a variable for one command
        words = words[1:]
    program, *rest = words
    for mark in ("&", ">", "<<END"):
        rest = rest[: rest.index(mark)] if mark in rest else rest
    if program == "mbkd":
        parse(rest)
    elif program == "make":
        targets = re.findall(r"^(\w[\w-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        assert set(rest) <= set(targets)
    elif program == "python" and rest[0] == "-m":
        check_module(rest[1], rest[2:])
    elif program == "deepspeed":
        script = rest.index("launchers/distill.py")
        job.arguments(rest[script + 1 :])
    elif program == "sbatch":
        assert (ROOT / rest[0]).is_file()
    else:
        assert program in {"source", "pip", "python", "curl", "cat", "ls", "printf", "kill", "ray", "tensorboard"}, (
            program
        )


def check_module(name: str, arguments: list[str]) -> None:
    """Raise if `python -m NAME` refuses its arguments or the module does not exist."""
    module = importlib.import_module(name)
    if hasattr(module, "app"):
        typer.main.get_command(module.app).make_context(name, arguments)
    else:
        text = Path(module.__file__).read_text(encoding="utf-8")
        assert all(f'"{x}"' in text for x in arguments if x.startswith("--"))


def test_every_command_in_running_text_exists_with_its_options():
    group = typer.main.get_command(app)
    for page in PAGES:
        for name, rest in re.findall(r"`mbkd ([a-z]+)([^`]*)`", page.read_text(encoding="utf-8")):
            known = [x for each in group.commands[name].params for x in [*each.opts, *each.secondary_opts]]
            assert set(re.findall(r"(?<!\S)--[a-z-]+", rest)) <= {*known, "--help"}, (page, name, rest)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_configuration_in_the_documentation_has_known_fields_only(page: Path):
    for block in blocks(page, "yaml"):
        values = yaml.safe_load(block)
        if set(values) <= set(configuration.Config.model_fields):
            base = paper.find("xnli-mbert-mblm", []).model_dump(mode="json")
            if "task" in values:  # a whole configuration
                configuration.parse(values, page.name)
            else:
                configuration.parse(base | {"distill": {"signal": "labels"}} | values, page.name)


def code_strings() -> list[str]:
    """Return every string of the code, with \\0 for interpolated values."""
    found = []
    for file in [*ROOT.glob("mbkd/**/*.py"), *ROOT.glob("tuning/*.py"), *ROOT.glob("analysis/*.py")]:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                parts = (str(x.value) if isinstance(x, ast.Constant) else "\0" for x in node.values)
                found.append("".join(parts))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
    return found


def test_every_message_under_troubleshooting_exists_in_the_code():
    strings = code_strings()
    messages = blocks(ROOT / "docs" / "troubleshooting.md", "text")
    assert len(messages) > 15
    for message in messages:
        pieces = [re.escape(piece) for piece in message.strip().split("...")]
        pattern = re.compile(".*".join(pieces), re.DOTALL)
        assert any(pattern.match(string) for string in strings), message


def test_the_python_page_documents_every_public_name():
    import mbkd

    page = (ROOT / "docs" / "python.md").read_text(encoding="utf-8")
    generated = re.findall(r"^\.\. auto\w+:: (mbkd[\w.]*)\.(\w+)$", page, re.MULTILINE)
    for module, name in generated:
        assert hasattr(importlib.import_module(module), name)
    elsewhere = {"Config", "__version__"}  # the page of the configuration; the page's text
    assert {name for _, name in generated} | elsewhere == set(mbkd.__all__)


def test_every_equation_is_listed_with_its_lines():
    spec = importlib.util.spec_from_file_location("conf", ROOT / "docs" / "conf.py")
    conf = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(conf)
    found = conf.equations()
    assert set(found) == {f"eq{number}" for number in range(1, 13)}
    for places in found.values():
        for file, line in re.findall(r"`(.*?)`, line (\d+)", places):
            assert "Eq. " in (ROOT / file).read_text().splitlines()[int(line) - 1]


def test_every_page_is_linked_and_every_link_has_a_target():
    index = (ROOT / "docs" / "index.md").read_text()
    for page in ROOT.glob("docs/*.md"):
        assert page.name == "index.md" or re.search(rf"^{page.stem}$", index, re.MULTILINE), page
    for page in PAGES:
        for link in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text()):
            assert (page.parent / link).exists() or link.startswith(("reference/", "../docs/reference/")), (page, link)


@pytest.mark.slow
def test_the_documentation_builds_without_a_warning(tmp_path: Path):
    from tests.conftest import run

    done = run("python", "-m", "sphinx", "--fail-on-warning", "--keep-going", "--quiet", "docs", tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "reference" / "commands.html").is_file()
