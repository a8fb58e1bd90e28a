"""A branch for one more language in a trained model: its start, its training, and the saved model.

The new branch starts as the mean of the other branches. A low-rank branch starts as its base, because a mean of
low-rank differences has a higher rank. `opening` scales the new branch in every mixer: 0 before the first step, and 1
after the warm-up, when the model equals an ordinary MBLM. Only the new branch, its inner mixer vectors and its own head
are trained.

The opening is a schedule, not a parameter. A learned gate in the mixers of other branches gets no gradient, because
Eq. 8 runs these mixers without a graph. Without mixers or with a head per language, training batches do not pass
through any gate. While the branch equals the mix of the others, a gate at 0 passes no gradient to itself or the branch.
"""

import copy

import torch
from torch import Tensor, nn

from mbkd.model import mixer
from mbkd.model.mblm import MBLMForSequenceClassification


class GrowingMBLM(MBLMForSequenceClassification):
    """A trained MBLM with a new last branch, scaled by `opening`. At 0 it equals the model without the branch."""

    opening = 0.0

    @torch.no_grad()
    def grow(self, language: str) -> None:
        """Add a branch for a language at opening 0. Only the new branch requires gradients."""
        self.requires_grad_(False)
        if self.config.branch_rank:
            self.branches.append(self._branch(self.base))
        for each in (self.inner, self.heads) if self.config.branch_rank else (self.branches, self.inner, self.heads):
            if len(each):
                each.append(_mean(each).requires_grad_())
        self.config.branch_languages = [*self.config.branch_languages, language]

    def whole(self) -> MBLMForSequenceClassification:
        """The ordinary model with the same weights, equal to this model at opening 1."""
        plain = MBLMForSequenceClassification(self.config)
        plain.load_state_dict(self.state_dict())
        return plain.train(self.training)

    @property
    def answering(self) -> list[str]:
        # At opening 0 the last language is still zero-shot.
        languages: list[str] = self.config.branch_languages
        return languages if self.opening or self.training else languages[:-1]

    def _mean(self, values: list[Tensor]) -> Tensor:
        stacked = torch.stack(values)
        if self.opening < 1 and len(values) == len(self.branches):
            return torch.lerp(stacked[:-1].mean(dim=0), stacked[-1], self.opening / len(values))
        return stacked.mean(dim=0)

    def _mix(self, name: str, states: Tensor, v: Tensor, mask: Tensor) -> Tensor:
        if self.opening < 1:
            return mix_opening(states, v, mask, self.opening)
        return super()._mix(name, states, v, mask)


def mix_opening(states: Tensor, v: Tensor, mask: Tensor, opening: float) -> Tensor:
    """Mix as `mixer.mix`, with the last branch's weight scaled by `opening`: 0 mixes the others, 1 is `mix`.

    Eq. 11 and 12 equal m + w (h - m): h and w are the last branch's state and weight, m is the mix of the others. w is
    scaled here. m is computed as in a model without the last branch, so the result at 0 is bitwise equal.
    """
    share = opening * mixer.weights(states, v, mask)[-1].unsqueeze(1)  # (B, 1, d)
    return torch.lerp(mixer.mix(states[:-1], v, mask), states[-1].to(share.dtype), share)


def opening(step: int, steps: int, warmup: float) -> float:
    """Opening of the new branch after a number of steps: linear from 0 to 1 over the warm-up."""
    return min(1.0, step / max(1, int(steps * warmup)))


def _mean(modules: nn.ModuleList) -> nn.Module:
    """A module with the mean of the modules' parameters."""
    found = copy.deepcopy(modules[0])
    for mean, *each in zip(found.parameters(), *(module.parameters() for module in modules), strict=True):
        mean.copy_(torch.stack(each).mean(dim=0))
    return found
