"""How many operations a step dispatches and how often the host reads the device: about what a GPU's step waits for.

Counted on any device: on a GPU each operation is about one launch of a kernel, and each read waits for all before it.
"""

from collections import Counter
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

# What gives a number, or the places of numbers, to the host: it waits for the device.
READS = ("_local_scalar_dense", "is_nonzero", "equal", "nonzero", "masked_select", "_unique2", "item")


class Operations(TorchDispatchMode):
    """Counts the operations that are dispatched within it, by name; views are left out, for they launch nothing.

    total  all of them; reads: those for which the host waits for the device
    """

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    @property
    def total(self) -> int:
        return self.counts.total()

    @property
    def reads(self) -> int:
        return sum(self.counts[name] for name in READS)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if not func.is_view and func.overloadpacket is not torch.ops.aten.detach:
            self.counts[func.overloadpacket.__name__] += 1
        return func(*args, **(kwargs or {}))
