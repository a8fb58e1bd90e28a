"""Rows of a task (XNLI, MARC, or the user's data) as text_a, text_b, label, language and id."""

from __future__ import annotations

import hashlib
import json
import logging
from collections import Counter
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

from mbkd.config import SPLITS, Columns, Task, language_key
from mbkd.data import hub, layouts, readers
from mbkd.data.readers import Rows, first
from mbkd.errors import UserError
from mbkd.files import digest

if TYPE_CHECKING:  # the import takes a second, and a run with complete stores does not need it
    import datasets


log = logging.getLogger(__name__)


def label_names(task: Task) -> tuple[str, ...]:
    """Return the names of the classes, in the order of their numbers."""
    if task.kind == "xnli":
        return ("entailment", "neutral", "contradiction")  # the numbers 0, 1, 2 on the hub
    return ("1", "2", "3", "4", "5") if task.kind == "marc" else task.labels


def is_ordinal(task: Task) -> bool:
    """Return whether the classes are ordered steps of a scale, and a mean absolute error is meaningful."""
    return task.kind == "marc" or (task.kind == "own" and task.ordinal)


def splits(task: Task) -> tuple[str, ...]:
    """Return the splits of the data. A file without labels does not count. Raises UserError."""
    if task.kind == "own":
        return tuple(split for split in SPLITS if split in task.files)
    if path := _hub(task):
        there = hub.files(path, task.languages[0])
        return tuple(split for split in SPLITS if layouts.HUB_SPLITS[split] in there)
    found = []
    for split in SPLITS:
        files = [_find(task, split, language) for language in task.languages]
        if any(file and not (layouts.is_xtreme(file) and layouts.unlabelled(file)) for file in files):
            found.append(split)
    return tuple(found)


def languages(task: Task, split: str) -> tuple[str, ...]:
    """Return the languages of a split: supervised languages for train, all languages for test.

    A zero-shot language may lack a dev file; selection then uses AVG(S). If one file holds several languages, or the
    rows are on the hub, dev must have every language.
    """
    if split == "train":
        return task.supervised
    if split == "test" or _hub(task) is not None:
        return task.languages
    return task.supervised + tuple(x for x in task.zero_shot if _find(task, split, x))


def load(task: Task, split: str, language: str, warn: bool = True) -> datasets.Dataset:
    """Read and check all rows of one split of one language, in the order of the file.

    Columns: text_a str, text_b str or None, label int (index into `label_names`), language str, id str.
    warn: whether to warn about rows in languages that the task does not name. Raises UserError for the first problem,
    with its file and line.
    """
    rows, columns = _read(task, split, language)
    if columns.language is not None:
        there = rows.column(columns.language)
        if warn and (left := _unlisted(task, there)):
            _warn_once(f"{rows.source}: {shown(left)}, in neither supervised nor zero_shot; these rows are ignored")
        rows = rows.keep(pc.equal(_language_keys(there), language_key(language)))
        if not len(rows.places):
            names = ", ".join(sorted(pc.unique(there).to_pylist())[:20]) or "none"
            raise UserError(f"{rows.source}: no rows for language {language!r}; available languages: {names}")
    count = len(rows.places)
    if not count:
        raise UserError(f"{rows.source}: no rows")

    text_a = rows.column(columns.text)
    text_b = rows.column(columns.text_pair) if columns.text_pair else pa.nulls(count, pa.large_string())
    _refuse_empty(rows, columns)
    labels = _labels(task, rows, rows.column(columns.label))
    if columns.id is not None:
        ids = rows.column(columns.id)
        _refuse_repeated(rows, ids)
    else:  # XNLI has the same items in all languages
        prefix = split if task.kind == "xnli" else f"{split}-{language}"
        ids = pa.array([f"{prefix}-{row}" for row in range(count)])

    table = pa.table(
        {
            "text_a": text_a.cast(pa.string()),
            "text_b": text_b.cast(pa.string()),
            "label": labels,
            "language": pa.array([language] * count),
            "id": ids.cast(pa.string()),
        }
    )
    if task.limit is not None and task.limit < count:
        table = table.take(pa.array(range(task.limit)))  # a copy, because a slice would keep the whole file in memory
    import datasets
    from datasets.table import InMemoryTable

    return datasets.Dataset(InMemoryTable(table), fingerprint=fingerprint(task, split, language))


