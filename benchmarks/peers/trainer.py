"""Compare transformers' `Trainer` with mbkd's training: hard labels, a plain student, the same rows.

usage: python -m benchmarks.peers.trainer [--tables steps command] [--rounds 5] [--steps 6] [--out FILE]
       python -m benchmarks.peers.trainer --config study.yaml [--grouped] [--runs runs] [key=value ...]

steps    seconds per example after the first step. A round times one call of `Trainer.train` on some batches of its
         sampler (random, or `group_by_length`), and the same number of mbkd's steps. Each variant has a separate
         process.
command  seconds from the command to the result with tokenization and evaluation, each in an empty folder; accuracy.

With --config, `Trainer` is a baseline of a study. It fine-tunes the configuration's backbone with the configuration's
rows, epochs, batch size, learning rate, warm-up, weight decay and seed, and with dynamic padding. The result is a run
directory, so a report shows the baseline.
"""

import hashlib
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

from benchmarks import common
from benchmarks.peers import setting
from mbkd import distributed, precision, provenance, runs
from mbkd.config import Config, changed, paper
from mbkd.data import tasks
from mbkd.data.tokens import Tokens, load_tokenizer
from mbkd.evaluate import measure
from mbkd.files import write_json
from mbkd.result import Result

MODULE = "benchmarks.peers.trainer"
OURS, RANDOM, GROUPED = "mbkd", "Trainer", "Trainer, group_by_length"
SAMPLING = {RANDOM: "random", GROUPED: "group_by_length"}
TABLES = ("steps", "command")


class Rows(torch.utils.data.Dataset):
    """The rows of all languages in one data set, in the order of `languages`."""

    def __init__(self, stores: Sequence[Tokens]):
        self.lengths = np.concatenate([each.lengths for each in stores])
        self.rows: list[dict[str, Any]] = []
        for store in stores:
            for row in range(len(store)):
                columns = store.batch(np.array([row]))
                self.rows.append({x: ids[0].tolist() for x, ids in columns.items()} | {"label": int(store.labels[row])})

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, row: int) -> dict[str, Any]:
        return self.rows[row]


class OrderedTrainer(transformers.Trainer):
    """A Trainer that takes the rows of `order`, if set, instead of those of its sampler."""

    order: list[int] | None = None

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        return super()._get_train_sampler(train_dataset) if self.order is None else self.order


