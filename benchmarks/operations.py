"""Number of operations that a training step dispatches, and of host reads from the device.

usage: python -m benchmarks.operations [--layers 12] [--depth 4] [--names] [--out FILE.json]

On a GPU, nearly every operation launches a kernel, and a read makes the host wait for all launched kernels. Both limit
a step of 32 short rows. The operations are counted on a CPU, where the same code dispatches the same operations. The
model is an MBLM with three branches, cached logits and one rank. Its layers are narrow, because the count does not
depend on the width. Views launch no kernel and are excluded. The counted step follows one step in each language.
"""

import tempfile
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
from transformers import BertConfig

from benchmarks import common
from mbkd import distributed
from mbkd.config import Config, changed, paper
from mbkd.estimate import dry_run
from mbkd.estimate.operations import Operations

WAYS = (("fp32", 0), ("bf16", 0), ("bf16", 1))  # precision, ZeRO stage


def count(config: Config, ranks: distributed.Ranks) -> dict[str, Operations]:
    """Count the operations of a step: `all`, and the parts of `backward` and the optimizer's `step`."""
    lengths = {language: np.full(64, 24) for language in config.languages}
    trainer = dry_run.trainer(config, lengths, ranks)
    dry_run.warm_up(trainer, dry_run.sources(config, lengths, ranks)["cache"])
    counted = {name: Operations() for name in ("all", "backward", "step")}

    def within(name: str) -> AbstractContextManager[Any]:
        work: Callable[..., Any] = getattr(trainer.engine, name)

        def run(*arguments: Any, **named: Any) -> Any:
            with counted[name]:
                return work(*arguments, **named)

        return patch.object(trainer.engine, name, run)

    with within("backward"), within("step"), counted["all"]:
        trainer.step(10)
    return counted


def main() -> None:
    asked = common.parser("benchmarks.operations", __doc__)
    asked.add_argument("--layers", type=int, default=12)
    asked.add_argument("--depth", type=int, default=4)
    asked.add_argument("--names", action="store_true", help="record the names of the operations")
    wanted = asked.parse_args()
    distributed.quiet()
    ranks = distributed.start()
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        sizes = {"hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 64}
        BertConfig(vocab_size=2000, num_hidden_layers=wanted.layers, **sizes).save_pretrained(folder)
        model = str(Path(folder))
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
            backward, step = counted["backward"].total, counted["step"].total
            found[f"{precision}, ZeRO {stage}"] = {
                "forward": counted["all"].total - backward - step,
                "backward": backward,
                "step": step,
                "total": counted["all"].total,
                "reads": counted["all"].reads,
                **({"names": dict(counted["all"].counts.most_common())} if wanted.names else {}),
            }
    distributed.stop()
    columns = ("forward", "backward", "step", "total", "reads")
    common.print_table(
        f"operations per step: MBLM, {wanted.layers} layers, K = {wanted.depth}, three branches, one rank",
        ("precision", *columns[:-1], "reads of the device by the host"),
        ((way, *(f"{each[name]:,}" for name in columns)) for way, each in found.items()),
    )
    common.record("benchmarks.operations", wanted.out, {"found": found})


if __name__ == "__main__":
    main()
