"""Time and memory of tokenising a corpus of XNLI's size, against the tokenizer library's batch call.

usage: python -m benchmarks.preparation [--pairs 98000] [--repeat 3] [--out FILE.json]

XNLI has 392,702 pairs in each of three languages, in total 1,178,106. Each pair is tokenised twice, by the student's
and the teacher's tokenizer. --pairs is the number of pairs per language. They repeat the real rows (or toy text of the
same length) with an exchanged word, so all rows differ. A quarter and a half of the size are measured first, to show
the growth. Each measurement runs in a separate process, and the two sides alternate.

ours      mbkd's stores (mbkd/data/tokens.py) from the text files: read, checked, tokenised, truncated, written, hashed
library   `tokenizers.Tokenizer.encode_batch` over the same pairs in memory, in chunks of the same size; the output is
          discarded
"""

import itertools
import json
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks import common, text
from mbkd.config import Task

TOKENIZERS = ("student", "teacher")
LABELS = ("entailment", "neutral", "contradictory")
XNLI_PAIRS = 392_702


def make_text(folder: Path, source: Task, pairs: int) -> None:
    """Write files of `pairs` pairs in XNLI's layout; repeated rows have one exchanged word."""
    from mbkd.data import tasks

    folder.mkdir(parents=True)
    for language in text.LANGUAGES:
        rows = tasks.load(source, "train", language)
        texts = list(zip(rows["text_a"], rows["text_b"], rows["label"], strict=True))
        words = [word for first, _, _ in texts[:2000] for word in first.split()]
        draw = random.Random(language)
        with (folder / f"multinli.train.{language}.tsv").open("w", encoding="utf-8") as file:
            file.write("premise\thypo\tlabel\n")
            for number, (first, second, label) in enumerate(itertools.islice(itertools.cycle(texts), pairs)):
                if number >= len(texts):
                    parts = first.split(" ")
                    parts[draw.randrange(len(parts))] = draw.choice(words)
                else:
                    parts = [first]
                file.write(f"{' '.join(parts)}\t{second}\t{LABELS[label]}\n")


def ours(folder: Path, tokenizers: Path) -> dict[str, float]:
    """Return seconds and peak memory of building all stores."""
    from mbkd.data.tokens import open_store

    task = Task(kind="xnli", path=str(folder))
    with tempfile.TemporaryDirectory(dir=folder) as store:
        began = time.perf_counter()
        for name in TOKENIZERS:
            for language in text.LANGUAGES:
                open_store(Path(store), task, "train", language, str(tokenizers / name), 128)
        return {"seconds": time.perf_counter() - began, "bytes": _largest_memory()}


def library(folder: Path, tokenizers: Path) -> dict[str, float]:
    """Return seconds of the library's calls alone, and peak memory."""
    from tokenizers import Tokenizer

    from mbkd.data import tasks
    from mbkd.data.tokens import CHUNK

    task = Task(kind="xnli", path=str(folder))
    took = 0.0
    for language in text.LANGUAGES:
        rows = tasks.load(task, "train", language)
        pairs = list(zip(rows["text_a"], rows["text_b"], strict=True))
        for name in TOKENIZERS:
            tokenizer = Tokenizer.from_file(str(tokenizers / name / "tokenizer.json"))
            tokenizer.no_padding()
            tokenizer.enable_truncation(128)
            began = time.perf_counter()
            for start in range(0, len(pairs), CHUNK):
                tokenizer.encode_batch(pairs[start : start + CHUNK])
            took += time.perf_counter() - began
    return {"seconds": took, "bytes": _largest_memory()}


def _largest_memory() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def apart(side: str, folder: Path, tokenizers: Path) -> dict[str, float]:
    """Measure one side in a separate process."""
    command = [sys.executable, "-m", "benchmarks.preparation", "--side", side, str(folder), str(tokenizers)]
    found: dict[str, float] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return found


def main() -> None:
    asked = common.parser("benchmarks.preparation", __doc__)
    asked.add_argument("--pairs", type=int, default=98_000, help="pairs per language")
    asked.add_argument("--repeat", type=int, default=3)
    asked.add_argument("--side", nargs=3, help="for the benchmark itself")
    wanted = asked.parse_args()
    if wanted.side:
        side, folder, tokenizers = wanted.side
        print(json.dumps({"ours": ours, "library": library}[side](Path(folder), Path(tokenizers))))
        return
    found: dict[int, dict[str, list[dict[str, float]]]] = {}
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        source = text.xnli(root, 15_000)
        text.tokenizer(root / "student", source)
        text.word_pieces(root / "teacher", source)
        for pairs in (wanted.pairs // 4, wanted.pairs // 2, wanted.pairs):
            folder = root / str(pairs)
            make_text(folder, source, pairs)
            sides: dict[str, list[dict[str, float]]] = {"ours": [], "library": []}
            for number in range(wanted.repeat if pairs == wanted.pairs else 1):
                for side in sides if number % 2 else reversed(sides):
                    sides[side].append(apart(side, folder, root))
            found[pairs] = sides
    rows: list[tuple[Any, ...]] = []
    for pairs, sides in found.items():
        seconds = {side: [x["seconds"] for x in each] for side, each in sides.items()}
        ratio = [a / b for a, b in zip(seconds["ours"], seconds["library"], strict=True)]
        memory = max(x["bytes"] for x in sides["ours"]) / 1e9
        encoded = pairs * len(text.LANGUAGES) * len(TOKENIZERS)
        speed = encoded / statistics.median(seconds["ours"])
        cells = (common.spread(seconds[side], 1) for side in sides)
        rows.append((f"{encoded:,}", *cells, common.spread(ratio, 2), f"{speed:,.0f}", f"{memory:.2f}"))
    title = f"XNLI is {XNLI_PAIRS * len(text.LANGUAGES) * len(TOKENIZERS):,} encodings"
    columns = ("encodings", "ours s", "library s", "ours / library", "encodings/s", "peak memory, GB")
    common.print_table(title, columns, rows)
    common.record("benchmarks.preparation", wanted.out, {"sizes": found})


if __name__ == "__main__":
    main()
