"""Time from `mbkd train` to the first step: a tiny model, one rank, existing token stores and checks.

usage: python -m benchmarks.startup [--repeat 7] [--ranks 1] [--out FILE.json]

The clock starts before the command's process. It stops when the command reports the start of training, right before
the first step. Two breakdowns follow: the imported packages of both processes (self time of `python -X importtime`),
and the rank's work between imports and first step, measured separately.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import yaml

from benchmarks import common

PACKAGES_SHOWN = 8
INSIDE = """
import json, sys, time
clock, found = time.perf_counter(), {}
def lap(name):
    global clock
    now = time.perf_counter()
    found[name], clock = now - clock, now
import torch; lap("import torch")
import deepspeed; lap("import deepspeed")
from mbkd import distributed; lap("import mbkd.distributed")
distributed.quiet(); ranks = distributed.start(); lap("join the process group")
from mbkd import config as configuration
from mbkd.train.student import build_student
from mbkd.distill import signals; lap("import mbkd.train (transformers)")
from pathlib import Path
config, root = configuration.read(sys.argv[1]), Path(sys.argv[2])
from mbkd.inputs import prepare
inputs = prepare(config, root); lap("open the stores, checksums and all")
model = build_student(config, inputs.labels); lap("load the student")
signals.open_source(config, inputs, root, ranks); lap("load the teachers, read their checks")
from mbkd.train.optim import parameter_groups
groups = parameter_groups(model, list(config.languages), 0.01)
from mbkd.train.engine import training_engine
wrapped = training_engine(model, groups, config.train, ranks); lap("DeepSpeed's engine")
wrapped.train()
batch = distributed.tensors(inputs.train["en"].batch(__import__("numpy").arange(8)), ranks.device)
wrapped.backward(wrapped(**batch, language="en").logits.sum()); wrapped.step(); lap("the first step")
print(json.dumps(found))
"""


def make_world(folder: Path) -> Path:
    """Write toy reviews, and a tiny encoder that is also the teacher; return the configuration file."""
    import torch
    from transformers import BertForSequenceClassification

    from mbkd.demo import toy, toy_models

    toy.write_reviews(folder / "data", train=100, dev=20, test=20)
    texts = {x: [part for pair in toy.unlabelled(x, 100) for part in pair] for x in ("en", "fr", "zh")}
    tokenizer = toy_models.unigram(texts, 500)
    torch.manual_seed(0)
    shape = common.small_shape(
        tokenizer,
        id2label={i: str(i + 1) for i in range(5)},
    )
    BertForSequenceClassification(shape).save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    model = str(folder / "model")
    values = {
        "task": {"kind": "marc", "path": str(folder / "data")},
        "student": {"backbone": model, "branch_depth": 1},
        "teachers": {x: {"model": model, "fine_tuned": True} for x in ("en", "fr", "zh")},
        "distill": {"allow_chance_teachers": True},
        "train": {"epochs": 1, "batch_size": 8},
    }
    file = folder / "config.yaml"
    file.write_text(yaml.safe_dump(values), encoding="utf-8")
    return file


def command(file: Path, seed: int, ranks: int) -> list[str]:
    overrides = [f"seed={seed}", "--runs", str(file.parent / "runs"), "--ranks", str(ranks)]
    return [sys.executable, "-m", "mbkd", "train", str(file), *overrides]


def start(file: Path, seed: int, ranks: int) -> float:
    """Return the seconds from the command to its report of the start of training. The run then finishes."""
    began = time.perf_counter()
    with subprocess.Popen(
        command(file, seed, ranks), text=True, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL
    ) as job:
        said = []
        found = 0.0
        for line in job.stderr or ():
            said.append(line)
            if not found and "started" in line and f"seed {seed}" in line:
                found = time.perf_counter() - began
    if job.returncode or not found:
        raise SystemExit("".join(said))
    return found


def imports(file: Path, seed: int) -> dict[str, dict[str, float]]:
    """Return the import seconds of each package's own modules, in the command's and the rank's process."""
    done = subprocess.run(
        command(file, seed, 1),
        check=True,
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPROFILEIMPORTTIME": "1"},
    )
    found: dict[str, dict[str, float]] = {"command": defaultdict(float), "rank": defaultdict(float)}
    process = ""
    for line in done.stderr.splitlines():
        if not line.startswith("import time:"):
            process = "" if "started" in line else process  # later imports do not count
        elif "[us]" in line:  # the header of a new process
            process = "rank" if process else "command"
        elif process:
            microseconds, _, name = line.removeprefix("import time:").split("|")
            found[process][name.strip().partition(".")[0]] += int(microseconds) / 1e6
    return found


def inside(file: Path) -> dict[str, float]:
    """Return the seconds of the rank's work, measured in a separate process."""
    import json

    done = subprocess.run(
        [sys.executable, "-c", INSIDE, str(file), str(file.parent / "runs")], check=True, capture_output=True, text=True
    )
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    asked = common.parser("benchmarks.startup", __doc__)
    asked.add_argument("--repeat", type=int, default=7)
    asked.add_argument("--ranks", type=int, default=1)
    wanted = asked.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        file = make_world(Path(folder))
        start(file, 1, wanted.ranks)  # tokenises, and checks the teachers
        took = [start(file, seed, wanted.ranks) for seed in range(2, 2 + wanted.repeat)]
        packages = imports(file, 100)
        laps = [inside(file) for _ in range(3)]
    work = {name: statistics.median(lap[name] for lap in laps) for name in laps[0]}
    common.print_table(
        f"from the command to the first step, {wanted.ranks} rank{'s' * (wanted.ranks > 1)}",
        ("n", "seconds"),
        [(len(took), common.spread(took, 2))],
    )
    rows: list[tuple[Any, ...]] = []
    for process, each in packages.items():
        rows.append((process, "all imports", f"{sum(each.values()):.2f}"))
        largest = sorted(each.items(), key=lambda item: -item[1])[:PACKAGES_SHOWN]
        rows += [("", name, f"{value:.2f}") for name, value in largest]
    common.print_table("imports, one run under importtime", ("process", "package", "seconds"), rows)
    common.print_table("the rank, median of 3", ("what", "seconds"), [(k, f"{v:.2f}") for k, v in work.items()])
    common.record("benchmarks.startup", wanted.out, {"seconds": took, "imports": packages, "rank": work})


if __name__ == "__main__":
    main()
