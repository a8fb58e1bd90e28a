"""The hash of a split's rows in a language, independent of the file format. Results record this hash."""

import contextlib
import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING

from mbkd.config import Task
from mbkd.data import tasks
from mbkd.errors import UserError
from mbkd.files import write_json

if TYPE_CHECKING:  # the import takes a second, and known hashes do not need it
    import datasets

CHUNK = 10_000
COLUMNS = ("text_a", "text_b", "label", "id")
_known: dict[str, str] = {}  # `tasks.fingerprint` -> hash of the rows


def digest(task: Task, split: str, language: str, store: Path) -> str:
    """Return the SHA-256 of texts, labels and ids, in order. Rows with a known hash are not read again.

    store: keeps hashes for other processes. Raises UserError as `tasks.load` does.
    """
    data = tasks.fingerprint(task, split, language, store)
    if data not in _known:
        try:
            _known[data] = json.loads(_file(data, store).read_text(encoding="utf-8"))["rows"]
        except (OSError, ValueError, KeyError, TypeError):
            keep(tasks.load(task, split, language), data, store)
    return _known[data]


def keep(rows: "datasets.Dataset", data: str, store: Path) -> None:
    """Compute and keep the hash of loaded rows. data: their `tasks.fingerprint`."""
    found = hashlib.sha256()
    for start in range(0, len(rows), CHUNK):
        part = rows[start : start + CHUNK]
        found.update(json.dumps([part[name] for name in COLUMNS]).encode())
    _known[data] = found.hexdigest()
    with contextlib.suppress(OSError, UserError):  # on a full or read-only disk, the next process reads the rows again
        file = _file(data, store)
        file.parent.mkdir(parents=True, exist_ok=True)
        write_json(file, {"rows": _known[data]})


def _file(data: str, store: Path) -> Path:
    return store / "hashes" / f"rows-{data[:16]}.json"
