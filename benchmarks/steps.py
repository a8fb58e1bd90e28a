"""A training step of MultiKD + MBLM against a plain loop, lever by lever, and against the machine's matrix product.

usage: python -m benchmarks.steps [--rounds 9] [--batch 8] [--rows 4000] [--tiny] [--out FILE.json]

One process; the variants take turns on the same steps, spread over a run of three epochs on XNLI's text (or toy text
of its length). Student: mBERT's shape, K = 4, three branches; teacher: RoBERTa-large's; random weights, fp32 on a CPU.
FLOPs are counted (mbkd/measure/cost.py). Three tables:

mix       the reference (benchmarks/reference.py), our loop with the teacher online and with its logits cached, and each
          lever (benchmarks/levers.py) turned off alone. The bound is what the text and the FLOPs allow: padding (every
          batch at 128 against no padding at all) x cache (teacher and student against student). A graph of idle
          branches costs time and no FLOPs, so its factor is 1.
fixed     batch 8 and 40 tokens, MBLM against the same student without branches, cached and online: the share of the
          matrix product's speed, and the ratio against the ratio of the FLOPs.
measuring every so-many-th batch of the evaluation of 15 languages x 2,490 pairs, against the FLOPs of its tokens.
"""

import gc
import statistics
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForSequenceClassification, BertConfig, RobertaConfig

from benchmarks import common, levers, text
from benchmarks.reference import PlainMBLM, Reference
from mbkd import paper
from mbkd.config import Config, changed
from mbkd.data.batches import Plan, evaluation_batches
from mbkd.data.tokens import Tokens, open_store
from mbkd.distill import signals
from mbkd.distill.teachers import Teacher
from mbkd.measure import cost, evaluate
from mbkd.train import engine as ds
from mbkd.train.inputs import Inputs
from mbkd.train.loop import Trainer
from mbkd.train.optim import BranchAdamW, parameter_groups

LABELS = ("entailment", "neutral", "contradiction")
FIXED = (8, 40)  # rows and tokens of the second table
TINY = {"vocab_size": 20000, "hidden_size": 128, "num_hidden_layers": 6, "num_attention_heads": 4}
TINY_TEACHER = TINY | {"hidden_size": 256, "num_hidden_layers": 12, "intermediate_size": 1024}
ZERO_SHOT = ("de", "es", "ru", "ar", "hi", "vi", "bg", "el", "sw", "th", "tr", "ur")
EVALUATED = 60  # batches of the third table


class World:
    """The text's tokens, the configuration, the teacher, and whoever asks it."""

    def __init__(self, folder: Path, rows: int, batch: int, tiny: bool, ranks: ds.Ranks):
        self.ranks, self.folder = ranks, folder
        self.task = text.xnli(folder, rows, ZERO_SHOT)
        text.tokenizer(folder / "tokenizer", self.task)
        shapes = {"backbone": paper.BACKBONES["mbert"], "teacher": "FacebookAI/roberta-large"}
        if tiny:
            BertConfig(**TINY, intermediate_size=512).save_pretrained(folder / "backbone")
            RobertaConfig(**TINY_TEACHER, type_vocab_size=1).save_pretrained(folder / "shape")
            shapes = {"backbone": str(folder / "backbone"), "teacher": str(folder / "shape")}
        teacher = {"model": shapes["teacher"], "fine_tuned": True}
        self.config = changed(
            paper.base(self.task, shapes["backbone"]),
            {"teachers": dict.fromkeys(text.LANGUAGES, teacher), "train": {"batch_size": batch, "epochs": 3}},
        )
        self.stores = {x: self.tokens("train", x) for x in text.LANGUAGES}
        made = cost.empty_teacher(self.config, shapes["teacher"])
        made.config.id2label = dict(enumerate(LABELS))
        made.save_pretrained(folder / "teacher")
        self.teacher = Teacher(str(folder / "teacher"), LABELS, ranks)

    def tokens(self, split: str, language: str) -> Tokens:
        length = paper.base(self.task, "").train.max_length
        return open_store(self.folder / "store", self.task, split, language, str(self.folder / "tokenizer"), length)

    def online(self) -> signals.Source:
        """The teacher is asked in every step."""
        return signals.Source(lambda language, rows: self.teacher.logits(self.stores[language], rows))

    def cached(self) -> signals.Source:
        """Its logits are read; what they are decides nothing here."""
        logits = {x: torch.randn(len(tokens), len(LABELS)).numpy() for x, tokens in self.stores.items()}
        return signals.Source(lambda language, rows: torch.from_numpy(logits[language][rows]))

    def trainer(self, config: Config) -> Trainer:
        """A run of the loop, opened before its first step."""
        train = config.train
        torch.manual_seed(1)
        model = cost.empty_student(config)
        branches = list(config.languages) if config.student.branch_depth else []
        optimizer = BranchAdamW(parameter_groups(model, branches, train.weight_decay), lr=train.lr, eps=train.eps)
        engine = ds.training_engine(model, optimizer, train, self.ranks)
        engine.train()
        lengths = {x: tokens.lengths for x, tokens in self.stores.items()}
        plan = Plan(lengths, train.batch_size, epochs=train.epochs, seed=config.seed)
        inputs = Inputs(self.stores, {}, {}, LABELS, ordinal=False)
        return Trainer(config, self.folder, inputs, plan, self.cached(), engine, optimizer, self.ranks, 10**9)


