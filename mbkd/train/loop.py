"""The loop: one language a step, one teacher, one branch (Eq. 1-8); then every language is measured.

Letters: B rows, C classes. Everything a run writes is described in docs/run-directory.md.
"""

import shutil
import signal
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForSequenceClassification, PreTrainedModel

from mbkd import runs
from mbkd.config import Config, changed
from mbkd.data.batches import Plan, micro_batch
from mbkd.distill import hidden, signals
from mbkd.distill.losses import step_loss
from mbkd.errors import Stopped, UserError
from mbkd.measure import evaluate
from mbkd.model import backbones, card, grow, saved
from mbkd.model.mblm import MBLMForSequenceClassification
from mbkd.progress import Report
from mbkd.train import checkpoint
from mbkd.train import engine as ds
from mbkd.train.inputs import Inputs, prepare
from mbkd.train.optim import BranchAdamW, lr_factor, parameter_groups
from mbkd.train.tracking import Tracker

STEPS_PER_RECORD = 20  # steps that one entry of metrics.jsonl sums up
WARM_STEPS = 5  # first steps that step_seconds leaves out
# What a run that only infers in another way takes from the result of the run that trained.
OF_THE_TRAINING = ("teacher_accuracy", "train_seconds", "step_seconds", "fingerprints")


def build_student(config: Config, labels: tuple[str, ...]) -> PreTrainedModel:
    """The model that learns, from its backbone's weights; its head's weights follow the seed."""
    torch.manual_seed(config.seed)
    names = {"id2label": dict(enumerate(labels)), "label2id": {name: i for i, name in enumerate(labels)}}
    student = config.student
    if student.grow is not None:
        with saved.refusing(f"{student.backbone}: cannot be loaded"):
            trained = MBLMForSequenceClassification.from_pretrained(student.backbone, dtype=torch.float32)
        return grow.grow(trained, student.grow)
    if student.head == "own":
        with saved.refusing(backbones.no_encoder(student.backbone)):
            # A checkpoint's own head may have other labels: it is new then.
            model = AutoModelForSequenceClassification.from_pretrained(
                student.backbone,
                dtype=torch.float32,
                attn_implementation="sdpa",
                ignore_mismatched_sizes=True,
                **names,
            )
        backbones.narrow_classifier(model)
        return model
    return MBLMForSequenceClassification.from_pretrained(
        student.backbone,
        branch_languages=config.languages if student.branch_depth else (),
        mixer_length=config.train.max_length,
        **student.model_dump(exclude={"backbone", "head", "grow"}),
        **names,
    )


