"""Inputs of a run: token stores of the student and its teachers. Does not import torch.

The command line prepares the stores before it starts ranks, so bad input ends in one message at once.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

from mbkd.config import Config, Task, grown
from mbkd.data import hub, tasks
from mbkd.data.classifiers import configuration, fingerprint, layers
from mbkd.data.tokens import Tokens, load_tokenizer, loses_segments, open_store
from mbkd.errors import UserError
from mbkd.model import positions
from mbkd.provenance import made_from, teacher_path
from mbkd.terminal.progress import PATIENCE, ProgressBar


@dataclass(frozen=True)
class TeacherInput:
    """A teacher of a language: its folder or hub id, the hash of its weights, its weight, and its tokens."""

    path: str
    fingerprint: str
    weight: float
    train: Tokens  # the student's rows, tokenised by the teacher's tokenizer
    dev: Tokens | None


@dataclass(frozen=True)
class Inputs:
    """Token stores by language (and split), label names, and the teachers."""

    train: dict[str, Tokens]
    heldout: dict[str, dict[str, Tokens]]  # split -> language -> tokens, as in mbkd.data.tasks.languages
    teachers: dict[str, tuple[TeacherInput, ...]]  # by language; empty for hard labels
    labels: tuple[str, ...]
    ordinal: bool
    grown_from: str | None = None  # the hash of the trained model that gets a branch
    made_from: dict[str, str] = field(default_factory=dict)  # as in mbkd.provenance

    @property
    def rows(self) -> dict[str, dict[str, int]]:
        """The number of rows by split and language; the training split has trained languages only."""
        return {
            split: {x: len(tokens) for x, tokens in stores.items()}
            for split, stores in {"train": self.train, **self.heldout}.items()
        }


def _check_depth(config: Config) -> None:
    """Raise UserError for a backbone with fewer layers than the branches need, before any rank starts."""
    depth, backbone = config.student.branch_depth, config.student.backbone
    there = layers(backbone)
    if there is not None and depth > there:
        raise UserError(f"student.branch_depth = {depth}: {backbone} has {there} layers; set it to {there} at most")


def _check_length(config: Config, models: Iterable[str]) -> None:
    """Raise UserError if a model accepts fewer tokens than the maximum length of rows.

    models: folders or hub ids of the backbone and the teachers.
    """
    length = config.train.max_length
    takes = {model: positions.of_model(model) for model in models}
    short = {model: there for model, there in takes.items() if there is not None and there < length}
    if short:
        each = ", ".join(f"{model} takes {there} tokens" for model, there in short.items())
        raise UserError(f"train.max_length = {length}: {each}; set it to {min(short.values())} at most")


def prepare(config: Config, root: Path, show: bool = True, verified: bool = False) -> Inputs:
    """Open every token store of a run, and build missing ones. Raises UserError for bad data or teachers.

    show: whether this process shows progress. verified: another process, such as the first rank, has just compared the
    stores' checksums.
    """
    task, length = config.task, config.train.max_length
    hub.keep(root / "store")
    if config.student.grow is None:
        _check_depth(config)
    else:
        grown.check(config, tasks.label_names(task))
    taught = () if config.distill.signal == "labels" else config.languages
    paths = {x: [teacher_path(config, x, i, root) for i in range(len(config.teachers[x]))] for x in taught}
    _check_length(config, [config.student.backbone, *chain.from_iterable(paths.values())])

    def tokens(split: str, language: str, tokenizer: str) -> Tokens:
        found = open_store(root / "store", task, split, language, tokenizer, length, verified)
        progress.advance()
        return found

    def teacher(language: str, index: int) -> TeacherInput:
        path = paths[language][index]
        return TeacherInput(
            path,
            fingerprint(path, root / "store"),
            config.teachers[language][index].weight,
            tokens("train", language, path),
            tokens("dev", language, path) if "dev" in present else None,
        )

    backbone = config.student.backbone
    present = tasks.splits(task)
    if "train" not in present:
        raise UserError(f"task.path = {task.path}: the task has no training split")
    heldout = {split: tasks.languages(task, split) for split in present if split != "train"}
    of_teachers = sum(map(len, paths.values())) * (1 + ("dev" in present))
    total = len(config.languages) + sum(map(len, heldout.values())) + of_teachers
    with ProgressBar("token stores, one per split and language", total, show, patience=PATIENCE) as progress:
        inputs = Inputs(
            train={x: tokens("train", x, backbone) for x in config.languages},
            heldout={split: {x: tokens(split, x, backbone) for x in each} for split, each in heldout.items()},
            teachers={x: tuple(teacher(x, i) for i in range(len(several))) for x, several in paths.items()},
            labels=tasks.label_names(task),
            ordinal=tasks.is_ordinal(task),
            grown_from=fingerprint(backbone, root / "store") if config.student.grow is not None else None,
            made_from=made_from(config, root),
        )
    if config.student.head == "linear" and any(x.padding_side == "left" for x in inputs.train.values()):
        raise UserError(
            f"{backbone}: its tokenizer pads on the left, so the head would read padding at the first position; set "
            "padding_side to right in tokenizer_config.json"
        )
    for language, teachers in inputs.teachers.items():
        if not all((each.train.labels == inputs.train[language].labels).all() for each in teachers):
            raise UserError(
                f"the training rows of {language} changed while they were tokenised; run the same command again"
            )
    for path, tokens_of in [(backbone, inputs.train), *_tokens_of_teachers(inputs)]:
        lost = any("segments.npy" not in each.manifest["files"] for each in tokens_of.values())
        if task.pairs and lost and _has_segments(path):  # checked first, because a tokenizer takes seconds to load
            refuse_lost_segments(path, load_tokenizer(path), task)
    return inputs


def _tokens_of_teachers(inputs: Inputs) -> list[tuple[str, dict[str, Tokens]]]:
    return [(each.path, {x: each.train}) for x, teachers in inputs.teachers.items() for each in teachers]


def refuse_lost_segments(model: str, tokenizer: Any, task: Task) -> None:
    """Raise UserError for a model with segment ids whose tokenizer does not return them."""
    if loses_segments(tokenizer, task.pairs) and _has_segments(model):
        raise UserError(
            f"{model}: the model has segment ids but its tokenizer does not return them, so the texts of a pair would "
            "not be separated; save both to a folder, and add token_type_ids to model_input_names in "
            "tokenizer_config.json"
        )


def _has_segments(model: str) -> bool:
    return bool(configuration(model).get("type_vocab_size", 0) > 1)
