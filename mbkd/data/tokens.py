"""Token stores: memory-mapped rows, tokenised once per (tokenizer, language, split).

A store is a folder that is written atomically and named by the hash of all its inputs. Another data file,
tokenizer or maximum length uses another folder, so a store is never stale.
"""

from __future__ import annotations

import contextlib
import functools
import json
import logging
import re
import tempfile
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from importlib.metadata import version
from itertools import chain
from pathlib import Path
from typing import IO, Any

import numpy as np

from mbkd.config import Task
from mbkd.data import hub, rows, tasks
from mbkd.data.readers import one_line
from mbkd.errors import UserError, patiently
from mbkd.files import Store, fingerprint, sha256

FORMAT = 1  # increase this when the format of a store changes
CHUNK = 2048  # rows per call of the tokenizer; bounds the memory for any size of the data

# Patterns of vocabulary files, of which a tokenizer has at least one, and of other files that change its output.
VOCABULARY = ("tokenizer.json", "vocab*", "*.model", "*.tiktoken", "tekken.json", "bpe.codes")
SETTINGS = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "merges.txt")

# Maps rows to columns of token ids, and of segment ids if the tokenizer returns them.
Encoder = Callable[[dict[str, Any]], dict[str, list[list[int]]]]

log = logging.getLogger(__name__)


class Tokens:
    """Read-only tokens of one split in one language for one tokenizer, in the order of the file.

    lengths      (rows,) tokens of each row, special tokens included
    labels       (rows,) class of each row
    row_ids      the ids of the rows, from the task
    fingerprint  the hash of the inputs: data, tokenizer, max_length
    pad_id, padding_side  of the tokenizer
    """

    def __init__(self, folder: Path) -> None:
        """Memory-map a complete store in the folder of a `Store`."""
        self.folder = folder
        self.manifest: dict[str, Any] = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        self.fingerprint: str = self.manifest["fingerprint"]
        self.pad_id: int = self.manifest["pad_id"]
        self.padding_side: str = self.manifest["padding_side"]
        offsets = self._map("offsets.npy")
        self._starts = offsets[:-1]
        self.lengths: np.ndarray = np.diff(offsets)
        self.labels: np.ndarray = self._map("labels.npy")
        self._ids = self._map("ids.npy")
        self._segments = self._map("segments.npy") if "segments.npy" in self.manifest["files"] else None

    def _map(self, name: str) -> np.ndarray:
        return np.asarray(np.load(self.folder / name, mmap_mode="r"))  # an ndarray view indexes faster than a memmap

    def __len__(self) -> int:
        return len(self.lengths)

    @functools.cached_property
    def row_ids(self) -> list[str]:
        """The ids of the rows, read at the first access."""
        return json.loads((self.folder / "row_ids.json").read_text(encoding="utf-8"))

    def batch(self, rows: np.ndarray, width: int | None = None) -> dict[str, np.ndarray]:
        """Return rows padded to the longest of them, or to `width`. The result equals the tokenizer's `pad`.

        rows: (B,) indices
        returns input_ids, attention_mask and, if the tokenizer has segments, token_type_ids: (B, n) int64
        Raises ValueError if a row is longer than width.
        """
        lengths = self.lengths[rows][:, None]  # (B, 1)
        longest = int(lengths.max(initial=0))
        n = longest if width is None else width
        if n < longest:
            raise ValueError(f"a row of {longest} tokens does not fit the width {n}")
        position = np.arange(n) - (n - lengths if self.padding_side == "left" else 0)  # (B, n) or (n,)
        real = (position >= 0) & (position < lengths)  # (B, n)
        source = (self._starts[rows][:, None] + position)[real]
        columns = {
            "input_ids": np.full(real.shape, self.pad_id, np.int64),
            "attention_mask": real.astype(np.int64),
        }
        columns["input_ids"][real] = self._ids[source]
        if self._segments is not None:  # of this model's own tokenizer (decision 22)
            columns["token_type_ids"] = np.full(real.shape, self.manifest["pad_segment"], np.int64)
            columns["token_type_ids"][real] = self._segments[source]
        return columns


def open_store(
    store: Path, task: Task, split: str, language: str, tokenizer: str, max_length: int, verified: bool = False
) -> Tokens:
    """Open the tokens of a split in a language. Tokenise first if the store is missing or damaged.

    Several processes may call at once: one tokenises, and the others wait.
    tokenizer: a folder or a hub id. verified: another process has just compared the checksums.
    Raises UserError for bad data or a missing tokenizer.
    """
    made_from = _made_from(store, task, split, language, tokenizer, max_length)
    readable = re.sub(r"[^\w-]", "_", f"{language}-{split}")
    found = Store(store / "tokens" / readable, made_from)

    def write(folder: Path) -> dict[str, Any]:
        data = tasks.load(task, split, language)
        rows.keep(data, made_from["data"], store)
        return {"tokenizer": tokenizer, **_write(folder, data, _load(tokenizer, made_from["tokenizer"]), max_length)}

    found.open(write, verified)
    return Tokens(found.folder)


