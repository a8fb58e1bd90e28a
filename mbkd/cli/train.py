"""Commands that train: baseline, demo, teach, cache, train, grow."""

from collections.abc import Callable
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
    ModelArgument,
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
    ranks: Annotated[int, typer.Option(min=1, help="Number of processes per run.")] = 2,
) -> None:
    """Run the whole workflow in minutes: toy reviews, three teachers, MultiTrain, MultiKD, MultiKD + MBLM."""
    from mbkd.demo.run import demo as run_demo

    run_demo(runs, ranks)


def _training(teachers: bool, name: str, text: str) -> Callable[..., None]:
    """Return the command `mbkd teach` or `mbkd train`. Both have the same options."""

    def command(
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
        from mbkd.config import grown, override, paper
        from mbkd.train.launch import carry_out

        overrides = overrides or []
        if teachers:
            overrides = [*overrides, *grown.overrides_to_teach(override(paper.values(config), overrides))]
        found = paper.find(config, overrides)
        wanted = list(paper.teacher_runs(found)) if teachers else [found]
        if not wanted:
            raise UserError(f"{config}: names no teacher to fine-tune (teachers.<language>.model)")
        given = [config, *overrides, *(["--teach"] if teachers else [])]
        arguments = [*given, *_job(checkpoint_minutes, checkpoint_steps, log)]
        _show(carry_out(wanted, arguments, runs, ranks, fresh, verbose), json, several=teachers)

    command.__name__, command.__doc__ = name, text
    return command


teach = _training(True, "teach", "Fine-tune the teachers of a configuration, each on its own language.")
train = _training(
    False, "train", "Train one student and evaluate it in every language. The last output line is the run directory."
)


def cache(
    config: ConfigArgument,
    overrides: Overrides = None,
    runs: Runs = Path("runs"),
    ranks: Ranks = None,
    verbose: Verbose = False,
) -> None:
    """Cache the teachers' logits of all training rows for runs with distill.signal=cache."""
    from mbkd.config import paper

    overrides = [*(overrides or []), "distill.signal=cache"]
    found = paper.find(config, overrides)
    from mbkd.train.launch import build_cache

    build_cache(found, [config, *overrides], runs, ranks, verbose)
    print(runs / "store" / "logits")


def grow(
    model: ModelArgument,
    config: ConfigArgument,
    overrides: Overrides = None,
    *,
    language: Annotated[
        str, typer.Option(help="The language of the new branch; the task must have training rows for it.")
    ],
    runs: Runs = Path("runs"),
    ranks: Ranks = None,
    fresh: Fresh = False,
    checkpoint_minutes: CheckpointMinutes = 10.0,
    checkpoint_steps: CheckpointSteps = None,
    log: Log = "tensorboard",
    json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Add a language's branch to a trained model. Only the branch learns; all languages are evaluated."""
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
    """Measure a baseline in a minute: a logistic regression on the frozen encoder."""
    from mbkd.config import paper

    found = paper.find(config, overrides or [])
    quiet()
    from mbkd.evaluate.baseline import baseline as fit_and_measure

    directory = fit_and_measure(found, runs)
    _show({directory: Result.read(directory)}, json)


def _job(checkpoint_minutes: float, checkpoint_steps: int | None, log: str) -> list[str]:
    """Return the options that the job receives unchanged. Raises UserError for a missing tracker."""
    from mbkd.train import tracking

    tracking.refuse_missing(log)
    steps = [] if checkpoint_steps is None else ["--checkpoint-steps", str(checkpoint_steps)]
    return ["--checkpoint-minutes", str(checkpoint_minutes), *steps, "--log", log]


def _show(results: dict[Path, Result], json: bool, several: bool = False, above: list[Result] | None = None) -> None:
    """Print results as tables followed by the directories, or as JSON.

    several: print a JSON list instead of one object. above: results to print in the rows above.
    """
    if json:
        documents = [{"directory": str(directory), **result.as_json()} for directory, result in results.items()]
        print_json(documents if several else documents[0])
        return
    from mbkd.terminal.results import print_calibration, print_results, print_speed

    for split in next(iter(results.values())).accuracy:
        print_results([*(above or []), *results.values()], split)
    for result in results.values():
        print_calibration(result)
        print_speed(result)
    for directory in results:
        print(directory)
