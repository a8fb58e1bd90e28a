"""A step of MultiKD + MBLM against a plain loop, lever by lever, and the machine's matrix product.

usage: python -m benchmarks.steps [--tables mix levers fixed measuring] [--rounds 9] [--batch 8] [--tiny] [--out FILE]
                                  [--student FOLDER --teacher FOLDER]

The variants alternate in one process on the same steps, spread over three epochs of XNLI's text (or toy text of the
same length). The student has mBERT's shape, K = 4 and three branches; the teachers have 24 layers x 1024. Weights and
token ids are random, which does not affect the time. Training is fp32 on a CPU. FLOPs are counted
(mbkd/estimate/cost.py).

mix        the reference (benchmarks/reference.py), and our loop with the teacher online and with cached logits. The
           bound follows from text and FLOPs: padding (all rows at 128 against no padding) x cache (student and teacher
           against student). A graph of idle branches costs no FLOPs, so its factor is 1. The bound does not include
           the reduction of the last layer to one position.
levers     our loop with cached logits, with each lever (benchmarks/levers.py) turned off alone. Padding levers run on
           the text; the others do not depend on lengths and run on rows of 40 tokens.
fixed      --batch rows of 40 tokens, MBLM against the same student without branches: the share of the matrix product's
           speed, which is measured in every round, and the ratio of their times against the ratio of their FLOPs.
measuring  batches drawn evenly from the evaluation of 15 languages, against the time of their FLOPs at the share of
           `fixed`.
"""

import argparse
import gc
import statistics
import tempfile
from collections.abc import Callable
from contextlib import ExitStack, nullcontext
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from transformers import AutoModelForSequenceClassification, BertConfig, RobertaConfig

from benchmarks import common, levers, text
from benchmarks.reference import LENGTH, PlainMBLM, Reference, padded
from mbkd import distributed
from mbkd.config import Config, changed, paper
from mbkd.data.batches import evaluation_batches, tokens_per_batch
from mbkd.data.tokens import open_store
from mbkd.estimate import cost, dry_run
from mbkd.train.trainer import Trainer

TABLES = ("mix", "levers", "fixed", "measuring")
TOKENS = 40  # of each row, where the lengths do not matter
EVALUATED = 8  # batches, measured twice
SMALL = {"vocab_size": 20_000, "num_attention_heads": 4}
TINY = BertConfig(**SMALL, hidden_size=128, num_hidden_layers=6, intermediate_size=512)
TINY_TEACHER = RobertaConfig(**SMALL, hidden_size=256, num_hidden_layers=12, intermediate_size=1024)
ZERO_SHOT = ("de", "es", "ru", "ar", "hi", "vi", "bg", "el", "sw", "th", "tr", "ur")
Lengths = dict[str, np.ndarray]


def make_world(folder: Path, wanted: argparse.Namespace) -> tuple[Config, Lengths, Lengths]:
    """Return the configuration, and the lengths of training and evaluation rows by language."""
    rows, batch = wanted.rows, wanted.batch
    task = text.xnli(folder, rows, ZERO_SHOT)
    text.tokenizer(folder / "tokenizer", task)
    config = paper.base(task, paper.BACKBONES["mbert"])
    if wanted.tiny:
        TINY.save_pretrained(folder / "student")
        TINY_TEACHER.save_pretrained(folder / "teacher")
        wanted.student, wanted.teacher = str(folder / "student"), str(folder / "teacher")
    if wanted.student:
        teacher = {"model": wanted.teacher, "fine_tuned": True}
        student = {"backbone": wanted.student, "branch_depth": 4 if wanted.tiny else 2}
        config = changed(config, {"student": student, "teachers": dict.fromkeys(text.LANGUAGES, teacher)})
    config = changed(config, {"train": {"batch_size": batch, "epochs": 3}})

    def lengths(split: str, language: str) -> np.ndarray:
        tokenizer, store = str(folder / "tokenizer"), folder / "store"
        return open_store(store, task, split, language, tokenizer, config.train.max_length).lengths

    measured = "dev" if task.zero_shot else "train"
    return (
        config,
        {x: lengths("train", x) for x in task.supervised},
        {x: lengths(measured, x) for x in task.languages},
    )


