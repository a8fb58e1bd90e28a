"""The optimizer that leaves idle branches alone: AdamW over the parameter groups of the batch's language.

DeepSpeed turns a missing gradient into zeros, and AdamW would then move an idle branch by momentum and weight
decay (DeepSpeed #1355, #5828). Stepping only the groups of the batch's language keeps the others bitwise still.
"""

import re
from collections.abc import Callable
from typing import Any

import torch
from torch import nn


def language_of(name: str, languages: list[str]) -> str | None:
    """The language whose branch, inner mixer or head a parameter belongs to; None for what is shared."""
    match = re.match(r"(?:branches|inner|heads)\.(\d+)\.", name)
    return languages[int(match[1])] if match else None


def parameter_groups(model: nn.Module, languages: list[str], weight_decay: float) -> list[dict[str, Any]]:
    """Groups for the optimizer: per language and for what is shared, with and without weight decay.

    languages: those with a branch, in the branches' order. Vectors (biases, norms, mixers) get no decay (decision 16).
    What requires no gradient is in no group.
    """
    groups: dict[tuple[str | None, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        decay = weight_decay if parameter.ndim >= 2 else 0.0
        groups.setdefault((language_of(name, languages), decay), []).append(parameter)
    return [
        {"params": parameters, "language": language, "weight_decay": decay}
        for (language, decay), parameters in groups.items()
    ]


class BranchAdamW(torch.optim.AdamW):
    """AdamW, fused, that steps only the shared groups and those of the language that is `active`.

    active: the language of this step, or None to step every group (idle branches then drift). What is idle asks for
            no gradient, so that DeepSpeed neither fills zeros in for it nor sends them from rank to rank.
    clip:   the largest norm of a step's gradients; None where DeepSpeed clips, in 16 bit and over ZeRO's shards. Here
            it costs one look at the gradients: the fused step scales them as it reads them.
    norm:   the norm of the gradients that the last step used, after clipping, or None if no step was made since
            it was read; it is not finite where they were not.

    A sparse gradient, word vectors' for example, is laid into zeros that stay from step to step: the step is that of a
    dense gradient, of which nobody fills in and squares the many rows that the batch did not read.
    """

    clip: float | None = None
    norm: torch.Tensor | None = None
    grad_scale: torch.Tensor | None = None  # torch's name for what its fused step divides gradients by
    param_groups: list[dict[str, Any]]

    def __init__(self, groups: list[dict[str, Any]], lr: float, eps: float = 1e-8) -> None:
        super().__init__(groups, lr=lr, eps=eps, fused=True)
        self._active: str | None = None
        self._zeros: dict[nn.Parameter, torch.Tensor] = {}  # by parameter with a sparse gradient, in its shape
        # The model's own parameters, for DeepSpeed puts copies of its own into the groups.
        self._parameters = [(group["language"], list(group["params"])) for group in self.param_groups]

    @property
    def active(self) -> str | None:
        return self._active

    @active.setter
    def active(self, language: str | None) -> None:
        self._active = language
        for mine, parameters in self._parameters:
            for parameter in parameters:
                parameter.requires_grad_(None in (mine, language) or mine == language)

    def step(self, closure: Callable[[], float] | None = None) -> Any:
        every = self.param_groups
        if self.active is not None:
            self.param_groups = [g for g in every if g["language"] in (None, self.active)]
        parameters = [p for group in self.param_groups for p in group["params"] if p.grad is not None]
        sparse = {p: p.grad.coalesce() for p in parameters if p.grad.is_sparse}
        try:
            norm = torch.nn.utils.get_total_norm(sparse[p].values() if p in sparse else p.grad for p in parameters)
            for p, gradient in sparse.items():
                if p not in self._zeros:
                    self._zeros[p] = torch.zeros_like(p)
                p.grad = self._zeros[p].index_copy_(0, gradient.indices()[0], gradient.values())
            if self.clip is not None:
                self.grad_scale = ((norm + 1e-6) / self.clip).clamp(min=1.0)  # as torch.nn.utils.clip_grad_norm_
                norm = norm / self.grad_scale
            self.norm = norm
            return super().step(closure)
        finally:
            for p, gradient in sparse.items():
                self._zeros[p].index_fill_(0, gradient.indices()[0], 0.0)
                p.grad = gradient
            self.param_groups = every

    def set_lr(self, lr: float) -> None:
        """The learning rate of the next step, for every group."""
        for group in self.param_groups:
            group["lr"] = lr


def lr_factor(step: int, steps: int, warmup: float) -> float:
    """Linear warm-up over the first share of the steps, then linear decay to 0; a pure function of the step."""
    rise = int(steps * warmup)
    if step < rise:
        return step / rise
    return max(0.0, (steps - step) / max(1, steps - rise))
