"""A branch for one more language in a trained model: where it starts, what it may change, what is saved.

The new branch starts as the mean of the others. A low-rank branch starts as its base: a mean of low-rank differences
has a higher rank. The branch comes in slowly: `opening` is its part in every mixer, 0 before the first step and 1 from
the end of the warm-up on; then the model is an ordinary MBLM again. The new branch, its inner mixer vectors and its own
head are all that learns.

Why the opening is a schedule and no parameter: a learned gate in the mixers of the other branches would get no gradient
(Eq. 8 runs them without a graph), nor would any gate without mixers or with a head per language, where a training batch
does not pass through it; and where the branch is still equal to the mix of the others, a gate at 0 gives neither itself
nor the branch a gradient.
"""

import copy

import torch
from torch import Tensor, nn

from mbkd.model import mixer
from mbkd.model.mblm import MBLMForSequenceClassification


class GrowingMBLM(MBLMForSequenceClassification):
    """A trained MBLM whose last branch is new, and takes part by `opening`: 0 is the model without it."""

    opening = 0.0

    @torch.no_grad()
    def grow(self, language: str) -> None:
        """Add a closed branch for a language, which alone requires gradients."""
        self.requires_grad_(False)
        if self.config.branch_rank:
            self.branches.append(self._branch(self.base))
        for each in (self.inner, self.heads) if self.config.branch_rank else (self.branches, self.inner, self.heads):
            if len(each):
                each.append(_mean(each).requires_grad_())
        self.config.branch_languages = [*self.config.branch_languages, language]

    def whole(self) -> MBLMForSequenceClassification:
        """The ordinary model with the same weights that this one is with its new branch open."""
        plain = MBLMForSequenceClassification(self.config)
        plain.load_state_dict(self.state_dict())
        return plain.train(self.training)

    @property
    def answering(self) -> list[str]:
        # While its branch is closed, the last language is a zero-shot one still.
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
    """As `mixer.mix`, but the last branch counts for a part `opening` of its weight: 0 mixes the others, 1 is `mix`.

    Eq. 11 and 12 are m + w (h - m), with h and w the last branch's state and weight, m the mix of the others. Here w is
    scaled. m is computed as a model without the last branch computes it, so at 0 not a bit differs.
    """
    share = opening * mixer.weights(states, v, mask)[-1].unsqueeze(1)  # (B, 1, d)
    return torch.lerp(mixer.mix(states[:-1], v, mask), states[-1].to(share.dtype), share)


def opening(step: int, steps: int, warmup: float) -> float:
    """How far the new branch is open after a number of steps: from 0 to 1 over the warm-up, as the learning rate."""
    return min(1.0, step / max(1, int(steps * warmup)))


def _mean(modules: nn.ModuleList) -> nn.Module:
    """A module with the mean of the modules' parameters."""
    found = copy.deepcopy(modules[0])
    for mean, *each in zip(found.parameters(), *(module.parameters() for module in modules), strict=True):
        mean.copy_(torch.stack(each).mean(dim=0))
    return found
