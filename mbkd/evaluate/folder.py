"""Measure a trained model's folder on a split of a task in every language."""

from pathlib import Path
from typing import Any

import numpy as np

from mbkd import config as configuration
from mbkd import distributed, precision, runs
from mbkd.config import Config, structures
from mbkd.data import rows, tasks
from mbkd.data.classifiers import fingerprint, label_order
from mbkd.data.tokens import load_tokenizer, open_store
from mbkd.errors import UserError
from mbkd.evaluate import measure
from mbkd.model import saved
from mbkd.result import Result
from mbkd.terminal.progress import ProgressBar


def evaluate_folder(path: Path | str, config: Config, split: str, root: Path, inference: str | None = None) -> Result:
    """Scores of a model on a split of the configuration's task, as in result.json. Raises UserError.

    inference: an inference mode other than the training one; only for a student without mixers.
    """
    task = config.task
    if split not in tasks.splits(task):
        raise UserError(f"split {split!r}: the task's splits are {', '.join(tasks.splits(task))}")
    distributed.quiet()
    folder = saved.folder(path)
    model = saved.load(folder)
    if inference is not None:
        _infer(model, inference, path)
    system, backbone = _origin(Path(path), inference)
    ranks = distributed.start()
    model.to(ranks.device)
    found, truth, _ = logits(model, folder, config, split, root, ranks)
    distributed.stop()
    scores = measure.scores(found, truth, task, tasks.is_ordinal(task))
    return Result(
        system=system,
        role="student",
        task=task.kind,
        backbone=backbone,
        labels=tasks.label_names(task),
        supervised=task.supervised,
        zero_shot=task.zero_shot,
        **measure.by_split({split: scores}),
        parameters=sum(p.numel() for p in model.parameters()),
        made_from=_made_from(folder, config, split, root),
        rows={split: {x: len(each) for x, each in truth.items()}},
    )


def _made_from(folder: Path, config: Config, split: str, root: Path) -> dict[str, str]:
    """Hashes of the model's weights and of the rows the model is measured on."""
    there = tasks.languages(config.task, split)
    found = {f"{split} rows of {x}": rows.digest(config.task, split, x, root / "store") for x in there}
    return found | {"model": fingerprint(str(folder), root / "store")}


def logits(
    model: Any, folder: Path, config: Config, split: str, root: Path, ranks: distributed.Ranks
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray], dict[str, list[str]]]:
    """Raw logits (rows, C), classes (rows,) and ids of a split's rows by language, in the task's label order.

    model: on the ranks' device; read from `folder` or derived from its model. folder: provides the tokenizer.
    """
    task, tokenizer = config.task, load_tokenizer(folder)
    length = min(config.train.max_length, saved.max_tokens(model.config, tokenizer))
    order = label_order(model.config.id2label, tasks.label_names(task), str(folder))
    languages = tasks.languages(task, split)
    kind = precision.of_model(model.config, ranks.device)
    found, truth, ids = {}, {}, {}
    with ProgressBar(f"measuring {split}", len(languages)) as progress, precision.autocast(kind, ranks.device):
        for language in languages:
            tokens = open_store(root / "store", task, split, language, str(folder), length)
            known = saved.spelling(model.config, language)
            route = {"language": known} if saved.takes_language(model.config) else {}
            found[language] = measure.logits(model, tokens, ranks, **route)[:, order]
            truth[language] = np.asarray(tokens.labels)
            ids[language] = tokens.row_ids
            progress.advance()
    return found, truth, ids


def _infer(model: Any, inference: str, path: Path | str) -> None:
    """Set the inference mode of a student without mixers. Raises UserError for any other model."""
    if getattr(model.config, "mixers", None) != "none":
        raise UserError(f"{path}: only a student without mixers (student.mixers=none) has a choice of inference modes")
    structures.check(model.config.branch_position, model.config.mixers, model.config.heads, inference)
    model.config.inference = inference


def _origin(path: Path, inference: str | None) -> tuple[str, str]:
    """System name and backbone for the tables. For a folder that is not a run: its name and the folder itself."""
    if not (path / "config.yaml").is_file():
        return path.name, str(path)
    config = configuration.read(path / "config.yaml", [f"student.inference={inference}"] if inference else [])
    named = Result.read(path).system if inference is None and runs.finished(path) else config.system
    return named, config.student.backbone
