"""Commands that train: baseline, demo, teach, cache, train, grow."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from mbkd.cli.options import (
    CheckpointMinutes,
    CheckpointSteps,
    ConfigArgument,
    Fresh,
    Json,
    Log,
    Overrides,
    Ranks,
    Runs,
    Verbose,
    print_json,
    quiet,
)
from mbkd.errors import UserError
from mbkd.result import Result


def demo(
    runs: Runs = Path("runs/demo"),
    ranks: Annotated[int, typer.Option(help="Processes of each training.")] = 2,
) -> None:
    """See everything work in minutes: toy reviews, three teachers, MultiTrain, MultiKD, MultiKD + MBLM."""
    from mbkd.demo.run import demo as run_demo

    run_demo(runs, ranks)


def teach(
    config: ConfigArgument,
    overrides: Overrides = None,
    runs: Runs = Path("runs"),
    ranks: Ranks = None,
    fresh: Fresh = False,
    checkpoint_minutes: CheckpointMinutes = 10.0,
    checkpoint_steps: CheckpointSteps = None,
    log: Log = "tensorboard",
    json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Fine-tune the teachers that a configuration names, each on its own language."""
    from mbkd.config import paper
    from mbkd.train.launch import carry_out

    found = paper.find(config, overrides or [])
    wanted = list(paper.teacher_runs(found))
    if not wanted:
        raise UserError(f"{config}: names no teacher to fine-tune (teachers.<language>.model)")
    arguments = [config, *(overrides or []), "--teach", *_job(checkpoint_minutes, checkpoint_steps, log)]
    _show(carry_out(wanted, arguments, runs, ranks, fresh, verbose), json, several=True)


def cache(
    config: ConfigArgument,
    overrides: Overrides = None,
    runs: Runs = Path("runs"),
    ranks: Ranks = None,
    verbose: Verbose = False,
) -> None:
    """Ask the teachers once for all training rows; runs with distill.signal=cache read the answers."""
    from mbkd.config import paper

    overrides = [*(overrides or []), "distill.signal=cache"]
    found = paper.find(config, overrides)
    from mbkd.train.launch import build_cache

    build_cache(found, [config, *overrides], runs, ranks, verbose)
    print(runs / "store" / "logits")


def train(
    config: ConfigArgument,
    overrides: Overrides = None,
    runs: Runs = Path("runs"),
    ranks: Ranks = None,
    fresh: Fresh = False,
    checkpoint_minutes: CheckpointMinutes = 10.0,
    checkpoint_steps: CheckpointSteps = None,
    log: Log = "tensorboard",
    json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Train one student and measure it in every language; the last line printed is the run's directory."""
    from mbkd.config import paper
    from mbkd.train.launch import carry_out

    found = paper.find(config, overrides or [])
    arguments = [config, *(overrides or []), *_job(checkpoint_minutes, checkpoint_steps, log)]
    _show(carry_out([found], arguments, runs, ranks, fresh, verbose), json)


def grow(
    model: Annotated[Path, typer.Argument(help="A run directory, or a model's folder.")],
    config: ConfigArgument,
    overrides: Overrides = None,
    *,
    language: Annotated[str, typer.Option(help="The language that gets a branch; it needs training rows.")],
    runs: Runs = Path("runs"),
    ranks: Ranks = None,
    fresh: Fresh = False,
    checkpoint_minutes: CheckpointMinutes = 10.0,
    checkpoint_steps: CheckpointSteps = None,
    log: Log = "tensorboard",
    json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Add a branch for one more language to a trained model; it alone learns, all languages are measured."""
    from mbkd.config import grown, override, paper
    from mbkd.model import saved
    from mbkd.train.launch import carry_out

    values = override(paper.values(config), overrides or [])
    overrides = [*(overrides or []), *grown.overrides(saved.folder(model), values, language)]
    found = paper.find(config, overrides)
    arguments = [config, *overrides, *_job(checkpoint_minutes, checkpoint_steps, log)]
    results = carry_out([found], arguments, runs, ranks, fresh, verbose)
    (result,) = results.values()
    _show(results, json, above=[replace(result, system="before", **(result.before or {}))])


def baseline(
    config: ConfigArgument, overrides: Overrides = None, runs: Runs = Path("runs"), json: Json = False
) -> None:
    """Measure a floor in a minute: the frozen encoder and a logistic regression, no training of the encoder."""
    from mbkd.config import paper

    found = paper.find(config, overrides or [])
    quiet()
    from mbkd.evaluate.baseline import baseline as floor

    directory = floor(found, runs)
    _show({directory: Result.read(directory)}, json)


def _job(checkpoint_minutes: float, checkpoint_steps: int | None, log: str) -> list[str]:
    """Options that the job takes as they are. Raises UserError for a tracker that is not installed."""
    from mbkd.train import tracking

    tracking.refuse_missing(log)
    steps = [] if checkpoint_steps is None else ["--checkpoint-steps", str(checkpoint_steps)]
    return ["--checkpoint-minutes", str(checkpoint_minutes), *steps, "--log", log]


def _show(results: dict[Path, Result], json: bool, several: bool = False, above: list[Result] | None = None) -> None:
    """Print results as tables, the directories last; or as JSON: one object, a list where a command makes `several`.

    above: rows that stand above the results' own.
    """
    if json:
        documents = [{"directory": str(directory), **result.as_json()} for directory, result in results.items()]
        print_json(documents if several else documents[0])
        return
    from mbkd.terminal.results import print_calibration, print_results

    for split in next(iter(results.values())).accuracy:
        print_results([*(above or []), *results.values()], split)
    for result in results.values():
        print_calibration(result)
    for directory in results:
        print(directory)
