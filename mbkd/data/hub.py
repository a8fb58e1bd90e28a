"""Hub datasets, or local folders in their layout; revisions of hub datasets and models.

A process requests the newest revision of a dataset or model once, and processes that it starts use the same revision.
Facts of a dataset revision never change, so a store keeps them.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mbkd.data.readers import Rows, from_arrow, one_line
from mbkd.errors import UserError, is_transient, patiently
from mbkd.files import write_json

if TYPE_CHECKING:  # the import takes a second, and local files do not need it
    import datasets

ANSWERS = "MBKD_HUB_ANSWERS"  # environment variable: JSON of answers, such as the revision of each dataset and model
PATIENCE = 10.0  # seconds for the hub's answer
_store: list[Path] = []  # the folder that keeps facts of revisions; empty before `keep`


def keep(store: Path) -> None:
    """Keep the hub's answers about dataset revisions in a store, and use earlier answers from the store."""
    _store[:] = [store / "hub"]


def read(path: str, language: str, split: str) -> Rows:
    """Read one language and split of a hub dataset, or of a local clone of one. Raises UserError."""
    import datasets

    with tempfile.TemporaryDirectory() as scratch:
        found = load(path, language, split, scratch if is_local(path) else None)
        features = (found.features or {}).items()
        names = {name: feature.names for name, feature in features if isinstance(feature, datasets.ClassLabel)}
        return from_arrow(f"{path} ({split})", found.data.table, names)


def load(path: str, language: str, split: str, scratch: str | None = None) -> datasets.Dataset:
    """Load the dataset with the cache of `datasets`, or with a scratch folder. Raises UserError."""
    import datasets

    try:
        where: dict[str, Any] = keywords(path, language) | {"revision": revision(path)}
        return patiently(
            lambda: datasets.load_dataset(
                path, split=split, cache_dir=scratch, keep_in_memory=scratch is not None, **where
            )
        )
    except UserError:
        raise
    except Exception as error:  # the hub, the network and the readers raise dozens of types
        raise UserError(f"{path}: split {split!r} for {language!r} cannot be loaded: {one_line(error)}") from None


def fingerprint(path: str, language: str, split: str) -> list[Any]:
    """Return the facts that decide a dataset's rows, such as its id, revision and split. Raises UserError."""
    if (known := revision(path)) is None:
        return [load(path, language, split)._fingerprint]
    return [path, known, keywords(path, language), split]


def revision(path: str) -> str | None:
    """Return the revision of a hub dataset for this process: the newest one at the first call.

    If the hub is unreachable, this is the last revision in the store. Returns None for a local folder, and if no
    revision is known; `datasets` then uses its cache. Raises UserError if the hub is too busy.
    """
    if is_local(path):
        return None

    def ask() -> str | None:
        from huggingface_hub import HfApi

        try:
            return patiently(lambda: HfApi().dataset_info(path, timeout=PATIENCE)).sha
        except Exception as error:  # as in `load`
            _refuse_busy(path, error)
            return _last_seen(path)

    if os.environ.get("HF_HUB_OFFLINE", "0") not in ("", "0"):  # the current value; huggingface_hub reads it at import
        return once(f"dataset {path}") or _last_seen(path)
    return once(f"dataset {path}", ask)


def model_revision(path: str) -> str | None:
    """Return the revision of a hub model for this process: the newest one at the first call.

    If the hub is unreachable, this is the last revision in the hub's cache. Returns None for a folder, and if no
    revision is known. Raises UserError if the hub is too busy.
    """
    if Path(path).is_dir():
        return None

    def ask() -> str | None:
        from huggingface_hub import hf_hub_download

        try:  # a download of a file, because the cache then records the newest revision for later offline runs
            return Path(patiently(lambda: hf_hub_download(path, "config.json"))).parent.name
        except Exception as error:  # as in `load`
            _refuse_busy(path, error)
            return None

    return once(f"model {path}", ask)


def pinned(path: str) -> dict[str, str]:
    """Return `model_revision` as a keyword of `from_pretrained`; {} for a folder. Raises UserError."""
    found = model_revision(path)
    return {} if found is None else {"revision": found}


