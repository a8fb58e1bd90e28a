"""The `mbkd` command. Commands import large packages, such as torch, in their bodies for a fast `--help`."""

import os
import sys
from typing import Annotated

import typer

from mbkd import __version__
from mbkd.cli import data, train, use
from mbkd.errors import UNAVAILABLE, TransientError, UserError, is_transient
from mbkd.files import FULL
from mbkd.terminal.bars import no_bars_in_files

BESIDE = (  # commands that only a checkout has; the documentation shows each line as an item of a list
    "In the folder of the checkout:",
    "- python -m tuning.sweep: search a grid on all GPUs, and choose the best",
    "- python -m tuning.efficiency: measure time and memory as in the paper's Table 6",
    "- python -m analysis.report: write tables, intervals and figures of finished runs",
)
app = typer.Typer(
    help="Cross-lingual text classifiers: monolingual teachers distilled into one multi-branch student.",
    epilog="\n\n".join(BESIDE),
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
for command in (  # in the order of `mbkd --help`
    train.demo,
    data.recipes,
    data.init,
    data.data,
    data.plan,
    train.baseline,
    train.teach,
    train.cache,
    train.train,
    train.grow,
    use.evaluate,
    use.mixers,
    use.fold,
    use.predict,
    use.serve,
    use.ensemble,
    use.export,
    use.push,
    data.doctor,
):
    app.command()(command)


def main() -> None:
    """Entry point. Errors end in one message and exit code 2, or UNAVAILABLE for transient errors."""
    # Spinning threads are 4 to 16 times slower if another process uses a core.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    no_bars_in_files()
    try:
        app()
    except BrokenPipeError:  # the reader of a pipe, such as `head`, has closed it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except (UserError, TransientError, OSError) as error:  # OSError names the file
        room = "; make room, then run the same command again" if getattr(error, "errno", 0) in FULL else ""
        print(f"error: {error}{room}", file=sys.stderr)
        sys.exit(UNAVAILABLE if is_transient(error) else 2)
    except KeyboardInterrupt:
        sys.exit(130)


def _version(asked: bool) -> None:
    if asked:
        print(f"mbkd {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
    no_color: Annotated[bool, typer.Option("--no-color", help="Disable colours, as NO_COLOR=1 does.")] = False,
) -> None:
    """Handle the options of all commands."""
    if no_color:
        os.environ["NO_COLOR"] = "1"  # rich reads the variable, also in child processes
