"""The summary that `mbkd init` prints: six lines that make wrong guesses visible, and warnings."""

from collections import Counter
from typing import Any, NamedTuple

from mbkd.onboarding.languages import is_code, standard
from mbkd.onboarding.sources import RawDataset

# Descriptions of the settings for reading a file.
SETTINGS = {
    "header": {False: "no header"},
    "quoted": {True: "quotes enclose fields", False: "quotes are text"},
}


class Taken(NamedTuple):
    """The facts of a new configuration.

    files    split -> file, or the hub's name of the split
    columns  the columns of text, text_pair, label, language and id; header and quoted if set
    labels   names in the order of the classes; ordinal: whether they are ordered steps of a scale
    counts   split -> language -> label -> rows; `""` counts rows without a label
    """

    files: dict[str, str]
    columns: dict[str, Any]
    labels: list[str]
    ordinal: bool
    supervised: list[str]
    zero_shot: list[str]
    counts: dict[str, dict[str, Counter[str]]]

    def training_rows(self) -> dict[str, int]:
        """Return the number of training rows of each supervised language."""
        return {x: self.counts.get("train", {}).get(x, Counter()).total() for x in self.supervised}

    def measured_rows(self) -> dict[str, int]:
        """Return the number of rows of each zero-shot language, over all splits."""
        return {x: sum(by[x].total() for by in self.counts.values() if x in by) for x in self.zero_shot}


def lines(
    source: RawDataset, taken: Taken, left: dict[str, str], merged: dict[str, list[str]], spelt: set[str], dropped: int
) -> list[str]:
    """Return lines about files, columns, labels, supervised and zero-shot languages, and unused data."""
    files, counts = taken.files, taken.counts
    columns = {x: name for x, name in taken.columns.items() if isinstance(name, str)}
    shown = [f"{x} = {name}" for x, name in columns.items()]
    shown += [words[taken.columns[x]] for x, words in SETTINGS.items() if x in taken.columns]
    unused = [x for x in source.columns if x not in columns.values()]
    more = [f"columns {', '.join(unused)}"] if unused else []
    more += [f"{x}: {why}" for x, why in {**left, **source.unread}.items()]
    more += [f"{dropped:,} rows without text or label"] if dropped else []
    if unlabelled := sum(count[""] for by in counts.values() for count in by.values()):
        more += [f"{unlabelled:,} rows have no label"] if not dropped else []
    scale = "ordinal" if taken.ordinal else "not ordinal"
    others = [x for x in sorted(spelt) if x.strip()]
    found = [
        f"files     {', '.join(f'{split} {file}' for split, file in files.items())}",
        f"columns   {', '.join(shown)}",
        f"labels    {', '.join(taken.labels)} ({scale})"
        + (f"; also written {', '.join(map(repr, others))}" if others else ""),
        f"train on  {', '.join(f'{x} ({rows:,} rows)' for x, rows in taken.training_rows().items())}"
        + "".join(f"; {' and '.join(map(repr, each))} are {name}" for name, each in merged.items()),
        f"evaluate  {', '.join(f'{x} ({rows:,})' for x, rows in taken.measured_rows().items()) or 'no other language'}",
        f"unused    {'; '.join(more) or 'nothing'}",
    ]
    codes: dict[str, list[str]] = {}
    for language in dict.fromkeys(x for by in counts.values() for x in by if is_code(x)):
        codes.setdefault(standard(language), []).append(language)
    found += [f"{' and '.join(each)} are codes of one language; unify them" for each in codes.values() if len(each) > 1]
    if set(files) == {"train"}:
        found.append("no dev or test rows: mbkd cannot evaluate a model, and a sweep cannot choose a configuration")
    elif "dev" not in files:
        found.append(
            "no dev rows: a sweep cannot choose a configuration; a choice by test rows would inflate test scores"
        )
    elif "test" not in files:
        found.append("no test rows: scores are those of dev rows, which a choice by dev rows inflates")
    return found
