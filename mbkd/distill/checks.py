"""Checks of a teacher before use: parity of its inference engine, and its accuracy on dev rows.

Parity compares, on a sample of the language's training rows, the engine with the plain fp32 model, and padded batches
with unpadded batches. Accuracy on the language's dev rows must exceed chance. Results are measured once per teacher,
tokens and device, and kept in the store.
"""

import hashlib
import json
import math
import sys
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.table import Table
from torch import Tensor

from mbkd import distributed
from mbkd.data.batches import evenly_spaced
from mbkd.data.tokens import Tokens
from mbkd.distill.teachers import Teacher, dtype, load
from mbkd.errors import UserError
from mbkd.evaluate import measure, metrics
from mbkd.files import write_json
from mbkd.inputs import TeacherInput
from mbkd.terminal.console import make_console
from mbkd.terminal.progress import PATIENCE, ProgressBar

SAMPLE = 1024  # rows of the parity check
PADDED_EVERY = 4  # every 4th of these rows is also padded; wide batches are slow, and every row shows a wrong mask
AGREEMENT = 0.999  # share of rows that must get the same label: one row in SAMPLE may differ
TIE = 1e-2  # best two logits closer than this are a tie; either label teaches a student the same
ROWS_PER_BATCH = 64


def examine(teacher: Teacher, language: str, given: TeacherInput, store: Path) -> dict[str, Any]:
    """Results of a teacher's checks on a language, measured over all ranks or read from the store.

    A teacher with non-finite logits in half precision (mDeBERTa in fp16) is switched to fp32. `refuse` judges the other
    results. Raises UserError for tokens of another tokenizer. Collective: all ranks must call.
    """
    tokens = [x for x in (given.train, given.dev) if x is not None]
    for each in tokens:
        teacher.refuse_other_tokens(each)
    key = [given.fingerprint, *(x.fingerprint for x in tokens), str(dtype()), teacher.ranks.device.type, versions()]
    file = store / "teachers" / f"{language}-{hashlib.sha256(json.dumps(key).encode()).hexdigest()[:16]}.json"
    found: dict[str, Any] | None = distributed.all_gather_object(_read(file) if teacher.ranks.first else None)[0]
    if found is not None:
        if found["precision"] == "float32":  # fp16 is never restored, because rows of another language may overflow
            teacher.compute_in_fp32()
        return found
    title = f"checking the teacher of {language}: engine and accuracy"
    with ProgressBar(title, 2, teacher.ranks.first, patience=PATIENCE) as progress:
        compared = parity(teacher, given.train)
        if compared["engine"]["difference"] is None and teacher.precision != torch.float32:
            if teacher.ranks.first:
                half = str(teacher.precision).removeprefix("torch.")
                what = f"logits are not finite in {half}; using float32"
                print(f"teacher of {language} ({given.path}): {what}", file=sys.stderr, flush=True)
            teacher.compute_in_fp32()
            compared = parity(teacher, given.train)
        progress.advance()
        found = {"teacher": given.path, "precision": str(teacher.precision).removeprefix("torch.")}
        found |= compared | dev_accuracy(teacher, given.dev)
        progress.advance()
    if teacher.ranks.first:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_json(file, found)
    return found


def parity(teacher: Teacher, tokens: Tokens) -> dict[str, Any]:
    """Largest logit difference and agreement: engine and fp32 model, padded and unpadded batches.

    Collective: all ranks must call.
    """
    ranks = teacher.ranks
    rows = evenly_spaced(len(tokens), SAMPLE)
    mine = rows[ranks.rank :: ranks.world]
    plain = load(teacher.path).to(ranks.device)
    # (rows, largest difference, agreeing rows) of each comparison
    seen = {"engine": [0, 0.0, 0], "padding": [0, 0.0, 0]}
    for same in _of_one_length(tokens, mine):
        batch = tokens.batch(same)
        with torch.inference_mode():
            wanted = plain(**distributed.tensors(batch, ranks.device)).logits
        _compare(seen["engine"], wanted, teacher.answer(batch).logits)
    for same in _of_one_length(tokens, mine[::PADDED_EVERY]):
        wide = tokens.batch(same, tokens.manifest["made_from"]["max_length"])
        _compare(seen["padding"], teacher.answer(tokens.batch(same)).logits, teacher.answer(wide).logits)
    result: dict[str, Any] = {}
    for name in seen:
        every = [each[name] for each in distributed.all_gather_object(seen)]
        difference = max((x[1] for x in every), key=lambda x: (math.isnan(x), x))
        count = sum(x[0] for x in every)
        result[name] = {
            "rows": count,
            "difference": difference if math.isfinite(difference) else None,  # JSON has finite numbers only
            "agreement": sum(x[2] for x in every) / count,
        }
    return result


