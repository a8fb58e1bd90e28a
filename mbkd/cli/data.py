"""Commands for data and configurations: init, data, plan, recipes, doctor."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from mbkd.cli.options import (
    ConfigArgument,
    Header,
    Json,
    Overrides,
    Quoting,
    Ranks,
    Runs,
    check_folder,
    is_yes,
    print_json,
    quiet,
)
from mbkd.errors import UserError


def init(
    source: Annotated[
        str | None,
        typer.Argument(help="A file, names such as reviews.{language}.csv, or a hub dataset's id or folder."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="The YAML file; default: the source's name.")] = None,
    text: Annotated[str | None, typer.Option(help="Column with the text.")] = None,
    text_pair: Annotated[str | None, typer.Option(help="Column with the second text of a pair; - for none.")] = None,
    label: Annotated[str | None, typer.Option(help="Column with the label.")] = None,
    language: Annotated[str | None, typer.Option(help="Column with the language, or the language of all rows.")] = None,
    labels: Annotated[str | None, typer.Option(help="The labels in the order of the classes: low,middle,high.")] = None,
    ordinal: Annotated[bool | None, typer.Option(help="The labels are ordered steps of a scale.")] = None,
    supervised: Annotated[str | None, typer.Option(help="Languages to train on: en,fr.")] = None,
    zero_shot: Annotated[str | None, typer.Option(help="Languages to evaluate only: de,es.")] = None,
    split: Annotated[bool | None, typer.Option(help="Split a single file into train, dev and test files.")] = None,
    teachers: Annotated[bool | None, typer.Option(help="Distil from teachers, or learn from labels only.")] = None,
    backbone: Annotated[str | None, typer.Option(help="The student's encoder: a folder or hub id.")] = None,
    yes: Annotated[
        bool, typer.Option("--yes", help="Ask no questions and use the guesses; default without a terminal.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Overwrite existing files.")] = False,
    split_column: Annotated[
        str | None, typer.Option(help="Column with train, dev or test; writes a file per split.")
    ] = None,
    header: Header = None,
    quoting: Quoting = None,
) -> None:
    """Inspect your rows, ask for missing information, and write a complete configuration."""
    check_folder(out)
    from mbkd.onboarding.init import Options, write

    lists = [
        tuple(x.strip() for x in (given or "").split(",") if x.strip()) for given in (labels, supervised, zero_shot)
    ]
    options = Options(
        text, text_pair, label, language, lists[0], ordinal, lists[1], lists[2], split, teachers, backbone,
        split_column, is_yes(header), is_yes(quoting),
    )  # fmt: skip
    print(write(source, out, options, force, interactive=not yes and sys.stdin.isatty()))


def data(config: ConfigArgument, overrides: Overrides = None, json: Json = False) -> None:
    """Show the data of a configuration and its problems. Exit code 2 if training would not start."""
    from mbkd.config import paper
    from mbkd.data import offline

    found = paper.find(config, overrides or [])
    teachers = [teacher.model for several in found.teachers.values() for teacher in several]
    offline.if_unreachable([found.student.backbone, *teachers])
    quiet()
    from mbkd.onboarding.quality import inspect
    from mbkd.terminal.data import print_data

    report = inspect(found)
    if json:
        print_json(report)
    else:
        print_data(report)
    if report["problems"]:
        raise UserError("; ".join(report["problems"]))


def plan(
    config: ConfigArgument,
    overrides: Overrides = None,
    runs: Runs = Path("runs"),
    ranks: Ranks = None,
    gpu: Annotated[
        str | None,
        typer.Option(help="Estimate hours on A100, H100, L4, ... from its published peak; default: this machine."),
    ] = None,
    json: Json = False,
) -> None:
    """Estimate the cost of a student and its teachers: steps, FLOPs, memory, disk, hours, savings."""
    from mbkd.config import paper

    found = paper.find(config, overrides or [])
    quiet()
    from mbkd.estimate import machine, plan
    from mbkd.terminal.results import print_plan

    text = plan.text(found, runs)
    device = machine.on_gpu(gpu) if gpu else machine.calibrate(found, text.lengths)
    estimate = plan.estimate([*paper.teacher_runs(found), found], runs, device, ranks or 1)
    if json:
        print_json(estimate)
        return
    print_plan(estimate)


def recipes(json: Json = False) -> None:
    """List the configurations that have a name: the paper's experiments, and a small one on real text."""
    from rich.table import Column, Table

    from mbkd.config import paper
    from mbkd.terminal.console import make_console
    from mbkd.terminal.grid import fits

    found = paper.recipes()
    if json:
        print_json({name: {"system": x.system, **x.model_dump(mode="json")} for name, x in found.items()})
        return
    console = make_console()
    others = (Column(name, overflow="fold") for name in ("system", "backbone", "task", "languages"))
    table = Table(Column("name", no_wrap=True), *others)
    for name, config in found.items():
        languages = f"{' '.join(config.languages)} -> {len(config.task.languages)} languages"
        table.add_row(name, config.system, config.student.backbone, str(config.task.path), languages)
    if not fits(table, console):  # the name implies the rest
        table.columns = table.columns[:2]
    console.print(table)


def doctor(json: Json = False) -> None:
    """Show devices, compilers, disk and versions. Exit code 1 if something would fail."""
    from mbkd.onboarding.doctor import findings, show

    found = list(findings())
    if json:
        print_json([{"what": what, "found": value, "problem": problem or None} for what, value, problem in found])
    else:
        show(found)
    if any(problem for _, _, problem in found):
        raise typer.Exit(1)
