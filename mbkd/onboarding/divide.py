"""One file of rows as three: train, dev and test, stratified by language and label, the same for the same seed.

Rows with the same text stay together, or a score would be measured on what was trained on. Of a language that is
not trained on, half the rows go to dev and half to test.
"""

import csv
import hashlib
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from mbkd.config import SPLITS
from mbkd.data.readers import Rows
from mbkd.errors import UserError

HELD_OUT = 0.1  # dev, and again test
SEED = 1


class Item(NamedTuple):
    """What decides where a row goes."""

    text: str
    language: str
    label: str


def assign(items: list[Item], supervised: set[str]) -> list[str]:
    """The split of every row. A text that stands several times goes where its first row goes."""
    strata: dict[tuple[str, str], list[str]] = {}
    seen: set[str] = set()
    for item in items:
        if (key := _key(item.text)) not in seen:
            seen.add(key)
            strata.setdefault((item.language, item.label), []).append(key)
    split: dict[str, str] = {}
    for (language, _), keys in strata.items():
        keys.sort(key=lambda key: hashlib.sha256(f"{SEED} {key}".encode()).digest())
        few = 1 if len(keys) > 2 else 0  # of a small class, too, something must be measured
        dev = max(few, round(len(keys) * HELD_OUT)) if language in supervised else -(-len(keys) // 2)
        test = dev if language in supervised else len(keys) - dev
        for place, key in enumerate(keys):
            split[key] = "dev" if place < dev else "test" if place < dev + test else "train"
    return [split[_key(item.text)] for item in items]


def name(file: str, split: str) -> str:
    """Where the rows of a split go: tickets.csv -> tickets.dev.csv; train.csv -> train.dev.csv."""
    path = Path(file)
    return str(path.with_name(f"{path.stem}.{split}{path.suffix}"))


def write(file: str, rows: Rows, splits: list[str | None], force: bool) -> None:
    """Write the rows of a file to one file a split, beside it and in its format; None leaves a row out.

    Raises UserError if one of the files is there already, unless force is set.
    """
    targets = {split: Path(name(file, split)).expanduser() for split in SPLITS}
    if there := [target for target in targets.values() if target.exists() and not force]:
        raise UserError(f"{there[0]}: is there already; --force writes over it")
    source, ending = Path(file).expanduser(), Path(file).suffix.lower()
    for split, target in targets.items():
        picked = [row for row, each in enumerate(splits) if each == split]
        part = target.with_name(f".{target.name}.part")
        if ending == ".parquet":
            pq.write_table(pq.read_table(source).take(pa.array(picked, pa.int64())), part)
        elif ending == ".jsonl":
            lines = source.read_bytes().decode("utf-8-sig").split("\n")
            places = rows.places.to_pylist()
            part.write_text("".join(lines[places[row] - 1].rstrip("\r") + "\n" for row in picked), encoding="utf-8")
        else:
            columns = [column.take(pa.array(picked, pa.int64())).to_pylist() for column in rows.columns.values()]
            with part.open("w", encoding="utf-8", newline="") as stream:
                writer = csv.writer(stream, delimiter="\t" if ending == ".tsv" else ",", lineterminator="\n")
                writer.writerow(rows.columns)
                writer.writerows(zip(*columns, strict=True))
        part.replace(target)


def _key(text: str) -> str:
    return text.strip().lower()