class Variants:
    """The reference and our loop. Each takes one step per round; the steps are spread over the whole run."""

    def __init__(self, config: Config, lengths: Lengths, rounds: int, ranks: distributed.Ranks):
        self.trainer = dry_run.trainer(config, lengths, ranks)
        self.sources = dry_run.sources(config, lengths, ranks)
        self.steps = np.linspace(0, self.trainer.plan.steps - 1, rounds + 1).astype(int)  # the last step is the warm-up
        self.B = config.train.batch_size
        dry_run.warm_up(self.trainer, self.sources["cache"])

    def theirs(self, reference: Reference) -> Callable[[int], float]:
        """Return a function that measures seconds per example of the reference."""

        def run(number: int) -> float:
            columns, own = batch(self.trainer, int(self.steps[number]))
            return common.seconds(lambda: reference.step(columns, own)) / self.B

        return run

    def ours(self, source: str, off: str | None = None) -> Callable[[int], float]:
        """Return a function that measures seconds per example of our loop; off: a lever to turn off."""

        def run(number: int) -> float:
            with ExitStack() as turned_off:
                if off:
                    turned_off.enter_context(levers.LEVERS[off](self.trainer))
                self.trainer.source = self.sources[source]
                return common.seconds(lambda: self.trainer.step(int(self.steps[number]))) / self.B

        return run


def mix(config: Config, lengths: Lengths, rounds: int, ranks: distributed.Ranks) -> dict[str, Any]:
    """Measure and print the table `mix`."""
    variants = Variants(config, lengths, rounds, ranks)
    trainer, steps, B = variants.trainer, variants.steps, variants.B
    reference = make_reference(config, trainer)
    difference = same_logits(reference, trainer)
    found = common.take_turns(
        {
            "reference": variants.theirs(reference),
            "ours, online": variants.ours("online"),
            "ours, cached": variants.ours("cache"),
        },
        rounds,
    )
    each = [levers.lengths(trainer, int(step)) for step in steps[:rounds]]
    alone = np.concatenate(each)
    student = {n: cost.student_flops(config, 1, n, whole=True) for n in {*alone.tolist(), LENGTH}}
    teacher = {n: cost.teacher_flops(config, 1, n, whole=True) for n in student}
    at_128 = student[LENGTH] + teacher[LENGTH]
    ideal, asking = (float(np.mean([x[n] for n in alone])) for x in (student, teacher))
    bound = {"ours, online": at_128 / (ideal + asking), "ours, cached": at_128 / ideal}
    speedup = {name: sum(found["reference"]) / sum(values) for name, values in found.items()}
    share = {name: speedup[name] / limit for name, limit in bound.items()}
    efficiency = float(alone.sum() / sum(len(rows) * rows.max() for rows in each))
    common.print_table(
        f"mix: batch {B}, {rounds} steps, mean length {alone.mean():.1f}, {efficiency:.1%} of the tokens in batches of"
        f" near-equal length are real; padding bound {bound['ours, online']:.2f}, cache bound"
        f" {(ideal + asking) / ideal:.2f}; with dropout off the same logits to {difference:.0e}",
        ("variant", "seconds per example", "reference / it", "bound", "share of the bound"),
        (
            (
                name,
                common.spread(values, 4),
                f"{speedup[name]:.2f}",
                *((f"{bound[name]:.2f}", f"{share[name]:.2f}") if name in bound else ("", "")),
            )
            for name, values in found.items()
        ),
    )
    return {
        "batch": B,
        "mean_length": float(alone.mean()),
        "padding_efficiency": efficiency,
        "seconds_per_example": found,
        "speedup": speedup,
        "bound": bound,
        "share_of_bound": share,
        "largest_logit_difference": difference,
    }


def each_lever(config: Config, lengths: Lengths, rounds: int, ranks: distributed.Ranks) -> dict[str, Any]:
    """Measure and print the table `levers`."""
    found = {}
    for title, rows, names in (
        ("on the text", lengths, levers.PADDING),
        (f"{config.train.batch_size} rows of {TOKENS} tokens", even(config), levers.OTHERS),
    ):
        variants = Variants(config, rows, rounds, ranks)
        took = common.take_turns(
            {"none": variants.ours("cache"), **{name: variants.ours("cache", name) for name in names}}, rounds
        )
        ratio = {name: [a / b for a, b in zip(values, took["none"], strict=True)] for name, values in took.items()}
        common.print_table(
            f"levers: our loop with cached logits, batch {variants.B}, {rounds} steps, {title}",
            ("turned off", "seconds per example", "times as long, step by step"),
            ((name, common.spread(values, 4), common.spread(ratio[name], 2)) for name, values in took.items()),
        )
        found[title] = {"batch": variants.B, "seconds_per_example": took, "ratio": ratio}
    return found


