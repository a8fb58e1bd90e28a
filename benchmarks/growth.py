"""Measure processor time and memory of commands as rows and languages grow. The growth should be linear at most.

usage: python -m benchmarks.growth [--rows 10000 100000 1000000] [--languages 15 48 205] [--out FILE]

Each command runs in a separate process on toy text and a tiny model (2 layers of width 32, K = 1). The model's share of
the time is small.

rows       that many rows in 15 languages: training rows of three languages for `data` and the token stores, rows of a
           file for `predict`, test rows for `evaluate` and for the report of four runs
languages  1,000 rows of each language

Time is the processor time of a command with one thread. On a shared machine it varies less than elapsed time.
The exponent is the slope of log seconds, or log memory, over log rows or languages, between the last two sizes.
"""

import argparse
import csv
import itertools
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import common
from benchmarks.report import make_run
from mbkd import config as configuration
from mbkd.config import Config, Student, Teacher, changed, paper, parse, sib200
from mbkd.demo import toy

MODULE = "benchmarks.growth"
FEW, EACH, RUNS = 15, 1000, 4
SUPERVISED = sib200.SUPERVISED
TARGET_GB = 2
COMMANDS = ("data", "stores", "predict", "evaluate", "report")
Measured = tuple[float, float]  # processor seconds, and peak memory in GB


def languages(count: int) -> tuple[str, ...]:
    """Return `count` language codes, the supervised ones first."""
    return (*SUPERVISED, *(x for x in sib200.LANGUAGES if x not in SUPERVISED))[:count]


def texts() -> list[str]:
    """Return a few thousand toy reviews in six languages."""
    return [text for x in toy.LANGUAGES for text, _ in itertools.islice(toy.unlabelled(x, 1000), 1000)]