def dev_accuracy(teacher: Teacher, dev: Tokens | None) -> dict[str, Any]:
    """Accuracy on the language's dev rows, and the accuracy of guessing; empty without dev rows."""
    if dev is None:
        return {"dev": 0, "accuracy": None}
    found = measure.logits(teacher.engine.module, dev, teacher.ranks)[:, teacher.order]
    labels = np.asarray(dev.labels)
    rate, bound = metrics.chance(labels)
    return {"dev": len(labels), "accuracy": metrics.accuracy(found, labels), "chance": rate, "bound": bound}


def refuse(language: str, found: dict[str, Any], allow_chance: bool) -> None:
    """Raise UserError for a teacher whose engine is wrong, or whose accuracy is not above chance."""
    for name, what in (
        ("engine", f"{found['precision']} engine and fp32 model"),
        ("padding", "padded and unpadded batches"),
    ):
        agreement, difference = found[name]["agreement"], found[name]["difference"]
        if agreement < AGREEMENT:
            largest = "not finite" if difference is None else f"{difference:.3g}"
            raise UserError(
                f"teacher of {language} ({found['teacher']}): {what} agree on {agreement:.2%} of {found[name]['rows']} "
                f"rows only; {AGREEMENT:.1%} is needed (largest logit difference: {largest}); fine-tune another "
                "checkpoint"
            )
    if not allow_chance and found["accuracy"] is not None and found["accuracy"] <= found["bound"]:
        raise UserError(
            f"teacher of {language} ({found['teacher']}): {found['accuracy']:.2%} correct on {found['dev']} dev rows "
            f"is no better than chance: chance is {found['chance']:.2%}, and more than {found['bound']:.2%} is needed; "
            "fine-tune it longer (teaching.*), or set distill.allow_chance_teachers=true"
        )


def show(found: list[tuple[str, dict[str, Any]]]) -> None:
    """Print the results of the checks on standard error, one line per teacher."""
    table = Table("teacher", "own dev accuracy", "chance", "engine against fp32", "padded against unpadded", box=None)
    for language, each in found:
        accuracy, chance = (
            ("not measured: no dev rows", "-")
            if each["accuracy"] is None
            else (f"{each['accuracy']:.2%}", f"{each['chance']:.2%}")
        )
        cells = []
        for name in ("engine", "padding"):
            difference = each[name]["difference"]
            largest = "not finite" if difference is None else f"{difference:.1e}"
            cells.append(f"{largest}, {each[name]['agreement']:.2%} the same")
        table.add_row(language, accuracy, chance, *cells)
    make_console(stderr=True).print(table)


def versions() -> dict[str, str]:
    """Versions that affect a teacher's logits."""
    return {name: version(name) for name in ("torch", "deepspeed", "transformers")}


def _compare(seen: list[Any], a: Tensor, b: Tensor) -> None:
    """Update rows, largest difference and agreeing rows with two sets of logits (B, C) of the same rows."""
    best = a.topk(2).values  # (B, 2)
    agree = (a.argmax(dim=1) == b.argmax(dim=1)) | (best[:, 0] - best[:, 1] < TIE)
    agree &= b.isfinite().all(dim=1)
    difference = float((a - b).abs().max())
    seen[0] += len(a)
    seen[1] = difference if not math.isfinite(difference) else max(seen[1], difference)
    seen[2] += int(agree.sum())


def _of_one_length(tokens: Tokens, rows: np.ndarray) -> Iterator[np.ndarray]:
    """Batches of rows of equal length, which need no padding."""
    lengths = tokens.lengths[rows]
    for length in np.unique(lengths):
        same = rows[lengths == length]
        yield from (same[i : i + ROWS_PER_BATCH] for i in range(0, len(same), ROWS_PER_BATCH))


def _read(file: Path) -> dict[str, Any] | None:
    try:
        found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        return found
    except (OSError, ValueError):
        return None
