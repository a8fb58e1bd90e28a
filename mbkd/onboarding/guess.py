"""What the columns of a file hold, guessed: by their names first, then by their content."""

import re
from collections import Counter
from collections.abc import Iterable

import pyarrow.compute as pc

from mbkd.onboarding.languages import is_code
from mbkd.onboarding.sources import Source

# Usual names, the surest first.
NAMES = {
    "text": "text text_a body review_body sentence sentence1 premise content review comment message document utterance "
    "tweet question question1 abstract description",
    "text_pair": "text_pair text_b sentence2 hypothesis hypo question2 title review_title subject headline",
    "label": "label labels class category target gold_label sentiment stars rating score intent topic queue y",
    "language": "language lang locale language_code lang_code",
    "id": "id uid guid uuid review_id row_id pairid",
}
MOST_LABELS, MOST_LANGUAGES = 50, 100
SCALES = ("star", "rating", "score", "grade", "level", "severity", "priority")  # names of columns with steps
ENOUGH_ROWS, ENOUGH_OF_A_LABEL = 200, 10  # training rows for a language to be learnt from


def columns(source: Source) -> dict[str, str | None]:
    """Which column holds what (keys of NAMES); None where nothing fits, or more than one column might."""
    there = source.columns
    values = {name: source.column(name) for name in there}
    rows = len(next(iter(values.values())))
    distinct = {name: pc.count_distinct(column).as_py() for name, column in values.items()}
    filled = {name: not pc.any(pc.equal(pc.utf8_trim_whitespace(values[name]), "")).as_py() for name in there}
    found: dict[str, str | None] = dict.fromkeys(NAMES)

    def named(what: str, fits: Iterable[str]) -> str | None:
        usual = {name.lower(): name for name in fits if name not in found.values()}
        return next((usual[x] for x in NAMES[what].split() if x in usual), None)

    if None in source.rows["train"]:  # not where the files' names say it
        coded = [
            name
            for name in there
            if distinct[name] <= MOST_LANGUAGES and all(map(is_code, pc.unique(values[name]).to_pylist()))
        ]
        found["language"] = named("language", coded) or (coded[0] if len(coded) == 1 else None)
    few = [name for name in there if 2 <= distinct[name] <= min(MOST_LABELS, max(2, rows // 2))]
    found["label"] = named("label", few)
    if found["label"] is None:
        left = [name for name in few if name not in found.values()]
        found["label"] = left[0] if len(left) == 1 else None
    found["text"] = named("text", there)
    if found["text"] is None:
        length = {name: pc.mean(pc.utf8_length(values[name])).as_py() for name in there if name not in found.values()}
        found["text"] = max(length, key=lambda name: length[name], default=None)
    found["text_pair"] = named("text_pair", [name for name in there if filled[name]])
    found["id"] = named("id", [name for name in there if distinct[name] == rows])
    return found


def labels(source: Source, column: str) -> tuple[list[str], bool]:
    """The label names in the order of their classes, and whether they are steps of one scale."""
    names = [x for x in pc.unique(source.column(column)).to_pylist() if x.strip()]
    if all(re.fullmatch(r"-?\d+", name) for name in names):
        names.sort(key=int)
        steps = [int(name) for name in names] == list(range(int(names[0]), int(names[0]) + len(names)))
        return names, steps and len(names) > 2 and any(word in column.lower() for word in SCALES)
    return sorted(names), False


def languages(source: Source, column: str | None, label: str) -> dict[str, dict[str, Counter[str]]]:
    """How often each label stands in each language: split -> language -> label -> rows; `""` counts rows without one.

    Labels are as the rows have them, spaces and all, because that is what a configuration's are compared with.
    The language is `""` where nothing says it.
    """
    found: dict[str, dict[str, Counter[str]]] = {}
    for split, by_language in source.rows.items():
        here = found.setdefault(split, {})
        for language, rows in by_language.items():
            names = rows.columns[label].to_pylist()
            of = rows.columns[column].to_pylist() if language is None and column else [language or ""] * len(names)
            for each, name in Counter(zip(of, names, strict=True)).items():
                here.setdefault(each[0], Counter())[each[1] if each[1].strip() else ""] += name
    return found


def supervised(train: dict[str, Counter[str]]) -> list[str]:
    """The languages with enough training rows, most rows first; if none has enough, all with two labels."""
    rows = {x: count.total() - count[""] for x, count in train.items()}
    labels = {name for count in train.values() for name in count if name}
    order = sorted(train, key=lambda x: -rows[x])
    enough = [
        x for x in order if rows[x] >= ENOUGH_ROWS and all(train[x][name] >= ENOUGH_OF_A_LABEL for name in labels)
    ]
    return enough or [x for x in order if len([name for name in train[x] if name]) > 1]
