"""Levers: context managers around a Trainer, each of which turns off one speed optimization."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partialmethod
from typing import Any
from unittest.mock import patch

import numpy as np

from mbkd.config import changed
from mbkd.estimate.dry_run import plan
from mbkd.train.trainer import Trainer


@contextmanager
def padded(trainer: Trainer) -> Iterator[None]:
    """Pad every batch to the maximum length instead of its longest row."""
    store: Any = type(next(iter(trainer.inputs.train.values())))
    with patch.object(store, "batch", partialmethod(_wide, store.batch, trainer.config.train.max_length)):
        yield


def _wide(
    store: Any, batch: Callable[..., dict[str, np.ndarray]], width: int, rows: np.ndarray, _: int | None
) -> dict[str, Any]:
    columns = batch(store, rows).items()
    return {name: np.pad(values, ((0, 0), (0, width - values.shape[1]))) for name, values in columns}


@contextmanager
def random_batches(trainer: Trainer) -> Iterator[None]:
    """Mix rows of any length in a batch; pad each batch to its longest row."""
    lengths = {language: store.lengths for language, store in trainer.inputs.train.items()}
    with patch.object(trainer, "plan", plan(changed(trainer.config, {"train": {"group_by_length": False}}), lengths)):
        yield


@contextmanager
def graph_of_idle_branches(trainer: Trainer) -> Iterator[None]:
    """Build a graph for idle branches, and detach their outputs with `.detach()`."""
    model = trainer.engine.module
    own: list[int] = []

    def detach(index: int) -> Callable[[Any, Any, Any], Any]:
        return lambda layer, inputs, output: output if index in own else output.detach()

    def step(number: int) -> None:
        own[:] = [model.config.branch_languages.index(trainer.plan.language(number))]
        Trainer.step(trainer, number)

    hooks = [
        layer.register_forward_hook(detach(index)) for index, branch in enumerate(model.branches) for layer in branch
    ]
    try:
        with patch.object(model, "_grad", lambda i, own: nullcontext()), patch.object(trainer, "step", step):
            yield
    finally:
        for hook in hooks:
            hook.remove()


@contextmanager
def whole_last_layer(trainer: Trainer) -> Iterator[None]:
    """Compute the last layer for all positions."""
    layer = trainer.engine.module.shared[-1]
    narrow = vars(layer).pop("forward")
    try:
        yield
    finally:
        layer.forward = narrow


@contextmanager
def every_word(trainer: Trainer) -> Iterator[None]:
    """Compute a dense gradient of all word vectors, with zeros for words outside the batch."""
    with patch.object(trainer.engine.module.get_input_embeddings(), "sparse", False):
        yield


@contextmanager
def deepspeed_clips(trainer: Trainer) -> Iterator[None]:
    """Let DeepSpeed compute the gradient norm and scale the gradients, in passes before the optimizer's.

    DeepSpeed's clipping does not support sparse gradients.
    """
    clip = trainer.config.train.clip
    with (
        every_word(trainer),
        patch.object(trainer.optimizer, "clip", None),
        patch.object(trainer.engine, "gradient_clipping", lambda: clip),
    ):
        yield


@contextmanager
def plain_adamw(trainer: Trainer) -> Iterator[None]:
    """Use torch's default AdamW on a CPU: one operation at a time per parameter, without gradient scaling."""
    groups = trainer.optimizer.param_groups
    for group in groups:
        group["fused"] = False
    try:
        with deepspeed_clips(trainer):
            yield
    finally:
        for group in groups:
            group["fused"] = True


@contextmanager
def every_gradient(trainer: Trainer) -> Iterator[None]:
    """Let DeepSpeed fill missing gradients with zeros, and copy all gradients to average them over ranks."""
    optimizer, engine = trainer.optimizer, trainer.engine
    optimizer.begin(None, trainer.config.train.lr)  # all parameters require gradients
    before = engine.enable_backward_allreduce
    engine.enable_backward_allreduce = True
    try:
        with patch.object(optimizer, "_parameters", []):  # and keep requiring them
            yield
    finally:
        engine.enable_backward_allreduce = before


Lever = Callable[[Trainer], AbstractContextManager[None]]
PADDING: dict[str, Lever] = {
    "padded to the longest that may come": padded,
    "rows of any length together": random_batches,
}
OTHERS: dict[str, Lever] = {
    "a graph of idle branches": graph_of_idle_branches,
    "the whole last layer": whole_last_layer,
    "a gradient of every word": every_word,
    "clipped by DeepSpeed": deepspeed_clips,
    "plain AdamW": plain_adamw,
    "every gradient averaged": every_gradient,
}
LEVERS = PADDING | OTHERS


def lengths(trainer: Trainer, step: int) -> np.ndarray:
    """Return the lengths of a step's rows, (B,)."""
    found: np.ndarray = trainer.inputs.train[trainer.plan.language(step)].lengths[trainer.plan.rows(step)]
    return found