def same_logits(reference: Reference, trainer: Trainer) -> float:
    """The largest difference of the reference's logits, padded to 128, and ours, with dropout off."""
    ours, theirs = trainer.engine.module.eval(), reference.student.eval()
    theirs.load_state_dict(ours.state_dict())
    language, rows = trainer.plan.language(0), trainer.plan.rows(0)
    columns = trainer.inputs.train[language].batch(rows)
    with torch.no_grad():
        mine = ours(*map(torch.from_numpy, list(columns.values())[:2]), language=language).logits
        found = float((mine - theirs(*levers.batch_128(trainer, 0))).abs().max())
    ours.train(), theirs.train()
    return found


def mix(world: World, rounds: int) -> dict[str, Any]:
    """The first table."""
    config = world.config
    trainer = world.trainer(config)
    encoder = trainer.engine.module.encoder.config
    plain = PlainMBLM(encoder, len(text.LANGUAGES), config.student.branch_depth, len(LABELS))
    teacher = AutoModelForSequenceClassification.from_pretrained(world.folder / "teacher")
    reference = Reference(plain, teacher, config.train.lr, config.distill.temperature)
    difference = same_logits(reference, trainer)
    every = np.linspace(0, trainer.plan.steps - 1, rounds + 1).astype(int)  # one warms up
    B, longest = config.train.batch_size, config.train.max_length

    def ours(off: str | None = None, source: signals.Source | None = None) -> Callable[[int], float]:
        def run(number: int) -> float:
            with ExitStack() as turned_off:
                if off:
                    turned_off.enter_context(levers.LEVERS[off](trainer))
                trainer.source = source or cached
                return common.seconds(lambda: trainer.step(int(every[number]), False)) / B

        return run

    cached, online = trainer.source, world.online()
    variants = {
        "reference": lambda number: (
            common.seconds(lambda: reference.step(*levers.batch_128(trainer, int(every[number])))) / B
        ),
        "ours, online": ours(source=online),
        "ours, cached": ours(),
        **{f"ours, cached, {name}": ours(name) for name in levers.LEVERS},
    }
    found = common.take_turns(variants, rounds)

    steps = every[:rounds]
    alone = np.concatenate([levers.lengths(trainer, int(step)) for step in steps])
    student = {n: cost.student_flops(config, 1, n, whole=True) for n in {*alone.tolist(), longest}}
    asking = {n: cost.teacher_flops(config, 1, n, whole=True) for n in student}
    at_128, ideal = student[longest] + asking[longest], np.mean([student[n] for n in alone])
    asked = np.mean([asking[n] for n in alone])
    bound = {"ours, online": at_128 / (ideal + asked), "ours, cached": at_128 / ideal}
    padding = bound["ours, online"]
    widths = [levers.width(trainer, int(step)) for step in steps]
    executed = {
        "reference": at_128,
        "ours, online": np.mean([_step(config, B, n, True) for n in widths]) / B,
        "ours, cached": np.mean([_step(config, B, n, False) for n in widths]) / B,
    }
    speedup = {name: [a / b for a, b in zip(found["reference"], found[name], strict=True)] for name in found}
    rate = {name: [flops / second / 1e9 for second in found[name]] for name, flops in executed.items()}
    overall = {name: sum(found["reference"]) / sum(found[name]) for name in found}
    common.print_table(
        f"mix: seconds per example, batch {B}, {rounds} steps; padding bound {padding:.2f}, cache bound "
        f"{(ideal + asked) / ideal:.2f}; same logits to {difference:.1e}",
        ("variant", "seconds per example", "reference / it, all steps", "bound", "share of it"),
        (
            (
                name,
                common.spread(values, 4),
                f"{overall[name]:.2f}",
                *((f"{bound[name]:.2f}", f"{overall[name] / bound[name]:.2f}") if name in bound else ("", "")),
            )
            for name, values in found.items()
        ),
    )
    return {
        "batch": B,
        "steps": steps.tolist(),
        "mean_length": float(alone.mean()),
        "padding_efficiency": float(alone.sum() / (np.array(widths) * B).sum()),
        "seconds_per_example": found,
        "speedup": speedup,
        "speedup_of_the_sum": overall,
        "bound": bound | {"padding": padding, "cache": (ideal + asked) / ideal},
        "gflops_per_second": rate,
        "largest_logit_difference": difference,
    }


