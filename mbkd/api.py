"""mbkd from Python: train teachers and a student, measure a model, classify with it."""

import json
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mbkd.config import Config, override, paper, parse
from mbkd.errors import UserError
from mbkd.predict.classifier import Classifier
from mbkd.result import Result


def load(path: str | Path) -> Classifier:
    """A trained classifier on this machine's device: a GPU if there is one.

    path: a run's directory, a model's folder, or a model's id on the Hugging Face hub.
    Raises UserError where there is no model, or a damaged one.
    """
    return Classifier(path)


def train(
    config: Config | str | Path,
    *,
    runs: str | Path = "runs",
    ranks: int | None = None,
    fresh: bool = False,
    **overrides: Any,
) -> Result:
    """Train one student and measure it in every language, in processes of its own, as `mbkd train` does.

    config:    a configuration, a YAML file, or a name from `mbkd recipes`
    runs:      the folder of run directories and token stores
    ranks:     processes that share each batch; None is one
    fresh:     start over where the run is finished; else its result is read
    overrides: other values of the configuration, `seed=2` or `**{"train.lr": 1e-3}`

    Progress and errors go to standard error. A run that was stopped goes on from its last checkpoint.
    Raises UserError for bad input, and where a process fails.
    """
    with _command_line(config, overrides) as (found, arguments):
        (result,) = _carry_out([found], arguments, Path(runs), ranks, fresh).values()
    return result


def teach(
    config: Config | str | Path,
    *,
    runs: str | Path = "runs",
    ranks: int | None = None,
    fresh: bool = False,
    **overrides: Any,
) -> dict[Path, Result]:
    """Fine-tune the teachers that a configuration names, each on its own language, as `mbkd teach` does.

    Arguments and errors as of `train`. Returns the result of each teacher's run by the run's directory.
    """
    with _command_line(config, overrides) as (found, arguments):
        wanted = list(paper.teacher_runs(found))
        if not wanted:
            raise UserError(f"{arguments[0]}: names no teacher to fine-tune (teachers.<language>.model)")
        return _carry_out(wanted, [*arguments, "--teach"], Path(runs), ranks, fresh)


def evaluate(
    model: Classifier | str | Path,
    config: Config | str | Path,
    split: str = "test",
    *,
    runs: str | Path = "runs",
    **overrides: Any,
) -> Result:
    """Measure a trained model on a split of a configuration's task, in every language, as `mbkd evaluate` does.

    model: what `load` takes or gives; split: train, dev or test; other arguments as of `train`.
    The model is measured in this process. Raises UserError for bad input.
    """
    from mbkd.evaluate.folder import evaluate_folder

    with _command_line(config, overrides) as (found, _):
        path = model.path if isinstance(model, Classifier) else model
        return evaluate_folder(path, found, split, Path(runs))


@contextmanager
def _command_line(config: Config | str | Path, overrides: dict[str, Any]) -> Iterator[tuple[Config, list[str]]]:
    """The configuration with its overrides, and how the command line of a job names the same one."""
    # JSON is YAML, which an override's value is read as.
    items = [f"{name}={json.dumps(value, ensure_ascii=False, default=str)}" for name, value in overrides.items()]
    if not isinstance(config, Config):
        yield paper.find(str(config), items), [str(config), *items]
        return
    found = parse(override(config.model_dump(mode="json"), items), "the configuration")
    with tempfile.TemporaryDirectory() as folder:  # the job's processes read it from a file
        file = Path(folder) / "config.yaml"
        file.write_text(found.dump(), encoding="utf-8")
        yield found, [str(file)]


def _carry_out(
    wanted: list[Config], arguments: list[str], runs: Path, ranks: int | None, fresh: bool
) -> dict[Path, Result]:
    from mbkd.train.launch import carry_out

    sys.stdout.flush()
    try:
        return carry_out(wanted, arguments, runs, ranks, fresh)
    except SystemExit as ended:
        raise UserError(f"the job ended with exit code {ended.code}; its message is on standard error, above") from None