def even(config: Config) -> Lengths:
    """Return rows of one length for a few hundred steps."""
    return {language: np.full(100 * config.train.batch_size, TOKENS) for language in config.languages}


def make_reference(config: Config, trainer: Trainer) -> Reference:
    """Return the reference loop with the trainer's weights."""
    encoder = trainer.engine.module.encoder.config
    classes = trainer.engine.module.config.num_labels
    student = PlainMBLM(encoder, len(config.languages), config.student.branch_depth, classes)
    student.load_state_dict(trainer.engine.module.state_dict())
    shape = cost.shape(config.teachers["en"][0].model)
    shape.num_labels = classes
    teacher = AutoModelForSequenceClassification.from_config(shape)
    return Reference(student, teacher, config.train.lr, config.distill.temperature)


def batch(trainer: Trainer, step: int) -> tuple[dict[str, np.ndarray], int]:
    """Return a step's ids and mask, padded to the longest row, and the index of its language's branch."""
    language = trainer.plan.language(step)
    columns = trainer.inputs.train[language].batch(trainer.plan.rows(step))
    return columns, trainer.plan.languages.index(language)


def same_logits(reference: Reference, trainer: Trainer) -> float:
    """Return the largest difference of the reference's logits, padded to 128, and ours without dropout."""
    ours, theirs = trainer.engine.module.eval(), reference.student.eval()
    columns, own = batch(trainer, 0)
    with torch.no_grad():
        answer = ours(**distributed.tensors(columns, trainer.ranks.device), language=trainer.plan.language(0)).logits
        found = float((answer - theirs(padded(columns), own)).abs().max())
    ours.train()
    theirs.train()
    return found


def fixed(config: Config, rounds: int, ranks: distributed.Ranks) -> dict[str, Any]:
    """Measure and print the table `fixed`."""
    B, n = config.train.batch_size, TOKENS
    lengths = even(config)
    configs = {"MBLM": config, "single": changed(config, {"student": {"branch_depth": 0}})}
    trainers = {name: dry_run.trainer(each, lengths, ranks) for name, each in configs.items()}
    sources = dry_run.sources(config, lengths, ranks)

    def step(name: str, source: str) -> Callable[[int], float]:
        def run(number: int) -> float:
            trainers[name].source = sources[source]
            return common.seconds(lambda: trainers[name].step(number % 100))

        return run

    steps = [(name, source) for source in sources for name in trainers]
    for trainer in trainers.values():
        dry_run.warm_up(trainer, sources["cache"])
    turns = {f"{name}, {source}": step(name, source) for name, source in steps}
    found = common.take_turns({**turns, "product": lambda _: product(B * n, config)}, rounds)
    products = found.pop("product")
    flops = {
        f"{name}, {source}": cost.student_flops(configs[name], B, n)
        + (cost.teacher_flops(config, B, n) if source == "online" else 0.0)
        for name, source in steps
    }
    share = {
        name: [flops[name] / second / 1e9 / peak for second, peak in zip(values, products, strict=True)]
        for name, values in found.items()
    }
    ratio = {
        source: [a / b for a, b in zip(found[f"MBLM, {source}"], found[f"single, {source}"], strict=True)]
        for source in sources
    }
    counted = {source: flops[f"MBLM, {source}"] / flops[f"single, {source}"] for source in sources}
    common.print_table(
        f"fixed: {B} rows of {n} tokens; matrix product {common.spread(products, 0)} GFLOP/s",
        ("step", "seconds", "counted GFLOP", "share of the product's speed", "MBLM / single", "of the FLOPs"),
        (
            (
                f"{name}, {source}",
                common.spread(found[f"{name}, {source}"]),
                f"{flops[f'{name}, {source}'] / 1e9:.0f}",
                common.spread(share[f"{name}, {source}"]),
                *((common.spread(ratio[source]), f"{counted[source]:.3f}") if name == "MBLM" else ("", "")),
            )
            for name, source in steps
        ),
    )
    return {"seconds": found, "flops": flops, "product": products, "share": share, "ratio": ratio, "counted": counted}


