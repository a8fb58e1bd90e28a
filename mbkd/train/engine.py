"""DeepSpeed's training engine for a student or a teacher."""

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
GRAPHS = 64  # torch's recompile limit per layer; five widths, with and without padding, exceed its default


def training_engine(
    model: PreTrainedModel, groups: list[dict[str, Any]], train: Training, ranks: Ranks
) -> tuple[Any, BranchAdamW]:
    """Return DeepSpeed's engine for a model in fp32, and its optimizer, which the engine steps.

    DeepSpeed's JSON is derived from the configuration.
    Weights, gradients and moments are always fp32. Matrix products run in `train.precision` by autocast.
    With `train.compile`, layers are compiled at their first call. Evaluation must run them eagerly.
    Raises UserError if the global batch cannot be divided evenly among the ranks and accumulation steps, or if the
    device does not support the precision.
    Collective: all ranks must call.
    """
    micro_batch(np.arange(train.batch_size), ranks.rank, ranks.world, train.accumulation, 0)
    kind = precision.choose(train.precision, ranks.device)
    if kind == "fp16" and train.zero_stage:
        # DeepSpeed 0.19.8 clips scaled gradients there, and updates the loss scale after every parameter group.
        raise UserError(
            f"train.precision = fp16 does not work with train.zero_stage = {train.zero_stage}, because DeepSpeed clips "
            "the gradients before it removes the loss scale; set train.zero_stage=0"
        )
    deterministic(train.deterministic)
    whole = train.zero_stage == 0
    # With ZeRO shards only DeepSpeed knows the norm. Without shards the optimizer clips in fewer passes.
    optimizer = BranchAdamW(groups, lr=train.lr, eps=train.eps, clip=train.clip if whole else None)
    # Sparse gradients contain only the words of a batch, so no zeros are filled in or sent for the others.
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
            "lower_precision_safe_modules": [],  # gradients are reduced in fp32
        },
        "steps_per_print": 10**9,
    }
    with ProgressBar("starting DeepSpeed", 0, ranks.first, patience=PATIENCE):
        engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config=settings)
    if train.compile:
        # Per width: one graph for all layers that learn, one for the other layers, one for a narrow last layer.
        torch._dynamo.config.recompile_limit = GRAPHS
        for layer in encoder_layers(model):
            layer.compile(dynamic=False, backend=BACKEND)  # in place, so parameters keep their names
    still = train.idle_branches == "still" and one_branch_learns(model)
    if ranks.world == 1 and whole and still:
        # One rank reduces nothing, but DeepSpeed would copy all gradients. If idle branches drift, they need the zeros
        # that DeepSpeed fills in.
        engine.enable_backward_allreduce = False
    return engine, optimizer


def gradient_norm(engine: Any, optimizer: BranchAdamW) -> Tensor:
    """Return the gradient norm of the last step over all ranks, before clipping; can be inf or nan."""
    if engine.zero_optimization():
        return torch.as_tensor(engine.get_global_grad_norm(), dtype=torch.float32, device=engine.device)
    return optimizer.norm()


def loss_scale(engine: Any) -> torch.amp.GradScaler | None:
    """Return the loss scaler of fp16, or None in other precisions. The scaler skips steps that overflow."""
    scaler: torch.amp.GradScaler | None = engine.torch_autocast_z0_gradscaler
    return scaler


def one_branch_learns(model: PreTrainedModel) -> bool:
    """Return whether a batch trains no branch but that of its language: with detach (Eq. 8), or without mixers."""
    return getattr(model.config, "detach", True) or model.config.mixers == "none"
