"""What a run needs to go on exactly where it stopped: written whole or not at all, verified when read.

A checkpoint is checkpoints/step-<number>/ with DeepSpeed's files (model, optimizer, the loop's state) and a manifest
that names what made it and the SHA-256 of every file. Dropout and data order are functions of (seed, step), so no
generator's state is needed. DeepSpeed reads its files with torch.load(weights_only=False), which can run code:
the manifest's checksums tell damage, not malice, so resume only from run directories of your own.
"""

import json
import shutil
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mbkd.data.readers import one_line
from mbkd.distributed import Ranks, all_gather_object, wait_for_all
from mbkd.errors import UserError
from mbkd.files import sha256, write_json

KEPT = 2
DEEPSPEED = "deepspeed"  # the tag, which is the name of DeepSpeed's folder
SHARE = 0.01  # of a run's time that writing checkpoints may take


@dataclass
class Schedule:
    """When a run writes checkpoints: by the clock of its first rank, and every so many steps where these are given.

    minutes: from the end of one checkpoint to the next, and the length of an epoch at whose end there is one, too; more
    where writing them would take longer than SHARE of the time.
    """

    minutes: float = 10.0
    steps: int | None = None
    took: float = 0.0  # seconds, the last one's writing
    written: float = field(default_factory=time.monotonic)  # when that was
    epoch: float = field(default_factory=time.monotonic)  # when this epoch began

    def due(self, step: int, epoch_ends: bool) -> bool:
        """Whether to write one after this step. Collective: all ranks must call."""
        now, interval = time.monotonic(), max(60 * self.minutes, 2 * self.took / SHARE)  # 2: epochs' ends
        mine = now - self.written >= interval or (epoch_ends and now - self.epoch >= interval)
        if epoch_ends:
            self.epoch = now
        return all_gather_object(mine)[0] or self.at(step)

    def at(self, step: int) -> bool:
        """Whether the number of the step alone asks for one."""
        return self.steps is not None and step % self.steps == 0

    def wrote(self, took: float) -> None:
        """Take note of a checkpoint that was just written, in so many seconds."""
        self.took, self.written = took, time.monotonic()


def save(engine: Any, run: Path, step: int, state: dict[str, Any], made_from: dict[str, Any], ranks: Ranks) -> None:
    """Write the checkpoint of a step, then remove all but the last few. Collective: all ranks must call.

    state: what the loop needs besides model and optimizer. made_from: what must be the same when it is read.
    Raises UserError where it cannot be written.
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
            for old in sorted(final.parent.glob("step-*"))[:-KEPT]:
                shutil.rmtree(old)
    except (UserError, OSError, RuntimeError) as error:
        if "by peer" in str(error):
            raise  # another rank is gone, which is no matter of this disk
        shutil.rmtree(part, ignore_errors=True)
        last = max(final.parent.glob("step-*"), default=None)
        kept = f"{last} is whole, and the same command resumes from it" if last else "there is no earlier checkpoint"
        reason = one_line(error)
        raise UserError(f"{final}: the checkpoint cannot be written ({reason}); make room, then: {kept}") from None
    wait_for_all()


def newest(run: Path, made_from: dict[str, Any], show: bool = True) -> Path | None:
    """The newest whole checkpoint of a run, or None. A damaged one is named and the one before it is taken.

    Raises UserError, naming what changed, for one that something else made.
    """
    for folder in sorted((run / "checkpoints").glob("step-*"), reverse=True):
        problem = _damage(folder)
        if problem:
            if show:
                print(f"warning: {folder}: {problem}; the checkpoint before it is used", file=sys.stderr, flush=True)
            continue
        before = _manifest(folder)["made_from"]
        changed = [k for k in {**before, **made_from} if before.get(k) != made_from.get(k)]
        if changed:
            lines = "\n".join(f"  {k}: was {before.get(k)!r}, is {made_from.get(k)!r}" for k in sorted(changed))
            raise UserError(
                f"{folder}: cannot be resumed, something that made it changed; --fresh starts over\n{lines}"
            )
        return folder
    return None


def restore(engine: Any, folder: Path) -> dict[str, Any]:
    """Load model and optimizer into the engine; returns the trainer's state. Collective: all ranks must call."""
    _, client = engine.load_checkpoint(str(folder), tag=DEEPSPEED, load_lr_scheduler_states=False)
    state: dict[str, Any] = client["mbkd"]
    return state


def _manifest(folder: Path) -> dict[str, Any]:
    manifest: dict[str, Any] = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    return manifest


def _damage(folder: Path) -> str:
    """What is wrong with a checkpoint's files; empty if nothing is."""
    try:
        for name, expected in _manifest(folder)["files"].items():
            if sha256(folder / name) != expected:
                return f"{name} is damaged"
    except (OSError, ValueError, KeyError) as error:
        return f"it is not whole ({error})"
    return ""
