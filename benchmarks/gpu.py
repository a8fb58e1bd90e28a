"""One GPU: steps, memory, exactness, predictions, requests, at 32 x 40 and 256 x 128 rows x tokens.

usage: python -m benchmarks.gpu [--rounds 7] [--steps 10] [--tiny] [--out FILE.json]

One process prints one table in less than 8 minutes, and marks variants that are left out for lack of time. The models
are an MBLM of mBERT's shape (K = 4, three branches), the same student without branches, and teachers of 24 layers x
1024, all with random weights. The plain loop (the model of benchmarks/reference.py) uses torch only: autocast, fused
AdamW, gradient clipping, cached logits. Variants alternate. --tiny tries everything with small shapes, also on a CPU.
"""

import argparse
import copy
import gc
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F
from transformers import BertConfig, RobertaConfig

from benchmarks import common, serving
from benchmarks.reference import PlainMBLM
from mbkd import distributed, precision
from mbkd.config import Config, changed, paper
from mbkd.demo import toy
from mbkd.estimate import cost, dry_run

SHAPES = ((32, 40), (256, 128))  # rows and tokens
SECONDS = 420.0  # variants that would start later are left out
MBERT = BertConfig(vocab_size=119_547)
TINY = BertConfig(vocab_size=2000, hidden_size=64, num_hidden_layers=6, num_attention_heads=2, intermediate_size=128)
TINY_TEACHER = RobertaConfig(
    vocab_size=2000, hidden_size=64, num_hidden_layers=2, num_attention_heads=2, intermediate_size=128
)
Step = Callable[[int], Any]


class Plain:
    """The plain loop: modules, optimizer, autocast and clipping of torch."""

    def __init__(self, shape: BertConfig, rows: int, tokens: int, device: torch.device):
        self.device, self.kind = device, precision.choose("auto", device)
        self.model = PlainMBLM(shape, branches=3, depth=4, classes=3).to(device).train()
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-6, fused=device.type == "cuda")
        ids = torch.randint(5, 1000, (rows, tokens), device=device)
        self.batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        self.soft = torch.full((rows, 3), 1 / 3, device=device)

    def step(self, number: int) -> None:
        """Run one iteration; the language changes with every step."""
        with precision.autocast(self.kind, self.device):
            logits = self.model(self.batch, number % 3)
        loss = -(self.soft * F.log_softmax(logits.float() / 8, dim=-1)).sum(dim=-1).mean()
        self.optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()


def variants(config: Config, shape: BertConfig, rows: int, tokens: int, ranks: distributed.Ranks) -> dict[str, Any]:
    """Return each variant's configuration and the function that builds its step, by name."""
    config = changed(config, {"train": {"batch_size": rows}})
    lengths = {language: np.full(max(1000, 2 * rows), tokens) for language in config.languages}

    def ours(mine: Config, source: str) -> Callable[[], Step]:
        def build() -> Step:
            trainer = dry_run.trainer(mine, lengths, ranks)
            trainer.source = dry_run.sources(mine, lengths, ranks)[source]

            def step(number: int) -> None:
                trainer.step(number % trainer.plan.steps)
                trainer.finite.clear()  # the training loop checks and clears it every few steps

            return step

        return build

    single = changed(config, {"student": {"branch_depth": 0}})
    fp32 = changed(config, {"train": {"precision": "fp32"}})
    compiled = changed(config, {"train": {"compile": True}})
    found: dict[str, tuple[Config | None, Callable[[], Step]]] = {
        "plain autocast loop, MBLM, cached": (None, lambda: Plain(shape, rows, tokens, ranks.device).step),
        "MBLM, cached": (config, ours(config, "cache")),
        "MBLM, teacher online": (config, ours(config, "online")),
        "single, cached": (single, ours(single, "cache")),
        "single, teacher online": (single, ours(single, "online")),
        "MBLM, cached, fp32": (fp32, ours(fp32, "cache")),
        "MBLM, cached, compiled": (compiled, ours(compiled, "cache")),
    }
    return found


