"""What `mbkd data` found, on the terminal: rows, tokens, some rows, warnings."""

from typing import Any

from rich.markup import escape
from rich.table import Table

from mbkd.terminal.console import make_console


def print_data(found: dict[str, Any]) -> None:
    """Print what `mbkd.data.quality.inspect` found: rows, tokens, some rows, warnings."""
    console = make_console()
    splits = found["splits"]
    others = list(dict.fromkeys(x for each in splits for x in each["also_in"]))
    rows = Table(title="rows", title_justify="left")
    for name in ("split", "language", "rows", *found["labels"], "doubles", *(f"also in {x}" for x in others)):
        rows.add_column(name, justify="left" if name in ("split", "language") else "right")
    rows.add_column("looks like")
    for each in splits:
        counts = [each["rows"], *each["labels"].values(), each["duplicates"], *(each["also_in"].get(x) for x in others)]
        cells = ["" if x is None else f"{x:,}" for x in counts]
        rows.add_row(each["split"], each["language"], *cells, _languages(each["language"], each["looks_like"]))
    console.print(rows)
    columns = ("split", "language", "tokenizer", "p50", "p90", "p99", f"rows over {found['max_length']} %", "cut %")
    tokens = Table(*columns, "unknown %", title="tokens a row, special ones included", title_justify="left")
    for each in splits:
        for name, one in each["tokens"].items():
            unknown = "-" if one["unknown"] is None else f"{100 * one['unknown']:.2f}"
            shares = [f"{100 * one['longer']:.1f}", f"{100 * one['cut']:.1f}", unknown]
            lengths = [str(one[x]) for x in ("p50", "p90", "p99")]
            tokens.add_row(each["split"], each["language"], name.split()[0], *lengths, *shares)
    if tokens.rows:
        console.print(tokens)
    examples = Table("split", "language", "label", "text", "second text", title="some rows", title_justify="left")
    for each in {each["language"]: each for each in reversed(splits)}.values():  # of a language's first split
        for row in each["examples"]:
            texts = [escape(_short(row[x] or "")) for x in ("text", "text_pair")]
            examples.add_row(each["split"], each["language"], escape(row["label"]), *texts)
    console.print(examples)
    for name, tokenizer in found["tokenizers"].items():
        if tokenizer["problem"]:
            console.print(f"not looked at: tokens of {name}: {escape(tokenizer['problem'])}", soft_wrap=True)
    for each in found["warnings"]:
        where = f"{each['split']} {each['language']}"
        console.print(f"[yellow]warning[/yellow] {where}: {escape(each['message'])}", soft_wrap=True)


def _languages(own: str, found: dict[str, Any] | None) -> str:
    """The shares of the languages that rows look like, the own one first."""
    if found is None:
        return "-"
    others = [f"{language} {share:.0%}" for language, share in found["others"].items() if share >= 0.005]
    return ", ".join([f"{own} {found['own']:.0%}", *others])


def _short(text: str, width: int = 60) -> str:
    text = " ".join(text.split())
    return text if len(text) <= width else text[: width - 1] + "…"
