"""AdamW that steps only the parameter groups of the batch's language.

DeepSpeed replaces missing gradients by zeros, and AdamW would then change idle branches by momentum and weight
decay (DeepSpeed #1355, #5828). A step of the batch's groups alone leaves idle branches bitwise unchanged.
"""

import re
from collections.abc import Callable
from typing import Any

import torch
from torch import nn


def language_of(name: str, languages: list[str]) -> str | None:
    """Return the language of a parameter in a branch, inner mixer or head; None for a shared parameter."""
    match = re.match(r"(?:branches|inner|heads)\.(\d+)\.", name)
    return languages[int(match[1])] if match else None


def parameter_groups(model: nn.Module, languages: list[str], weight_decay: float) -> list[dict[str, Any]]:
    """Return optimizer groups: per language and for shared parameters, each with and without weight decay.

    languages: languages with a branch, in the order of the branches.
    Vectors (biases, norms, mixers) get no decay (decision 16). Parameters without gradients are left out.
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
    """Fused AdamW that steps only the shared groups and the groups of the language given to `begin`.

    clip: maximum norm of the gradients, or None if DeepSpeed clips (ZeRO stages 1 and 2). The fused step scales the
          gradients, so clipping reads them only once more, for their norm.

    Idle parameters require no gradient, so DeepSpeed neither fills in nor reduces zeros for them.
    Sparse embedding gradients are scattered into a zero buffer that is reused across steps. The update equals the
    dense one without zeroing and squaring unused rows.
    """

    param_groups: list[dict[str, Any]]

    def __init__(self, groups: list[dict[str, Any]], lr: float, eps: float = 1e-8, clip: float | None = None) -> None:
        super().__init__(groups, lr=lr, eps=eps, fused=True)
        self.clip = clip
        self._language: str | None = None
        self._norm = torch.zeros(())
        self._zeros: dict[nn.Parameter, torch.Tensor] = {}  # buffers for sparse gradients, in the parameter's shape
        # The model's parameters, because DeepSpeed replaces those in the groups by copies.
        self._parameters = [(group["language"], list(group["params"])) for group in self.param_groups]

    def begin(self, language: str | None, lr: float) -> None:
        """Set the language and the learning rate of the next step. None steps all groups, so idle ones drift."""
        self._language = language
        for mine, parameters in self._parameters:
            for parameter in parameters:
                parameter.requires_grad_(None in (mine, language) or mine == language)
        for group in self.param_groups:
            group["lr"] = lr

    def norm(self) -> torch.Tensor:
        """Return the gradient norm of the last step before clipping; not computed (0) if DeepSpeed clips."""
        return self._norm

    def step(self, closure: Callable[[], float] | None = None) -> Any:
        # torch's fused step divides the gradients by `grad_scale`. A GradScaler sets and later removes it.
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
    """Return the learning rate factor: linear warm-up over a share of the steps, then linear decay to 0."""
    rise = int(steps * warmup)
    if step < rise:
        return step / rise
    return max(0.0, (steps - step) / max(1, steps - rise))
