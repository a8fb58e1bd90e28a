"""The setting of the comparisons with other tools: the task, the models, and the timed batches of an epoch.

The peers are not dependencies of mbkd. A script without its peer measures nothing and prints the `pip` command.
"""

import argparse
import contextlib
import importlib.util
import multiprocessing
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import common, text
from mbkd.config import Config, parse
from mbkd.data.tokens import Tokens, load_tokenizer, open_store

ZERO_SHOT = ("de", "sw")


def parser(module: str, description: str | None) -> argparse.ArgumentParser:
    """Return an argument parser with the options of the setting."""
    made = common.parser(module, description)
    made.add_argument("--student", help="an encoder's folder; default: random weights of --layers and --width")
    made.add_argument(
        "--teacher", help="the same for the teachers; default: random weights of --teacher-layers and --width"
    )
    made.add_argument("--width", type=int, default=384, help="a multiple of 32")
    made.add_argument("--layers", type=int, default=6)
    made.add_argument("--teacher-layers", type=int, default=12)
    made.add_argument("--rows", type=int, default=15_000, help="training rows of each of three languages")
    made.add_argument("--batch", type=int, default=32)
    return made


def missing(package: str, module: str, out: Path | None) -> bool:
    """Return whether a peer is not installed. If so, print and record the command that installs the peer."""
    if importlib.util.find_spec(package) is not None:
        return False
    reason = f"skipped: {package} is not installed; pip install {package.replace('_', '-')}"
    print(f"{module}: {reason}", file=sys.stderr)
    common.record(module, out, {"skipped": reason})
    return True


def versions(*packages: str) -> dict[str, str]:
    """Return the versions of installed peers."""
    return {package: version(package) for package in packages}


def make_world(folder: Path, asked: argparse.Namespace) -> Config:
    """Return a task of XNLI's pairs, or of toy text of their length, with a plain student and three teachers."""
    task = text.xnli(folder, asked.rows, ZERO_SHOT)
    student = asked.student or str(_encoder(folder / "student", folder, asked, asked.layers))
    teacher = asked.teacher or str(_encoder(folder / "teacher", folder, asked, asked.teacher_layers))
    values = {
        "task": task.model_dump(mode="json"),
        "student": {"backbone": student},
        "teachers": {x: {"model": teacher, "fine_tuned": True} for x in task.supervised},
        "distill": {"allow_chance_teachers": True},
        "train": {"batch_size": asked.batch, "epochs": 1, "lr": 1e-4},
    }
    return parse(values, "benchmarks.peers")


def _encoder(folder: Path, root: Path, asked: argparse.Namespace, layers: int) -> Path:
    """Write an encoder with random weights and a tokenizer of the task's text."""
    import torch
    from transformers import BertConfig, BertModel

    tokenizers = root / "tokenizer"
    if not tokenizers.is_dir():
        text.tokenizer(tokenizers, text.xnli(root / "for-tokenizer", min(asked.rows, 2000)))
    tokenizer = load_tokenizer(str(tokenizers))
    torch.manual_seed(layers)
    shape = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=asked.width,
        num_hidden_layers=layers,
        num_attention_heads=asked.width // 32,
        intermediate_size=4 * asked.width,
        pad_token_id=tokenizer.pad_token_id,
        type_vocab_size=1,
        num_labels=3,
    )
    BertModel(shape, add_pooling_layer=False).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def stores(config: Config, root: Path) -> dict[str, Tokens]:
    """Open the student's token stores of the training rows, by language."""
    train = config.train
    return {
        x: open_store(root / "store", config.task, "train", x, config.student.backbone, train.max_length)
        for x in config.languages
    }


class SeparateProcess:
    """A variant in a separate process, without settings and memory of other variants.

    In this process, make(*given) returns a function from the number of a round to the measured value.
    """

    def __init__(self, make: Callable[..., Callable[[int], float]], *given: Any):
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, make, given), daemon=True)
        self.process.start()

    def __call__(self, number: int) -> float:
        self.pipe.send(number)
        found: float = self.pipe.recv()
        return found


