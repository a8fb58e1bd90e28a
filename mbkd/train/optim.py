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
    """AdamW, fused, that steps only the shared groups and those of the language that `begin` names.

    clip: the largest norm of a step's gradients; None where DeepSpeed clips, over ZeRO's shards. Here it costs one look
          at the gradients: the fused step scales them as it reads them.

    What is idle asks for no gradient, so that DeepSpeed neither fills zeros in for it nor sends them from rank to rank.
    A sparse gradient, word vectors' for example, is laid into zeros that stay from step to step: the step is that of a
    dense gradient, of which nobody fills in and squares the many rows that the batch did not read.
    """

    param_groups: list[dict[str, Any]]

    def __init__(self, groups: list[dict[str, Any]], lr: float, eps: float = 1e-8, clip: float | None = None) -> None:
        super().__init__(groups, lr=lr, eps=eps, fused=True)
        self.clip = clip
        self._language: str | None = None
        self._norm = torch.zeros(())
        self._zeros: dict[nn.Parameter, torch.Tensor] = {}  # by parameter with a sparse gradient, in its shape
        # The model's own parameters, for DeepSpeed puts copies of its own into the groups.
        self._parameters = [(group["language"], list(group["params"])) for group in self.param_groups]

    def begin(self, language: str | None, lr: float) -> None:
        """Set the language that learns in the next step, and the learning rate. None: all groups; idle ones drift."""
        self._language = language
        for mine, parameters in self._parameters:
            for parameter in parameters:
                parameter.requires_grad_(None in (mine, language) or mine == language)
        for group in self.param_groups:
            group["lr"] = lr

    def norm(self) -> torch.Tensor:
        """The norm of the last step's gradients before clipping; of a part of them only where DeepSpeed clips."""
        return self._norm

    def step(self, closure: Callable[[], float] | None = None) -> Any:
        # torch's name for what its fused step divides gradients by; a GradScaler sets it, and removes it later.
        every, scale = self.param_groups, getattr(self, "grad_scale", None)
        if self._language is not None:
            self.param_groups = [g for g in every if g["language"] in (None, self._language)]
        parameters = [p for group in self.param_groups for p in group["params"] if p.grad is not None]
        sparse = {p: p.grad.coalesce() for p in parameters if p.grad.is_sparse}
        try:
            for p, gradient in sparse.items():
                if p not in self._zeros:
                    self._zeros[p] = torch.zeros_like(p)
                p.grad = self._zeros[p].index_copy_(0, gradient.indices()[0], gradient.values())
            if self.clip is not None:
                norm = torch.nn.utils.get_total_norm(sparse[p].values() if p in sparse else p.grad for p in parameters)
                self._norm = norm if scale is None else norm / scale
                factor = ((self._norm + 1e-6) / self.clip).clamp(min=1.0)  # as torch.nn.utils.clip_grad_norm_
                self.grad_scale: torch.Tensor = factor if scale is None else factor * scale
            return super().step(closure)
        finally:
            for p, gradient in sparse.items():
                self._zeros[p].index_fill_(0, gradient.indices()[0], 0.0)
                p.grad = gradient
            self.param_groups = every
            if scale is None and self.clip is not None:
                del self.grad_scale


def lr_factor(step: int, steps: int, warmup: float) -> float:
    """Linear warm-up over the first share of the steps, then linear decay to 0; a pure function of the step."""
    rise = int(steps * warmup)
    if step < rise:
        return step / rise
    return max(0.0, (steps - step) / max(1, steps - rise))
