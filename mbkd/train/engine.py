"""DeepSpeed's training engine around a student or a teacher that learns."""

from typing import Any

import numpy as np
from torch import nn
from transformers import PreTrainedModel

from mbkd.config import Training
from mbkd.data.batches import micro_batch
from mbkd.distributed import Ranks, precision
from mbkd.model import dropout
from mbkd.terminal.progress import PATIENCE, ProgressBar
from mbkd.train.optim import BranchAdamW

import deepspeed  # isort: skip - after mbkd.distributed, which keeps its import quiet


def training_engine(model: PreTrainedModel, optimizer: BranchAdamW, train: Training, ranks: Ranks) -> Any:
    """DeepSpeed's engine around the model; its JSON is derived from the configuration here, never written by hand.

    Raises UserError where the global batch does not divide over the ranks, or the device lacks the precision.
    """
    micro_batch(np.arange(train.batch_size), ranks.rank, ranks.world, train.accumulation, 0)
    kind = precision(train.precision)
    # The optimizer's own step then sees the model's gradients, and clips them in fewer passes than DeepSpeed.
    plain = kind == "fp32" and train.zero_stage == 0
    optimizer.clip = train.clip if plain else None
    # And takes the rows of the words that a batch has: the others' zeros are neither filled in nor sent to other ranks.
    words = model.get_input_embeddings()
    if isinstance(words, nn.Embedding):
        words.sparse = plain
    if ranks.device.type == "cpu" and dropout.slow_here():
        dropout.replace(model)
    settings = {
        "train_batch_size": train.batch_size,
        "train_micro_batch_size_per_gpu": train.batch_size // (ranks.world * train.accumulation),
        "gradient_accumulation_steps": train.accumulation,
        "gradient_clipping": 0.0 if plain else train.clip,
        "zero_optimization": {"stage": train.zero_stage},
        "zero_allow_untested_optimizer": True,
        "bf16": {"enabled": kind == "bf16"},
        "fp16": {"enabled": kind == "fp16"},
        "steps_per_print": 10**9,
    }
    # In 16 bit at stage 0 DeepSpeed steps the optimizer on zeros while it is made: that must neither move weights by
    # their decay nor count as Adam's first step.
    lr = optimizer.param_groups[0]["lr"]
    optimizer.set_lr(0.0)
    with ProgressBar("starting DeepSpeed", 0, ranks.first, patience=PATIENCE):
        engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config=settings)
    optimizer.set_lr(lr)
    optimizer.state.clear()
    optimizer.norm = None
    still = train.idle_branches == "still" and one_branch_learns(model)
    if ranks.world == 1 and train.zero_stage == 0 and still:
        # Nobody to average with; DeepSpeed would copy all gradients forth and back. Drift needs the zeros it fills in.
        engine.enable_backward_allreduce = False
    return engine


def one_branch_learns(model: PreTrainedModel) -> bool:
    """Whether a batch teaches its own language's branch alone: by Eq. 8, or as nothing leads to the others."""
    return getattr(model.config, "detach", True) or model.config.mixers == "none"