def fixed(world: World, rounds: int) -> dict[str, Any]:
    """The second table."""
    B, n = FIXED
    full = changed(world.config, {"train": {"batch_size": B}})
    plain = changed(full, {"student": {"branch_depth": 0}})
    batch = {"input_ids": torch.randint(5, 9000, (B, n)), "attention_mask": torch.ones(B, n, dtype=torch.long)}
    columns = {name: values.numpy() for name, values in batch.items()}
    trainers = {"MBLM": world.trainer(full), "single": world.trainer(plain)}

    def run(trainer: Trainer, online: bool) -> Callable[[int], float]:
        voice = world.teacher.answer
        logits = torch.randn(B, len(LABELS))
        source = signals.Source(lambda language, rows: voice(columns) if online else logits)

        def step(number: int) -> float:
            trainer.source = source
            return common.seconds(lambda: trainer.step(max(number, 0), False))

        return step

    whole = Tokens.batch
    Tokens.batch = lambda self, rows, width=None: columns  # type: ignore[method-assign]
    try:
        found = common.take_turns(
            {
                f"{name}, {'online' if online else 'cached'}": run(trainer, online)
                for online in (False, True)
                for name, trainer in trainers.items()
            }
            | {"matrix product": lambda number: product(B * n, full)},
            rounds,
        )
    finally:
        Tokens.batch = whole  # type: ignore[method-assign]
    flops = {
        f"{name}, {how}": _step(trainer.config, B, n, how == "online")
        for name, trainer in trainers.items()
        for how in ("cached", "online")
    }
    peak = statistics.median(found["matrix product"])
    share = {name: [count / second / 1e9 / peak for second in found[name]] for name, count in flops.items()}
    ratio = {
        how: [a / b for a, b in zip(found[f"MBLM, {how}"], found[f"single, {how}"], strict=True)]
        for how in ("cached", "online")
    }
    counted = {how: flops[f"MBLM, {how}"] / flops[f"single, {how}"] for how in ratio}
    common.print_table(
        f"fixed: batch {B}, {n} tokens; matrix product {common.spread(found['matrix product'], 0)} GFLOP/s",
        ("step", "seconds", "counted GFLOP", "share of the product's speed", "MBLM / single", "of the FLOPs"),
        (
            (
                name,
                common.spread(found[name]),
                f"{count / 1e9:.0f}",
                common.spread(share[name], 2),
                *(
                    (common.spread(ratio[name[6:]]), f"{counted[name[6:]]:.3f}")
                    if name.startswith("MBLM")
                    else ("", "")
                ),
            )
            for name, count in flops.items()
        ),
    )
    return {"seconds": found, "gflop": flops, "share": share, "ratio": ratio, "counted_ratio": counted}


