"""What `mbkd init` took, in six lines, so that a wrong guess shows."""

from collections import Counter
from typing import Any

from mbkd.onboarding.languages import is_code, standard
from mbkd.onboarding.sources import RawDataset


def lines(
    source: RawDataset,
    files: dict[str, str],
    columns: dict[str, Any],
    labels: list[str],
    ordinal: bool,
    supervised: list[str],
    zero_shot: list[str],
    counts: dict[str, dict[str, Counter[str]]],
    left: dict[str, str],
    merged: dict[str, list[str]],
    spelt: set[str],
    dropped: int,
) -> list[str]:
    """The lines: files, columns, labels, languages to train on and to measure, and what is left unused."""
    rows = {x: sum(by[x].total() for by in counts.values() if x in by) for x in zero_shot}
    trained = counts["train"]
    taken = {x: name for x, name in columns.items() if name is not None}
    unused = [x for x in source.columns if x not in taken.values()]
    more = [f"columns {', '.join(unused)}"] if unused else []
    more += [f"{x}: {why}" for x, why in left.items()]
    more += [f"{dropped:,} rows without text or label"] if dropped else []
    if unlabelled := sum(count[""] for by in counts.values() for count in by.values()):
        more += [f"{unlabelled:,} of all rows have no label"] if not dropped else []
    scale = "steps of one scale" if ordinal else "no scale"
    others = [x for x in sorted(spelt) if x.strip()]
    found = [
        f"files     {', '.join(f'{split} {file}' for split, file in files.items())}",
        f"columns   {', '.join(f'{x} = {name}' for x, name in taken.items())}",
        f"labels    {', '.join(labels)} ({scale})"
        + (f"; also written {', '.join(map(repr, others))}" if others else ""),
        f"train on  {', '.join(f'{x} ({trained[x].total():,} rows)' for x in supervised)}"
        + "".join(f"; {' and '.join(map(repr, each))} are {name}" for name, each in merged.items()),
        f"measure   {', '.join(f'{x} ({rows[x]:,})' for x in zero_shot) or 'no other language'}",
        f"unused    {'; '.join(more) or 'nothing'}",
    ]
    codes: dict[str, list[str]] = {}
    for language in dict.fromkeys(x for by in counts.values() for x in by if is_code(x)):
        codes.setdefault(standard(language), []).append(language)
    found += [f"{' and '.join(each)} are one language under two codes?" for each in codes.values() if len(each) > 1]
    if set(files) == {"train"}:
        found.append("no dev or test rows: nothing is measured, and a sweep has nothing to choose by")
    elif "dev" not in files:
        found.append("no dev rows: a sweep has nothing to choose by, and a choice by the test rows flatters them")
    elif "test" not in files:
        found.append("no test rows: the scores are of the dev rows, which a choice by them flatters")
    return found
