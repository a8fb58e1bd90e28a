"""The hash of a split's rows in a language, whatever file holds them: what a result speaks for."""

import contextlib
import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING

from mbkd.config import Task
from mbkd.data import tasks
from mbkd.errors import UserError
from mbkd.files import write_json

if TYPE_CHECKING:  # a second that a look at rows that are known does not pay for
    import datasets

CHUNK = 10_000
COLUMNS = ("text_a", "text_b", "label", "id")
_known: dict[str, str] = {}  # by the hash of the data


def digest(task: Task, split: str, language: str, store: Path) -> str:
    """SHA-256 of texts, labels and ids, in order. The rows are read only where their data is not known yet.

    store: where hashes are kept for other processes. Raises UserError as `tasks.load` does.
    """
    data = tasks.fingerprint(task, split, language, store)
    if data not in _known:
        try:
            _known[data] = json.loads(_file(data, store).read_text(encoding="utf-8"))["rows"]
        except (OSError, ValueError, KeyError, TypeError):
            keep(tasks.load(task, split, language), data, store)
    return _known[data]


def keep(rows: "datasets.Dataset", data: str, store: Path) -> None:
    """Compute and keep the hash of rows that were loaded. data: what `tasks.fingerprint` says of them."""
    found = hashlib.sha256()
    for start in range(0, len(rows), CHUNK):
        part = rows[start : start + CHUNK]
        found.update(json.dumps([part[name] for name in COLUMNS]).encode())
    _known[data] = found.hexdigest()
    with contextlib.suppress(OSError, UserError):  # a full or read-only disk: the next process reads the rows again
        file = _file(data, store)
        file.parent.mkdir(parents=True, exist_ok=True)
        write_json(file, {"rows": _known[data]})


def _file(data: str, store: Path) -> Path:
    return store / "hashes" / f"rows-{data[:16]}.json"
