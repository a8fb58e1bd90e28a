"""One run from its configuration to its result: prepare, train, evaluate, save.

docs/run-directory.md describes the files of a run.
"""

import statistics
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from transformers import PreTrainedModel

from mbkd import distributed, provenance, runs
from mbkd.config import Config, changed
from mbkd.data.batches import Plan
from mbkd.data.tokens import load_tokenizer
from mbkd.distill import hidden, signals
from mbkd.evaluate import calibration, measure, metrics
from mbkd.inputs import Inputs, prepare
from mbkd.model import card, saved
from mbkd.model.mblm import MBLMForSequenceClassification
from mbkd.result import Result
from mbkd.terminal.progress import PATIENCE, ProgressBar
from mbkd.train.checkpoint import Schedule
from mbkd.train.engine import training_engine
from mbkd.train.optim import parameter_groups
from mbkd.train.student import build_student
from mbkd.train.trainer import STEPS_PER_RECORD, Trainer
from mbkd.train.work import speed

# Fields that a run with another `student.inference` copies from the result of the trained run.
OF_THE_TRAINING = ("teacher_accuracy", "train_seconds", "step_seconds")


def run(config: Config, root: Path, ranks: distributed.Ranks, checkpoints: Schedule, log: str = "none") -> Path:
    """Train, evaluate and save one run. Stopped runs resume, and finished runs are not changed.

    checkpoints: schedule of the checkpoints. log: a key of tracking.PACKAGES.
    Returns the run directory. Raises UserError, and Stopped after a signal.
    Collective: all ranks must call.
    """
    directory = runs.folder(root, config)
    if ranks.first:
        provenance.refuse(provenance.stale({directory: config}, root))
    if distributed.all_gather_object(runs.finished(directory))[0]:  # the first rank decides for all
        return directory
    lock = runs.lock(root, config) if ranks.first else None
    distributed.deterministic(config.train.deterministic)  # teachers run before the engine sets this
    inputs = prepared(config, root, ranks)
    plan = Plan(
        {x: tokens.lengths for x, tokens in inputs.train.items()},
        config.train.batch_size,
        epochs=config.train.epochs,
        seed=config.seed,
        draw=config.train.draw,
        alpha=config.train.draw_alpha,
        group_by_length=config.train.group_by_length,
    )
    alike = distributed.all_gather_object(_trained_alike(config, root))[0]
    if alike is None:
        with ProgressBar("loading the student", 0, ranks.first, patience=PATIENCE):
            model = build_student(config, inputs.labels)
        source = signals.open_source(config, inputs, root, ranks)
    else:  # the same weights are already trained: only `student.inference` differs
        model = MBLMForSequenceClassification.from_pretrained(alike / "model", inference=config.student.inference)
        source = signals.TeacherSource(signals.hard_labels)
    branches = list(getattr(model.config, "branch_languages", ()))
    groups = parameter_groups(model, branches, config.train.weight_decay)
    parameters = sum(p.numel() for p in model.parameters())
    if config.distill.hidden and alike is None:
        weights = {x: [teacher.weight for teacher in several] for x, several in inputs.teachers.items()}
        # A submodule of the student, because its gradients must be reduced over the ranks, too.
        model.matching = hidden.Matching(model, source.teachers, weights, config.distill)
        groups += model.matching.groups(config.train.weight_decay)
    engine, optimizer = training_engine(model, groups, config.train, ranks)
    trainer = Trainer(config, directory, inputs, plan, source, engine, optimizer, ranks, checkpoints, log)
    trainer.begin_or_resume()
    if alike is None:
        trainer.train()
    before: dict[str, dict[str, Any]] = {}
    if config.student.grow is not None:
        engine.module.opening = 0.0  # without the new branch, this is the model before growth
        before = {split: trainer.measure(split, epoch=0) for split in inputs.heldout}
        engine.module.opening = 1.0
    found = {split: trainer.measure(split) for split in inputs.heldout}
    warm = trainer.seconds[STEPS_PER_RECORD:] or trainer.seconds
    if ranks.first:
        result = Result(
            system=config.system,
            role=config.role,
            task=config.task.kind,
            backbone=config.student.backbone,
            seed=config.seed,
            hash=config.hash,
            labels=inputs.labels,
            trained=config.languages,
            branches=tuple(branches),
            supervised=config.task.supervised,
            zero_shot=config.task.zero_shot,
            **measure.by_split(found),
            calibration=calibration.of_run(
                directory, {x: each["accuracy"] for x, each in found.items()}, fitted=config.student.head == "linear"
            ),
            teacher_accuracy=source.accuracy,
            parameters=parameters,
            steps=plan.steps,
            steps_per_language=plan.steps_per_language,
            train_seconds=sum(trainer.seconds),
            step_seconds={
                "median": statistics.median(warm or [0.0]),
                "teacher": config.distill.signal,
                **speed(trainer.work[STEPS_PER_RECORD:] or trainer.work, warm),
            },
            rows=inputs.rows,
            made_from=inputs.made_from,
            at_chance=_at_chance(found, inputs, config.languages),
            before=measure.by_split(before) if config.student.grow is not None else None,
        )
        if alike is not None:
            trained = Result.read(alike)
            result = replace(
                result,
                **{name: getattr(trained, name) for name in OF_THE_TRAINING},
                made_from=trained.made_from and provenance.made_from(config, root, alike.name),
                trained_as=alike.name,
            )
        if config.distill.hidden and alike is None:
            del model.matching
        saved.calibrate(model, result.calibration["temperature"], result.calibration["temperatures"])
        _save(config, directory, model.whole() if config.student.grow is not None else model, result)
        trainer.finish(result)
    distributed.wait_for_all()
    if lock is not None:
        lock.release()
    return directory


