"""A branch's layer as the shared layer plus a low-rank difference in its linear maps, as in LoRA (Hu et al., 2021).

Letters: r rank, i and o inputs and outputs of a linear map.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from transformers import initialization as init
from transformers.modeling_layers import GradientCheckpointingLayer


class LowRankLayer(GradientCheckpointingLayer):
    """A layer whose linear maps have the weights W + U D: W (o, i) of `base`, U (o, r) and D (r, i) its own.

    U starts at zero, so the layer starts as its base. All else of the base (biases, norms) is shared. `base` is no part
    of this module: all branches share it, and it belongs to the model.
    """

    def __init__(self, base: nn.Module, rank: int):
        super().__init__()
        self.__dict__["base"] = base
        self.linear = [name for name, module in base.named_modules() if isinstance(module, nn.Linear)]
        shapes = [base.get_submodule(name).weight.shape for name in self.linear]  # (o, i)
        self.down = nn.ParameterList(nn.Parameter(torch.empty(rank, i)) for _, i in shapes)
        self.up = nn.ParameterList(nn.Parameter(torch.empty(o, rank)) for o, _ in shapes)
        self.start()

    @torch.no_grad()
    def start(self) -> None:
        """Set U to zero, and D to what a linear map of torch's starts with."""
        for down, up in zip(self.down, self.up, strict=True):
            init.kaiming_uniform_(down, a=math.sqrt(5))
            init.zeros_(up)

    def weights(self) -> dict[str, Tensor]:
        """The weights (o, i) of the linear maps by their names in the base."""
        parts = zip(self.linear, self.up, self.down, strict=True)
        return {f"{name}.weight": self.base.get_parameter(f"{name}.weight") + up @ down for name, up, down in parts}

    def whole(self) -> dict[str, Tensor]:
        """The state of the ordinary layer that computes the same."""
        return self.base.state_dict() | self.weights()

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the shared layer computes with this branch's weights: arguments and result are that layer's."""
        checkpointing = getattr(self.base, "gradient_checkpointing", False)
        if checkpointing:  # of this layer: the base alone would be run again without the difference
            self.base.gradient_checkpointing = False
        found = functional_call(self.base, self.weights(), args, kwargs)
        if checkpointing:
            self.base.gradient_checkpointing = True
        return found

    def train(self, mode: bool = True) -> "LowRankLayer":
        """As torch's; dropout is the base's, which branches use one after the other."""
        self.base.train(mode)
        return super().train(mode)

    @property
    def attention_type(self) -> str:
        """Which attention a layer of ModernBERT computes."""
        kind: str = self.base.attention_type
        return kind