def store_fingerprint(store: Path, task: Task, split: str, language: str, tokenizer: str, max_length: int) -> str:
    """Return the fingerprint of the store that `open_store` would open. Raises UserError."""
    return fingerprint(_made_from(store, task, split, language, tokenizer, max_length))


def _made_from(store: Path, task: Task, split: str, language: str, tokenizer: str, max_length: int) -> dict[str, Any]:
    return {
        "data": tasks.fingerprint(task, split, language, store),
        "split": split,
        "language": language,
        "tokenizer": tokenizer_fingerprint(tokenizer),
        "max_length": max_length,
        "format": FORMAT,
    }


def tokenizer_fingerprint(tokenizer: str) -> str:
    """Return the hash of a tokenizer's inputs. A tokenizer in a folder is not loaded. Raises UserError."""
    folder = Path(tokenizer)
    return _folder_fingerprint(folder) if folder.is_dir() else _hub_fingerprint(tokenizer)


def _folder_fingerprint(folder: Path) -> str:
    if not any(file.is_file() for pattern in VOCABULARY for file in folder.glob(pattern)):
        raise UserError(
            f"{folder}: no tokenizer in this folder, neither tokenizer.json nor {', '.join(VOCABULARY[1:])}; "
            "save one there with the tokenizer's save_pretrained"
        )
    files = {x for pattern in VOCABULARY + SETTINGS for x in folder.glob(pattern) if x.is_file()}
    content = {file.name: sha256(file) for file in files}
    with contextlib.suppress(OSError, ValueError, AttributeError):
        # Excludes model_max_length, because rows are truncated to `max_length` instead.
        settings = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
        settings.pop("model_max_length", None)
        if "local_files_only" in settings:  # depends on network access at the time of saving
            settings["local_files_only"] = False
        content["tokenizer_config.json"] = fingerprint(settings)
    if (config := folder / "config.json").is_file():  # the model's type selects the class if tokenizer_class is not set
        with contextlib.suppress(ValueError):
            content["model_type"] = json.loads(config.read_text(encoding="utf-8")).get("model_type", "")
    return fingerprint(content)


@functools.lru_cache(maxsize=8)
def _hub_fingerprint(tokenizer: str) -> str:
    """Return the hash of the files that the loaded tokenizer saves. Child processes reuse the hash."""

    def ask() -> str:
        with tempfile.TemporaryDirectory() as folder:
            _load(tokenizer, "").save_pretrained(folder)
            return _folder_fingerprint(Path(folder))

    return str(hub.once(f"tokenizer {tokenizer}", ask))


def load_tokenizer(tokenizer: str | Path) -> Any:
    """Load the tokenizer of a folder or hub id. Raises UserError."""
    name = str(tokenizer)
    if not Path(name).is_dir() and (Path(name).is_absolute() or name.startswith((".", "~")) or name.count("/") > 1):
        raise UserError(f"{name}: no such folder; name a folder with a tokenizer, or a hub id")
    from transformers import AutoTokenizer  # the import takes seconds, and opening a complete store does not need it

    try:
        where = hub.pinned(name)
        loaded = patiently(lambda: AutoTokenizer.from_pretrained(tokenizer, **where))
    except Exception as error:  # OSError, ValueError, ImportError and the tokenizer library's bare Exception
        raise UserError(f"{tokenizer}: the tokenizer cannot be loaded ({one_line(error)})") from error
    if loaded.pad_token_id is None:
        raise UserError(f"{tokenizer}: the tokenizer has no pad token; set one in tokenizer_config.json")
    return loaded


def loses_segments(tokenizer: Any, pairs: bool) -> bool:
    """Return whether a tokenizer drops the segment ids of its backend, for pairs or for single texts.

    transformers 5 does this for HerBERT, ALBERT and RemBERT. XLM-R's backend has no segment ids. A BERT trained with
    that tokenizer (multilingual-e5-small) has seen zeros only.
    """
    if "token_type_ids" in tokenizer.model_input_names or not tokenizer.is_fast:
        return False
    return any(tokenizer.backend_tokenizer.encode("a", "b" if pairs else None).type_ids)


