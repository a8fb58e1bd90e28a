"""Output of `mbkd data` on the terminal: rows, tokens, examples, warnings."""

import re
import unicodedata
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from rich.cells import cell_len
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from mbkd.terminal.console import make_console
from mbkd.terminal.grid import LABEL, fits

LONGEST = 500  # maximum characters of an example; windows are narrower
WIDER = 8  # a text may need 1 / WIDER of the window's cells beyond rich's count
QUOTED_OR_NUMBER = re.compile(r"('[^']*'|[\d,]*\d(?:\.\d+)?)")


def print_data(found: dict[str, Any]) -> None:
    """Print the report of `mbkd.onboarding.quality.inspect`: rows, tokens, examples, warnings."""
    console = make_console()
    splits = found["splits"]
    rows = _rows(splits, found["labels"])
    console.print(rows if fits(rows, console) else _rows(splits, ()))
    tokens = [(each, *item) for each in splits for item in each["tokens"].items()]
    if tokens:
        console.print(_tokens(tokens, found["max_length"]))
    console.print(_examples(splits, console))
    for name, tokenizer in found["tokenizers"].items():
        if tokenizer["problem"]:
            _line(console, f"not checked: tokens of {name}: {tokenizer['problem']}")
    for fact in facts(found["warnings"]):
        _line(console, Text.assemble(("warning", "yellow"), f" {fact}"))


def facts(warnings: Sequence[dict[str, str]]) -> Iterator[str]:
    """Yield each warning once, with its splits and languages and the range of its numbers.

    warnings: {"split", "language", "kind", "message"}, as returned by `inspect`.
    """
    groups: dict[str, list[tuple[dict[str, str], list[str]]]] = {}
    for each in warnings:
        message = each["message"]
        if each["kind"] == "wrong language":  # the table of rows lists the other languages
            message = message.partition(" (")[0]
            message = message.replace(f"like {each['language']}", "like their own language")
        parts = QUOTED_OR_NUMBER.split(message)  # every second part is a number or a quoted name
        fact = "".join("#" if number % 2 and part[0] != "'" else part for number, part in enumerate(parts))
        groups.setdefault(fact, []).append((each, parts))
    for group in groups.values():
        if len(group) == 1:
            (each, _) = group[0]
            yield f"{each['split']} {each['language']}: {each['message']}"
            continue
        splits: dict[str, list[str]] = {}  # by language
        for each, _ in group:
            splits.setdefault(each["language"], []).append(each["split"])
        together: dict[tuple[str, ...], list[str]] = {}  # languages with the same splits
        for language, names in splits.items():
            together.setdefault(tuple(names), []).append(language)
        where = "; ".join(f"{' '.join(names)}: {', '.join(languages)}" for names, languages in together.items())
        yield f"{''.join(_range(same) for same in zip(*(parts for _, parts in group), strict=True))}; {where}"


def _range(parts: Sequence[str]) -> str:
    """Merge the parts at one position of several messages."""
    if len(set(parts)) == 1:
        return parts[0]
    low, *_, high = sorted(parts, key=lambda part: float(part.replace(",", "")))
    return f"{low}-{high}"


def _rows(splits: Sequence[dict[str, Any]], labels: Iterable[str]) -> Table:
    """Return a table of the rows per label; without `labels`, of the rarest and the most frequent label."""
    others = list(dict.fromkeys(x for each in splits for x in each["also_in"]))
    cells = {
        "rows": [_count(each["rows"]) for each in splits],
        **{x: [_count(each["labels"][x]) for each in splits] for x in labels},
        "duplicates": [_count(each["duplicates"]) for each in splits],
        **{f"also in {x}": [_count(each["also_in"].get(x)) for each in splits] for x in others},
    }
    if not labels:
        ends = ((min(each["labels"].values()), max(each["labels"].values())) for each in splits)
        cells["rows of a label"] = [f"{low:,}-{high:,}" for low, high in ends]
    names = (Column(name, no_wrap=True) for name in ("split", "language"))
    looks = Column("looks like", overflow="fold", max_width=LABEL)
    table = Table(*names, *map(_narrow, cells, cells.values()), looks, title="rows", title_justify="left")
    for number, each in enumerate(splits):
        mine = [values[number] for values in cells.values()]
        table.add_row(each["split"], each["language"], *mine, _languages(each["language"], each["looks_like"]))
    return table


