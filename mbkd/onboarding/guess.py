"""Guesses of the roles of columns: by their names, then by their content."""

import re
from collections import Counter
from collections.abc import Iterable
from itertools import pairwise
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from mbkd.config import language_key
from mbkd.data.readers import Rows
from mbkd.data.tasks import label_keys
from mbkd.errors import UserError
from mbkd.onboarding.languages import is_code
from mbkd.onboarding.names import NAMES, in_language, is_half, pairs, stem
from mbkd.onboarding.sources import RawDataset, split_named

MOST_LABELS, MOST_LANGUAGES = 50, 300
MANY_LABELS = {"label", "labels", "class", "category", "target", "intent", "topic"}  # no limit
SCALES = ("star", "rating", "score", "grade", "level", "severity", "priority")  # names of ordinal columns
MISSING = {"", "nan", "<na>", "null"}  # a missing label as other programs write it, in lower case
ENOUGH_ROWS, ENOUGH_OF_A_LABEL = 200, 10  # training rows that a supervised language needs
FREE_TEXT = 15  # minimum mean length of a column of texts, in characters


class Columns(NamedTuple):
    """The column of each role (keys of NAMES; None if unknown), and other candidates."""

    found: dict[str, str | None]
    candidates: dict[str, list[str]]


def columns(source: RawDataset, language: str | None, given: dict[str, str | None]) -> Columns:
    """Guess the column of each role. Columns whose names end in another language than `language` are ignored.

    given: the user's choices. If the columns of a pair are uncertain, text_pair has candidates instead of a guess.
    Raises UserError if the only usual column of a role is not text.
    """
    there = in_language(source.columns, language)
    values = {name: source.column(name) for name in there}
    rows = len(next(iter(values.values())))
    distinct = {name: pc.count_distinct(column).as_py() for name, column in values.items()}
    length = {name: pc.mean(pc.utf8_length(values[name])).as_py() or 0 for name in there}
    found: dict[str, str | None] = {what: name if name in there else None for what, name in given.items()}
    found = dict.fromkeys(NAMES) | found
    candidates: dict[str, list[str]] = {}

    def named(what: str, fits: Iterable[str]) -> str | None:
        usual = {stem(name, language): name for name in fits if name not in found.values()}
        return next((usual[x] for x in NAMES[what].split() if x in usual), None)

    few = [x for x in there if 2 <= distinct[x] <= min(MOST_LABELS, max(2, rows // 2))]
    many = [x for x in there if x.lower() in MANY_LABELS and 2 <= distinct[x] <= max(2, rows // 2)]
    if found["language"] is None and language is None:
        found["language"], candidates["language"] = _language_column(values, distinct)
    if found["label"] is None:
        found["label"] = named("label", [x for x in there if x in few or x in many])
    both = [
        pair
        for pair in pairs(there, found["text"])
        if min(map(len, pair)) > 1 or min(length[x] for x in pair) >= FREE_TEXT
    ]
    if found["label"] is None:
        halves = {name for pair in both for name in pair}
        left = [name for name in few if name not in found.values() and name not in halves]
        found["label"], candidates["label"] = left[0] if len(left) == 1 else None, left
    both = [pair for pair in both if not set(pair) & {found["label"], found["language"]}]
    if len(both) == 1 and found["text_pair"] is None:
        first, second = both[0]
        found["text"], found["text_pair"] = (first, second) if found["text"] in (None, first) else (second, first)
    elif both and found["text_pair"] is None:
        candidates["text"], candidates["text_pair"] = (list(dict.fromkeys(x)) for x in zip(*both, strict=True))
    else:
        left = [x for x in there if x not in found.values()]
        found["text"] = found["text"] or named("text", there) or max(left, key=lambda x: length[x], default=None)
        found["text_pair"] = found["text_pair"] or named("text_pair", there)
        others = [x for x in left if x != found["text"] and length[x] >= FREE_TEXT and not _is_number(values[x])]
        if found["text_pair"] is None and others and is_half(found["text"] or ""):
            candidates["text_pair"] = others
    _refuse_unfit(source, found, given, language)
    found["id"] = named("id", [name for name in there if distinct[name] == rows])
    return Columns(found, candidates)


def _refuse_unfit(
    source: RawDataset, found: dict[str, str | None], given: dict[str, str | None], language: str | None
) -> None:
    """Raise UserError if the only column with a usual name is not text."""
    for what in ("text", "label"):
        usual = NAMES[what].split()
        if given.get(what) is None and stem(found[what] or "", language) not in usual:
            for table in source.tables:
                for name in sorted(set(usual) & set(table.unfit)):
                    table.column(name)


def _is_number(column: pa.Array) -> bool:
    return bool(pc.all(pc.match_substring_regex(column, r"^\s*[-+]?[0-9]*\.?[0-9]*\s*$")).as_py())


def _language_column(values: dict[str, pa.Array], distinct: dict[str, int]) -> tuple[str | None, list[str]]:
    """Return the column of languages, or None, and all columns that hold only language codes."""
    coded, sure = [], []
    for name, column in values.items():
        if distinct[name] <= MOST_LANGUAGES:
            counts = pc.value_counts(column).to_pylist()
            share = sum(x["counts"] for x in counts if is_code(x["values"])) / max(1, len(column))
            coded += [name] * (share == 1)
            sure += [name] * (share > 0.5 and name.lower() in NAMES["language"].split())
    sure.sort(key=lambda name: NAMES["language"].split().index(name.lower()))
    return next(iter(sure), coded[0] if len(coded) == 1 else None), coded


def header_is_a_row(rows: Rows, label: str | None) -> bool:
    """Return whether a CSV's first line is a row: it has a label of the rows, a long text, or a number."""
    if rows.dialect is None:
        return False
    names = list(rows.columns)
    if names == [str(i) for i in range(len(names))] or not len(rows.places):  # the default column names of pandas
        return False
    for name, column in rows.columns.items():
        if name != label and (len(name) > 60 or re.fullmatch(r"[-+]?\d+(\.\d+)?", name.strip())):
            return True
        few = pc.count_distinct(column).as_py() <= min(MOST_LABELS, max(1, len(column) // 2))
        if few and name.strip() and pc.any(pc.equal(column, name)).as_py():
            return True
    return False


class Labels(NamedTuple):
    """The labels of a column.

    names     names in the order of the classes
    ordinal   whether the labels are ordered steps of a scale
    spelt     spelling in the rows -> name, or `""` for a missing label such as nan
    """

    names: list[str]
    ordinal: bool
    spelt: dict[str, str]


def labels(source: RawDataset, column: str, wished: Iterable[str] = ()) -> Labels:
    """Return the labels. Spellings that differ in case, outer space or `.0` are one label.

    wished: preferred names. Other labels get their most frequent spelling.
    """
    counts = Counter({x["values"]: x["counts"] for x in pc.value_counts(source.column(column)).to_pylist()})
    spellings = sorted(counts, key=lambda x: (-counts[x], x))
    keys = dict(zip(spellings, label_keys(pa.array(spellings, pa.large_string())).to_pylist(), strict=True))
    wished = list(wished)
    known = dict(zip(label_keys(pa.array(wished, pa.large_string())).to_pylist(), wished, strict=True))
    twice = len(known) < len(wished)  # the user distinguishes labels that differ only in case
    names: dict[str, str] = {}
    spelt = {}
    for spelling in spellings:
        key = spelling if twice else keys[spelling]
        if spelling in wished:
            spelt[spelling] = spelling
        elif key in known:
            spelt[spelling] = known[key]
        elif keys[spelling] in MISSING:
            spelt[spelling] = ""
        else:
            numeric = re.fullmatch(r"[-+]?\d+", key)
            spelt[spelling] = names.setdefault(key, key if numeric else spelling.strip())
    found = list(dict.fromkeys(x for x in spelt.values() if x))
    if found and all(re.fullmatch(r"[-+]?\d+(\.\d+)?", x) for x in found):
        found.sort(key=float)
        steps = {round(float(b) - float(a), 6) for a, b in pairwise(found)}
        scale = len(steps) == 1 and len(found) > 2
        return Labels(found, scale and any(word in column.lower() for word in SCALES), spelt)
    return Labels(sorted(found), False, spelt)


def refuse_numbers(names: list[str], column: str) -> None:
    """Raise UserError for a column of real numbers, because they are not classes."""
    if len(names) > MOST_LABELS and any("." in x for x in names) and all(map(_is_float, names)):
        raise UserError(f"--label {column}: {len(names)} different numbers, {names[0]} to {names[-1]}, are not classes")


def _is_float(text: str) -> bool:
    try:
        float(text)
        return True
    except ValueError:
        return False


def languages(
    source: RawDataset, column: str | None, label: str, spelt: dict[str, str]
) -> tuple[dict[str, dict[str, Counter[str]]], dict[str, list[str]]]:
    """Count the rows: split -> language -> label -> rows. `""` counts rows without a label or a language.

    Codes that differ only in case or `_` and `-` are one language, with its most frequent spelling as the name. The
    second value maps these names to all their spellings.
    """
    rows: dict[str, Counter[tuple[str, str]]] = {}
    for split, by_language in source.rows.items():
        here = rows.setdefault(split, Counter())
        for language, each in by_language.items():
            names = each.column(label).to_pylist()
            of = each.column(column).to_pylist() if language is None and column else [language or ""] * len(names)
            here.update(zip(of, (spelt.get(x, x) for x in names), strict=True))
    totals: Counter[str] = Counter()
    for by_label in rows.values():
        for (language, _), count in by_label.items():
            totals[language] += count
    called: dict[str, str] = {}
    merged: dict[str, list[str]] = {}
    for language in sorted(totals, key=lambda x: (-totals[x], x)):
        name = called.setdefault(language_key(language), language.strip())
        merged.setdefault(name, []).append(language)
    found: dict[str, dict[str, Counter[str]]] = {}
    for split, by_label in rows.items():
        for (language, label_name), count in by_label.items():
            name = called[language_key(language)]
            found.setdefault(split, {}).setdefault(name, Counter())[label_name] += count
    return found, {name: spellings for name, spellings in merged.items() if len(spellings) > 1}


def split_column(source: RawDataset) -> str | None:
    """Return the column with the official split of each row; None unless exactly one column has it."""
    found = []
    for name in source.columns:
        column = source.column(name)
        if 2 <= pc.count_distinct(column).as_py() <= 9:
            splits = {split_named(x) for x in pc.unique(column).to_pylist()}
            if None not in splits and "train" in splits and len(splits) > 1:
                found.append(name)
    return found[0] if len(found) == 1 else None


def supervised(train: dict[str, Counter[str]]) -> list[str]:
    """Return the languages with enough training rows, otherwise all with two or more labels; most rows first."""
    rows = {x: count.total() - count[""] for x, count in train.items()}
    labels = {name for count in train.values() for name in count if name}
    order = sorted(train, key=lambda x: -rows[x])
    enough = [
        x for x in order if rows[x] >= ENOUGH_ROWS and all(train[x][name] >= ENOUGH_OF_A_LABEL for name in labels)
    ]
    return enough or [x for x in order if len([name for name in train[x] if name]) > 1]
