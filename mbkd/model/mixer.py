"""The mixer of MBLM: branches blended feature by feature (Eq. 10-12).

Letters: B batch, n tokens, d width, N languages with a branch.
"""

import torch
from torch import Tensor

from mbkd.precision import without_autocast


def weights(states: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    """Weight of each branch for each feature of each example.

    states: (N, B, n, d)  the branches' outputs
    v:      (n_max,)      trainable; position i scores token i; n <= n_max
    mask:   (B, n)        1 at tokens, 0 at padding, so the weights do not depend on padding (decision 1)
    returns (N, B, d) in v's precision; sums to 1 over N
    """
    with without_autocast(v.device):  # in bf16 three equal weights sum to 1.002
        scores = torch.einsum("bn,Nbnd->Nbd", v[: states.shape[2]] * mask.to(v.dtype), states.to(v.dtype))  # Eq. 10
        return scores.softmax(dim=0)  # Eq. 11


def mix(states: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    """Blend the branches' states (N, B, n, d) into one (B, n, d); arguments as in `weights`."""
    return (weights(states, v, mask).unsqueeze(2) * states).sum(dim=0)  # Eq. 12