def prepared(config: Config, root: Path, ranks: distributed.Ranks) -> Inputs:
    """Return the inputs of a run. The first rank verifies the stores before the others open them.

    Raises UserError. Collective: all ranks must call.
    """
    inputs = prepare(config, root) if ranks.first else None
    distributed.wait_for_all()
    return prepare(config, root, show=False, verified=True) if inputs is None else inputs


def _at_chance(found: dict[str, dict[str, Any]], inputs: Inputs, languages: Sequence[str]) -> bool:
    """Whether the dev accuracy over the rows of the trained languages is no better than the most frequent class.

    found: scores by split. False without dev rows in these languages.
    """
    labels = {x: np.asarray(tokens.labels) for x, tokens in inputs.heldout.get("dev", {}).items() if x in languages}
    if not labels:
        return False
    rows = np.concatenate(list(labels.values()))
    correct = sum(found["dev"]["accuracy"][x] * len(each) for x, each in labels.items())
    return bool(correct / len(rows) <= metrics.chance(rows)[1])


def _trained_alike(config: Config, root: Path) -> Path | None:
    """Return the finished run of the same training with the other `student.inference`, or None.

    Also None if this run has checkpoints; it resumes from them.
    """
    if config.student.mixers != "none" or not config.student.branch_depth:
        return None
    if any((runs.folder(root, config) / "checkpoints").glob("step-*")):
        return None
    other = {"all": "single", "single": "all"}[config.student.inference]
    inferring = changed(config, {"student": {"inference": other}})
    alike = runs.folder(root, inferring)
    return alike if runs.finished(alike) and not provenance.stale({alike: inferring}, root) else None


def _save(config: Config, directory: Path, model: PreTrainedModel, result: Result) -> None:
    """Save the trained model with its tokenizer and model card as a transformers folder."""
    model.config.text_pairs = config.task.pairs
    model.config.train_precision = config.train.precision  # also the precision of inference
    saved.save(model, load_tokenizer(config.student.backbone), directory / "model")
    card.write(directory / "model", config, result)
