"""Division of one file into train, dev and test, stratified by language and label, with a fixed seed.

Rows with the same text go to the same split, because no evaluation row may be a training row. Half the rows of a
zero-shot language go to dev, and half to test.
"""

import contextlib
import csv
import gzip
import hashlib
import io
import json
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from mbkd.config import SPLITS, language_key
from mbkd.data import readers
from mbkd.data.readers import Rows
from mbkd.errors import UserError
from mbkd.files import beside, refuse_full
from mbkd.onboarding.guess import Labels
from mbkd.onboarding.sources import MARK, RawDataset

HELD_OUT = 0.1  # share of the rows for dev, and for test
SEED = 1


class Item(NamedTuple):
    """The properties of a row that decide its split."""

    text: str  # of a pair the first text, or the second if the first is empty
    language: str
    label: str


def assign(items: list[Item], supervised: set[str]) -> list[str]:
    """Return the split of every row. Rows with the same text get the split of the first one.

    Rows of supervised languages come first, because a text that is also in a zero-shot language is needed for training.
    """
    strata: dict[tuple[str, str], list[str]] = {}
    seen: set[str] = set()
    for item in sorted(items, key=lambda item: item.language not in supervised):
        if (key := _key(item.text)) not in seen:
            seen.add(key)
            strata.setdefault((item.language, item.label), []).append(key)
    split: dict[str, str] = {}
    for (language, _), keys in strata.items():
        keys.sort(key=lambda key: hashlib.sha256(f"{SEED} {key}".encode()).digest())
        few = 1 if len(keys) > 2 else 0  # a small class needs dev and test rows too
        dev = max(few, round(len(keys) * HELD_OUT)) if language in supervised else -(-len(keys) // 2)
        test = dev if language in supervised else len(keys) - dev
        for place, key in enumerate(keys):
            split[key] = "dev" if place < dev else "test" if place < dev + test else "train"
    return [split[_key(item.text)] for item in items]


def name(file: str, split: str) -> str:
    """Return the file name of a split: tickets.csv -> tickets.dev.csv; train.csv.gz -> train.dev.csv.gz."""
    path = Path(file)
    endings = "".join(path.suffixes[-2:]) if path.suffix.lower() == ".gz" else path.suffix
    return str(path.with_name(f"{path.name.removesuffix(endings)}.{split}{endings}"))


def write_all(
    source: RawDataset,
    how: str,
    columns: dict[str, Any],
    alone: str | None,
    labels: Labels,
    trained: set[str],
    header: bool,
    force: bool,
    written: contextlib.ExitStack,
) -> int:
    """Write the files of the splits next to the source. Return the number of rows without text or label.

    header, force, written: as in `write`. Raises UserError if dev or test gets no row.
    """
    dropped = 0
    written_rows = dict.fromkeys(SPLITS, 0)
    pending: list[tuple[str | None, Rows, list[bool]]] = []  # language of the file, its rows, and whether each fits
    items: list[Item] = []  # all fitting rows of all files, because equal texts of two files go to one split
    for language in dict.fromkeys(x for by in source.rows.values() for x in by):
        parts = {split: by[language] for split, by in source.rows.items() if language in by}
        official = {}
        for split, rows in parts.items():
            first, second = (rows.columns[columns[x] or columns["text"]].to_pylist() for x in ("text", "text_pair"))
            given = [labels.spelt.get(x, "") for x in rows.columns[columns["label"]].to_pylist()]
            good = [bool((a + b).strip()) and x != "" for a, b, x in zip(first, second, given, strict=True)]
            dropped += good.count(False)
            if how == "official":
                official[split] = rows.keep(pa.array(good))
                continue
            of = [language or alone or ""] * len(good)
            if columns["language"]:
                of = [language_key(x) for x in rows.columns[columns["language"]].to_pylist()]
            here = map(Item, [a or b for a, b in zip(first, second, strict=True)], of, given)
            items += [x for x, fits in zip(here, good, strict=True) if fits]
            pending.append((language, rows, good))
        if official:
            write(source.files["train"].replace(MARK, language or MARK), official, header, force, written)
    places = iter(assign(items, trained) if items else ())
    for language, rows, good in pending:
        split_of = [next(places) if fits else None for fits in good]
        kept = {x: rows.keep(pa.array([each == x for each in split_of])) for x in SPLITS}
        for each in SPLITS:
            written_rows[each] += split_of.count(each)
        # tickets.fr.csv -> tickets.fr.dev.csv matches tickets.{language}.csv -> tickets.{language}.dev.csv
        write(source.files["train"].replace(MARK, language or MARK), kept, header, force, written)
    if how != "official" and not all(written_rows.values()):
        counts = ", ".join(f"{split} {count}" for split, count in written_rows.items())
        raise UserError(
            f"{source.files['train']}: too few rows for a split ({counts}); each label of a language needs three "
            "different texts. Add rows, or write the train, dev and test files yourself"
        )
    return dropped


def write(file: str, parts: dict[str, Rows], header: bool, force: bool, written: contextlib.ExitStack) -> None:
    """Write the rows of each split to a file next to the source file, in its format, with text as UTF-8.

    header: whether the file has a header. written: the new files appear when this stack closes. Raises UserError for a
    full disk, and for an existing file unless force is set.
    """
    targets = {split: Path(name(file, split)).expanduser() for split in parts}
    if there := [target for target in targets.values() if target.exists() and not force]:
        raise UserError(f"{there[0]}: exists already; --force overwrites it")
    source = Path(file).expanduser()
    for split, rows in parts.items():
        part = written.enter_context(beside(targets[split]))
        with refuse_full(targets[split]):
            if readers.kind(source) == ".parquet":
                pq.write_table(pq.read_table(source).take(pc.subtract(rows.places, 1)), part)
            else:
                data = _text(source, rows, header).encode()
                part.write_bytes(gzip.compress(data) if source.suffix.lower() == ".gz" else data)


def _text(source: Path, rows: Rows, header: bool) -> str:
    """Return the rows as text in the format of the source."""
    if rows.dialect is None:
        whole, places = readers.text(source), rows.places.to_pylist()
        if rows.unit == "row":  # an array of JSON
            objects = json.loads(whole)
            return json.dumps([objects[place - 1] for place in places], ensure_ascii=False, indent=1) + "\n"
        lines = whole.split("\n")
        return "".join(lines[place - 1].rstrip("\r") + "\n" for place in places)
    cells = zip(*(column.to_pylist() for column in rows.columns.values()), strict=True)
    records = [list(rows.columns), *cells] if header else [*cells]
    if not rows.dialect.quoted:
        return "".join(rows.dialect.delimiter.join(record) + "\n" for record in records)
    stream = io.StringIO(newline="")
    csv.writer(stream, delimiter=rows.dialect.delimiter, lineterminator="\n").writerows(records)
    return stream.getvalue()


def _key(text: str) -> str:
    return text.strip().lower()
