"""Cached against online teacher logits: MultiKD + MBLM, 3 epochs, teachers twice as wide and deep.

usage: python -m benchmarks.cache [--repeat 5] [--rows 1000] [--width 128] [--depth 4] [--out FILE.json]

Four runs alternate: online and cached, each first with an empty store, which includes building the cache, then again
with another seed in the same store. Tokens and teacher checks, which both need once, are prepared before the clock
starts. The clock stops when result.json is written. All runs share one process with one rank; its start is excluded.
"""

import contextlib
import sys
import tempfile
import time
from pathlib import Path

import torch
from transformers import BertConfig, BertForMaskedLM, BertForSequenceClassification

from benchmarks import common
from mbkd import distributed
from mbkd.config import Config, parse
from mbkd.demo import toy, toy_models
from mbkd.distill.signals import open_source
from mbkd.inputs import prepare
from mbkd.train.checkpoint import Schedule
from mbkd.train.run import run

LANGUAGES = ("en", "fr", "zh")
LABELS = ("1", "2", "3", "4", "5")
TARGETS = {"first": 1.4, "again": 1.8}


def make_world(folder: Path, rows: int, width: int, depth: int) -> Config:
    """Write toy reviews and random models; return the configuration of the online run."""
    toy.write_reviews(folder / "data", train=rows, dev=50, test=50)
    texts = {x: [part for pair in toy.unlabelled(x, 300) for part in pair] for x in LANGUAGES}
    tokenizer = toy_models.unigram(texts, 1000)
    for name, times in (("student", 1), ("teacher", 2)):
        torch.manual_seed(times)
        shape = BertConfig(
            vocab_size=len(tokenizer),
            hidden_size=width * times,
            num_hidden_layers=depth * times,
            num_attention_heads=width * times // 32,
            intermediate_size=4 * width * times,
            max_position_embeddings=130,
            pad_token_id=tokenizer.pad_token_id,
            type_vocab_size=1,
            id2label=dict(enumerate(LABELS)),
        )
        model = (BertForMaskedLM if name == "student" else BertForSequenceClassification)(shape)
        model.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    values = {
        "task": {"kind": "marc", "path": str(folder / "data"), "supervised": LANGUAGES},
        "student": {"backbone": str(folder / "student"), "branch_depth": depth // 2},
        "teachers": {x: {"model": str(folder / "teacher"), "fine_tuned": True} for x in LANGUAGES},
        "distill": {"allow_chance_teachers": True},
        "train": {"epochs": 3, "batch_size": 32},
    }
    return parse(values, "benchmarks.cache")


def seconds(config: Config, signal: str, seed: int, root: Path, ranks: distributed.Ranks) -> float:
    """Return the wall time of one run. Tokens and teacher checks are prepared before the clock starts."""
    distill = config.distill.model_copy(update={"signal": signal})
    config = config.model_copy(update={"distill": distill, "seed": seed})
    with (root / "output.txt").open("a") as output, contextlib.redirect_stderr(output):
        asked = config.model_copy(update={"distill": config.distill.model_copy(update={"signal": "online"})})
        open_source(asked, prepare(asked, root), root, ranks)
    began = time.perf_counter()
    with (root / "output.txt").open("a") as output, contextlib.redirect_stderr(output):
        run(config, root, ranks, Schedule())
    return time.perf_counter() - began


def measure(config: Config, folder: Path, repeat: int, ranks: distributed.Ranks) -> dict[str, list[float]]:
    """Return the seconds of each kind of run, one per repetition. The order of the signals alternates."""
    found: dict[str, list[float]] = {f"{s} {w}": [] for s in ("online", "cache") for w in ("first", "again")}
    for number in range(repeat):
        for signal in ("online", "cache") if number % 2 == 0 else ("cache", "online"):
            root = folder / f"{signal}-{number}"
            root.mkdir()
            for seed, when in enumerate(("first", "again"), start=1):
                found[f"{signal} {when}"].append(seconds(config, signal, seed, root, ranks))
                print(f"{number + 1}/{repeat} {signal} {when}: {found[f'{signal} {when}'][-1]:.1f} s", file=sys.stderr)
    return found


def main() -> None:
    parser = common.parser("benchmarks.cache", __doc__)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--rows", type=int, default=1000, help="training rows per language, a multiple of five")
    parser.add_argument("--width", type=int, default=128, help="width of the student, a multiple of 32")
    parser.add_argument("--depth", type=int, default=4, help="layers of the student, at least two")
    asked = parser.parse_args()
    distributed.quiet()
    ranks = distributed.start()
    with tempfile.TemporaryDirectory() as folder:
        config = make_world(Path(folder), asked.rows, asked.width, asked.depth)
        found = measure(config, Path(folder), asked.repeat, ranks)
    device = distributed.device_name(ranks)
    distributed.stop()
    speedup = {
        when: [a / b for a, b in zip(found[f"online {when}"], found[f"cache {when}"], strict=True)] for when in TARGETS
    }
    rows = []
    for kind, values in found.items():
        signal, when = kind.split()
        ratios = (common.spread(speedup[when], 2), f"{TARGETS[when]}") if signal == "cache" else ("", "")
        rows.append((kind, len(values), common.spread(values, 1), *ratios))
    common.print_table("three epochs", ("run", "n", "seconds", "online / cache", "target"), rows)
    common.record("benchmarks.cache", asked.out, {"device": device, "seconds": found, "speedup": speedup})


if __name__ == "__main__":
    main()
