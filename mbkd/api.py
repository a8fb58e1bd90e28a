"""The Python API: train teachers and a student, evaluate a model, classify text."""

import json
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mbkd.config import Config, grown, override, paper, parse
from mbkd.errors import UserError
from mbkd.files import write_whole
from mbkd.predict.classifier import Classifier
from mbkd.result import Result


def load(path: str | Path) -> Classifier:
    """Load a trained classifier on this machine's device: a GPU if available.

    path: a run directory, a model folder, or a model id on the Hugging Face hub.
    Raises UserError if the model is missing or damaged.
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
    """Train one student and evaluate it in every language, in separate processes, as `mbkd train` does.

    config:    a configuration, a YAML file, or a name from `mbkd recipes`
    runs:      the folder of run directories and token stores
    ranks:     number of processes that share each batch; None is one
    fresh:     train a finished run again; otherwise its result is read
    overrides: values of the configuration to change, such as `seed=2` or `**{"train.lr": 1e-3}`

    Progress and errors go to standard error. A stopped run resumes from its last checkpoint.
    Raises UserError for bad input and for a failed process.
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

    Arguments and errors are those of `train`. Returns the results of the teachers' runs by run directory.
    """
    with _command_line(config, overrides, teaching=True) as (found, arguments):
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
    """Evaluate a trained model on a split of a task, in every language, as `mbkd evaluate` does.

    model: a path or id as for `load`, or a loaded classifier; split: train, dev or test.
    Other arguments are those of `train`. The evaluation runs in this process. Raises UserError for bad input.
    """
    from mbkd.evaluate.folder import evaluate_folder

    with _command_line(config, overrides) as (found, _):
        path = model.path if isinstance(model, Classifier) else model
        return evaluate_folder(path, found, split, Path(runs))


@contextmanager
def _command_line(
    config: Config | str | Path, overrides: dict[str, Any], teaching: bool = False
) -> Iterator[tuple[Config, list[str]]]:
    """Yield the configuration with its overrides, and the equivalent command-line arguments of a job.

    teaching: zero-shot languages with a teacher become supervised, as in `mbkd teach`.
    """
    # Override values are parsed as YAML, and JSON is valid YAML.
    items = [f"{name}={json.dumps(value, ensure_ascii=False, default=str)}" for name, value in overrides.items()]
    if not isinstance(config, Config):
        if teaching:
            items += grown.overrides_to_teach(override(paper.values(str(config)), items))
        yield paper.find(str(config), items), [str(config), *items]
        return
    found = parse(override(config.model_dump(mode="json"), items), "the configuration")
    with tempfile.TemporaryDirectory() as folder:  # the job's processes read the configuration from a file
        file = Path(folder) / "config.yaml"
        write_whole(file, found.dump().encode())
        yield found, [str(file)]


def _carry_out(
    wanted: list[Config], arguments: list[str], runs: Path, ranks: int | None, fresh: bool
) -> dict[Path, Result]:
    from mbkd.train.launch import carry_out

    sys.stdout.flush()
    try:
        return carry_out(wanted, arguments, runs, ranks, fresh)
    except SystemExit as ended:
        raise UserError(f"the job ended with exit code {ended.code}; see its message on standard error") from None
