"""Counts of the operations that a step dispatches, and of the host's reads from the device.

The counts are the same on any device. On a GPU an operation is about one kernel launch, and a read waits for all
previous operations.
"""

from collections import Counter
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

# Operations that return a number or indices to the host, which waits for the device.
READS = ("_local_scalar_dense", "is_nonzero", "equal", "nonzero", "masked_select", "_unique2", "item")


class Operations(TorchDispatchMode):
    """Count the operations dispatched in this mode, by name. Views launch no kernel and are not counted.

    total  number of operations
    reads  number of operations for which the host waits for the device
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
