"""A branch for one more language in a trained model: where it starts, what it may change, what is saved.

The new branch starts as the mean of the others and comes in slowly: `opening` (mixer.mix_opening) is its part in every
mixer, 0 before the first step and 1 from the end of the warm-up on; then the model is an ordinary MBLM again. The new
branch, its inner mixer vectors and its own head are all that learns.

Why the opening is a schedule and no parameter: a learned gate in the mixers of the other branches would get no gradient
(Eq. 8 runs them without a graph), nor would any gate without mixers or with a head per language, where a training batch
does not pass through it; and where the branch is still equal to the mix of the others, a gate at 0 gives neither itself
nor the branch a gradient.
"""

import copy

import torch
from torch import nn

from mbkd.model.mblm import MBLMForSequenceClassification


@torch.no_grad()
def grow(model: MBLMForSequenceClassification, language: str) -> MBLMForSequenceClassification:
    """The model itself with a closed branch for a language added, which alone requires gradients."""
    model.requires_grad_(False)
    for each in (model.branches, model.inner, model.heads):
        if len(each):
            each.append(_mean(each).requires_grad_())
    model.config.branch_languages = [*model.config.branch_languages, language]
    model.opening = 0.0
    return model


def restore(model: MBLMForSequenceClassification, before: MBLMForSequenceClassification) -> None:
    """Put the bits of all that does not learn back from `before`, grown in the same way; the model then is in fp32.

    Training in bf16 or fp16 rounds them.
    """
    kept = {name: parameter.data for name, parameter in before.named_parameters() if not parameter.requires_grad}
    model.float().load_state_dict(kept, strict=False)


def opening(step: int, steps: int, warmup: float) -> float:
    """How far the new branch is open after a number of steps: from 0 to 1 over the warm-up, as the learning rate."""
    return min(1.0, step / max(1, int(steps * warmup)))


def _mean(modules: nn.ModuleList) -> nn.Module:
    """A module with the mean of the modules' parameters."""
    found = copy.deepcopy(modules[0])
    for mean, *each in zip(found.parameters(), *(module.parameters() for module in modules), strict=True):
        mean.copy_(torch.stack(each).mean(dim=0))
    return found
