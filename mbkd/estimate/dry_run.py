"""Dry run: the real training step on artificial rows, with random weights of the real shapes.

A dry run needs no data, download or fine-tuned teacher, because time and memory do not depend on the values.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mbkd import distributed
from mbkd.config import Config
from mbkd.data import tasks
from mbkd.data.batches import Plan
from mbkd.distill.signals import Signal, TeacherSource, hard_labels
from mbkd.distill.teachers import TeacherSignal, dtype, inference_engine
from mbkd.estimate import cost
from mbkd.inputs import Inputs
from mbkd.train.checkpoint import Schedule
from mbkd.train.engine import training_engine
from mbkd.train.optim import parameter_groups
from mbkd.train.trainer import Trainer

IDS = 250  # number of different token ids in artificial rows; even a vocabulary of bytes has more


class MadeUp:
    """Artificial rows with given lengths (rows,) and the interface of a token store. A row repeats one token id."""

    def __init__(self, lengths: np.ndarray, classes: int):
        self.lengths, self.labels = lengths, np.arange(len(lengths)) % classes

    def __len__(self) -> int:
        return len(self.lengths)

    def batch(self, rows: np.ndarray, width: int | None = None) -> dict[str, np.ndarray]:
        """Input ids and mask (B, n) of some rows, padded to the longest row or to `width`."""
        lengths = self.lengths[rows][:, None]
        mask = (np.arange(width or lengths.max()) < lengths).astype(np.int64)
        return {"input_ids": mask * (5 + rows[:, None] % IDS), "attention_mask": mask}


def trainer(config: Config, lengths: Mapping[str, np.ndarray], ranks: distributed.Ranks) -> Trainer:
    """A trainer for calls of `step`. Its source is hard labels; see `sources` for others."""
    classes = len(tasks.label_names(config.task))
    with ranks.device:
        model = cost.empty_student(config)
    branches = list(config.languages) if config.student.branch_depth else []
    rows: Any = {language: MadeUp(lengths[language], classes) for language in config.languages}
    inputs = Inputs(rows, {}, {}, tasks.label_names(config.task), tasks.is_ordinal(config.task))
    groups = parameter_groups(model, branches, config.train.weight_decay)
    engine, optimizer = training_engine(model, groups, config.train, ranks)
    source = TeacherSource(hard_labels)
    made = Trainer(config, Path(), inputs, plan(config, lengths), source, engine, optimizer, ranks, Schedule())
    engine.train()
    return made


def plan(config: Config, lengths: Mapping[str, np.ndarray], rows: int | None = None) -> Plan:
    """The steps of a configuration on rows of these lengths. rows: batch size; default: the configuration's."""
    train = config.train
    return Plan(
        {language: lengths[language] for language in config.languages},
        rows or train.batch_size,
        epochs=train.epochs,
        seed=config.seed,
        draw=train.draw,
        alpha=train.draw_alpha,
        group_by_length=train.group_by_length,
    )


def width(made: Plan, step: int, lengths: Mapping[str, np.ndarray]) -> int:
    """Width in tokens of the batch of a step."""
    return int(lengths[made.language(step)][made.rows(step)].max())


def sources(config: Config, lengths: Mapping[str, np.ndarray], ranks: distributed.Ranks) -> dict[str, TeacherSource]:
    """Sources of teacher logits: `online` runs teachers, `cache` reads arrays.

    Teachers that differ only in vocabulary share one model here, because the size of a lookup table does not matter.
    """
    classes = len(tasks.label_names(config.task))
    made: dict[Any, Any] = {}
    engines: dict[str, list[Any]] = {}
    for language, sizes in cost.teacher_sizes(config).items():
        engines[language] = []
        for size, teacher in zip(sizes, config.teachers[language], strict=True):
            key = (size.layers, size.width, size.heads, size.layer_weights)
            if key not in made:
                with ranks.device:
                    made[key] = inference_engine(cost.empty_teacher(config, teacher.model).eval(), dtype())
            engines[language].append(made[key])
    rows = {language: MadeUp(lengths[language], classes) for language in config.languages}
    cached = {x: np.zeros((len(rows[x]), classes), np.float32) for x in config.languages}

    def ask(language: str, batch: np.ndarray) -> TeacherSignal:
        tensors = distributed.tensors(rows[language].batch(batch), ranks.device)
        with torch.inference_mode():
            each = [engine(**tensors).logits.float() for engine in engines[language]]
        return TeacherSignal(torch.stack(each).mean(dim=0).clone())

    def read(language: str, batch: np.ndarray) -> TeacherSignal:
        return TeacherSignal(distributed.to_device(cached[language][batch], ranks.device))

    signals: dict[str, Signal] = {"online": ask, "cache": read}
    return {name: TeacherSource(signal) for name, signal in signals.items()}


def warm_up(made: Trainer, source: TeacherSource) -> None:
    """Take a step in every language, so that Adam's moments are allocated before measuring."""
    made.source = source
    steps = range(made.plan.steps)
    first = {made.plan.language(step): step for step in reversed(steps)}  # first step of each language
    for step in first.values():
        made.step(step)