def _serve(pipe: Any, make: Callable[..., Callable[[int], float]], given: tuple[Any, ...]) -> None:
    run = None
    with contextlib.suppress(EOFError):  # the parent process closed the pipe
        while True:
            number = pipe.recv()
            run = run or make(*given)
            pipe.send(run(number))


def our_steps(config: Config, root: Path, rounds: int, count: int) -> Callable[[int], float]:
    """Return a function that measures mbkd's seconds per example in a round.

    The tokens are those of the rows; the weights are random, in the real shapes.
    """
    from mbkd import distributed
    from mbkd.estimate import dry_run

    distributed.quiet()
    ranks = distributed.start()
    rows = stores(config, root)
    lengths = {x: each.lengths for x, each in rows.items()}
    trainer = dry_run.trainer(config, lengths, ranks)
    trainer.inputs = replace(trainer.inputs, train=rows)
    labels = config.distill.signal == "labels"
    dry_run.warm_up(
        trainer, trainer.source if labels else dry_run.sources(config, lengths, ranks)[config.distill.signal]
    )
    plan = trainer.plan
    epoch = range(plan.steps_per_epoch)
    wide = [len(plan.rows(step)) * dry_run.width(plan, step, lengths) for step in epoch]
    each = shares(np.array(wide), rounds, count)

    def run(number: int) -> float:
        began = time.perf_counter()
        for step in each[number % rounds]:
            trainer.step(int(step))
        distributed.synchronize()
        return (time.perf_counter() - began) / (count * config.train.batch_size)

    return run


def sizes(batches: Sequence[np.ndarray], lengths: np.ndarray) -> np.ndarray:
    """Return the number of tokens of each batch, padded to its longest row."""
    return np.array([len(rows) * lengths[rows].max() for rows in batches])


def shares(of_batches: np.ndarray, rounds: int, count: int) -> list[np.ndarray]:
    """Return the batches of each round: evenly spaced in the order of their sizes, then shuffled.

    The mean of a few batches of unequal sizes then estimates the mean of the epoch.
    """
    order = np.argsort(of_batches, kind="stable")
    at = (np.arange(rounds * count) + 0.5) / (rounds * count) * len(order)
    mixed = np.random.default_rng(0)
    return [mixed.permutation(order[at.astype(int)][number::rounds]) for number in range(rounds)]


def command(words: Sequence[str], log: Path) -> float:
    """Run `python -m WORDS` with its output in a log; return the seconds of the process."""
    path = os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")])
    began = time.perf_counter()
    with log.open("ab") as output:
        done = subprocess.run(
            [sys.executable, "-m", *words],
            stdout=output,
            stderr=output,
            env=os.environ | {"PYTHONPATH": path},
            check=False,
        )
    if done.returncode:
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()[-15:]
        raise SystemExit("\n".join([f"python -m {' '.join(words)} ended with {done.returncode}:", *lines]))
    return time.perf_counter() - began


def ratios(found: Mapping[str, Sequence[float]], ours: str) -> dict[str, list[float]]:
    """Return the time of each variant divided by ours, by round."""
    return {x: [a / b for a, b in zip(values, found[ours], strict=True)] for x, values in found.items()}


def print_times(title: str, unit: str, found: Mapping[str, Sequence[float]], against: Sequence[str]) -> None:
    """Print one line per variant: its times, and their ratios to some of our variants."""
    each = {x: ratios(found, x) for x in against}
    rows = (
        (
            name,
            common.spread(values, 4 if statistics.median(values) < 1 else 1),
            *(common.spread(each[x][name], 2) for x in against),
        )
        for name, values in found.items()
    )
    common.print_table(title, ("", unit, *(f"/ {x}" for x in against)), rows)
