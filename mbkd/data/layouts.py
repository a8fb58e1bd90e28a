"""Paths and columns of the official files of XNLI and MARC."""

from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from mbkd.config import SPLITS, Columns
from mbkd.data import readers
from mbkd.data.readers import Rows
from mbkd.errors import UserError

# Paths of the official files in a folder, preferred paths first.
FILES = {
    ("xnli", "train"): (
        "multinli.train.{language}.tsv",
        "multinli/multinli.train.{language}.tsv",
        "XNLI-MT-1.0/multinli/multinli.train.{language}.tsv",
        "train-{language}.tsv",
    ),
    ("xnli", "dev"): ("xnli.dev.tsv", "XNLI-1.0/xnli.dev.tsv", "dev-{language}.tsv"),
    ("xnli", "test"): ("xnli.test.tsv", "XNLI-1.0/xnli.test.tsv", "test-{language}.tsv"),
    ("marc", "train"): ("dataset_{language}_train.json", "train/dataset_{language}_train.json"),
    ("marc", "dev"): ("dataset_{language}_dev.json", "dev/dataset_{language}_dev.json"),
    ("marc", "test"): ("dataset_{language}_test.json", "test/dataset_{language}_test.json"),
}
HUB_SPLITS = {"train": "train", "dev": "validation", "test": "test"}

XNLI_HUB = Columns(text="premise", text_pair="hypothesis")
XNLI_MT = Columns(text="premise", text_pair="hypo", language=None)
XNLI_1_0 = Columns(text="sentence1", text_pair="sentence2", label="gold_label", id="pairID")
XTREME = Columns(text="premise", text_pair="hypothesis", language=None)
MARC = Columns(text="review_body", text_pair="title and category", label="stars", id="review_id")


def marc(rows: Rows) -> Rows:
    """Add the second text of a review: its title, which may be empty or missing, and its category."""
    category = rows.column("product_category")
    title = rows.columns.get("review_title", pa.array([""] * len(category), pa.large_string()))
    pair = pc.utf8_trim_whitespace(pc.binary_join_element_wise(title, category, pa.scalar(" ", pa.large_string())))
    return rows._replace(columns={**rows.columns, "title and category": pair})


def xtreme(file: Path) -> Rows:
    """Read premise, hypothesis and label. Raises UserError for a file without labels."""
    if unlabelled(file):
        raise UserError(
            f"{file}: has no labels, or the same label on every line (XTREME withholds test labels);"
            f" use xnli.{file.name.split('-')[0]}.tsv of XNLI-1.0, or the hub's facebook/xnli"
        )
    rows = readers.plain_tsv(file, ("premise", "hypothesis", "label"))
    for name in ("premise", "hypothesis"):  # XTREME's script quotes fields that contain a quote
        column = rows.columns[name]
        quoted = pc.match_substring_regex(column, '^"([^"]|"")*"$')
        if quoted.equals(pc.match_substring(column, '"')):
            inner = pc.replace_substring(pc.utf8_slice_codeunits(column, 1, -1), '""', '"')
            rows.columns[name] = pc.if_else(quoted, inner, column)
    return rows


def languages(kind: str, split: str, folder: Path) -> list[str]:
    """Return the languages of a split with official files in a folder."""
    found: set[str] = set()
    for name in FILES[kind, split]:
        before, marker, after = name.partition("{language}")
        if marker:
            start, end = Path(before).name, after
            found |= {x.name.removeprefix(start).removesuffix(end) for x in folder.glob(f"{before}*{after}")}
        elif (file := folder / name).is_file():
            found |= set(pc.unique(readers.plain_tsv(file).column("language")).to_pylist())
    return sorted(found)


def is_xtreme(file: Path) -> bool:
    """Return whether a file has a name of XTREME, such as dev-fr.tsv."""
    return file.name.startswith(tuple(f"{split}-" for split in SPLITS))


def unlabelled(file: Path) -> bool:
    """Return whether a file in XTREME's layout has no labels, or several lines that all have the same label."""
    with file.open(encoding="utf-8", errors="replace", newline="\n") as lines:
        labels = [tuple(line.rstrip("\r\n").split("\t")[2:]) for line in lines]
    return set(labels) == {()} or (len(labels) > 1 and len(set(labels)) == 1)
