"""Hashes of a run's inputs (rows, teachers, backbone), and the inputs that changed after the run."""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from mbkd import files, runs
from mbkd.config import Config
from mbkd.data import hub, offline, rows, tasks
from mbkd.data.classifiers import cached_revision, fingerprint
from mbkd.data.tokens import store_fingerprint
from mbkd.errors import UserError
from mbkd.result import Result


def made_from(config: Config, root: Path, trained_as: str = "") -> dict[str, str]:
    """Return the hash of every input of a run besides its configuration and the code, by readable name.

    trained_as: the name of the run whose weights this run reuses. Raises UserError for a missing input.
    """
    return {name: find() for name, find in _parts(config, root, trained_as).items()}


def changed(result: Result, config: Config, root: Path) -> list[str]:
    """Return the names of inputs that changed after a run, such as `train rows of fr` or `teacher zh`.

    An input that is missing now counts as unchanged. Rows of a language that were not recorded are listed as new if
    other rows of their split were recorded.
    """
    if not result.made_from:
        return []
    found = []
    try:
        parts = _parts(config, root, result.trained_as)
    except (UserError, OSError):
        return []
    for name, before in result.made_from.items():
        try:
            now = (_earlier(name, config, root) or parts[name])()
        except (UserError, OSError, KeyError):
            continue
        if now != before:
            found.append(name.replace("train tokens", "train rows"))
    noted = {name.partition(" rows of ")[0] for name in result.made_from}
    added = [x for x in parts if " rows of " in x and x.partition(" ")[0] in noted and x not in result.made_from]
    return found + [f"{name} (new)" for name in added]


def stale(wanted: Mapping[Path, Config], root: Path) -> dict[Path, list[str]]:
    """Return the changed inputs of finished runs, by run directory.

    wanted: configurations by run directory.
    """
    done = {run: config for run, config in wanted.items() if runs.finished(run)}
    for config in done.values():
        offline.if_unreachable([config.student.backbone, config.task.path or "."])
    found = {run: changed(Result.read(run), config, root) for run, config in done.items()}
    return {run: names for run, names in found.items() if names}


def refuse(found: Mapping[Path, list[str]], command: str = "") -> None:
    """Raise one UserError that names every stale run, its changed inputs, and what to do.

    command: the command that trains these runs.
    """
    if found:
        lines = "".join(f"\n  {run}: {', '.join(names)}" for run, names in found.items())
        again = f"`{command} --fresh`" if command else "the same command with --fresh"
        raise UserError(
            f"finished runs are not reused, because their inputs have changed:{lines}\n"
            f"nothing was deleted; {again} trains these runs again"
        )


def member(run: Path) -> dict[str, str]:
    """Return the `made_from` entry for a run that an ensemble contains, or that was folded: a hash of its logits.

    Returns {} if the run has no logits.
    """
    arrays = sorted((run / "logits").glob("*.npy"))
    return {f"member {run.name}": files.fingerprint([[x.name, files.digest(x)] for x in arrays])} if arrays else {}


def teacher_path(config: Config, language: str, index: int, root: Path) -> str:
    """Return the hub id or folder of a fine-tuned teacher. Raises UserError if it is missing or stale."""
    teacher = config.teachers[language][index]
    if teacher.fine_tuned:
        return teacher.model
    taught = config.teacher_run(language, index)
    run = runs.folder(root, taught)
    if not runs.finished(run):
        raise UserError(
            f"the teacher of {language} is not fine-tuned yet ({run} has no result); run `mbkd teach` with the same "
            f"configuration first, or set teachers.{language}.fine_tuned=true for a fine-tuned model"
        )
    refuse(stale({run: taught}, root), "mbkd teach")
    return str(run / "model")


def _parts(config: Config, root: Path, trained_as: str = "") -> dict[str, Callable[[], str]]:
    """Return the functions that compute each hash, by name. Raises UserError if the task's splits are not found."""
    task, store = config.task, root / "store"
    hub.keep(store)
    found: dict[str, Callable[[], str]] = {}
    for split in tasks.splits(task):
        for language in config.languages if split == "train" else tasks.languages(task, split):
            found[f"{split} rows of {language}"] = partial(rows.digest, task, split, language, store)
    for language in () if config.distill.signal == "labels" else config.languages:
        several = config.teachers[language]
        for index in range(len(several)):
            name = language if len(several) == 1 else f"{language} {index + 1}"
            found[f"teacher {name}"] = partial(_teacher, config, language, index, root)
    found["backbone"] = partial(_weights, config.student.backbone, store)
    if trained_as:
        found[f"weights of {trained_as}"] = partial(_weights, str(root / trained_as / "model"), store)
    return found


def _teacher(config: Config, language: str, index: int, root: Path) -> str:
    return _weights(teacher_path(config, language, index, root), root / "store")


def _weights(path: str, store: Path) -> str:
    return cached_revision(path) or fingerprint(path, store)


def _earlier(name: str, config: Config, root: Path) -> Callable[[], str] | None:
    """Return the function that computes the token hash of an older run; None if the name is not a token hash."""
    before, _, language = name.partition("train tokens of ")
    if before or not language:
        return None
    backbone, length = config.student.backbone, config.train.max_length
    return partial(store_fingerprint, root / "store", config.task, "train", language, backbone, length)
