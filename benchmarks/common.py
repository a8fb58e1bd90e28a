"""Shared functions of the benchmarks: alternating variants, medians with their range, and the record."""

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from mbkd import runs
from mbkd.files import write_whole
from mbkd.terminal.console import make_console


def parser(module: str, description: str | None) -> argparse.ArgumentParser:
    """Return an argument parser with the option of all benchmarks."""
    made = argparse.ArgumentParser(
        prog=f"python -m {module}", description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--out", type=_new_file, help="the JSON file for the numbers; default: print them")
    return made


def _new_file(name: str) -> Path:
    """Return an output file; its folder must exist."""
    file = Path(name)
    if file.is_dir() or not file.parent.is_dir():
        what = "is a folder; name a file" if file.is_dir() else f"the folder {file.parent} does not exist; create it"
        raise argparse.ArgumentTypeError(f"{name}: {what}")
    return file


def seconds(work: Callable[[], Any]) -> float:
    """Return the wall time of one call."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def take_turns(variants: dict[str, Callable[[int], float]], rounds: int, warm: int = 1) -> dict[str, list[float]]:
    """Return the value of each variant in each round, such as its seconds, after `warm` other rounds.

    The order is reversed in every second round, because a variant affects the processor caches for the next one.
    """
    found: dict[str, list[float]] = {name: [] for name in variants}
    for number in range(-warm, rounds):
        for name in variants if number % 2 else reversed(variants):
            value = variants[name](number)
            if number >= 0:
                found[name].append(value)
    return found


def spread(values: Sequence[float], digits: int = 3) -> str:
    """Format the median and the range for a table."""
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f} - {max(values):.{digits}f})"


def print_table(title: str, columns: Iterable[str], rows: Iterable[Iterable[Any]]) -> None:
    """Print rows of numbers as a table."""
    table = Table(*columns, title=title, title_justify="left")
    for row in rows:
        table.add_row(*map(str, row))
    make_console(stderr=True).print(table)


def record(module: str, out: Path | None, found: dict[str, Any]) -> None:
    """Write the results with the command, the machine and the versions."""
    kept = {
        "command": " ".join([f"python -m {module}", *sys.argv[1:]]),
        "machine": machine(),
        **runs.environment(),
        **found,
    }
    text = json.dumps(kept, indent=2, ensure_ascii=False)
    if out is None:
        print(text)
    else:
        write_whole(out, f"{text}\n".encode())


def random_encoder(folder: Path, width: int, layers: int, tokens: int) -> Any:
    """Write an XLM-R with random weights for up to `tokens` tokens; return a tokenizer of the toy text."""
    import torch
    from transformers import XLMRobertaConfig, XLMRobertaForMaskedLM

    from mbkd.demo import toy, toy_models

    torch.manual_seed(0)
    tokenizer = toy_models.unigram({x: [a for a, _ in toy.unlabelled(x, 300)] for x in toy.LANGUAGES}, 1500)
    shape = XLMRobertaConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=width // 32,
        intermediate_size=4 * width,
        max_position_embeddings=tokens + 2,
        pad_token_id=tokenizer.pad_token_id,
        type_vocab_size=1,
    )
    XLMRobertaForMaskedLM(shape).save_pretrained(folder)
    return tokenizer


def small_shape(tokenizer: Any, **fields: Any) -> Any:
    """Return a BERT configuration of 2 layers x 32 for a tokenizer, for benchmarks of everything but the encoder."""
    from transformers import BertConfig

    return BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        pad_token_id=tokenizer.pad_token_id,
        type_vocab_size=1,
        **fields,
    )


def machine() -> str:
    """Return the processor's name and the number of available cores."""
    info = Path("/proc/cpuinfo")
    names = [x for x in info.read_text().splitlines() if x.startswith("model name")] if info.is_file() else []
    return f"{names[0].partition(':')[2].strip() if names else 'CPU'}, {len(os.sched_getaffinity(0))} cores"
