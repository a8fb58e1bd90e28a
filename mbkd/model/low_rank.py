"""A branch's layer as the shared layer plus a low-rank difference, as in LoRA (Hu et al., 2021).

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
    """A layer whose linear maps have weights W + U D: W (o, i) of `base`; U (o, r) and D (r, i) of this layer.

    U starts at zero, so the layer starts equal to its base. Biases and norms are shared with the base. All branches
    share `base`, so `base` is registered in the model and not in this module.
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
        """Set U to zero, and D to torch's initial values of a linear map."""
        for down, up in zip(self.down, self.up, strict=True):
            init.kaiming_uniform_(down, a=math.sqrt(5))
            init.zeros_(up)

    def weights(self) -> dict[str, Tensor]:
        """Weights (o, i) of the linear maps, by their names in the base."""
        parts = zip(self.linear, self.up, self.down, strict=True)
        return {f"{name}.weight": self.base.get_parameter(f"{name}.weight") + up @ down for name, up, down in parts}

    def whole(self) -> dict[str, Tensor]:
        """State of the equivalent ordinary layer."""
        return self.base.state_dict() | self.weights()

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the shared layer with this branch's weights. Arguments and result are those of the layer."""
        if self.base.training != self.training:  # recomputed in the backward pass, after other branches set the mode
            self.base.train(self.training)
        checkpointing = getattr(self.base, "gradient_checkpointing", False)
        if checkpointing:  # checkpoint this layer; the base alone would be recomputed without the difference
            self.base.gradient_checkpointing = False
        try:
            return functional_call(self.base, self.weights(), args, kwargs)
        finally:
            if checkpointing:
                self.base.gradient_checkpointing = True

    def train(self, mode: bool = True) -> "LowRankLayer":
        """Set the mode as torch's `train`, also of the base, which has the dropout and serves all branches in turn."""
        self.base.train(mode)
        return super().train(mode)

    @property
    def attention_type(self) -> str:
        """Attention type of a ModernBERT layer."""
        kind: str = self.base.attention_type
        return kind
