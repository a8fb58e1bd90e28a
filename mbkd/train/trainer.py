"""The steps of a run: one language a step, one teacher, one branch (Eq. 1-8), and measurements in between.

Letters: B rows, C classes.
"""

import shutil
import signal
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mbkd import distributed, runs
from mbkd.config import Config
from mbkd.data.batches import Plan, micro_batch
from mbkd.distill import signals
from mbkd.distill.losses import step_loss
from mbkd.errors import Stopped, UserError
from mbkd.evaluate import measure
from mbkd.inputs import Inputs
from mbkd.model import grow
from mbkd.result import Result
from mbkd.terminal.progress import ProgressBar
from mbkd.train import checkpoint
from mbkd.train.engine import one_branch_learns
from mbkd.train.optim import BranchAdamW, lr_factor
from mbkd.train.tracking import Tracker

STEPS_PER_RECORD = 20  # steps that one entry of metrics.jsonl sums up


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
        ranks: distributed.Ranks,
        checkpoints: checkpoint.Schedule,
        log: str = "none",
    ):
        self.config, self.directory, self.inputs, self.plan = config, directory, inputs, plan
        self.engine, self.optimizer, self.ranks = engine, optimizer, ranks
        self.source, self.checkpoints, self.log = source, checkpoints, log
        # Without Eq. 8 every branch learns from every batch; K = 0 has shared groups only.
        self.still = config.train.idle_branches == "still" and one_branch_learns(engine.module)
        self.precision = distributed.precision(config.train.precision)
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
            ProgressBar(f"{config.system}, seed {config.seed}", plan.steps, self.ranks.first, self.done) as progress,
        ):
            while self.done < plan.steps:
                began = time.perf_counter()
                stopping = self.step(self.done, stop.asked)
                distributed.synchronize()
                self.seconds.append(time.perf_counter() - began)
                self.done += 1
                epoch = epoch_ends.get(self.done)
                recorded = self.done % STEPS_PER_RECORD == 0 or self.done == plan.steps
                progress.advance(self.record() if recorded else {})
                if epoch is not None and self.done < plan.steps and "dev" in self.inputs.heldout:
                    self.measure("dev", epoch)
                looked = recorded or epoch is not None
                due = self.checkpoints.due(self.done, epoch is not None) if looked else self.checkpoints.at(self.done)
                if stopping or due:
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
            logits = self.engine(
                **distributed.tensors(tokens.batch(mine), ranks.device), **self._route(language)
            ).logits
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
        said, stopping = distributed.agree(names.index(language), stop)
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
        bad = distributed.sum_over_ranks(1 - torch.stack(self.finite).float()).cpu().numpy()
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
        sums = distributed.sum_over_ranks(self.sums).cpu()
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
        with ProgressBar(f"measuring {split}", len(stores), self.ranks.first and epoch is None) as progress:
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
        """Write result.json, after everything else that the run leaves behind; on the first rank."""
        if self.tracker is not None:
            self.tracker.close()  # a run that stops before this is not finished for its tracker, too
        result.write(self.directory)
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
        folder = distributed.everyones(mine)[0]
        device = {
            "device": distributed.device_name(self.ranks),
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
        """Load a checkpoint into the engine and this trainer."""
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
        began = time.monotonic()
        self.refuse_not_finite()
        state = {
            "done": self.done,
            "seconds": self.seconds,
            "sums": distributed.everyones(self.sums.tolist()),
            "metrics_bytes": (self.directory / "metrics.jsonl").stat().st_size,
        }
        checkpoint.save(self.engine, self.directory, self.done, state, self._made_from(), self.ranks)
        self.checkpoints.wrote(time.monotonic() - began)


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