def steps(
    wanted: argparse.Namespace,
    config: Config,
    shape: BertConfig,
    size: tuple[int, int],
    ranks: distributed.Ranks,
    until: float,
) -> dict[str, dict[str, Any]]:
    """Measure seconds and memory of each variant's step, and count its FLOPs."""
    rows, tokens = size
    built: dict[str, Step] = {}
    found: dict[str, dict[str, Any]] = {}
    cuda = ranks.device.type == "cuda"
    for name, (mine, build) in variants(config, shape, rows, tokens, ranks).items():
        if time.monotonic() > until:
            found[name] = {"left out": "no time"}
            continue
        gc.collect()  # a later collection of an earlier variant's memory would lower the result
        before = torch.cuda.memory_allocated() if cuda else 0
        try:
            step = build()
            if cuda:
                torch.cuda.reset_peak_memory_stats()
            for number in range(
                10
            ):  # every language, its optimizer state, and one-time work of cuBLAS and the allocator
                step(number)
            distributed.synchronize()
        except torch.OutOfMemoryError:
            found[name] = {"left out": "no memory"}
            continue
        built[name] = step
        found[name] = {"memory": (torch.cuda.max_memory_allocated() - before) / 1e9 if cuda else float("nan")}
        if mine is not None:
            kind = precision.choose(mine.train.precision, ranks.device)
            half = distributed.half_supported()
            parts = cost.memory(mine, kind, half, 1, tokens)
            found[name]["planned"] = sum(size for part, size in parts.items() if "online" in name or part != "teachers")
            found[name]["flops"] = cost.student_flops(mine, rows, tokens) + (
                cost.teacher_flops(mine, rows, tokens) if "online" in name else 0.0
            )
            found[name]["peak"] = precision.peak(distributed.device_name(ranks), kind)

    def turn(step: Step) -> Callable[[int], float]:
        def run(number: int) -> float:
            def work() -> None:
                for each in range(wanted.steps):
                    step(number * wanted.steps + each)
                distributed.synchronize()

            return common.seconds(work) / wanted.steps

        return run

    rounds = wanted.rounds if time.monotonic() < until else 1
    for name, took in common.take_turns({name: turn(step) for name, step in built.items()}, rounds).items():
        found[name]["seconds"] = took
    return found


def exactness(config: Config, ranks: distributed.Ranks) -> dict[str, float]:
    """Return the largest difference between logits on this device and on a CPU in fp32, by precision."""
    torch.manual_seed(0)
    model = cost.empty_student(config).eval()
    there = copy.deepcopy(model).to(ranks.device)
    ids = torch.randint(5, 1000, (8, 40))
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    language = config.languages[0]
    found = {}
    with torch.inference_mode():
        expected = model(**batch, language=language).logits
        moved = {name: values.to(ranks.device) for name, values in batch.items()}
        for kind in precision.DTYPES:
            try:
                precision.choose(kind, ranks.device)
            except Exception:  # the device does not support it
                continue
            with precision.autocast(kind, ranks.device):
                logits = there(**moved, language=language).logits
            found[kind] = float((logits.float().cpu() - expected).abs().max())
    return found


def answers(folder: Path, wanted: argparse.Namespace) -> dict[tuple[int, int], float]:
    """Return rows per second of `mbkd predict` without tokenising, for batches of each shape."""
    from mbkd.predict.classifier import Classifier

    classifier = Classifier(folder)
    found = {}
    for rows, tokens in SHAPES:
        some: Any = [{"input_ids": [5 + i % 900] * tokens, "attention_mask": [1] * tokens} for i in range(rows)]
        classifier.probabilities(some)
        took = [common.seconds(lambda some=some: classifier.probabilities(some)) for _ in range(wanted.rounds)]  # type: ignore[misc]
        found[rows, tokens] = rows / float(np.median(took))
    return found