def once(what: str, ask: Callable[[], str | None] | None = None) -> str | None:
    """Return the result of `ask`, called once by this process or its parents.

    Without `ask`, return the known result or None.
    """
    known: dict[str, str | None] = json.loads(os.environ.get(ANSWERS, "{}"))
    if what not in known and ask is not None:
        answer = ask()  # may call `once` too
        known = json.loads(os.environ.get(ANSWERS, "{}")) | {what: answer}
        os.environ[ANSWERS] = json.dumps(known)
    return known.get(what)


def _refuse_busy(path: str, error: Exception) -> None:
    if is_transient(error):
        raise UserError(f"{path}: the hub is too busy to answer: {one_line(error)}") from None


def _last_seen(path: str) -> str | None:
    files = [file for store in _store for file in store.glob(f"{_slug(path)}@*.json")]
    last = max(files, key=lambda file: file.stat().st_mtime, default=None)
    return last.stem.rpartition("@")[2] if last else None


def _slug(path: str) -> str:
    return re.sub(r"[^\w-]", "_", path)


def _kept(path: str, what: str, ask: Any) -> Any:
    """Return the fact named `what` of a dataset's revision, from the store or from `ask`."""
    known = revision(path)
    if known is None or not _store:
        return ask()
    file = _store[0] / f"{_slug(path)}@{known}.json"
    known_facts: dict[str, Any] = {}
    with contextlib.suppress(OSError, ValueError):  # no file yet, or a damaged file
        known_facts = dict(json.loads(file.read_text(encoding="utf-8")))
    if what not in known_facts:
        known_facts[what] = ask()
        with contextlib.suppress(OSError, UserError):  # on a full or read-only disk, the next process asks again
            file.parent.mkdir(parents=True, exist_ok=True)
            write_json(file, known_facts)
    return known_facts[what]


@cache  # called for every split and language
def configurations(path: str) -> list[str]:
    """Return the names of a hub dataset's configurations. Raises UserError."""

    def ask() -> list[str]:
        import datasets

        return list(patiently(lambda: datasets.get_dataset_config_names(path, revision=revision(path))))

    try:
        found: list[str] = _kept(path, "configurations", ask)
        return found
    except UserError:
        raise
    except Exception as error:  # as in `load`
        if is_local(path):
            raise UserError(f"{path}: cannot be opened in the hub's layout: {one_line(error)}") from None
        hint = f"if a folder is meant, write ./{path}"
        raise UserError(f"{path}: cannot be reached as a hub dataset: {one_line(error)}; {hint}") from None


def keywords(path: str, language: str) -> dict[str, str]:
    """Return the keywords of `load_dataset` for a language in a hub dataset. Raises UserError."""
    names = configurations(path)
    if language in names:
        return {"name": language}
    if is_local(path) and (Path(path) / language).is_dir():  # a clone without its README
        return {"data_dir": language}
    if len(names) == 1 or "default" in names:
        return {"name": "default" if "default" in names else names[0]}
    raise UserError(f"{path}: no configuration for language {language!r}; available: {', '.join(sorted(names))}")


def files(path: str, language: str) -> dict[str, list[str]]:
    """Return the files of each split of a hub dataset. Raises UserError."""
    where: dict[str, Any] = keywords(path, language) | {"revision": revision(path)}

    def ask() -> dict[str, list[str]]:
        import datasets

        with tempfile.TemporaryDirectory() as scratch:
            cache_dir = scratch if is_local(path) else None
            builder = patiently(lambda: datasets.load_dataset_builder(path, cache_dir=cache_dir, **where))
        return {str(split): [str(file) for file in found] for split, found in (builder.config.data_files or {}).items()}

    try:
        found: dict[str, list[str]] = _kept(path, f"files of {language}", ask)
        return found
    except UserError:
        raise
    except Exception as error:  # as in `load`
        raise UserError(f"{path}: cannot be opened: {one_line(error)}") from None


def is_local(path: str) -> bool:
    """Return whether a path is a folder, not a hub id. Raises UserError for a missing folder."""
    folder = Path(path)
    if folder.is_dir():
        return True
    if folder.exists():
        raise UserError(f"task.path = {path}: is a file; name the folder of the data")
    if path.startswith((".", "/", "~")) or path.count("/") > 1:
        raise UserError(f"task.path = {path}: no such folder; looked for {folder.absolute()}")
    return False