def write_rows(file: Path, some: Sequence[str], count: int) -> None:
    """Write a CSV file of `count` different rows."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w", encoding="utf-8", newline="") as stream:
        out = csv.writer(stream)
        out.writerow(["text", "label"])
        rows = zip(range(count), itertools.cycle(some), strict=False)
        out.writerows((f"{text} {number}", ("a", "b", "c")[number % 3]) for number, text in rows)


def make_model(folder: Path, some: Sequence[str]) -> None:
    """Write a tiny MBLM and its encoder."""
    import torch
    from transformers import BertModel

    from mbkd.demo import toy_models
    from mbkd.model.mblm import MBLMForSequenceClassification

    tokenizer = toy_models.unigram({"all": list(some[::5])}, 2000)
    torch.manual_seed(0)
    shape = common.small_shape(tokenizer)
    BertModel(shape, add_pooling_layer=False).save_pretrained(folder / "encoder")
    names = {"id2label": {0: "a", 1: "b", 2: "c"}, "label2id": {"a": 0, "b": 1, "c": 2}}
    model = MBLMForSequenceClassification.from_pretrained(
        folder / "encoder", branch_languages=SUPERVISED, branch_depth=1, mixer_length=128, **names
    )
    model.save_pretrained(folder / "model")
    for name in ("encoder", "model"):
        tokenizer.save_pretrained(folder / name)


def make_config(folder: Path, world: Path, some: Sequence[str], train: int, test: int, named: Sequence[str]) -> Path:
    """Write files of `train` and `test` rows of each language and a configuration; return its file."""
    for language in named:
        write_rows(folder / f"test.{language}.csv", some, test)
    for language in SUPERVISED:
        write_rows(folder / f"train.{language}.csv", some, train)
    values = {
        "task": {
            "kind": "own",
            "files": {x: str(folder / f"{x}.{{language}}.csv") for x in ("train", "test")},
            "columns": {"text": "text", "label": "label", "language": None},
            "labels": ["a", "b", "c"],
            "supervised": SUPERVISED,
            "zero_shot": named[len(SUPERVISED) :],
        },
        "student": {"backbone": str(world / "encoder"), "branch_depth": 1},
        "distill": {"signal": "labels"},
    }
    file = folder / "config.yaml"
    file.write_text(parse(values, MODULE).dump(), encoding="utf-8")
    return file


def make_runs(root: Path, rows: int, named: Sequence[str]) -> None:
    """Write runs with `rows` test rows in each language."""
    task = paper.xnli().model_copy(update={"supervised": SUPERVISED, "zero_shot": named[len(SUPERVISED) :]})
    teachers = {x: (Teacher(model="none"),) for x in SUPERVISED}
    full = Config(task=task, student=Student(backbone="none", branch_depth=4), teachers=teachers)
    for seed in range(1, RUNS // 2 + 1):
        for name in ("multikd", "mblm"):
            make_run(root, changed(paper.system(full, name), {"seed": seed}), np.arange(rows) % 3)


def measured(words: Sequence[str], log: Path) -> Measured:
    """Run `python -m WORDS`; return the seconds of its processes and the memory of the largest one."""
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1]), "OMP_NUM_THREADS": "1"}
    environment |= {"RAYON_NUM_THREADS": "1"}  # the tokenizer library's threads
    with log.open("ab") as output:
        process = subprocess.Popen([sys.executable, "-m", *words], stdout=output, stderr=output, env=environment)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()[-15:]
        raise SystemExit("\n".join([f"python -m {' '.join(words)} ended with {process.returncode}:", *lines]))
    return usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1e6


def all_commands(
    root: Path, world: Path, some: Sequence[str], asked: argparse.Namespace, rows: int | None, count: int
) -> dict[str, Measured]:
    """Measure every command at one size. rows: of all languages together; None: EACH of every language."""
    named = languages(count)
    each = EACH if rows is None else rows // count
    train = EACH if rows is None else rows // len(SUPERVISED)
    log, model, found = root / "output.txt", str(world / "model"), {}
    # As rows grow, commands on training rows get few test rows, and commands on test rows few training rows.
    few = 20 if rows is not None else EACH
    reading = str(make_config(root / "train", world, some, train, few, named))
    measuring = str(make_config(root / "test", world, some, few, each, named))
    if "data" in asked.commands:
        found["data"] = measured(["mbkd", "data", reading], log)
    if "stores" in asked.commands:
        found["stores"] = measured([MODULE, "--stores", reading, str(root / "store")], log)
    if "predict" in asked.commands:
        write_rows(root / "rows.csv", some, rows or EACH * count)
        out = ["--out", str(root / "labels.jsonl")]
        found["predict"] = measured(["mbkd", "predict", model, str(root / "rows.csv"), "--text", "text", *out], log)
    if "evaluate" in asked.commands:
        out = ["--out", str(root / "evaluation.json")]
        found["evaluate"] = measured(["mbkd", "evaluate", model, measuring, "--split", "test", *out], log)
    if "report" in asked.commands:
        make_runs(root / "runs", each, named)
        found["report"] = measured(["analysis.report", str(root / "runs"), "--out", str(root / "report")], log)
    return found


def open_stores(file: str, root: str) -> None:
    """Tokenise every row of a configuration."""
    from mbkd.inputs import prepare

    prepare(configuration.read(file), Path(root))


def exponent(sizes: Sequence[int], values: Sequence[float]) -> float | None:
    """Return the slope of the logarithms between the last two sizes."""
    if len(sizes) < 2:
        return None
    return math.log(values[-1] / values[-2]) / math.log(sizes[-1] / sizes[-2])


def main() -> None:
    parser = common.parser(MODULE, __doc__)
    parser.add_argument("--rows", nargs="*", type=int, default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--languages", nargs="*", type=int, default=[15, 48, 205])
    parser.add_argument("--commands", nargs="+", choices=COMMANDS, default=COMMANDS)
    parser.add_argument("--stores", nargs=2, help="internal: open the token stores")
    asked = parser.parse_args()
    if asked.stores:
        open_stores(*asked.stores)
        return
    found: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as name:
        world, some = Path(name) / "world", texts()
        make_model(world, some)
        for axis, sizes in (("rows", asked.rows), ("languages", asked.languages)):
            each: dict[int, dict[str, Measured]] = {}
            for size in sizes:
                with tempfile.TemporaryDirectory(dir=name) as folder:
                    given = (size, FEW) if axis == "rows" else (None, size)
                    each[size] = all_commands(Path(folder), world, some, asked, *given)
            if not each:
                continue
            table, found[axis] = [], {}
            for command in asked.commands:
                seconds, memory = ([each[size][command][i] for size in sizes] for i in (0, 1))
                slopes = [exponent(sizes, values) for values in (seconds, memory)]
                cells = [f"{s:.1f} s, {gb:.2f} GB" for s, gb in zip(seconds, memory, strict=True)]
                table.append((command, *cells, *("-" if x is None else f"{x:.2f}" for x in slopes)))
                found[axis][command] = {"sizes": sizes, "seconds": seconds, "gb": memory, "exponents": slopes}
            columns = ("", *(f"{size:,} {axis}" for size in sizes), "exponent of time", "of memory")
            common.print_table(f"target: no exponent above 1, no memory above {TARGET_GB} GB", columns, table)
    common.record(MODULE, asked.out, found)


if __name__ == "__main__":
    main()
