"""`mbkd init`: look at the user's rows, ask what cannot be known, write a configuration that runs."""

import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from mbkd import config as configuration
from mbkd.config import SPLITS
from mbkd.errors import UserError
from mbkd.onboarding import divide, guess, sources, suggestions
from mbkd.onboarding.languages import is_code


@dataclass(frozen=True)
class Wishes:
    """What the command line says; None is asked for, or guessed."""

    text: str | None = None
    text_pair: str | None = None
    label: str | None = None
    language: str | None = None  # a column, or the language of all rows
    labels: tuple[str, ...] = ()
    ordinal: bool | None = None
    supervised: tuple[str, ...] = ()
    zero_shot: tuple[str, ...] = ()
    split: bool | None = None
    teachers: bool | None = None
    backbone: str | None = None


class Dialogue:
    """Asks on a terminal; elsewhere takes the guess, or says which option would have answered."""

    def __init__(self, interactive: bool):
        self.interactive = interactive

    def ask(self, question: str, option: str, known: Any, guess: Any, parse: Callable[[str], Any] = str) -> Any:
        """The known answer, or what the user types (Enter takes the guess), or the guess. Raises UserError.

        parse: makes an answer of a text, or raises UserError, after which the question comes again.
        """
        if known is not None:
            return parse(known) if isinstance(known, str) else known
        shown = ", ".join(guess) if isinstance(guess, (list, tuple)) else guess
        while self.interactive:
            import typer

            answer = typer.prompt(question, default=shown, err=True)
            try:
                return parse(answer)
            except UserError as error:
                print(error, file=sys.stderr)
        if guess is None:
            raise UserError(f"{question}? It cannot be known from the rows: say it with {option}")
        return guess

    def confirm(self, question: str, option: str, known: bool | None, guess: bool | None) -> bool:
        """Yes or no, as `ask`."""
        if known is None and self.interactive:
            import typer

            return typer.confirm(question, default=bool(guess), err=True)
        if known is None and guess is None:
            raise UserError(f"{question} Say it with {option}")
        return bool(guess if known is None else known)


def write(given: str | None, out: Path | None, wishes: Wishes, force: bool, interactive: bool) -> Path:
    """Write the configuration for some rows (a file, names with `{language}`, a folder in the hub's layout, a hub id).

    Also writes train, dev and test files beside an only file, if the user wants that. Returns the file.
    Raises UserError; then nothing is written.
    """
    dialogue = Dialogue(interactive)
    given = dialogue.ask("Which rows: a file, files named with {language}, or a hub dataset", "SOURCE", given, None)
    out = out or Path(f"{_stem(given)}.yaml")
    if out.exists() and not force:
        raise UserError(f"{out}: is there already; --force writes over it, --out names another file")
    source = sources.find(given)
    columns, alone = _columns(source, wishes, dialogue)
    counts = guess.languages(source, columns["language"], columns["label"])
    names, ordinal = guess.labels(source, columns["label"])
    everywhere = sorted({name for by in counts.values() for count in by.values() for name in count if name})
    names = _list(dialogue.ask("Labels, in the order of the classes", "--labels", wishes.labels or None, names, _list))
    if missing := [name for name in everywhere if name not in names]:
        raise UserError(f"--labels: the rows also have the label {missing[0]!r}")
    if len(names) > 2:
        what = "Are the labels steps of one scale, such as stars?"
        ordinal = dialogue.confirm(what, "--ordinal", wishes.ordinal, ordinal)
    if alone:  # one language, which the rows do not name
        counts = {split: {alone: sum(by.values(), Counter())} for split, by in counts.items()}

    only = set(source.files) == {"train"} and source.path is None
    split = only and dialogue.confirm(
        "There are training rows only. Write train, dev and test files beside (80, 10 and 10 %)?",
        "--split or --no-split", wishes.split, True if interactive else None,
    )  # fmt: skip
    supervised, zero_shot = _languages(counts, bool(split), wishes, dialogue)
    backbone = dialogue.ask("Backbone: a folder or hub id", "--backbone", wishes.backbone, suggestions.BACKBONE)
    what = f"Fine-tune a teacher for each of {', '.join(supervised)} and distil them?"
    teachers = dialogue.confirm(what, "--teachers", wishes.teachers, True)

    files = {x: divide.name(source.files["train"], x) for x in SPLITS} if split else source.files
    text = suggestions.text(
        given, out, source.path, files, columns, names, ordinal, supervised, zero_shot, counts, backbone, teachers
    )
    configuration.parse(yaml.safe_load(text), str(out))
    if split:
        _split(source, columns, alone, names, set(supervised), force)
    part = out.with_name(f".{out.name}.part")
    part.write_text(text, encoding="utf-8")
    part.replace(out)
    return out