def unlisted(task: Task, split: str) -> dict[str, int]:
    """Count the rows in languages that the task does not name, by the language's spelling in the rows.

    Returns {} without a language column. Raises UserError.
    """
    rows, columns = _read(task, split, languages(task, split)[0])
    return {} if columns.language is None else _unlisted(task, rows.column(columns.language))


def shown(left: dict[str, int], most: int = 10) -> str:
    """Format counts as `12 rows of 'eng', 1 row of ''`, largest counts first."""
    order = sorted(left.items(), key=lambda x: (-x[1], x[0]))
    parts = [f"{count:,} row{'s' * (count > 1)} of {name!r}" for name, count in order[:most]]
    rest = [f"{sum(x for _, x in order[most:]):,} rows of {len(order) - most} more"] if len(order) > most else []
    return ", ".join([*parts, *rest])


def fingerprint(task: Task, split: str, language: str, store: Path | None = None) -> str:
    """Return the hash of the rows that `load` returns, without parsing local files. Raises UserError.

    store: keeps hashes of files for other processes; None keeps them in this process only.
    """
    path = _hub(task)
    if path is None:
        sources = [digest(_file(task, split, language), store)]
    elif hub.is_local(path):
        there, name = hub.files(path, language), _hub_split(task, split)
        if name not in there:
            raise UserError(f"{path}: no split {name!r} for {language!r}; available: {', '.join(there)}")
        sources = [digest(Path(file), store) for file in there[name]]
    else:
        sources = hub.fingerprint(path, language, _hub_split(task, split))
    columns = {name: getattr(task.columns, name) for name in ("text", "text_pair", "label", "language", "id")}
    columns |= task.columns.model_dump(exclude_defaults=True)  # new fields keep old hashes
    if task.kind == "own" and "{language}" in task.files.get(split, ""):
        columns["language"] = None  # all rows of the file are of this language
    parts = [task.kind, columns, task.labels, task.limit, split, language, sources]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _read(task: Task, split: str, language: str) -> tuple[Rows, Columns]:
    """Return the raw rows and their columns, without a language column if all rows are of `language`."""
    path = _hub(task)
    if path is not None:
        rows = hub.read(path, language, _hub_split(task, split))
        columns = {"xnli": layouts.XNLI_HUB, "marc": layouts.MARC, "own": task.columns}[task.kind]
        alone = language in hub.keywords(path, language).values()
    else:
        file = _file(task, split, language)
        if task.kind == "xnli" and layouts.is_xtreme(file):
            return layouts.xtreme(file), layouts.XTREME
        if task.kind == "xnli":
            return readers.plain_tsv(file), layouts.XNLI_MT if split == "train" else layouts.XNLI_1_0
        own = task.columns
        rows = readers.table(file, own.header, own.quoted) if task.kind == "own" else readers.json_lines(file)
        columns = layouts.MARC if task.kind == "marc" else task.columns
        alone = task.kind == "marc" or "{language}" in task.files[split]
    if task.kind == "marc":
        rows = layouts.marc(rows)
    if columns.language is None and not alone and len(task.languages) > 1:
        raise UserError(
            f"{rows.source}: cannot tell which rows are {language!r}; name the column in task.columns.language, or"
            " write one file per language, with {language} in its name"
        )
    return rows, columns.model_copy(update={"language": None}) if alone else columns


def _hub(task: Task) -> str | None:
    """Return the hub id or the local folder in the hub's layout; None for plain files."""
    if task.path is None:
        return None
    path = str(Path(task.path).expanduser()) if task.path.startswith("~") else task.path
    if not hub.is_local(path) or task.kind == "own":
        return path
    names = [name.format(language="*") for split in SPLITS for name in layouts.FILES[task.kind, split]]
    official = any(next(Path(path).glob(name), None) for name in names)
    return path if not official and next(Path(path).rglob("*.parquet"), None) else None


def _hub_split(task: Task, split: str) -> str:
    return _template(task, split) if task.kind == "own" else layouts.HUB_SPLITS[split]


def _template(task: Task, split: str) -> str:
    if split not in task.files:
        raise UserError(f"task.files: no entry for {split!r}; available: {', '.join(task.files)}")
    return task.files[split]


def _candidates(task: Task, split: str) -> list[Path]:
    """Return the possible files of a split, with `{language}` in place of the language."""
    if task.kind == "own":
        return [Path(_template(task, split)).expanduser()]
    return [Path(task.path or "").expanduser() / name for name in layouts.FILES[task.kind, split]]


