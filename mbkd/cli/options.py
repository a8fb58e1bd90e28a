"""What the commands share: arguments, options, and the way they print."""

import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from mbkd.errors import UserError

ConfigArgument = Annotated[str, typer.Argument(help="a YAML file, or a name from `mbkd recipes`", metavar="CONFIG")]
Overrides = Annotated[
    list[str] | None, typer.Argument(help="for example train.lr=2e-5 seed=3", metavar="[KEY=VALUE]...")
]
Runs = Annotated[Path, typer.Option(help="Where run directories and token stores go.")]
Ranks = Annotated[int | None, typer.Option(help="Processes; 1 if not given, and one per GPU for `cache`.")]
Fresh = Annotated[bool, typer.Option("--fresh", help="Start over, also where a run is finished.")]
CheckpointMinutes = Annotated[float, typer.Option(min=0, help="Minutes between checkpoints.")]
CheckpointSteps = Annotated[int | None, typer.Option(min=1, help="Steps between checkpoints, besides.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of tables.")]
Log = Annotated[str, typer.Option(help="Where the metrics go besides metrics.jsonl: tensorboard, wandb, mlflow, none.")]
Verbose = Annotated[bool, typer.Option("--verbose", help="Show what DeepSpeed and transformers print.")]


YesOrNo = Literal["yes", "no"]
Header = Annotated[
    YesOrNo | None, typer.Option(help="Whether the first line names the columns; no: they are called 1, 2, 3.")
]
Quoting = Annotated[
    YesOrNo | None, typer.Option(help="Whether quotes enclose the fields of a CSV or TSV, or are text.")
]


def is_yes(answer: YesOrNo | None) -> bool | None:
    """What an option with yes or no says; None where it is not given."""
    return None if answer is None else answer == "yes"


def check_folder(out: Path | None) -> None:
    """Refuse a file in a folder that is not there, before any work."""
    if out is not None and not out.parent.is_dir():
        raise UserError(f"--out {out}: there is no folder {out.parent}; make it first, or name another")


def check_out(out: Path | None, endings: tuple[str, ...] = ()) -> None:
    """Before any work: refuse a file in a folder that is not there, tell of one that will be written over.

    endings: those that the file may have, if not any.
    """
    if out is None:
        return
    if endings and out.suffix not in endings:
        raise UserError(f"--out {out}: unknown ending {out.suffix!r}; it can be {', '.join(endings)}")
    check_folder(out)
    if out.is_dir():
        raise UserError(f"--out {out}: is a folder; name a file")
    if out.is_file():
        print(f"{out}: is there, and is written over", file=sys.stderr)


def print_json(value: Any) -> None:
    """What a command found, as one JSON document on standard output."""
    import json

    print(json.dumps(value, indent=2, ensure_ascii=False))


def quiet() -> None:
    """Keep transformers' notes and bars about loading off the screen; errors still show."""
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