def measuring(world: World, share: float, peak: float) -> dict[str, Any]:
    """The third table: the evaluation against the training step's share of the matrix product's speed."""
    config = world.config
    model = world.trainer(config).engine.module.eval()
    stores = {x: world.tokens("dev" if world.task.zero_shot else "train", x) for x in world.task.languages}
    batches = [
        (language, rows)
        for language, tokens in stores.items()
        for rows in evaluation_batches(tokens.lengths, evaluate.TOKENS_PER_BATCH, 0, 1)
    ]
    chosen = [batches[i] for i in np.linspace(0, len(batches) - 1, min(EVALUATED, len(batches))).astype(int)]
    flops = sum(
        cost.answer_flops(config, 1, n) for language, rows in chosen for n in stores[language].lengths[rows].tolist()
    )

    def work() -> None:
        with torch.inference_mode():
            for language, rows in chosen:
                model(**ds.tensors(stores[language].batch(rows), world.ranks.device), language=language).logits.float()

    took = [common.seconds(work) for _ in range(3)][1:]
    expected = flops / 1e9 / (peak * share)
    common.print_table(
        f"measuring: {len(chosen)} of {len(batches)} batches of {len(stores)} languages, at most "
        f"{evaluate.TOKENS_PER_BATCH} tokens each",
        ("seconds", "seconds of its FLOPs at the step's share", "ratio"),
        [(common.spread(took), f"{expected:.3f}", f"{statistics.median(took) / expected:.3f}")],
    )
    return {"seconds": took, "expected": expected, "batches": len(chosen), "of": len(batches)}


def product(rows: int, config: Config) -> float:
    """GFLOP/s of the machine's matrix product: the better of a large square one and a layer's own."""
    d = cost.student_size(config).width
    return max(_product(2048, 2048, 2048), _product(rows, d, 4 * d))


def _product(a: int, b: int, c: int) -> float:
    x, y = torch.randn(a, b), torch.randn(b, c)
    times = max(3, int(3e10 // (2 * a * b * c)))
    x @ y
    return 2 * a * b * c * times / common.seconds(lambda: [x @ y for _ in range(times)]) / 1e9


def _step(config: Config, rows: int, tokens: int, online: bool) -> float:
    """Counted FLOPs of a step as it is executed."""
    return cost.student_flops(config, rows, tokens) + online * cost.teacher_flops(config, rows, tokens)


def main() -> None:
    asked = common.parser("benchmarks.steps", __doc__)
    asked.add_argument("--rounds", type=int, default=9)
    asked.add_argument("--batch", type=int, default=8, help="rows of a step of the first table")
    asked.add_argument("--rows", type=int, default=4000, help="training rows of each language")
    asked.add_argument("--tiny", action="store_true", help="6 layers x 128 instead of mBERT's shape, teacher likewise")
    wanted = asked.parse_args()
    ds.quiet()
    ranks = ds.start()
    with tempfile.TemporaryDirectory() as folder:
        world = World(Path(folder), wanted.rows, wanted.batch, wanted.tiny, ranks)
        found: dict[str, Any] = {"device": ds.device_name(ranks), "text": world.task.path}
        found["mix"] = mix(world, wanted.rounds)
        gc.collect()
        found["fixed"] = fixed(world, wanted.rounds)
        gc.collect()
        share = statistics.median(found["fixed"]["share"]["MBLM, cached"])
        peak = statistics.median(found["fixed"]["seconds"]["matrix product"])
        found["measuring"] = measuring(world, share, peak)
    ds.stop()
    common.record("benchmarks.steps", wanted.out, found)


if __name__ == "__main__":
    main()