@functools.lru_cache(maxsize=4)
def _load(tokenizer: str, fingerprint: str) -> Any:
    """Load the tokenizer. fingerprint: makes a changed folder miss the cache."""
    return load_tokenizer(tokenizer)


def _write(folder: Path, data: Any, tokenizer: Any, max_length: int) -> dict[str, Any]:
    """Tokenise chunk by chunk to a folder. Return entries for the manifest."""
    columns = {"input_ids": ("ids.npy", "<i4")}
    if "token_type_ids" in tokenizer.model_input_names:
        columns["token_type_ids"] = ("segments.npy", "|i1")
    lengths, labels, row_ids = [np.zeros(1, np.int64)], [np.zeros(0, np.int64)], []
    with contextlib.ExitStack() as stack:
        files = {name: stack.enter_context((folder / name).open("wb")) for name, _ in columns.values()}
        for name, dtype in columns.values():
            _header(files[name], dtype, 0)
        for rows, encoded in _ahead(data, _encoder(tokenizer, max_length)):
            for column, (name, dtype) in columns.items():
                files[name].write(np.fromiter(chain.from_iterable(encoded[column]), dtype).tobytes())
            lengths.append(np.fromiter(map(len, encoded["input_ids"]), np.int64))
            labels.append(np.asarray(rows["label"], np.int64))
            row_ids.extend(rows["id"])
        offsets = np.cumsum(np.concatenate(lengths))  # (rows + 1,)
        for name, dtype in columns.values():
            _header(files[name], dtype, int(offsets[-1]))
    np.save(folder / "offsets.npy", offsets)
    np.save(folder / "labels.npy", np.concatenate(labels))
    (folder / "row_ids.json").write_text(json.dumps(row_ids, ensure_ascii=False), encoding="utf-8")

    log.info("tokenised %s: %d rows, %d tokens", folder.stem, len(data), offsets[-1])
    return {
        "rows": len(data),
        "tokens": int(offsets[-1]),
        "pad_id": tokenizer.pad_token_id,
        "pad_segment": tokenizer.pad_token_type_id,
        "padding_side": tokenizer.padding_side,
        "versions": {x: version(x) for x in ("transformers", "tokenizers", "datasets", "numpy")},
    }


def _ahead(data: Any, encode: Encoder) -> Iterator[tuple[dict[str, Any], dict[str, list[list[int]]]]]:
    """Yield chunks of rows with their tokens. A chunk is encoded while the previous one is written."""
    with ThreadPoolExecutor(1) as worker:
        waiting: deque[tuple[dict[str, Any], Future[dict[str, list[list[int]]]]]] = deque()
        for start in range(0, len(data), CHUNK):
            rows = data[start : start + CHUNK]
            waiting.append((rows, worker.submit(encode, rows)))
            if len(waiting) > 1:
                rows, encoded = waiting.popleft()
                yield rows, encoded.result()
        for rows, encoded in waiting:
            yield rows, encoded.result()


def _encoder(tokenizer: Any, max_length: int) -> Encoder:
    """Return a function from rows to columns of truncated token ids, equal to a call of the tokenizer."""
    if not tokenizer.is_fast:

        def call(rows: dict[str, Any]) -> dict[str, list[list[int]]]:
            pair = None if rows["text_b"][0] is None else rows["text_b"]
            found = tokenizer(rows["text_a"], pair, truncation="longest_first", max_length=max_length)
            return dict(found)

        return call
    # Calls the Rust backend on all cores, because a call of the tokenizer also copies every row on one core.
    library = tokenizer.backend_tokenizer
    library.encode_special_tokens = tokenizer.split_special_tokens
    library.no_padding()
    library.enable_truncation(max_length, strategy="longest_first", direction=tokenizer.truncation_side)

    def encode(rows: dict[str, Any]) -> dict[str, list[list[int]]]:
        # Either all rows of a task are pairs, or no row is.
        alone = rows["text_b"][0] is None
        texts = rows["text_a"] if alone else list(zip(rows["text_a"], rows["text_b"], strict=True))
        found = library.encode_batch_fast(texts)
        columns = {"input_ids": [x.ids for x in found]}
        if "token_type_ids" in tokenizer.model_input_names:  # a list for every row costs time
            columns["token_type_ids"] = [x.type_ids for x in found]
        return columns

    return encode


def _header(file: IO[bytes], dtype: str, count: int) -> None:
    """Write the .npy header at the start. numpy's padding leaves space for a larger count."""
    file.seek(0)
    np.lib.format.write_array_header_1_0(file, {"descr": dtype, "fortran_order": False, "shape": (count,)})