def measuring(
    config: Config, lengths: Lengths, fixed_found: dict[str, Any], ranks: distributed.Ranks
) -> dict[str, Any]:
    """Measure and print the table `measuring`."""
    model = cost.empty_student(config).eval()
    rows = {language: dry_run.MadeUp(each, 3) for language, each in lengths.items()}
    budget = tokens_per_batch(ranks.device.type)
    batches = [(language, each) for language in rows for each in evaluation_batches(lengths[language], budget, 0, 1)]
    chosen = [batches[i] for i in np.linspace(0, len(batches) - 1, min(EVALUATED, len(batches))).astype(int)]
    flops = sum(cost.answer_flops(config, 1, n) for language, each in chosen for n in lengths[language][each].tolist())

    @torch.inference_mode()
    def work(some: list[tuple[str, np.ndarray]]) -> None:
        for language, each in some:
            model(**distributed.tensors(rows[language].batch(each), ranks.device), language=language).logits.float()

    work(chosen[:1])
    took = [common.seconds(lambda: work(chosen)) for _ in range(2)]
    speed = statistics.median(fixed_found["share"]["MBLM, cache"]) * statistics.median(fixed_found["product"])
    expected = flops / 1e9 / speed
    ratio = [second / expected for second in took]
    common.print_table(
        f"measuring: {len(chosen)} of {len(batches)} batches of {len(rows)} languages, at most {budget} tokens each",
        ("seconds", "seconds of the FLOPs at the training step's share", "ratio"),
        [(common.spread(took), f"{expected:.3f}", common.spread(ratio))],
    )
    return {"seconds": took, "expected": expected, "ratio": ratio, "batches": len(chosen), "of": len(batches)}


def product(rows: int, config: Config) -> float:
    """Return GFLOP/s of the fp32 matrix product: the maximum of a large square and a layer's shape."""
    d = cost.student_size(config).width
    return max(_product(2048, 2048, 2048), _product(rows, d, 4 * d))


def _product(a: int, b: int, c: int) -> float:
    x, y = torch.randn(a, b), torch.randn(b, c)
    times = max(3, int(3e10 // (2 * a * b * c)))
    x @ y
    return 2 * a * b * c * times / common.seconds(lambda: [x @ y for _ in range(times)]) / 1e9


def main() -> None:
    asked = common.parser("benchmarks.steps", __doc__)
    asked.add_argument("--tables", nargs="+", choices=TABLES, default=TABLES)
    asked.add_argument("--rounds", type=int, default=9)
    asked.add_argument("--batch", type=int, default=8, help="rows per step")
    asked.add_argument("--rows", type=int, default=15_000, help="training rows per language")
    asked.add_argument("--student", help="a folder with another encoder for the student, with K = 2; with --teacher")
    asked.add_argument("--teacher", help="a folder with another encoder for the teachers")
    asked.add_argument("--tiny", action="store_true", help="a student of 6 layers x 128, and small teachers")
    asked.add_argument("--give-back", action="store_true", help="return freed memory to the system, as without mbkd")
    wanted = asked.parse_args()
    distributed.quiet()
    with patch.object(distributed, "_keep_memory", lambda: None) if wanted.give_back else nullcontext():
        ranks = distributed.start()
    found: dict[str, Any] = {"device": distributed.device_name(ranks)}
    with tempfile.TemporaryDirectory() as folder:
        config, train, measured = make_world(Path(folder), wanted)
        found |= {"text": "XNLI" if text.XNLI.is_dir() else "toy"}
        if "mix" in wanted.tables:
            found["mix"] = mix(config, train, wanted.rounds, ranks)
            gc.collect()
        if "levers" in wanted.tables:
            found["levers"] = each_lever(config, train, wanted.rounds, ranks)
            gc.collect()
        if {"fixed", "measuring"} & set(wanted.tables):
            found["fixed"] = fixed(config, wanted.rounds, ranks)
            gc.collect()
        if "measuring" in wanted.tables:
            found["measuring"] = measuring(config, measured, found["fixed"], ranks)
    distributed.stop()
    common.record("benchmarks.steps", wanted.out, found)


if __name__ == "__main__":
    main()
