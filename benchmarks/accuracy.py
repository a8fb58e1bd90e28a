"""Effect of the speed optimizations on accuracy: toy runs with all levers on against all levers off.

usage: python -m benchmarks.accuracy [--seeds 5] [--rows 1000] [--out FILE.json]

MultiKD + MBLM on toy reviews, with three small teachers that are fine-tuned first. On: cached teacher logits, and all
levers of benchmarks/levers.py. Off: teachers run in every step, random batches padded to 128, a graph for idle
branches, the full last layer, plain AdamW, clipping by DeepSpeed, and averaging of every gradient. Both sides use the
same seeds. The interval of the difference is Welch's 95 % interval.
"""

import contextlib
import statistics
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest.mock import patch

import scipy.stats
import torch
from transformers import BertConfig, BertForMaskedLM

from benchmarks import common
from benchmarks.levers import LEVERS
from mbkd import distributed
from mbkd.config import Config, changed, paper, parse
from mbkd.demo import toy, toy_models
from mbkd.result import Result
from mbkd.train.checkpoint import Schedule
from mbkd.train.run import run
from mbkd.train.trainer import Trainer

LANGUAGES = ("en", "fr", "zh")
ZERO_SHOT = ("de", "es", "ja")


def make_world(folder: Path, rows: int) -> Config:
    """Write toy reviews and a random encoder of 2 layers x 64; return the configuration."""
    toy.write_reviews(folder / "data", train=rows, dev=500, test=500)
    texts = {x: [part for pair in toy.unlabelled(x, 500) for part in pair] for x in (*LANGUAGES, *ZERO_SHOT)}
    tokenizer = toy_models.unigram(texts, 400)
    torch.manual_seed(0)
    shape = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=128,
        max_position_embeddings=130,
        pad_token_id=tokenizer.pad_token_id,
        type_vocab_size=1,
    )
    BertForMaskedLM(shape).save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    model = str(folder / "model")
    values = {
        "task": {"kind": "marc", "path": str(folder / "data"), "supervised": LANGUAGES, "zero_shot": ZERO_SHOT},
        "student": {"backbone": model, "branch_depth": 1},
        "teachers": {x: {"model": model} for x in LANGUAGES},
        "teaching": {"lr": 1e-3, "epochs": 5},
        "distill": {"allow_chance_teachers": True},
        "train": {"lr": 1e-3, "epochs": 5},
    }
    return parse(values, "benchmarks.accuracy")


def train(config: Config, root: Path, ranks: distributed.Ranks, off: bool) -> dict[str, float]:
    """Return the test averages of one run, in percent."""
    whole = Trainer.train

    def slowly(trainer: Trainer) -> None:
        with ExitStack() as turned_off:
            for lever in LEVERS.values():
                turned_off.enter_context(lever(trainer))
            whole(trainer)

    with patch.object(Trainer, "train", slowly if off else whole):
        result = Result.read(run(config, root, ranks, Schedule()))
    return {name: 100 * value for name, value in result.averages["test"].items()}


def main() -> None:
    asked = common.parser("benchmarks.accuracy", __doc__)
    asked.add_argument("--seeds", type=int, default=5)
    asked.add_argument("--rows", type=int, default=1000, help="training rows per language, a multiple of five")
    wanted = asked.parse_args()
    distributed.quiet()
    ranks = distributed.start()
    found: dict[str, list[dict[str, float]]] = {"on": [], "off": []}
    with tempfile.TemporaryDirectory() as name, Path(name, "output").open("w") as output:
        root = Path(name)
        with contextlib.redirect_stderr(output):
            config = make_world(root, wanted.rows)
            for teacher in paper.teacher_runs(config):
                run(teacher, root, ranks, Schedule())
            for seed in range(1, wanted.seeds + 1):
                for side, signal in (("on", "cache"), ("off", "online")):
                    mine = changed(config, {"distill": {"signal": signal}, "seed": seed})
                    found[side].append(train(mine, root, ranks, side == "off"))
    distributed.stop()
    rows: list[tuple[Any, ...]] = []
    intervals = {}
    for average in ("S", "Z", "A"):
        on, off = ([each[average] for each in found[side]] for side in ("on", "off"))
        low, high = scipy.stats.ttest_ind(on, off, equal_var=False).confidence_interval(0.95)
        intervals[average] = (float(low), float(high))
        difference = statistics.mean(on) - statistics.mean(off)
        cells = (common.spread(on, 2), common.spread(off, 2), f"{difference:+.2f}", f"{low:+.2f} to {high:+.2f}")
        rows.append((f"AVG({average})", *cells))
    columns = ("test accuracy x100", "all levers on", "all off", "on - off, means", "95 % interval")
    common.print_table(f"{wanted.seeds} seeds each", columns, rows)
    common.record("benchmarks.accuracy", wanted.out, {"averages": found, "intervals": intervals})


if __name__ == "__main__":
    main()
