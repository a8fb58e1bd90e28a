"""Dropout on a CPU for which torch draws random numbers one by one."""

from pathlib import Path

import torch
from torch import Tensor, nn

BITS = 16  # that decide about one feature: rates are multiples of 2^-16


class CPUDropout(nn.Dropout):
    """torch's dropout, whose numbers come four at a time out of each that torch's generator draws.

    On CPUs other than Intel's torch spends 64 random bits on every feature, on one core (pytorch #138199;
    PERFORMANCE.md).
    The rate is `p` to within 2^-17. The default generator is used, so a seed gives the same numbers again, other ones
    than torch's own dropout.
    """

    def forward(self, states: Tensor) -> Tensor:
        """The states (any shape), each number 0 with probability p or divided by 1 - p; unchanged outside training."""
        dropped = round(self.p * 2**BITS)
        if not self.training or dropped in (0, 2**BITS):
            return super().forward(states)
        draws = torch.empty(-(-states.numel() * BITS // 64), dtype=torch.int64).random_(-(2**63), None)  # all 64 bits
        bits = draws.view(torch.int16)[: states.numel()].view(states.shape)  # uniform over -2^15 ... 2^15 - 1
        kept = (bits >= dropped - 2 ** (BITS - 1)).to(states.dtype)
        return states * kept.mul_(2**BITS / (2**BITS - dropped))


def slow_here() -> bool:
    """Whether torch draws dropout's numbers one by one on this machine's CPU: on all but Intel's."""
    info = Path("/proc/cpuinfo")
    return not (info.is_file() and "GenuineIntel" in info.read_text())


def replace(model: nn.Module) -> None:
    """Replace a model's dropouts, in place. Attention's own dropout is within torch's kernel and stays torch's."""
    for module in model.modules():
        for name, child in module.named_children():
            if type(child) is nn.Dropout:
                setattr(module, name, CPUDropout(child.p))