def run(config: Config, root: Path, ranks: ds.Ranks, checkpoint_steps: int, log: str = "none") -> Path:
    """Train, measure and save one run, on every rank; one that was stopped goes on, a finished one is left as it is.

    checkpoint_steps: a checkpoint every so many steps, and at the end of an epoch. log: a key of tracking.PACKAGES.
    Returns the run's directory.
    Raises UserError, and Stopped after a signal.
    """
    directory = runs.folder(root, config)
    if ds.everyones(runs.finished(directory))[0]:  # the first rank decides for all
        return directory
    lock = runs.lock(root, config) if ranks.first else None
    inputs = prepare(config, root)
    plan = Plan(
        {x: tokens.lengths for x, tokens in inputs.train.items()},
        config.train.batch_size,
        epochs=config.train.epochs,
        seed=config.seed,
        draw=config.train.draw,
        alpha=config.train.draw_alpha,
        group_by_length=config.train.group_by_length,
    )
    twin = ds.everyones(_twin(config, root))[0]
    if twin is None:
        model = build_student(config, inputs.labels)
        source = signals.open_source(config, inputs, root, ranks)
    else:  # trained before: only the way to infer differs
        model = MBLMForSequenceClassification.from_pretrained(twin / "model", inference=config.student.inference)
        source = signals.Source(signals.hard_labels)
    branches = list(getattr(model.config, "branch_languages", ()))
    groups = parameter_groups(model, branches, config.train.weight_decay)
    parameters = sum(p.numel() for p in model.parameters())
    if config.distill.hidden and twin is None:
        weights = {x: [teacher.weight for teacher in several] for x, several in inputs.teachers.items()}
        # A part of the student while it learns, so that its gradients are summed over the ranks with the others.
        model.matching = hidden.Matching(model, source.teachers, weights, config.distill)
        groups += model.matching.groups(config.train.weight_decay)
    optimizer = BranchAdamW(groups, lr=config.train.lr, eps=config.train.eps)
    engine = ds.training_engine(model, optimizer, config.train, ranks)
    trainer = Trainer(config, directory, inputs, plan, source, engine, optimizer, ranks, checkpoint_steps, log)
    trainer.begin_or_go_on()
    if twin is None:
        trainer.train()
    before: dict[str, dict[str, Any]] = {}
    if config.student.grow is not None:
        engine.module.opening = 0.0  # with its new branch closed it still is the model that it was
        before = {split: trainer.measure(split, epoch=0) for split in inputs.heldout}
        engine.module.opening = 1.0
    found = {split: trainer.measure(split) for split in inputs.heldout}
    if ranks.first:
        result = {
            "system": config.system,
            "role": config.role,
            "task": config.task.kind,
            "backbone": config.student.backbone,
            "seed": config.seed,
            "hash": config.hash,
            "labels": inputs.labels,
            "trained": config.languages,
            "branches": branches,
            "supervised": config.task.supervised,
            "zero_shot": config.task.zero_shot,
            **_scores(found),
            "teacher_accuracy": source.accuracy,
            "parameters": parameters,
            "steps": plan.steps,
            "steps_per_language": plan.steps_per_language,
            "train_seconds": sum(trainer.seconds),
            "step_seconds": {
                "median": statistics.median(trainer.seconds[WARM_STEPS:] or trainer.seconds or [0.0]),
                "teacher": config.distill.signal,
            },
            "rows": inputs.rows,
            "fingerprints": trainer.fingerprints(),
        }
        if twin is not None:
            trained = runs.read_result(twin)
            result |= {name: trained[name] for name in OF_THE_TRAINING} | {"trained_as": twin.name}
        if config.student.grow is not None:
            result["before"] = _scores(before)
            if trainer.precision != "fp32":
                grow.restore(engine.module, build_student(config, inputs.labels))
        if config.distill.hidden and twin is None:
            del model.matching
        trainer.finish(result)
    ds.wait_for_all()
    if lock is not None:
        lock.release()
    return directory


def _twin(config: Config, root: Path) -> Path | None:
    """The finished run of the same training whose student infers in the other way; None where there is none.

    Nor is it asked where this run has steps of its own: it goes on from its checkpoint.
    """
    if config.student.mixers != "none" or not config.student.branch_depth:
        return None
    if any((runs.folder(root, config) / "checkpoints").glob("step-*")):
        return None
    other = {"all": "single", "single": "all"}[config.student.inference]
    twin = runs.folder(root, changed(config, {"student": {"inference": other}}))
    return twin if runs.finished(twin) else None


