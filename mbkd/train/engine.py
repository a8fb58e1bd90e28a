"""DeepSpeed's training engine around a student or a teacher that learns."""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from mbkd import precision
from mbkd.config import Training
from mbkd.data.batches import micro_batch
from mbkd.distributed import Ranks, deterministic
from mbkd.errors import UserError
from mbkd.model.mblm import encoder_layers
from mbkd.terminal.progress import PATIENCE, ProgressBar
from mbkd.train.optim import BranchAdamW

import deepspeed  # isort: skip - after mbkd.distributed, which keeps its import quiet

BACKEND = "inductor"  # of train.compile
GRAPHS = 64  # of a layer, beyond which torch would go on without compiling: five widths with and without padding


def training_engine(
    model: PreTrainedModel, groups: list[dict[str, Any]], train: Training, ranks: Ranks
) -> tuple[Any, BranchAdamW]:
    """DeepSpeed's engine around a model in fp32, and the optimizer of its parameter groups, which the engine steps.

    Collective: all ranks must call. DeepSpeed's JSON is derived from the configuration here, never written by hand.
    Weights, gradients and moments are fp32 in every precision; matrix products run in `train.precision` by autocast.
    With `train.compile` the layers are compiled when they first run; evaluation is to call them without.
    Raises UserError where the global batch does not divide over the ranks, or the device lacks the precision.
    """
    micro_batch(np.arange(train.batch_size), ranks.rank, ranks.world, train.accumulation, 0)
    kind = precision.choose(train.precision, ranks.device)
    if kind == "fp16" and train.zero_stage:
        # DeepSpeed 0.19.8 clips the scaled gradients there, and updates the loss scale after every parameter group.
        raise UserError(
            f"train.precision = fp16 does not train with train.zero_stage = {train.zero_stage}: DeepSpeed clips the "
            "gradients before it divides the loss scale out of them; set train.zero_stage=0"
        )
    deterministic(train.deterministic)
    whole = train.zero_stage == 0
    # Over ZeRO's shards DeepSpeed alone knows the norm; where gradients are whole the optimizer needs fewer passes.
    optimizer = BranchAdamW(groups, lr=train.lr, eps=train.eps, clip=train.clip if whole else None)
    # The optimizer takes the rows of the words that a batch has: the others' zeros are neither filled in nor sent.
    words = model.get_input_embeddings()
    if isinstance(words, nn.Embedding):
        words.sparse = whole
    settings = {
        "train_batch_size": train.batch_size,
        "train_micro_batch_size_per_gpu": train.batch_size // (ranks.world * train.accumulation),
        "gradient_accumulation_steps": train.accumulation,
        "gradient_clipping": 0.0 if whole else train.clip,
        "zero_optimization": {"stage": train.zero_stage},
        "zero_allow_untested_optimizer": True,
        "torch_autocast": {
            "enabled": kind != "fp32",
            "dtype": str(precision.DTYPES[kind]).removeprefix("torch."),
            "lower_precision_safe_modules": [],  # gradients go from rank to rank in fp32
        },
        "steps_per_print": 10**9,
    }
    with ProgressBar("starting DeepSpeed", 0, ranks.first, patience=PATIENCE):
        engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config=settings)
    if train.compile:
        # One graph for all layers of a width that learn, one for those that do not, one for a narrow last layer.
        torch._dynamo.config.recompile_limit = GRAPHS
        for layer in encoder_layers(model):
            layer.compile(dynamic=False, backend=BACKEND)  # in place: parameters keep their names
    still = train.idle_branches == "still" and one_branch_learns(model)
    if ranks.world == 1 and whole and still:
        # Nobody to average with; DeepSpeed would copy all gradients forth and back. Drift needs the zeros it fills in.
        engine.enable_backward_allreduce = False
    return engine, optimizer


def gradient_norm(engine: Any, optimizer: BranchAdamW) -> Tensor:
    """The norm of the last step's gradients over all ranks, before clipping; not finite where they were not."""
    if engine.zero_optimization():
        return torch.as_tensor(engine.get_global_grad_norm(), dtype=torch.float32, device=engine.device)
    return optimizer.norm()


def loss_scale(engine: Any) -> torch.amp.GradScaler | None:
    """What scales the loss in fp16, or None in the other precisions. A step that overflows is skipped."""
    scaler: torch.amp.GradScaler | None = engine.torch_autocast_z0_gradscaler
    return scaler


def one_branch_learns(model: PreTrainedModel) -> bool:
    """Whether a batch teaches its own language's branch alone: by Eq. 8, or as nothing leads to the others."""
    return getattr(model.config, "detach", True) or model.config.mixers == "none"