def _find(task: Task, split: str, language: str) -> Path | None:
    files = [Path(str(file).replace("{language}", language)) for file in _candidates(task, split)]
    return next((file for file in files if file.is_file()), None)


def _file(task: Task, split: str, language: str) -> Path:
    if file := _find(task, split, language):
        return file
    candidates = _candidates(task, split)
    looked = ", ".join(str(file).replace("{language}", language) for file in candidates)
    there = set()
    for file in candidates:
        before, marker, after = file.name.partition("{language}")
        if marker:
            beside = file.parent.glob(f"{before}*{after}")
            there |= {found.name.removeprefix(before).removesuffix(after) for found in beside}
    hint = f"; available languages: {', '.join(sorted(there))}" if there else ""
    raise UserError(f"no {split} file for language {language!r}: looked for {looked}{hint}")


def _language_keys(column: pa.Array) -> pa.Array:
    """Return the `language_key` of each row."""
    return pc.replace_substring(pc.utf8_lower(pc.utf8_trim_whitespace(column)), "_", "-")


def _unlisted(task: Task, column: pa.Array) -> dict[str, int]:
    named = {language_key(x) for x in task.languages}
    counts = Counter({x["values"]: x["counts"] for x in pc.value_counts(column).to_pylist()})
    return {x: count for x, count in counts.items() if language_key(x) not in named}


@cache  # a file is read for each of its languages
def _warn_once(message: str) -> None:
    log.warning("%s", message)


def label_keys(labels: pa.Array) -> pa.Array:
    """Return labels in the form for comparison: without outer space and case, and 1 for 1.0."""
    plain = pc.utf8_lower(pc.utf8_trim_whitespace(labels))
    return pc.replace_substring_regex(plain, r"^([+-]?[0-9]+)\.0+$", r"\1")


def _labels(task: Task, rows: Rows, column: pa.Array) -> pa.Array:
    """Return (rows,) class numbers. Labels match exactly, or by a unique form of `label_keys`."""
    names = label_names(task)
    spellings = {name: number for number, name in enumerate(names)}
    if task.kind == "xnli":  # XNLI-MT's spelling, and the hub's numbers in copies without the names
        spellings |= {"contradictory": 2, "0": 0, "1": 1, "2": 2}
    exact = pa.array(list(spellings), pa.large_string())
    found = pc.index_in(column, exact)
    if found.null_count:
        keys = label_keys(exact).to_pylist()
        single = [x if keys.count(x) == 1 else None for x in keys]
        near = pc.index_in(label_keys(column), pa.array(single, pa.large_string()), skip_nulls=True)
        found = pc.coalesce(found, near)
    if (wrong := first(pc.is_null(found))) >= 0:
        raise UserError(f"{rows.at(wrong)}: unknown label {column[wrong].as_py()!r}; the labels are {', '.join(names)}")
    labels = pa.array(list(spellings.values()), pa.int64()).take(found)
    if len(labels) > 1 and pc.count_distinct(labels).as_py() == 1:
        raise UserError(
            f"{rows.source}: all {len(labels)} rows have the label {column[0].as_py()!r}, as in a file with"
            " withheld labels; use a file with labels"
        )
    return labels


def _refuse_empty(rows: Rows, columns: Columns) -> None:
    """Raise UserError for a row without text. One text of a pair may be empty, such as a review's title."""
    names = [columns.text] + ([columns.text_pair] if columns.text_pair else [])
    empty = [pc.equal(pc.utf8_trim_whitespace(rows.columns[name]), "") for name in names]
    if (wrong := first(pc.and_(empty[0], empty[-1]))) >= 0:
        empty_texts = f"{names[0]} is empty" if len(names) == 1 else f"{' and '.join(names)} are empty"
        raise UserError(f"{rows.at(wrong)}: {empty_texts}; add a text or remove the row")


def _refuse_repeated(rows: Rows, ids: pa.Array) -> None:
    if pc.count_distinct(ids).as_py() == len(ids):
        return
    seen: dict[str, int] = {}
    for row, name in enumerate(ids.to_pylist()):
        if name in seen:
            raise UserError(
                f"{rows.at(row)}: the id {name!r} is also at {rows.unit} {rows.places[seen[name]]};"
                " ids must be unique within a split and language"
            )
        seen[name] = row