class Trainer:
    """The steps of one run, its measurements between them, and its checkpoints."""

    def __init__(
        self,
        config: Config,
        directory: Path,
        inputs: Inputs,
        plan: Plan,
        source: signals.Source,
        engine: Any,
        optimizer: BranchAdamW,
        ranks: ds.Ranks,
        checkpoint_steps: int,
        log: str = "none",
    ):
        self.config, self.directory, self.inputs, self.plan = config, directory, inputs, plan
        self.engine, self.optimizer, self.ranks = engine, optimizer, ranks
        self.source, self.checkpoint_steps, self.log = source, checkpoint_steps, log
        # Without Eq. 8 every branch learns from every batch; K = 0 has shared groups only.
        self.still = config.train.idle_branches == "still" and ds.one_branch_learns(engine.module)
        self.precision = ds.precision(config.train.precision)
        self.tracker: Tracker | None = None  # on the first rank
        self.done = 0  # steps
        self.seconds: list[float] = []  # of every step
        self.sums = torch.zeros(len(plan.languages), 3, device=ranks.device)  # loss, KL, steps by language
        self.finite: list[torch.Tensor] = []  # of every step since they were last looked at

    def train(self) -> None:
        """All steps that are left. Raises Stopped after SIGTERM or SIGINT, with a checkpoint written."""
        config, plan, train = self.config, self.plan, self.config.train
        epoch_ends: dict[int, float] = {round(e * plan.steps_per_epoch): e for e in range(1, int(train.epochs) + 1)}
        epoch_ends[plan.steps] = train.epochs
        self.engine.train()
        with (
            StopSignal() as stop,
            Report(f"{config.system}, seed {config.seed}", plan.steps, self.ranks.first, self.done) as report,
        ):
            while self.done < plan.steps:
                began = time.perf_counter()
                stopping = self.step(self.done, stop.asked)
                ds.synchronize()
                self.seconds.append(time.perf_counter() - began)
                self.done += 1
                epoch = epoch_ends.get(self.done)
                recorded = self.done % STEPS_PER_RECORD == 0 or self.done == plan.steps
                report.advance(self.record() if recorded else {})
                if epoch is not None and self.done < plan.steps and "dev" in self.inputs.heldout:
                    self.measure("dev", epoch)
                if stopping or epoch is not None or self.done % self.checkpoint_steps == 0:
                    self.checkpoint()
                if stopping and self.done < plan.steps:
                    raise Stopped(
                        f"stopped after step {self.done} of {plan.steps}; the same command goes on from there"
                    )

    def step(self, step: int, stop: bool) -> bool:
        """One iteration of MultiKD: one language, one teacher, one branch. Returns whether to stop after it."""
        train, distill, ranks = self.config.train, self.config.distill, self.ranks
        language, rows = self.plan.language(step), self.plan.rows(step)  # Eq. 4: one term of the sum over languages
        stopping = self._agree(step, language, stop)
        torch.manual_seed(_step_seed(self.config.seed, step, ranks.rank))  # dropout: a function of these alone
        self.optimizer.active = language if self.still else None
        if self.config.student.grow is not None:
            self.engine.module.opening = grow.opening(step, self.plan.steps, train.warmup)
        self.optimizer.set_lr(train.lr * lr_factor(step, self.plan.steps, train.warmup))
        tokens = self.inputs.train[language]
        finite = torch.ones((), dtype=torch.bool, device=ranks.device)
        for index in range(train.accumulation):
            mine = micro_batch(rows, ranks.rank, ranks.world, train.accumulation, index)
            logits = self.engine(**ds.tensors(tokens.batch(mine), ranks.device), **self._route(language)).logits
            labels = torch.from_numpy(np.asarray(tokens.labels[mine])).to(ranks.device)
            loss, kl = step_loss(
                logits,  # (B, C)
                labels,
                self.source.signal(language, mine),
                distill.temperature_of(language),
                distill.tau_squared,
                distill.hard_label_weight,
            )
            if distill.hidden:
                loss = loss + distill.hidden_weight * self.engine.module.matching.distance(language)
            self.engine.backward(loss)
            self.engine.step()
            finite &= loss.detach().isfinite()
            self.sums[self.plan.languages.index(language)] += torch.stack([loss.detach(), kl, torch.ones_like(kl)])
        self.finite.append(finite & self._gradients_finite())
        return stopping

    def _agree(self, step: int, language: str, stop: bool) -> bool:
        """Check that all ranks have the same language; returns whether any of them asks to stop. Raises UserError."""
        names = self.plan.languages
        said, stopping = ds.agree(names.index(language), stop)
        if len(said) > 1:
            each = ", ".join(f"rank {rank}: {names[index]}" for rank, index in enumerate(said))
            raise UserError(
                f"step {step + 1}: the ranks disagree on the language ({each}); do they read the same data?"
            )
        return stopping

    def _gradients_finite(self) -> torch.Tensor | bool:
        """Whether the step's gradients were finite. DeepSpeed skips a step whose gradients were not."""
        norm, self.optimizer.norm = self.optimizer.norm, None
        if norm is None:  # skipped: fp16 lowers its loss scale and goes on, unless 1 is too large still
            return self.precision == "fp16" and self.engine.optimizer.loss_scale > 1
        return norm.isfinite()

    def _route(self, language: str) -> dict[str, str]:
        """The language goes to a student; a backbone's own classifier does not know languages."""
        return {"language": language} if self.config.student.head == "linear" else {}

    def refuse_not_finite(self) -> None:
        """Raise UserError at the first step whose loss or gradients were not finite, on any rank."""
        if not self.finite:
            return
        bad = ds.sum_over_ranks(1 - torch.stack(self.finite).float()).cpu().numpy()
        first = self.done - len(self.finite)
        self.finite = []
        if bad.any():
            step = first + int(bad.argmax())
            language, rows = self.plan.language(step), self.plan.rows(step)
            ids = [self.inputs.train[language].row_ids[row] for row in rows]
            last = max((self.directory / "checkpoints").glob("step-*"), default=None)
            raise UserError(
                f"step {step + 1}, language {language}: loss or gradient is not finite; lower train.lr or look at "
                f"the rows {', '.join(ids)}; last good checkpoint: {last or 'none'}"
            )

    def record(self) -> dict[str, float]:
        """Write the window's means, by language, to metrics.jsonl; returns what the progress shows."""
        self.refuse_not_finite()
        sums = ds.sum_over_ranks(self.sums).cpu()
        self.sums = torch.zeros_like(self.sums)
        window = self.seconds[-STEPS_PER_RECORD:]
        speed = self.config.train.batch_size * len(window) / sum(window)
        lr = self.optimizer.param_groups[0]["lr"]
        if self.ranks.first:
            each = {
                language: {"loss": (row[0] / row[2]).item(), "kl": (row[1] / row[2]).item()}
                for language, row in zip(self.plan.languages, sums, strict=True)
                if row[2] > 0
            }
            epoch = self.done / self.plan.steps_per_epoch
            values = {"step": self.done, "epoch": epoch, "lr": lr, "sequences_per_second": speed, "languages": each}
            self.note(**values)
        total = sums.sum(dim=0)
        shown = {"loss": (total[0] / total[2]).item(), "KL": (total[1] / total[2]).item()}
        if self.config.distill.signal == "labels":
            del shown["KL"]
        return shown | {"lr": lr, "seq/s": round(speed)}

    def note(self, **values: Any) -> None:
        """Add a line to metrics.jsonl, on the first rank."""
        runs.append_metrics(self.directory, **values)
        if self.tracker is not None:
            self.tracker.follow()

    def measure(self, split: str, epoch: float | None = None) -> dict[str, dict[str, Any]]:
        """Logits and scores of a split in every language; in between (epoch given) only the scores are kept."""
        stores = self.inputs.heldout[split]
        found, labels = {}, {}
        with Report(f"measuring {split}", len(stores), self.ranks.first and epoch is None) as report:
            for language, tokens in stores.items():
                found[language] = evaluate.logits(self.engine.module, tokens, self.ranks, **self._route(language))
                labels[language] = np.asarray(tokens.labels)
                report.advance()
        scores = evaluate.scores(found, labels, self.config.task, self.inputs.ordinal)
        if self.ranks.first:
            at = self.config.train.epochs if epoch is None else epoch
            self.note(step=self.done if at else 0, epoch=at, split=split, **scores)
            if epoch is None:
                evaluate.save(self.directory, split, found, labels)
        return scores

    def finish(self, result: dict[str, Any]) -> None:
        """Write what the run leaves behind, result.json last; on the first rank."""
        _save(self.config, self.directory, self.engine.module, result)
        if self.tracker is not None:
            self.tracker.close()  # a run that stops before this is not finished for its tracker, too
        runs.write_json(self.directory / "result.json", result)
        shutil.rmtree(self.directory / "checkpoints", ignore_errors=True)  # a finished run needs none

    def fingerprints(self) -> dict[str, Any]:
        """What the run was made from, besides its configuration."""
        return {
            "train": {x: tokens.fingerprint for x, tokens in self.inputs.train.items()},
            **({"grown from": {"model": self.inputs.grown_from}} if self.inputs.grown_from else {}),
            **self.source.fingerprints,
        }

    def _made_from(self) -> dict[str, Any]:
        """What a checkpoint must share with the run that goes on from it."""
        made_from: dict[str, Any] = {"configuration": self.config.hash}
        for kind, prints in self.fingerprints().items():
            made_from |= {f"{kind} {language}": value for language, value in prints.items()}
        versions = runs.environment()["packages"]
        made_from |= {f"version of {name}": versions[name] for name in ("torch", "deepspeed", "transformers")}
        # `auto` is another one on another device, and DeepSpeed keeps another state for it.
        made_from["precision"] = self.precision
        made_from |= {f"precision of teacher {language}": kind for language, kind in self.source.precision.items()}
        if self.config.train.zero_stage > 0:  # DeepSpeed splits the optimizer's state over the ranks
            made_from["ranks"] = self.ranks.world
        return made_from

    def begin_or_go_on(self) -> None:
        """Open the run's directory, and load its newest whole checkpoint if there is one. Raises UserError."""
        # The first rank decides for all; what it refuses ends the job.
        mine = checkpoint.newest(self.directory, self._made_from()) if self.ranks.first else None
        folder = ds.everyones(mine)[0]
        device = {
            "device": ds.device_name(self.ranks),
            "ranks": self.ranks.world,
            "precision": self.precision,
            "teacher_precision": self.source.precision,
        }
        if folder is not None:
            self._go_on(folder, device)
        elif self.ranks.first:
            runs.begin(self.directory, self.config, device)
        if self.ranks.first:
            self.tracker = Tracker(self.log, self.directory, self.config)

    def _go_on(self, folder: Path, device: dict[str, Any]) -> None:
        """Load a checkpoint into engine and loop."""
        state = checkpoint.restore(self.engine, folder)
        self.done, self.seconds = state["done"], state["seconds"]
        if len(state["sums"]) == self.ranks.world:
            self.sums = torch.tensor(state["sums"][self.ranks.rank], device=self.ranks.device)
        elif self.ranks.first:  # another number of ranks: the sum is what counts
            self.sums = torch.tensor(state["sums"], device=self.ranks.device).sum(dim=0)
        if self.ranks.first:
            runs.go_on(self.directory, self.done, state["metrics_bytes"], device)
            print(f"going on after step {self.done} from {folder}", file=sys.stderr, flush=True)

    def checkpoint(self) -> None:
        """Write what the run needs to go on after this step."""
        self.refuse_not_finite()
        state = {
            "done": self.done,
            "seconds": self.seconds,
            "sums": ds.everyones(self.sums.tolist()),
            "metrics_bytes": (self.directory / "metrics.jsonl").stat().st_size,
        }
        checkpoint.save(self.engine, self.directory, self.done, state, self._made_from(), self.ranks)


