"""How many operations a training step dispatches, and how often the host reads the device in it.

usage: python -m benchmarks.operations [--layers 12] [--depth 4] [--out FILE.json]

On a GPU nearly every operation is the launch of a kernel, and a read makes the host wait for all that were launched:
a step of 32 short rows is bound by both. They are counted on a CPU, where the same code dispatches the same operations.
MBLM with three branches, narrow layers (the count does not depend on the width), cached logits, one rank. Views launch
nothing and are left out. A step is counted after one in each language.
"""

import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import BertConfig

from benchmarks import common
from mbkd import distributed
from mbkd.config import Config, changed, paper
from mbkd.estimate import dry_run

WAYS = (("fp32", 0), ("bf16", 0), ("bf16", 1))  # precision, ZeRO stage
# What the host waits for: the value of a scalar, and sizes that depend on values, as of a sparse gradient.
READS = {
    "_coalesce",
    "_local_scalar_dense",
    "_unique2",
    "equal",
    "is_nonzero",
    "masked_select",
    "nonzero",
    "unique_dim",
}
# Views that torch does not mark as such, and memory that nothing is written to.
NO_KERNEL = {"_unsafe_view", "detach", "empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided"}


class Counting(TorchDispatchMode):
    """Counts the operations of each phase, and those that the host waits for."""

    def __init__(self) -> None:
        super().__init__()
        self.phase = "forward"
        self.operations: Counter[str] = Counter()
        self.reads: Counter[str] = Counter()
        self.names: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if name in READS:
            self.reads[name] += 1
        if not func.is_view and name not in NO_KERNEL:
            self.operations[self.phase] += 1
            self.names[f"{self.phase} {name}"] += 1
        return func(*args, **(kwargs or {}))


def count(config: Config, ranks: distributed.Ranks) -> Counting:
    """A step's operations by phase."""
    lengths = {language: np.full(64, 24) for language in config.languages}
    trainer = dry_run.trainer(config, lengths, ranks)
    dry_run.warm_up(trainer, dry_run.sources(config, lengths, ranks)["cache"])
    counting = Counting()

    def phase(name: str, work: Callable[..., Any]) -> Callable[..., Any]:
        def run(*arguments: Any, **named: Any) -> Any:
            counting.phase = name
            return work(*arguments, **named)

        return run

    engine = trainer.engine
    with (
        patch.object(engine, "backward", phase("backward", engine.backward)),
        patch.object(engine, "step", phase("step", engine.step)),
        counting,
    ):
        trainer.step(10)
    return counting


def main() -> None:
    asked = common.parser("benchmarks.operations", __doc__)
    asked.add_argument("--layers", type=int, default=12)
    asked.add_argument("--depth", type=int, default=4)
    asked.add_argument("--names", action="store_true", help="which operations they are")
    wanted = asked.parse_args()
    distributed.quiet()
    ranks = distributed.start()
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        shape = BertConfig(
            vocab_size=2000,
            hidden_size=32,
            num_hidden_layers=wanted.layers,
            num_attention_heads=2,
            intermediate_size=64,
        )
        shape.save_pretrained(Path(folder) / "model")
        model = str(Path(folder) / "model")
        base = changed(
            paper.recipes()["xnli-mbert-mblm"],
            {
                "student": {"backbone": model, "branch_depth": wanted.depth},
                "teachers": {x: {"model": model, "fine_tuned": True} for x in ("en", "fr", "zh")},
                "train": {"batch_size": 8},
            },
        )
        for precision, stage in WAYS:
            counted = count(changed(base, {"train": {"precision": precision, "zero_stage": stage}}), ranks)
            found[f"{precision}, ZeRO {stage}"] = {
                "operations": dict(counted.operations),
                "total": counted.operations.total(),
                "reads": dict(counted.reads),
                **({"names": dict(counted.names.most_common())} if wanted.names else {}),
            }
    distributed.stop()
    phases = ("forward", "backward", "step")
    common.print_table(
        f"operations of a step: MBLM, {wanted.layers} layers, K = {wanted.depth}, three branches, one rank",
        ("precision", *phases, "total", "reads of the device by the host"),
        (
            (
                way,
                *(f"{each['operations'].get(x, 0):,}" for x in phases),
                f"{each['total']:,}",
                sum(each["reads"].values()),
            )
            for way, each in found.items()
        ),
    )
    common.record("benchmarks.operations", wanted.out, {"found": found})


if __name__ == "__main__":
    main()
