"""The mixer of MBLM: branches blended feature by feature (Eq. 10-12).

Letters: B batch, n tokens, d width, N languages with a branch.
"""

import torch
from torch import Tensor


def weights(states: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    """How much each branch counts for each feature of each example.

    states: (N, B, n, d)  the branches' outputs
    v:      (n_max,)      trainable; position i scores token i; n <= n_max
    mask:   (B, n)        1 at tokens, 0 at padding, so that a wider batch gives the same weights (decision 1)
    returns (N, B, d), which sums to 1 over N
    """
    scores = torch.einsum("bn,Nbnd->Nbd", v[: states.shape[2]] * mask.to(v.dtype), states)  # Eq. 10
    return scores.softmax(dim=0)  # Eq. 11


def mix(states: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    """Blend the branches' states (N, B, n, d) into one (B, n, d); arguments as in `weights`."""
    return (weights(states, v, mask).unsqueeze(2) * states).sum(dim=0)  # Eq. 12


def mix_opening(states: Tensor, v: Tensor, mask: Tensor, opening: float) -> Tensor:
    """As `mix`, but the last branch counts for a part `opening` of its weight: 0 is the mix of the others, 1 is `mix`.

    Eq. 11 and 12 are m + w (h - m), with h and w the last branch's state and weight, m the mix of the others. Here w is
    scaled. m is computed as a model without the last branch computes it, so at 0 not a bit differs.
    """
    share = opening * weights(states, v, mask)[-1].unsqueeze(1)  # (B, 1, d)
    return torch.lerp(mix(states[:-1], v, mask), states[-1], share)
