"""Shared arguments, options and output functions of the commands."""

import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from mbkd.errors import UserError
from mbkd.files import refuse_file

ConfigArgument = Annotated[str, typer.Argument(help="A YAML file, or a name from `mbkd recipes`.", metavar="CONFIG")]
Overrides = Annotated[
    list[str] | None, typer.Argument(help="For example train.lr=2e-5 seed=3.", metavar="[KEY=VALUE]...")
]
ModelArgument = Annotated[
    Path, typer.Argument(help="A run directory, a model folder, or the id of a model on the hub.", metavar="MODEL")
]
Runs = Annotated[Path, typer.Option(help="The folder of run directories and token stores.", callback=refuse_file)]
Ranks = Annotated[int | None, typer.Option(help="Number of processes; default: 1, or one per GPU for `cache`.")]
Fresh = Annotated[bool, typer.Option("--fresh", help="Start over, even if the run is finished.")]
CheckpointMinutes = Annotated[float, typer.Option(min=0, help="Minutes between checkpoints.")]
CheckpointSteps = Annotated[
    int | None, typer.Option(min=1, help="Steps between checkpoints, in addition to the minutes.")
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of tables.")]
Log = Annotated[str, typer.Option(help="Tracker in addition to metrics.jsonl: tensorboard, wandb, mlflow, none.")]
Verbose = Annotated[bool, typer.Option("--verbose", help="Show the output of DeepSpeed and transformers.")]


YesOrNo = Literal["yes", "no"]
Header = Annotated[
    YesOrNo | None, typer.Option(help="Whether the first line names the columns; no: their names are 1, 2, 3.")
]
Quoting = Annotated[
    YesOrNo | None, typer.Option(help="Whether quotes enclose fields of a CSV or TSV file, or are part of the text.")
]


def is_yes(answer: YesOrNo | None) -> bool | None:
    """Convert the value of a yes/no option; None if the option is not given."""
    return None if answer is None else answer == "yes"


def check_folder(out: Path | None) -> None:
    """Raise UserError if the folder of an output file does not exist."""
    if out is not None and not out.parent.is_dir():
        raise UserError(f"--out {out}: the folder {out.parent} does not exist; create it, or name another file")


def check_out(out: Path | None, endings: tuple[str, ...] = ()) -> None:
    """Check an output file before any work, and report a file that will be overwritten. Raises UserError.

    endings: the allowed file name endings; empty allows any.
    """
    if out is None:
        return
    if endings and out.suffix not in endings:
        raise UserError(f"--out {out}: unknown ending {out.suffix!r}; use {', '.join(endings)}")
    check_folder(out)
    if out.is_dir():
        raise UserError(f"--out {out}: is a folder; name a file")
    if out.is_file():
        print(f"{out}: exists and will be overwritten", file=sys.stderr)


def check_beside(model: Path, out: Path | None) -> None:
    """Raise UserError if no output file is named and the model, such as a hub id, is not a folder to write to."""
    if out is None and not model.is_dir():
        raise UserError(f"{model}: no such folder; for the id of a model on the hub, name the output file with --out")


def check_out_folder(out: Path | None) -> None:
    """Check an output folder before any work, and report files that may be overwritten. Raises UserError."""
    if out is not None and out.exists():
        if not out.is_dir():
            raise UserError(f"--out {out}: is a file; name a folder")
        if any(out.iterdir()):
            print(f"{out}: exists; its files of the same names will be overwritten", file=sys.stderr)


def print_json(value: Any) -> None:
    """Print a command's result as one JSON document on standard output."""
    import json

    print(json.dumps(value, indent=2, ensure_ascii=False))


def quiet() -> None:
    """Hide the messages and bars of transformers about loading models. Errors are still shown."""
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