def _count(value: int | None) -> str:
    return "" if value is None else f"{value:,}"


def _tokens(found: Sequence[tuple[dict[str, Any], str, dict[str, Any]]], max_length: int) -> Table:
    """Return a table of token lengths. found: (split and language, tokenizer, lengths) of each line."""
    cells: dict[str, list[str]] = {
        **{x: [str(one[x]) for _, _, one in found] for x in ("p50", "p90", "p99")},
        f"rows over {max_length} %": [f"{100 * one['longer']:.1f}" for _, _, one in found],
        "cut %": [f"{100 * one['cut']:.1f}" for _, _, one in found],
        "unknown %": ["-" if one["unknown"] is None else f"{100 * one['unknown']:.2f}" for _, _, one in found],
    }
    columns = map(_narrow, cells, cells.values())
    title = "tokens per row, with special tokens"
    table = Table("split", "language", "tokenizer", *columns, title=title, title_justify="left")
    for number, (each, name, _) in enumerate(found):
        mine = [values[number] for values in cells.values()]
        table.add_row(each["split"], each["language"], name.split()[0], *mine)
    return table


def _examples(splits: Sequence[dict[str, Any]], console: Console) -> Table:
    """Return the first rows of each language's first split, one line each, cut to the width of the window."""
    first = {each["language"]: each for each in reversed(splits)}.values()
    pairs = any(row["text_pair"] for each in first for row in each["examples"])
    names = {"text": "text"} | ({"text_pair": "second text"} if pairs else {})
    texts = (Column(name, no_wrap=True, overflow="ellipsis", ratio=1) for name in names.values())
    label = Column("label", overflow="fold", max_width=LABEL)
    table = Table("split", "language", label, *texts, title="some rows", title_justify="left")
    most, spare = console.width // WIDER, 0
    for each in first:
        for row in each["examples"]:
            shown = [_cut(" ".join((row[x] or "").split())[:LONGEST], most) for x in names]
            spare = max(spare, sum(map(_more_cells, shown)))
            table.add_row(each["split"], each["language"], Text(row["label"]), *map(Text, shown))
    if not fits(table, console, spare):
        table.width = console.width - spare
    return table


def _cut(text: str, most: int) -> str:
    """Return the text, cut where a terminal may need more than `most` cells beyond rich's count."""
    if _more_cells(text) <= most:
        return text
    return f"{text[: bisect_right(range(len(text)), most, key=lambda end: _more_cells(text[:end])) - 1]}…"


def _more_cells(text: str) -> int:
    """Return the cells that a terminal may need for a text beyond rich's count.

    rich counts the cells of grapheme clusters. Many terminals count those of code points, such as the vowel signs of
    Tamil and Devanagari.
    """
    return max(0, sum(map(_cells, text)) - cell_len(text))


def _cells(character: str) -> int:
    return 0 if unicodedata.category(character) in ("Mn", "Me", "Cf") else max(1, cell_len(character))


def _narrow(name: str, cells: Sequence[str]) -> Column:
    """Return a column of numbers whose name wraps between words."""
    return Column(Text(name), justify="right", overflow="fold", width=max(map(cell_len, [*name.split(), *cells])))


def _line(console: Console, text: str | Text) -> None:
    # Lines in a file are not wrapped, because programs may search them.
    console.print(text, soft_wrap=not console.is_terminal, markup=False, highlight=False)


def _languages(own: str, found: dict[str, Any] | None) -> str:
    """Format the shares of detected languages, with the rows' own language first."""
    if found is None:
        return "-"
    others = [f"{language} {share:.0%}" for language, share in found["others"].items() if share >= 0.005]
    return ", ".join([f"{own} {found['own']:.0%}", *others])