def _columns(source: sources.Source, wishes: Wishes, dialogue: Dialogue) -> tuple[dict[str, Any], str | None]:
    """Which column holds what, and the language of all rows where none says it."""
    there = source.columns
    guessed = guess.columns(source)

    def column(name: str) -> str:
        if name not in there:
            raise UserError(f"no column {name!r}; there are {', '.join(there)}")
        return name

    def column_or_none(name: str) -> str | None:
        return None if name in ("", "-") else column(name)

    def column_or_code(name: str) -> str:
        return name if name in there or is_code(name) else column(name)

    found: dict[str, Any] = {"id": guessed["id"]}
    # An answer on the command line is not taken for something else.
    taken = {wishes.text, wishes.text_pair, wishes.label, wishes.language} - {None}
    free = {what: None if name in taken else name for what, name in guessed.items()}
    found["text"] = dialogue.ask("Column with the text", "--text", wishes.text, free["text"], column)
    pair = free["text_pair"] or "-"
    found["text_pair"] = dialogue.ask(
        "Column with a second text, - for none", "--text-pair", wishes.text_pair, pair, column_or_none
    )
    found["text_pair"] = None if found["text_pair"] == "-" else found["text_pair"]
    found["label"] = dialogue.ask("Column with the label", "--label", wishes.label, free["label"], column)
    found["language"], alone = None, None
    if None in source.rows["train"]:
        what = "Column with the language, or the language of all rows"
        answer = dialogue.ask(what, "--language", wishes.language, free["language"], column_or_code)
        found["language"], alone = (answer, None) if answer in there else (None, answer)
    return found, alone


def _languages(
    counts: dict[str, dict[str, Counter[str]]], split: bool, wishes: Wishes, dialogue: Dialogue
) -> tuple[list[str], list[str]]:
    """The languages to train on and those to measure only; says which are left out and why."""
    heldout = [by for split, by in counts.items() if split != "train"]
    there = sorted({x for by in counts.values() for x in by if x})
    why = {} if split else {x: problem for x in there if (problem := _unfit(x, counts))}
    usable = [x for x in there if x not in why]

    def known(text: str) -> list[str]:
        if unknown := [x for x in _list(text) if x not in there]:
            raise UserError(f"no rows of {unknown[0]}; the languages there are {', '.join(there)}")
        return _list(text)

    train = {x: count for x, count in counts["train"].items() if x in usable}
    wished = ",".join(wishes.supervised) or None
    suggested = guess.supervised(train) or None
    supervised = dialogue.ask("Languages to train on", "--supervised", wished, suggested, known)
    rest = [x for x in usable if x not in supervised and (split or (heldout and all(x in by for by in heldout)))]
    wished = ",".join(wishes.zero_shot) or None
    zero_shot = rest if not rest and wished is None else dialogue.ask(
        "Languages to measure only", "--zero-shot", wished, rest, known
    )  # fmt: skip
    for language, problem in why.items():
        print(f"{language} is left out: {problem}", file=sys.stderr)
    return list(supervised), [x for x in zero_shot if x not in supervised]


def _unfit(language: str, counts: dict[str, dict[str, Counter[str]]]) -> str:
    """Why a language cannot be used as its rows are; empty if it can."""
    for split, by in counts.items():
        if split != "train" and language not in by:
            return f"no {split} rows"
        if unlabelled := by.get(language, Counter())[""]:
            return f"{unlabelled} {split} rows have no label"
    return ""


def _split(
    source: sources.Source, columns: dict[str, Any], alone: str | None, names: list[str], trained: set[str], force: bool
) -> None:
    """Write train, dev and test files beside the only ones; rows without text or label are left out."""
    for language, rows in source.rows["train"].items():
        texts = rows.columns[columns["text"]].to_pylist()
        labels = rows.columns[columns["label"]].to_pylist()
        of = rows.columns[columns["language"]].to_pylist() if columns["language"] else [language or alone] * len(texts)
        items = [divide.Item(*item) for item in zip(texts, of, labels, strict=True)]
        good = [x.text.strip() != "" and x.label in names for x in items]
        places = iter(divide.assign([x for x, fits in zip(items, good, strict=True) if fits], trained))
        splits = [next(places) if fits else None for fits in good]
        file = source.files["train"].replace(sources.MARK, language or sources.MARK)
        # tickets.fr.csv -> tickets.fr.dev.csv is what tickets.{language}.csv -> tickets.{language}.dev.csv gives
        divide.write(file, rows, splits, force)
        if left := good.count(False):
            print(f"{file}: {left} rows without text or label are left out", file=sys.stderr)


def _list(text: str | list[str] | tuple[str, ...]) -> list[str]:
    """The parts of `a, b, c`."""
    return [x for part in text.split(",") if (x := part.strip())] if isinstance(text, str) else list(text)


def _stem(given: str) -> str:
    """A name for the configuration: that of the file without `train`, or of the folder or dataset."""
    parts = [x for x in Path(given).stem.replace(sources.MARK, "").split(".") if x not in ("", "train")]
    return "-".join(parts) or Path(given).absolute().parent.name