def main() -> None:
    asked = common.parser("benchmarks.gpu", __doc__)
    asked.add_argument("--rounds", type=int, default=7)
    asked.add_argument("--steps", type=int, default=10, help="steps per round")
    asked.add_argument("--tiny", action="store_true", help="a trial run with small shapes, on any device")
    wanted = asked.parse_args()
    if not (torch.cuda.is_available() or wanted.tiny):
        sys.exit(f"error: torch {torch.__version__} finds no GPU; --tiny runs small shapes on the CPU")
    until = time.monotonic() + SECONDS
    distributed.quiet()
    ranks = distributed.start()
    sizes = ((4, 8), (8, 12)) if wanted.tiny else SHAPES
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        config = paper.recipes()["xnli-mbert-mblm"]
        if wanted.tiny:
            TINY.save_pretrained(folder / "student")
            TINY_TEACHER.save_pretrained(folder / "teacher")
            teacher = {"model": str(folder / "teacher"), "fine_tuned": True}
            config = changed(config, {"student": {"backbone": str(folder / "student")},
                                      "teachers": dict.fromkeys(config.languages, teacher)})  # fmt: skip
        differences = exactness(config, ranks)
        measured = [steps(wanted, config, TINY if wanted.tiny else MBERT, size, ranks, until) for size in sizes]
        found = {
            "device": distributed.device_name(ranks),
            "differences": differences,
            "steps": {f"{rows} x {tokens}": each for (rows, tokens), each in zip(sizes, measured, strict=True)},
        }
        if wanted.out:  # the steps stay if the rest fails
            common.record("benchmarks.gpu", wanted.out, found)
        serving.make_model(folder, *((64, 2) if wanted.tiny else (768, 12)))
        rates = answers(folder / "model", wanted)
        distributed.stop()
        served = None
        if time.monotonic() < until:
            texts = [text for language in toy.LANGUAGES for text, _ in toy.unlabelled(language, 100)]
            load = argparse.Namespace(threads=None, clients=64, requests=100 if wanted.tiny else 4000, seconds=20.0)
            served = serving.measure("mbkd serve", folder, texts, load)
    show(differences, measured, rates, served, sizes, ranks)
    found["predict"] = {f"{rows} x {tokens}": rate for (rows, tokens), rate in rates.items()}
    found["serve"] = served
    common.record("benchmarks.gpu", wanted.out, found)


def show(
    differences: dict[str, float],
    measured: list[dict[str, dict[str, Any]]],
    rates: dict[tuple[int, int], float],
    served: dict[str, float] | None,
    sizes: tuple[tuple[int, int], ...],
    ranks: distributed.Ranks,
) -> None:
    """Print the table."""
    lines: list[tuple[str, ...]] = []
    plain = "plain autocast loop, MBLM, cached"
    for name in measured[0]:
        cells = []
        for each in measured:
            values = each[name]
            if "seconds" not in values:
                cells.append(str(values["left out"]))
                continue
            text = f"{common.spread([1e3 * x for x in values['seconds']], 1)} ms, {values['memory']:.1f} GB"
            if "flops" in values:
                text += f" (planned {values['planned'] / 1e9:.1f} GB)"
                speed = values["flops"] / np.median(values["seconds"])
                text += f", {speed / 1e12:.1f} TFLOP/s"
                text += "" if np.isnan(values["peak"]) else f", {speed / values['peak']:.0%} of the peak"
            if name != plain and "seconds" in each[plain]:
                text += f", plain / it {np.median(each[plain]['seconds']) / np.median(values['seconds']):.2f}"
            cells.append(text)
        lines.append((name, *cells))
    eager, compiled = (
        [np.median(each[f"MBLM, cached{way}"].get("seconds", np.nan)) for each in measured]
        for way in ("", ", compiled")
    )
    lines.append(("eager / compiled, MBLM, cached", *(f"{a / b:.2f}" for a, b in zip(eager, compiled, strict=True))))
    for source in ("cached", "teacher online"):
        medians = [
            [np.median(each[f"{name}, {source}"].get("seconds", np.nan)) for name in ("MBLM", "single")]
            for each in measured
        ]
        lines.append((f"MBLM / single, {source}", *(f"{mblm / single:.2f}" for mblm, single in medians)))
    lines.append(("mbkd predict, 32 x 40 and 256 x 128", *(f"{rate:,.0f} rows/s" for rate in rates.values())))
    if served:
        said = f"{served['requests_per_second']:,.0f} requests/s, p99 {served['p99_ms']:.0f} ms"
        lines.append(("mbkd serve, 64 clients", said, ""))
    for kind, difference in differences.items():
        lines.append((f"logits in {kind} against a CPU's in fp32", f"{difference:.1e} at most", ""))
    columns = ("what", *(f"{rows} rows x {tokens} tokens" for rows, tokens in sizes))
    common.print_table(f"{distributed.device_name(ranks)}, torch {torch.__version__}", columns, lines)


if __name__ == "__main__":
    main()
