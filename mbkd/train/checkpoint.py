"""Checkpoints for an exact resume: written atomically, and verified when read.

A checkpoint is checkpoints/step-<number>/ with DeepSpeed's files (model, optimizer, state of the training loop) and a
manifest. The manifest has the fingerprints of the inputs and the SHA-256 of every file. Dropout and data order are
functions of (seed, step), so checkpoints contain no generator states. DeepSpeed reads its files with
torch.load(weights_only=False), which can run code. The checksums detect damage but not malice: resume only from your
own run directories.
"""

import json
import shutil
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from mbkd.data.readers import one_line
from mbkd.distributed import Ranks, all_gather_object, wait_for_all
from mbkd.errors import UserError, lost_rank
from mbkd.files import sha256, write_json

KEPT = 2
DEEPSPEED = "deepspeed"  # the tag, and so the name of DeepSpeed's folder
SHARE = 0.01  # largest share of a run's time for writing checkpoints


@dataclass
class Schedule:
    """The schedule of a run's checkpoints, by the clock of the first rank and by steps.

    minutes: between checkpoints. An epoch at least this long also ends with a checkpoint. The interval is longer if
    writing checkpoints would take more than SHARE of the time.
    steps: between additional checkpoints; None writes no additional ones.
    """

    minutes: float = 10.0
    steps: int | None = None
    took: float = 0.0  # seconds to write the last checkpoint
    written: float = field(default_factory=time.monotonic)  # time of the last checkpoint
    epoch: float = field(default_factory=time.monotonic)  # start of this epoch

    def due(self, step: int, epoch_ends: bool) -> bool:
        """Return whether a checkpoint is due after this step. Collective: all ranks must call."""
        now, interval = time.monotonic(), max(60 * self.minutes, 2 * self.took / SHARE)  # 2: epoch ends add checkpoints
        mine = now - self.written >= interval or (epoch_ends and now - self.epoch >= interval)
        if epoch_ends:
            self.epoch = now
        return all_gather_object(mine)[0] or self.at(step)

    def at(self, step: int) -> bool:
        """Return whether a checkpoint is due by `steps` alone."""
        return self.steps is not None and step % self.steps == 0

    def wrote(self, took: float) -> None:
        """Record that a checkpoint has just been written, in `took` seconds."""
        self.took, self.written = took, time.monotonic()


def save(engine: Any, run: Path, step: int, state: dict[str, Any], made_from: dict[str, Any], ranks: Ranks) -> None:
    """Write the checkpoint of a step; keep only this one and the KEPT - 1 before it. Collective: all ranks must call.

    state: of the training loop. made_from: values that must be equal when the run resumes.
    Raises UserError if the checkpoint cannot be written.
    """
    final = run / "checkpoints" / f"step-{step:08d}"
    part = final.with_name(f".{final.name}.part")
    if ranks.first and part.exists():
        shutil.rmtree(part)
    wait_for_all()
    try:
        part.mkdir(parents=True, exist_ok=True)
        engine.save_checkpoint(str(part), tag=DEEPSPEED, client_state={"mbkd": state}, save_latest=False)
        wait_for_all()
        if ranks.first:
            files = {str(f.relative_to(part)): sha256(f) for f in sorted(part.rglob("*")) if f.is_file()}
            write_json(part / "manifest.json", {"step": step, "made_from": made_from, "files": files})
            if final.exists():
                shutil.rmtree(final)
            part.rename(final)
            there = sorted(final.parent.glob("step-*"))
            # Checkpoints of later steps are damaged: the run did not resume from them.
            keep = [each for each in there if each <= final][-KEPT:]
            for old in set(there).difference(keep):
                shutil.rmtree(old)
    except (UserError, OSError, RuntimeError) as error:
        if lost_rank(error) or isinstance(error, torch.distributed.DistBackendError | torch.OutOfMemoryError):
            raise  # the disk is not the cause
        shutil.rmtree(part, ignore_errors=True)
        last = max(final.parent.glob("step-*"), default=None)
        kept = f"the run resumes from {last}" if last else "there is no earlier checkpoint"
        reason = one_line(error)
        raise UserError(
            f"{final}: the checkpoint cannot be written ({reason}); make room, then run the same command again; {kept}"
        ) from None
    wait_for_all()


def newest(run: Path, made_from: dict[str, Any], show: bool = True) -> Path | None:
    """Return the newest intact checkpoint of a run, or None.

    show: print a warning for each damaged checkpoint. Raises UserError, with the changed values, if the checkpoint
    has a different `made_from`.
    """
    for folder in sorted((run / "checkpoints").glob("step-*"), reverse=True):
        problem = _damage(folder)
        if problem:
            if show:
                print(f"warning: {folder}: {problem}; the checkpoint before it is used", file=sys.stderr, flush=True)
            continue
        # Manifests of earlier versions have no backbone.
        before = {"backbone": made_from.get("backbone")} | _manifest(folder)["made_from"]
        changed = [k for k in {**before, **made_from} if before.get(k) != made_from.get(k)]
        if changed:
            lines = "\n".join(f"  {k}: was {before.get(k)!r}, is {made_from.get(k)!r}" for k in sorted(changed))
            raise UserError(
                f"{folder}: cannot be resumed, because its inputs have changed; --fresh starts over\n{lines}"
            )
        return folder
    return None


def restore(engine: Any, folder: Path) -> dict[str, Any]:
    """Load model and optimizer, and return the state of the loop. Collective: all ranks must call."""
    _, client = engine.load_checkpoint(str(folder), tag=DEEPSPEED, load_lr_scheduler_states=False)
    state: dict[str, Any] = client["mbkd"]
    return state


def _manifest(folder: Path) -> dict[str, Any]:
    manifest: dict[str, Any] = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    return manifest


def _damage(folder: Path) -> str:
    """Return a description of the damage to a checkpoint; empty if the checkpoint is intact."""
    try:
        for name, expected in _manifest(folder)["files"].items():
            if sha256(folder / name) != expected:
                return f"{name} is damaged"
    except (OSError, ValueError, KeyError) as error:
        return f"files are missing or damaged ({error})"
    return ""