class Clock(transformers.TrainerCallback):
    """Records the time at the end of each step."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_step_end(self, *_: Any, **__: Any) -> None:
        distributed.synchronize()
        self.ends.append(time.perf_counter())


def arguments(config: Config, folder: Path, sampling: str, **more: Any) -> transformers.TrainingArguments:
    """Return the training values of a configuration as Trainer's arguments."""
    train = config.train
    kind = precision.choose(train.precision, torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    return transformers.TrainingArguments(
        output_dir=str(folder / "trainer"),
        per_device_train_batch_size=train.batch_size // train.accumulation,
        gradient_accumulation_steps=train.accumulation,
        per_device_eval_batch_size=64,
        num_train_epochs=train.epochs,
        learning_rate=train.lr,
        warmup_steps=train.warmup,  # a value below 1 is a share of the steps
        weight_decay=train.weight_decay,
        max_grad_norm=train.clip,
        adam_epsilon=train.eps,
        train_sampling_strategy=sampling,
        use_cpu=not torch.cuda.is_available(),  # otherwise Trainer refuses bf16 without a GPU
        bf16=kind == "bf16",
        fp16=kind == "fp16",
        seed=config.seed,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        **more,
    )


def theirs(config: Config, root: Path, sampling: str, rounds: int, count: int) -> Callable[[int], float]:
    """Return a function that measures `Trainer`'s seconds per example in a round."""
    transformers.logging.set_verbosity_error()
    rows = Rows(list(setting.stores(config, root).values()))
    shape = transformers.AutoConfig.from_pretrained(
        config.student.backbone, num_labels=len(tasks.label_names(config.task))
    )
    model = transformers.AutoModelForSequenceClassification.from_config(shape)
    tokenizer = load_tokenizer(config.student.backbone)
    collate = transformers.DataCollatorWithPadding(tokenizer)
    B = config.train.batch_size

    def trainer(clock: Clock, steps: int) -> OrderedTrainer:
        given = arguments(config, root, sampling, max_steps=steps)
        made = OrderedTrainer(
            model, given, train_dataset=rows, processing_class=tokenizer, data_collator=collate, callbacks=[clock]
        )
        made.remove_callback(transformers.PrinterCallback)
        return made

    epoch = np.array(list(trainer(Clock(), 1)._get_train_sampler()))
    batches = [epoch[at : at + B] for at in range(0, len(epoch) - B + 1, B)]
    each = setting.shares(setting.sizes(batches, rows.lengths), rounds, count)

    def run(number: int) -> float:
        chosen = [batches[i] for i in each[number % rounds]]
        chosen = [chosen[0], *chosen]  # the first step allocates Adam's moments and does not count
        clock = Clock()
        made = trainer(clock, len(chosen))
        made.order = np.concatenate(chosen).tolist()
        made.train()
        return (clock.ends[-1] - clock.ends[0]) / (count * B)

    return run


def steps(config: Config, folder: Path, rounds: int, count: int) -> dict[str, Any]:
    """Measure and print the table `steps`."""
    labels = changed(config, {"distill": {"signal": "labels"}})
    rows = sum(map(len, setting.stores(config, folder).values()))
    variants = {OURS: setting.SeparateProcess(setting.our_steps, labels, folder, rounds, count)}
    variants |= {
        name: setting.SeparateProcess(theirs, labels, folder, how, rounds, count) for name, how in SAMPLING.items()
    }
    found = common.take_turns(variants, rounds)
    title = f"steps: batch {config.train.batch_size}, {rounds} rounds of {count} steps, {rows:,} rows"
    setting.print_times(title, "seconds per example", found, [OURS])
    return {"seconds_per_example": found, "ratio": setting.ratios(found, OURS)}


def command(config: Config, folder: Path, rows: int, rounds: int) -> dict[str, Any]:
    """Measure and print the table `command`."""
    few = changed(config, {"task": {"limit": rows}, "distill": {"signal": "labels"}})
    file = folder / "command.yaml"
    file.write_text(few.dump(), encoding="utf-8")
    results: dict[str, Result] = {}

    def run(name: str, words: list[str]) -> Callable[[int], float]:
        def once(number: int) -> float:
            root = folder / f"runs-{number}-{name}"
            took = setting.command([*words, str(file), "--runs", str(root)], folder / "output.txt")
            results[name] = Result.read(next(root.glob("*/result.json")).parent)
            return took

        return once

    variants = {OURS: run(OURS, ["mbkd", "train", "--ranks", "1"])}
    variants[RANDOM] = run(RANDOM, [MODULE, "--config"])
    variants[GROUPED] = run(GROUPED, [MODULE, "--grouped", "--config"])
    found = common.take_turns(variants, rounds, warm=0)
    split = next(iter(results[OURS].accuracy))
    setting.print_times(f"command to result: {rows} rows per language, one epoch", "seconds", found, [OURS])
    results = {name: results[name] for name in variants}
    accuracy = {name: result.accuracy[split] for name, result in results.items()}
    show(f"{split}: accuracy x100, one seed", results, split)
    return {"seconds": found, "ratio": setting.ratios(found, OURS), "accuracy": accuracy, "split": split}


def show(title: str, results: dict[str, Result], split: str) -> None:
    """Print the accuracy by language, one line per result."""
    languages = list(next(iter(results.values())).accuracy[split])
    lines = ((name, *(f"{100 * x.accuracy[split][each]:.1f}" for each in languages)) for name, x in results.items())
    common.print_table(title, ("", *languages), lines)


def fine_tune(config: Config, sampling: str, root: Path) -> Path:
    """Fine-tune and evaluate a configuration's backbone with Trainer; return the run directory."""
    labels = changed(config, {"student": {"branch_depth": 0}, "distill": {"signal": "labels"}})
    kind = "trainer" if sampling == "random" else "trainer-grouped"
    digest = hashlib.sha256(f"{kind} {labels.hash}".encode()).hexdigest()[:8]
    directory = root / f"{config.task.kind}-{kind}-s{config.seed}-{digest}"
    if runs.finished(directory):
        return directory
    task, backbone, names = config.task, config.student.backbone, tasks.label_names(config.task)
    transformers.set_seed(config.seed)
    tokenizer = load_tokenizer(backbone)

    def encode(columns: dict[str, list[Any]]) -> Any:
        second = columns["text_b"] if task.pairs else None
        return tokenizer(columns["text_a"], second, truncation=True, max_length=config.train.max_length)

    def rows(split: str, language: str) -> Any:
        loaded = tasks.load(task, split, language)
        return loaded, loaded.map(encode, batched=True, remove_columns=["text_a", "text_b", "language", "id"])

    from datasets import concatenate_datasets

    splits = {x: tasks.languages(task, x) for x in tasks.splits(task) if x != "train"}
    train = {x: rows("train", x)[1] for x in config.languages}
    model = transformers.AutoModelForSequenceClassification.from_pretrained(
        backbone,
        id2label=dict(enumerate(names)),
        label2id={name: i for i, name in enumerate(names)},
        ignore_mismatched_sizes=True,
    )
    part = directory.with_name(f".{directory.name}.part")
    shutil.rmtree(part, ignore_errors=True)  # the files of a killed process
    part.mkdir(parents=True)
    trainer = transformers.Trainer(
        model,
        arguments(config, part, sampling),
        train_dataset=concatenate_datasets(list(train.values())),
        processing_class=tokenizer,
        data_collator=transformers.DataCollatorWithPadding(tokenizer),
    )
    done = trainer.train()
    trainer.args.train_sampling_strategy = "random"  # group_by_length would also reorder the rows of `predict`
    scores, counts = {}, {"train": {x: len(each) for x, each in train.items()}}
    for split, languages in splits.items():
        logits, classes, ids = {}, {}, {}
        for language in languages:
            loaded, encoded = rows(split, language)
            logits[language] = np.asarray(trainer.predict(encoded).predictions, np.float32)
            classes[language], ids[language] = np.asarray(loaded["label"]), list(loaded["id"])
        scores[split] = measure.scores(logits, classes, task, tasks.is_ordinal(task))
        measure.save(part, split, logits, classes, ids)
        counts[split] = {x: len(each) for x, each in classes.items()}
    result = Result(
        system=RANDOM if sampling == "random" else GROUPED,
        role="student",
        task=task.kind,
        backbone=backbone,
        seed=config.seed,
        hash=digest,
        labels=names,
        trained=config.languages,
        supervised=task.supervised,
        zero_shot=task.zero_shot,
        **measure.by_split(scores),
        parameters=sum(p.numel() for p in model.parameters()),
        steps=trainer.state.global_step,
        train_seconds=done.metrics["train_runtime"],
        step_seconds={"median": done.metrics["train_runtime"] / trainer.state.global_step, "teacher": "labels"},
        made_from=provenance.made_from(labels, root),
        rows=counts,
    )
    shutil.rmtree(part / "trainer", ignore_errors=True)
    (part / "config.yaml").write_text(labels.dump(), encoding="utf-8")
    write_json(part / "environment.json", runs.environment())
    result.write(part)
    part.rename(directory)
    return directory


def study(asked: Any) -> None:
    """Fine-tune a study's backbone with Trainer; print and record the scores."""
    config = paper.find(asked.config, asked.overrides)
    began = time.perf_counter()
    directory = fine_tune(config, "group_by_length" if asked.grouped else "random", asked.runs)
    result = Result.read(directory)
    for split in result.accuracy:
        show(f"{split}: accuracy x100, seed {config.seed}", {result.system: result}, split)
    means = {split: result.means(split) for split in result.accuracy}
    found = {"directory": str(directory), "seconds": time.perf_counter() - began, "averages": means, **result.as_json()}
    common.record(MODULE, asked.out, found)


def main() -> None:
    asked = setting.parser(MODULE, __doc__)
    asked.add_argument("--tables", nargs="+", choices=TABLES, default=TABLES)
    asked.add_argument("--rounds", type=int, default=5)
    asked.add_argument("--steps", type=int, default=6, help="steps of each round")
    asked.add_argument("--command-rows", type=int, default=160, help="rows of each language of `command`")
    asked.add_argument("--command-rounds", type=int, default=2)
    asked.add_argument("--config", help="a configuration: fine-tune its backbone, without the tables")
    asked.add_argument("--grouped", action="store_true", help="with --config: group_by_length")
    asked.add_argument("--runs", type=Path, default=Path("runs"), help="with --config: the folder of runs")
    asked.add_argument("overrides", nargs="*", help="with --config: key=value")
    wanted = asked.parse_args()
    if setting.missing("accelerate", MODULE, wanted.out):  # Trainer requires accelerate
        return
    distributed.quiet()
    transformers.logging.set_verbosity_error()
    if wanted.config:
        study(wanted)
        return
    found: dict[str, Any] = {"peers": setting.versions("transformers", "accelerate")}
    with tempfile.TemporaryDirectory() as name:
        config = setting.make_world(Path(name), wanted)
        if "steps" in wanted.tables:
            found["steps"] = steps(config, Path(name), wanted.rounds, wanted.steps)
        if "command" in wanted.tables:
            found["command"] = command(config, Path(name), wanted.command_rows, wanted.command_rounds)
    common.record(MODULE, wanted.out, found)


if __name__ == "__main__":
    sys.exit(main())