class StopSignal:
    """Turns SIGTERM (Slurm's warning, a spot instance's end) and SIGINT into a wish that the loop sees."""

    asked = False

    def __enter__(self) -> "StopSignal":
        self.before = {kind: signal.signal(kind, self._ask) for kind in (signal.SIGTERM, signal.SIGINT)}
        return self

    def _ask(self, number: int, frame: Any) -> None:
        self.asked = True

    def __exit__(self, *_: Any) -> None:
        for kind, handler in self.before.items():
            signal.signal(kind, handler)


def _step_seed(seed: int, step: int, rank: int) -> int:
    """A seed of its own for every (seed, step, rank)."""
    return int(np.random.SeedSequence([seed, step, rank]).generate_state(1, np.uint64)[0] >> 1)


def _scores(found: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """What result.json holds of the scores by split."""
    return {
        "accuracy": {split: scores["accuracy"] for split, scores in found.items()},
        "averages": {split: scores["accuracy_averages"] for split, scores in found.items()},
        "mae": {split: scores["mae"] for split, scores in found.items() if "mae" in scores},
        "mae_averages": {split: scores["mae_averages"] for split, scores in found.items() if "mae" in scores},
    }


def _save(config: Config, directory: Path, model: PreTrainedModel, result: dict[str, Any]) -> None:
    """The trained model with its tokenizer and its card, as a transformers folder."""
    saved.save(model, saved.load_tokenizer(config.student.backbone), directory / "model")
    card.write(directory / "model", config, result)
