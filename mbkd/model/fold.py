"""Average a student's branches into one plain encoder with the inference cost of the backbone.

Branches start as copies and stay close to each other, so the mean of their weights is a usable encoder. The paper does
not evaluate folding; docs/measurements.md has scores.
"""

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mbkd.errors import UserError
from mbkd.model.low_rank import LowRankLayer
from mbkd.model.mblm import MBLMForSequenceClassification


@torch.no_grad()
def fold(
    model: MBLMForSequenceClassification, weights: Sequence[Sequence[float]] | None = None
) -> MBLMForSequenceClassification:
    """Return a new model without branches and mixers (branch depth 0), on the CPU, not calibrated.

    weights: (K, N), the weight of each branch at each depth, summing to 1 over N; None is the plain mean. Heads per
    language are averaged with equal weights. Raises UserError for a model without branches.
    """
    config = copy.deepcopy(model.config)
    K, N = config.branch_depth, len(config.branch_languages)
    if not K:
        raise UserError("this model has no branches to fold")
    shares = torch.full((K, N), 1 / N, dtype=torch.float64) if weights is None else torch.tensor(weights).double()
    config.branch_depth, config.branch_languages, config.branch_rank = 0, [], 0
    config.calibration_temperature, config.calibration_temperatures = None, {}
    config.branch_position, config.mixers, config.heads, config.inference = "bottom", "all", "shared", "all"
    branched = [_mean([branch[depth] for branch in model.branches], shares[depth]) for depth in range(K)]
    shared = [layer.state_dict() for layer in model.shared]
    layers = branched + shared if model.config.branch_position == "bottom" else shared + branched
    heads, even = (
        (model.heads, shares.new_full((N,), 1 / N)) if len(model.heads) else ([model.head], shares.new_ones(1))
    )
    parts = {"encoder": model.encoder.state_dict(), "head": _mean(heads, even)}
    parts |= {f"shared.{i}": state for i, state in enumerate(layers)}
    folded = MBLMForSequenceClassification(config)
    folded.load_state_dict({f"{part}.{name}": x for part, state in parts.items() for name, x in state.items()})
    return folded.eval()


def _mean(modules: Sequence[nn.Module] | nn.ModuleList, shares: Tensor) -> dict[str, Tensor]:
    """Weighted mean of each of the modules' tensors, summed in double so that equal tensors do not change."""
    states = [module.whole() if isinstance(module, LowRankLayer) else module.state_dict() for module in modules]
    return {
        name: sum(share * state[name].cpu().double() for share, state in zip(shares, states, strict=True)).to(value)
        for name, value in states[0].items()
    }
