"""Cache of teacher logits for a training split, computed once and shared by all runs on the machine.

A cache is a folder <runs>/store/logits/<language>-<hash>/ with a manifest and logits.npy: (rows, C) fp32 output of the
engine, in the teacher's order of classes. The hash covers the teacher's weights, its tokens (data, tokenizer, length),
the precision and the versions. Finished chunks survive a killed process, and the complete cache appears atomically.
"""

import io
import json
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from filelock import Timeout

from mbkd import distributed
from mbkd.data.batches import TOKENS_PER_BATCH, evaluation_batches
from mbkd.data.tokens import Tokens
from mbkd.distill import checks
from mbkd.distill.teachers import Teacher, dtype
from mbkd.errors import UserError
from mbkd.files import Store, refuse_full, write_whole
from mbkd.inputs import TeacherInput
from mbkd.terminal.progress import ProgressBar

FORMAT = 2  # increment when the files of a cache change their meaning
BATCHES_PER_CHUNK = 8
REPEAT = 60.0  # seconds between two reports of the wait
PATIENCE = 2.0  # seconds between two attempts to take another builder's lock


class Cache:
    """Logits of one teacher on one language's training rows; read-only.

    logits    (rows, C) fp32, memory-mapped, in the teacher's order of classes
    labels    names of the classes
    sha256    of logits.npy
    checked   results of the teacher's checks (see mbkd.distill.checks)
    dev       fingerprint of the dev tokens of these checks; None without dev rows
    """

    def __init__(self, folder: Path):
        manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        self.folder = folder
        self.logits: np.ndarray = np.load(folder / "logits.npy", mmap_mode="r")
        self.labels = {int(index): name for index, name in manifest["labels"].items()}
        self.sha256: str = manifest["files"]["logits.npy"]["sha256"]
        self.checked: dict[str, Any] = manifest["checked"]
        self.dev: str | None = manifest.get("dev", "")  # "" in caches of earlier versions: unknown


def open_cache(
    language: str,
    given: TeacherInput,
    make: Callable[[], Teacher],
    store: Path,
    ranks: distributed.Ranks,
    allow_chance: bool = False,
) -> Cache:
    """Open the cache of a teacher. All ranks build the cache first if it is missing or damaged.

    make: loads the teacher; called only to build. Raises UserError for a refused teacher.
    Collective: all ranks must call.
    """
    made_from = {
        "teacher": given.fingerprint,
        "tokens": given.train.fingerprint,
        "max_length": given.train.manifest["made_from"]["max_length"],
        "precision": str(dtype()).removeprefix("torch."),
        "versions": checks.versions(),
        "format": FORMAT,
    }
    found = Store(store / "logits" / language, made_from)
    if ranks.first:
        with refuse_full(found.folder):
            found.folder.parent.mkdir(parents=True, exist_ok=True)
    waiting = time.monotonic() - REPEAT
    # Only the first rank takes the lock. It reports every PATIENCE seconds, so no collective call times out.
    while (state := distributed.all_gather_object(_look(found) if ranks.first else "")[0]) == "busy":
        # Repeated, because a sweep stops a trial that prints nothing for `--hang-minutes`.
        if ranks.first and time.monotonic() - waiting >= REPEAT:
            print(f"waiting for another process that builds {found.folder}", file=sys.stderr, flush=True)
            waiting = time.monotonic()
    if state == "ours":
        try:
            teacher = make()
            checked = checks.examine(teacher, language, given, store)
            checks.refuse(language, checked, allow_chance)
            _chunks(teacher, language, given.train, found.folder, ranks)
            dev = given.dev and given.dev.fingerprint
            header = {"teacher": given.path, "labels": teacher.labels, "checked": checked, "dev": dev}
            problem = _assemble(found, header, given.train) if ranks.first else ""
            if problem := distributed.all_gather_object(problem)[0]:
                raise UserError(f"teacher of {language} ({given.path}): {problem}")
        finally:
            found.lock.release()
    return Cache(found.folder)


def _look(found: Store) -> str:
    """State of the cache: `whole`; `ours`, with the lock taken; or `busy`, if another process builds the cache."""
    if not found.problem():
        return "whole"  # opened without the lock
    try:
        found.lock.acquire(timeout=PATIENCE)
    except Timeout:
        return "busy"
    problem = found.problem()
    if not problem:  # another process has finished the cache in the meantime
        found.lock.release()
        return "whole"
    if found.folder.exists():
        print(f"warning: {found.folder}: {problem}; rebuilding the cache", file=sys.stderr, flush=True)
    return "ours"


def _chunks(teacher: Teacher, language: str, tokens: Tokens, folder: Path, ranks: distributed.Ranks) -> None:
    """Compute the missing chunks, each on one rank. Collective: all ranks must call.

    The batches do not depend on the number of ranks.
    """
    parts = _parts(folder)
    if ranks.first:
        parts.mkdir(exist_ok=True)
    distributed.wait_for_all()
    chunks = _plan(tokens)
    with ProgressBar(f"logits of the teacher of {language}", len(chunks), ranks.first) as progress:
        for start in range(0, len(chunks), ranks.world):
            number = start + ranks.rank
            if number < len(chunks) and _part(parts, number, sum(map(len, chunks[number]))) is None:
                answers = [teacher.answer(tokens.batch(rows)).logits.cpu().numpy() for rows in chunks[number]]
                buffer = io.BytesIO()
                np.save(buffer, np.concatenate(answers))
                write_whole(parts / f"{number}.npy", buffer.getvalue())
            distributed.wait_for_all()  # ranks without work keep pace, so no collective call times out
            progress.advance(steps=min(ranks.world, len(chunks) - start))


def _assemble(found: Store, header: dict[str, Any], tokens: Tokens) -> str:
    """Write the logits of all chunks in the order of the rows. Returns a problem, or an empty string on success."""
    parts = _parts(found.folder)
    logits = np.zeros((len(tokens), len(header["labels"])), np.float32)
    for number, chunk in enumerate(_plan(tokens)):
        rows = np.concatenate(chunk)
        part = _part(parts, number, len(rows))
        if part is None:
            return f"{parts}/{number}.npy has become unreadable; run the same command again"
        logits[rows] = part
    if not (finite := np.isfinite(logits).all(axis=1)).all():
        row = int((~finite).argmax())
        return f"its logits are not finite for {int((~finite).sum())} rows; the first is {tokens.row_ids[row]}"

    def write(folder: Path) -> dict[str, Any]:
        np.save(folder / "logits.npy", logits)
        return header

    try:
        found.build(write)
    except UserError as error:
        return str(error)
    shutil.rmtree(parts)
    return ""


def _plan(tokens: Tokens) -> list[list[np.ndarray]]:
    """Chunks of batches: longest rows first, each batch within a budget of tokens."""
    batches = evaluation_batches(tokens.lengths, TOKENS_PER_BATCH, 0, 1)
    return [batches[i : i + BATCHES_PER_CHUNK] for i in range(0, len(batches), BATCHES_PER_CHUNK)]


def _parts(folder: Path) -> Path:
    return folder.with_name(folder.name + ".parts")


def _part(parts: Path, number: int, rows: int) -> np.ndarray | None:
    """Logits (rows, C) of a chunk; None if the file is missing or unreadable."""
    try:
        found: np.ndarray = np.load(parts / f"{number}.npy")
    except (OSError, ValueError, EOFError):
        return None
    return found if len(found) == rows else None
