"""The training loop: each step trains one branch on one language with one teacher (Eq. 1-8).

Letters: B rows, C classes.
"""

import math
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from mbkd import distributed, precision, runs
from mbkd.config import Config
from mbkd.data.batches import Plan, compiled_width, micro_batch
from mbkd.distill import signals
from mbkd.distill.losses import step_loss
from mbkd.errors import Stopped, UserError
from mbkd.evaluate import measure
from mbkd.inputs import Inputs
from mbkd.model import grow
from mbkd.result import Result
from mbkd.terminal.progress import ProgressBar
from mbkd.train import checkpoint
from mbkd.train.engine import gradient_norm, loss_scale, one_branch_learns
from mbkd.train.launch import stop_signals
from mbkd.train.optim import BranchAdamW, lr_factor
from mbkd.train.tracking import Tracker
from mbkd.train.work import Counter, Work, speed

STEPS_PER_RECORD = 20  # steps per line of metrics.jsonl
SECONDS_PER_WRITE = 1.0  # between two writes of metrics.jsonl


class Batch(NamedTuple):
    """One micro-batch of a rank: rows of the language (B,), tokens (B, n), and labels (B,)."""

    rows: np.ndarray
    inputs: dict[str, torch.Tensor]
    labels: torch.Tensor


class Trainer:
    """The training loop of one run, with its evaluations and checkpoints."""

    def __init__(
        self,
        config: Config,
        directory: Path,
        inputs: Inputs,
        plan: Plan,
        source: signals.TeacherSource,
        engine: Any,
        optimizer: BranchAdamW,
        ranks: distributed.Ranks,
        checkpoints: checkpoint.Schedule,
        log: str = "none",
    ):
        self.config, self.directory, self.inputs, self.plan = config, directory, inputs, plan
        self.engine, self.optimizer, self.ranks = engine, optimizer, ranks
        self.source, self.checkpoints, self.log = source, checkpoints, log
        # Without Eq. 8 every branch learns from every batch. With K = 0 all groups are shared.
        self.still = config.train.idle_branches == "still" and one_branch_learns(engine.module)
        self.precision = precision.choose(config.train.precision, ranks.device)
        self.tracker: Tracker | None = None  # on the first rank
        self.done = 0  # steps
        self.seconds: list[float] = []  # per step
        self.work: list[Work] = []  # per step, of this rank
        self.counter = Counter(config, engine.module, source, inputs, ranks)
        self.sums = torch.zeros(len(plan.languages), 3, device=ranks.device)  # loss, KL, steps by language
        self.finite: list[torch.Tensor] = []  # per step since the last check
        self.one = torch.ones((), device=ranks.device)
        self.lines: list[dict[str, Any]] = []  # of metrics.jsonl, to be written
        self.written = time.monotonic()

    def train(self) -> None:
        """Run all remaining steps.

        Raises Stopped after SIGTERM or SIGINT, once a checkpoint is written. Collective: all ranks must call.
        """
        config, plan, train = self.config, self.plan, self.config.train
        epoch_ends: dict[int, float] = {round(e * plan.steps_per_epoch): e for e in range(1, int(train.epochs) + 1)}
        epoch_ends[plan.steps] = train.epochs
        self.engine.train()
        with (
            StopSignal() as stop,
            ProgressBar(f"{config.system}, seed {config.seed}", plan.steps, self.ranks.first, self.done) as progress,
            ThreadPoolExecutor(1) as worker,
        ):
            began = time.perf_counter()
            for step, batches in self._prepared(worker):
                self.step(step, batches)
                self.done += 1
                self.work.append(self._work(step, batches))
                epoch = epoch_ends.get(self.done)
                recorded = self.done % STEPS_PER_RECORD == 0 or self.done == plan.steps
                stopping = self._stopping(stop.asked, recorded)
                if not (recorded or stopping or epoch is not None or self.checkpoints.at(self.done)):
                    progress.advance({})
                    continue
                distributed.synchronize()  # timing needs a finished device; other steps do not wait
                steps = self.done - len(self.seconds)
                self.seconds += [(time.perf_counter() - began) / steps] * steps
                progress.advance(self.record() if recorded else {})
                measured = train.evaluate == "epoch" and "dev" in self.inputs.heldout
                if epoch is not None and self.done < plan.steps and measured:
                    self.measure("dev", epoch)
                timed = recorded or epoch is not None
                due = self.checkpoints.due(self.done, epoch is not None) if timed else self.checkpoints.at(self.done)
                if stopping or due:
                    self.checkpoint()
                if stopping and self.done < plan.steps:
                    raise Stopped(
                        f"stopped after step {self.done} of {plan.steps}; run the same command again to resume"
                    )
                began = time.perf_counter()

    def step(self, step: int, batches: list[Batch] | None = None) -> None:
        """Take one step of MultiKD (Eq. 4): one language, its teacher, its branch.

        batches: micro-batches of this rank, one per accumulation step; built here if None.
        Ranks wait for each other only to reduce gradients, and never for their devices.
        """
        train, distill = self.config.train, self.config.distill
        language = self.plan.language(step)  # Eq. 4: one term of the sum over languages
        torch.manual_seed(_step_seed(self.config.seed, step, self.ranks.rank))  # a resumed run draws the same dropout
        learning = language if self.still else None
        self.optimizer.begin(learning, train.lr * lr_factor(step, self.plan.steps, train.warmup))
        if self.config.student.grow is not None:
            self.engine.module.opening = grow.opening(step, self.plan.steps, train.warmup)
        sums = self.sums[self.plan.languages.index(language)]
        finite = torch.zeros_like(sums[0])
        for batch in self.batches(step) if batches is None else batches:
            output = self.engine(**batch.inputs, **self._learning(language))
            answer = self.source.signal(language, batch.rows)
            loss, kl = step_loss(
                output.logits,  # (B, C)
                batch.labels,
                None if answer is None else answer.logits,
                distill.temperature_of(language),
                distill.tau_squared,
                distill.hard_label_weight,
            )
            if answer is not None and answer.states is not None:
                distance = self.engine.module.matching(language, output.hidden_states, answer.states)
                loss = loss + distill.hidden_weight * distance
            self.engine.backward(loss)
            self.engine.step()
            sums += torch.stack([loss.detach(), kl, self.one])
            finite += loss.detach()
        self.finite.append((finite + self._gradients()).isfinite())

    def batches(self, step: int) -> list[Batch]:
        """Return the micro-batches of this rank for a step, one per accumulation step, on its device."""
        ranks, count = self.ranks, self.config.train.accumulation
        tokens, rows = self.inputs.train[self.plan.language(step)], self.plan.rows(step)
        found = []
        for index in range(count):
            mine = micro_batch(rows, ranks.rank, ranks.world, count, index)
            inputs = distributed.tensors(tokens.batch(mine, self._width(tokens.lengths[mine])), ranks.device)
            labels = distributed.to_device(np.asarray(tokens.labels[mine]), ranks.device)
            found.append(Batch(mine, inputs, labels))
        return found

    def _width(self, lengths: np.ndarray) -> int | None:
        """Return the padded width for rows of these lengths. None pads to the longest row."""
        train = self.config.train
        return compiled_width(int(lengths.max()), train.max_length) if train.compile else None

    def _work(self, step: int, batches: list[Batch]) -> Work:
        """Return the work of this rank in a step."""
        language = self.plan.language(step)
        each = [self.counter.of(language, batch.rows, batch.inputs["input_ids"].shape[1]) for batch in batches]
        return Work(*map(sum, zip(*each, strict=True)))

    def _prepared(self, worker: ThreadPoolExecutor) -> Iterator[tuple[int, list[Batch]]]:
        """Yield the remaining steps with their batches. A thread prepares the batches one step ahead."""
        ahead = worker.submit(self.batches, self.done)
        for step in range(self.done, self.plan.steps):
            ready = ahead.result()
            if step + 1 < self.plan.steps:
                ahead = worker.submit(self.batches, step + 1)
            yield step, ready

    def _stopping(self, asked: bool, recorded: bool) -> bool:
        """Return whether any rank received a stop signal. Several ranks check only at records. Collective."""
        if self.ranks.world == 1:
            return asked
        return recorded and any(distributed.all_gather_object(asked))

    def _gradients(self) -> torch.Tensor:
        """Return the gradient norm of the step; 0 if fp16 skipped the step to lower the loss scale."""
        norm, scaler = gradient_norm(self.engine, self.optimizer), loss_scale(self.engine)
        return norm if scaler is None else norm.where(norm.isfinite() | (scaler.scale(self.one) <= 1), 0.0)

    def _route(self, language: str) -> dict[str, str]:
        """Return the language argument of the model. A backbone's own classifier takes no language."""
        return {"language": language} if self.config.student.head == "linear" else {}

    def _learning(self, language: str) -> dict[str, Any]:
        """Return the arguments of the model in training, which may request its hidden states."""
        return self._route(language) | ({"return_states": True} if self.config.distill.hidden else {})

    def refuse_not_finite(self) -> None:
        """Raise UserError for the first step with a loss or gradient that is not finite on any rank. Collective."""
        if not self.finite:
            return
        bad = distributed.sum_over_ranks(1 - torch.stack(self.finite).float()).cpu().numpy()
        first = self.done - len(self.finite)
        self.finite = []
        if bad.any():
            step = first + int(bad.argmax())
            language, rows = self.plan.language(step), self.plan.rows(step)
            ids = [self.inputs.train[language].row_ids[row] for row in rows]
            last = max((self.directory / "checkpoints").glob("step-*"), default=None)
            raise UserError(
                f"step {step + 1}, language {language}: loss or gradient is not finite; lower train.lr or check "
                f"the rows {', '.join(ids)}; last good checkpoint: {last or 'none'}"
            )

    def record(self) -> dict[str, float]:
        """Add mean losses to metrics.jsonl, and return them for the progress bar. Collective."""
        self.refuse_not_finite()
        sums = distributed.sum_over_ranks(self.sums).cpu()
        self.sums = torch.zeros_like(self.sums)
        window = self.seconds[-STEPS_PER_RECORD:]
        rate = self.config.train.batch_size * len(window) / sum(window)
        lr = self.optimizer.param_groups[0]["lr"]
        if self.ranks.first:
            each = {
                language: {"loss": (row[0] / row[2]).item(), "kl": (row[1] / row[2]).item()}
                for language, row in zip(self.plan.languages, sums, strict=True)
                if row[2] > 0
            }
            epoch = self.done / self.plan.steps_per_epoch
            took = {"step_seconds": sum(window) / len(window), **speed(self.work[-len(window) :], window)}
            values = {"step": self.done, "epoch": epoch, "lr": lr, "sequences_per_second": rate, **took}
            self.note(**values, languages=each)
        total = sums.sum(dim=0)
        shown = {"loss": (total[0] / total[2]).item(), "KL": (total[1] / total[2]).item()}
        if self.config.distill.signal == "labels":
            del shown["KL"]
        return shown | {"lr": lr, "seq/s": round(rate)}

    def note(self, **values: Any) -> None:
        """Add a line to metrics.jsonl; call on the first rank only. Lines are buffered for about a second."""
        self.lines.append(values)
        if time.monotonic() - self.written > SECONDS_PER_WRITE:
            self.write_metrics()

    def write_metrics(self) -> None:
        """Write the buffered lines to metrics.jsonl."""
        if self.lines:
            runs.append_metrics(self.directory, self.lines)
        self.lines, self.written = [], time.monotonic()
        if self.tracker is not None:
            self.tracker.follow()

    def measure(self, split: str, epoch: float | None = None) -> dict[str, dict[str, Any]]:
        """Evaluate a split in every language, and return the scores.

        epoch: for an evaluation during training. None, for the evaluation at the end, also saves the logits.
        Collective: all ranks must call.
        """
        stores = self.inputs.heldout[split]
        found, labels = {}, {}
        with (
            # Evaluation batches have any width, and every new width would compile another graph.
            torch.compiler.set_stance("force_eager") if self.config.train.compile else nullcontext(),
            ProgressBar(f"measuring {split}", len(stores), self.ranks.first and epoch is None) as progress,
            precision.autocast(self.precision, self.ranks.device),
        ):
            for language, tokens in stores.items():
                found[language] = measure.logits(self.engine.module, tokens, self.ranks, **self._route(language))
                labels[language] = np.asarray(tokens.labels)
                progress.advance()
        scores = measure.scores(found, labels, self.config.task, self.inputs.ordinal)
        if self.ranks.first:
            at = self.config.train.epochs if epoch is None else epoch
            self.note(step=self.done if at else 0, epoch=at, split=split, **scores)
            if epoch is None:
                measure.save(self.directory, split, found, labels, {x: each.row_ids for x, each in stores.items()})
        return scores

    def finish(self, result: Result) -> None:
        """Write result.json, the last file of a run, on the first rank. Warn if the model has not learned."""
        self.write_metrics()
        if self.tracker is not None:
            self.tracker.close()  # marks the run as finished, so a stopped run must not reach this line
        result.write(self.directory)
        shutil.rmtree(self.directory / "checkpoints", ignore_errors=True)
        if result.at_chance:
            message = (
                f"warning: {self.directory.name}: the dev accuracy in {', '.join(self.config.languages)} is no better "
                "than the most frequent class; try a lower learning rate, more epochs or another seed"
            )
            print(message, file=sys.stderr, flush=True)

    def fingerprints(self) -> dict[str, Any]:
        """Return the fingerprints of the run's inputs, apart from its configuration."""
        return {
            "train": {x: tokens.fingerprint for x, tokens in self.inputs.train.items()},
            **({"grown from": {"model": self.inputs.grown_from}} if self.inputs.grown_from else {}),
            **self.source.fingerprints,
        }

    def _made_from(self) -> dict[str, Any]:
        """Return the values that must be equal when a run resumes from a checkpoint."""
        made_from: dict[str, Any] = {"configuration": self.config.hash}
        # The checkpoint replaces the weights of the backbone, so a changed backbone would pass unnoticed.
        made_from["backbone"] = self.inputs.made_from.get("backbone")
        for kind, prints in self.fingerprints().items():
            made_from |= {f"{kind} {language}": value for language, value in prints.items()}
        versions = runs.environment()["packages"]
        made_from |= {f"version of {name}": versions[name] for name in ("torch", "deepspeed", "transformers")}
        # `auto` selects the precision by the device.
        made_from["precision"] = self.precision
        made_from |= {f"precision of teacher {language}": kind for language, kind in self.source.precision.items()}
        if self.config.train.zero_stage > 0:  # DeepSpeed shards the optimizer's state by world size
            made_from["ranks"] = self.ranks.world
        return made_from

    def begin_or_resume(self) -> None:
        """Open the run directory, and load the newest intact checkpoint if one exists. Raises UserError.

        Collective: all ranks must call.
        """
        plans = distributed.all_gather_object(self.plan.digest)
        if len(set(plans)) > 1:
            each = ", ".join(f"rank {rank}: {digest[:8]}" for rank, digest in enumerate(plans))
            raise UserError(f"the ranks disagree on the steps' languages or rows ({each}); their data must be the same")
        # The first rank decides for all ranks, and its UserError ends the job.
        mine = checkpoint.newest(self.directory, self._made_from()) if self.ranks.first else None
        folder = distributed.all_gather_object(mine)[0]
        device = {
            "device": distributed.device_name(self.ranks),
            "ranks": self.ranks.world,
            "precision": self.precision,
            "teacher_precision": self.source.precision,
        }
        if folder is not None:
            self._resume(folder, device)
        elif self.ranks.first:
            runs.begin(self.directory, self.config, device)
        if self.ranks.first:
            self.tracker = Tracker(self.log, self.directory, self.config)

    def _resume(self, folder: Path, device: dict[str, Any]) -> None:
        """Load a checkpoint into the engine and this trainer."""
        state = checkpoint.restore(self.engine, folder)
        self.done, self.seconds = state["done"], state["seconds"]
        # Checkpoints of earlier versions do not contain the work.
        self.work = [Work(*each) for each in state.get("work", self.done * [(math.nan, math.nan)])]
        if (scaler := loss_scale(self.engine)) is not None:
            scaler.load_state_dict(state["loss_scale"])
        if len(state["sums"]) == self.ranks.world:
            self.sums = torch.tensor(state["sums"][self.ranks.rank], device=self.ranks.device)
        elif self.ranks.first:  # the world size changed, but the sum over ranks is the same
            self.sums = torch.tensor(state["sums"], device=self.ranks.device).sum(dim=0)
        if self.ranks.first:
            runs.resume(self.directory, self.done, state["metrics_bytes"], device)
            print(f"resuming after step {self.done} from {folder}", file=sys.stderr, flush=True)

    def checkpoint(self) -> None:
        """Write a checkpoint of this step. Collective: all ranks must call."""
        began = time.monotonic()
        self.refuse_not_finite()
        if self.ranks.first:
            self.write_metrics()
        state = {
            "done": self.done,
            "seconds": self.seconds,
            "work": [tuple(each) for each in self.work],
            "loss_scale": None if (scaler := loss_scale(self.engine)) is None else scaler.state_dict(),
            "sums": distributed.all_gather_object(self.sums.tolist()),
            "metrics_bytes": (self.directory / "metrics.jsonl").stat().st_size,
        }
        checkpoint.save(self.engine, self.directory, self.done, state, self._made_from(), self.ranks)
        self.checkpoints.wrote(time.monotonic() - began)


class StopSignal:
    """Record SIGTERM (from Slurm or a spot instance) and SIGINT in `asked`, which the loop checks."""

    asked = False

    def __enter__(self) -> "StopSignal":
        self.before = {kind: signal.signal(kind, self._ask) for kind in stop_signals()}
        return self

    def _ask(self, number: int, frame: Any) -> None:
        self.asked = True

    def __exit__(self, *_: Any) -> None:
        for kind, handler in self.before.items():
            signal.signal(kind, handler)


def _step_seed(seed: int, step: int, rank: int) -> int:
    """Return a distinct seed for each (seed, step, rank)."""
    return int(np.random.SeedSequence([seed, step, rank]).generate_state(1, np.uint64)[0] >> 1)
