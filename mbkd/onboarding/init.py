"""`mbkd init`: look at the user's rows, ask what cannot be known, write a configuration that runs."""

import contextlib
import sys
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import yaml

from mbkd import config as configuration
from mbkd.config import SPLITS, Task, language_key
from mbkd.data import tasks
from mbkd.errors import UserError
from mbkd.files import beside, refuse_full
from mbkd.onboarding import divide, guess, sources, suggestions, summary
from mbkd.onboarding import names as names_of_columns
from mbkd.onboarding.dialogue import Dialogue
from mbkd.onboarding.languages import is_code, looks_like

MOST_BRANCHES = 10  # languages to train on that are suggested without a question
MOST_SHOWN = 20  # languages of files that lie beside the named one


@dataclass(frozen=True)
class Options:
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
    split_column: str | None = None
    header: bool | None = None
    quoting: bool | None = None


def write(given: str | None, out: Path | None, options: Options, force: bool, interactive: bool) -> Path:
    """Write the configuration for some rows (a file, names with `{language}`, a folder in the hub's layout, a hub id).

    Also writes train, dev and test files beside an only file, if the user wants that, and says on standard error what
    was taken. Returns the file. Raises UserError; then nothing is written.
    """
    dialogue = Dialogue(interactive)
    given = dialogue.ask("Which rows: a file, files named with {language}, or a hub dataset", "SOURCE", given, None)
    out = out or Path(f"{_stem(given)}.yaml")
    if out.exists() and not force:
        raise UserError(f"{out}: is there already; --force writes over it, --out names another file")
    given = _with_siblings(sources.in_folder(given), options, dialogue)
    source, options = _read(given, options, dialogue)
    columns, alone = _columns(source, given, options, dialogue)
    source, split = _splits(source, options, dialogue)

    labels, ordinal = _labels(source, columns["label"], options, dialogue)
    counts, merged = guess.languages(source, columns["language"], columns["label"], labels.spelt)
    if alone:  # one language, which the rows do not name
        counts = {split_: {alone: sum(by.values(), Counter())} for split_, by in counts.items()}

    backbone = options.backbone or suggestions.BACKBONE
    supervised, zero_shot, left = _languages(counts, split == "drawn", backbone, options, dialogue)
    backbone = dialogue.ask("Backbone: a folder or hub id", "--backbone", options.backbone, suggestions.BACKBONE)
    what = f"Fine-tune a teacher for each of {', '.join(supervised)} and distil them?"
    teachers = dialogue.confirm(what, "--teachers", options.teachers, True)

    if split:
        wanted = SPLITS if split == "drawn" else source.rows
        files = {x: divide.name(source.files["train"], x) for x in wanted}
    else:
        files = source.files
    read = columns | ({"header": False} if options.header is False else {})
    read |= {} if options.quoting is None else {"quoted": options.quoting}
    taken = summary.Taken(files, read, labels.names, ordinal, supervised, zero_shot, counts)
    text = suggestions.text(given, out, source.kind, source.path, taken, backbone, teachers)
    configuration.parse(yaml.safe_load(text), str(out))
    trained, named = {*supervised, *map(language_key, supervised)}, options.header is not False
    dropped = 0
    with refuse_full(out), contextlib.ExitStack() as written:  # all files, or none
        written.enter_context(beside(out)).write_text(text, encoding="utf-8")
        if split:
            dropped = divide.write_all(source, split, columns, alone, labels, trained, named, force, written)
    spelt = {x for x, name in labels.spelt.items() if x != name}
    for line in summary.lines(source, taken, left, merged, spelt, dropped):
        print(line, file=sys.stderr)
    return out


def _read(given: str, options: Options, dialogue: Dialogue) -> tuple[sources.RawDataset, Options]:
    """The rows; and the options, that say so where the first line turns out to be a row."""
    whole = bool(options.split or options.split_column)
    source = sources.find(given, options.header is not False, options.quoting, whole)
    rows = next(iter(source.rows["train"].values()))  # every file's own first line, so that no column may be shared
    if options.header is None and guess.header_is_a_row(rows, options.label):
        what = f"Is the first line the header ({', '.join(rows.columns)[:100]})? It looks like a row."
        if not dialogue.confirm(what, "--header yes or --header no", None, False if dialogue.interactive else None):
            return sources.find(given, False, options.quoting, whole), replace(options, header=False)
    return source, options


def _with_siblings(given: str, options: Options, dialogue: Dialogue) -> str:
    """The name with `{language}` if the user wants the files of other languages beside the named one, too."""
    if options.language is not None or sources.MARK in given or not Path(given).expanduser().is_file():
        return given
    if (found := sources.siblings(given, options.header is not False, options.quoting)) is None:
        return given
    pattern, there, own = found
    rest = [x for x in there if x != own]
    others = ", ".join(rest[:MOST_SHOWN]) + (f" and {len(rest) - MOST_SHOWN} more" if len(rest) > MOST_SHOWN else "")
    if dialogue.interactive:
        what = f"Files of other languages lie beside {given} ({others}). Take all of them?"
        return pattern if dialogue.confirm(what, "", None, True) else given
    print(f"{given} only; files of {others} lie beside it, and {pattern!r} names them all", file=sys.stderr)
    return given


def _columns(
    source: sources.RawDataset, given: str, options: Options, dialogue: Dialogue
) -> tuple[dict[str, Any], str | None]:
    """Which column holds what, and the language of all rows where none says it."""
    there = source.columns
    if source.kind != "own":
        return {"text": "text", "text_pair": "text_pair", "label": "label", "language": None}, None
    hint = f"the columns are {', '.join(there)}"
    if unfit := sorted({x for rows in source.tables for x in rows.unfit}):
        hint += f", and {', '.join(unfit)} with lists"

    def column(name: str) -> str:
        source.column(name)  # refuses one that is not there, or that holds no text
        return name

    def column_or_none(name: str) -> str | None:
        return None if name in ("", "-") else column(name)

    def column_or_code(name: str) -> str:
        return name if name in there or is_code(name) else column(name)

    said = {x: getattr(options, x) for x in ("text", "text_pair", "label", "language")}
    own = options.language if options.language not in there else None
    guessed = guess.columns(source, own, said)
    language, alone = None, own
    if None not in source.rows["train"]:
        language, alone = None, None
    elif alone is None:
        what = "Column with the language, or the language of all rows"
        answer = guessed.found["language"] or _named_language(source, given)
        ends = sorted(
            x for x in names_of_columns.languages(there) if len(names_of_columns.in_language(there, x)) < len(there)
        )
        if ends:  # the user says which of the columns count
            answer = guessed.found["language"]
            hint += f"; columns end in {', '.join(ends)}"
        answer = dialogue.ask(what, "--language", options.language, answer, column_or_code, hint)
        language, alone = (answer, None) if answer in there else (None, answer)
        guessed = guess.columns(source, alone, said | {"language": language})
    elif not is_code(alone):
        column(alone)

    found: dict[str, Any] = {}

    def candidates(what: str) -> str:
        some = guessed.candidates.get(what)
        return hint + (f"; it could be {', '.join(some)}" if some else "")

    free = guessed.found
    found["text"] = dialogue.ask(
        "Column with the text", "--text", options.text, free["text"], column, candidates("text")
    )
    pair = free["text_pair"] or (None if guessed.candidates.get("text_pair") else "-")
    found["text_pair"] = dialogue.ask(
        "Column with a second text, - for none", "--text-pair (- for none)", options.text_pair, pair, column_or_none,
        candidates("text_pair"),
    )  # fmt: skip
    found["text_pair"] = None if found["text_pair"] == "-" else found["text_pair"]
    found["label"] = dialogue.ask(
        "Column with the label", "--label", options.label, free["label"], column, candidates("label")
    )
    return found | {"language": language, "id": guessed.found["id"]}, alone


def _named_language(source: sources.RawDataset, given: str) -> str | None:
    """The language that the file's name says, if the rows look like it."""
    language = sources.language_in_name(given) if source.path is None else None
    if language is None:
        return None
    rows = next(iter(source.rows["train"].values()))
    longest = max(rows.columns, key=lambda name: sum(map(len, rows.columns[name][:200].to_pylist())))
    look = looks_like(rows.columns[longest][:200].to_pylist(), language)
    return language if look and look["own"] >= 0.8 else None


def _splits(
    source: sources.RawDataset, options: Options, dialogue: Dialogue
) -> tuple[sources.RawDataset, Literal["drawn", "official"] | None]:
    """The rows by a split column, if the user wants that; and whether files are to be written for the splits."""
    column = options.split_column
    if set(source.files) != {"train"} or source.path is not None:
        if asked := f"--split-column {column}" if column else "--split" if options.split else "":
            there = ", ".join(f"{split} {file}" for split, file in source.files.items())
            raise UserError(f"{asked}: the splits are there already ({there}); leave the option out")
        return source, None
    if column is None and options.split is None and (seen := guess.split_column(source)):
        what = f"The column {seen!r} names a split for each row. Write the rows of each to a file beside?"
        if dialogue.confirm(what, f"--split-column {seen}, --split or --no-split", None, dialogue.interactive or None):
            column = seen
    if column:
        return sources.by_column(source, column), "official"
    split = dialogue.confirm(
        "There is one set of rows only. Write train, dev and test files beside (80, 10 and 10 %)?",
        "--split or --no-split", options.split, True if dialogue.interactive else None,
    )  # fmt: skip
    return source, "drawn" if split else None


def _labels(source: sources.RawDataset, column: str, options: Options, dialogue: Dialogue) -> tuple[guess.Labels, bool]:
    """The labels, and whether they are steps of one scale."""
    if source.kind != "own":
        task = Task(kind=source.kind, path=source.path)
        names = list(tasks.label_names(task))
        return guess.labels(source, column, names)._replace(names=names), tasks.is_ordinal(task)
    wished = options.labels or None
    seen = guess.labels(source, column, wished or ())
    guess.refuse_numbers(seen.names, column)
    names = _list(dialogue.ask("Labels, in the order of the classes", "--labels", wished, seen.names, _list))
    labels = guess.labels(source, column, names)
    if missing := [name for name in labels.names if name not in names]:
        raise UserError(f"--labels: the rows also have the label {missing[0]!r}")
    ordinal = seen.ordinal
    if len(names) > 2:
        what = "Are the labels steps of one scale, such as stars?"
        ordinal = dialogue.confirm(what, "--ordinal", options.ordinal, ordinal)
    return labels._replace(names=names), ordinal


def _languages(
    counts: dict[str, dict[str, Counter[str]]], split: bool, backbone: str, options: Options, dialogue: Dialogue
) -> tuple[list[str], list[str], dict[str, str]]:
    """The languages to train on and those to measure only, and those left out, each with the reason."""
    heldout = [by for split, by in counts.items() if split != "train"]
    there = sorted({x for by in counts.values() for x in by if x})
    why = {x: problem for x in there if (problem := _unfit(x, counts, split))}
    usable = [x for x in there if x not in why]

    called = {language_key(x): x for x in there}  # zho_Hans may be asked for as zho-hans

    def known(text: str) -> list[str]:
        if unknown := [x for x in _list(text) if language_key(x) not in called]:
            raise UserError(f"no rows of {unknown[0]}; the languages there are {', '.join(there)}")
        return list(dict.fromkeys(called[language_key(x)] for x in _list(text)))

    train = {x: count for x, count in counts["train"].items() if x in usable}
    suggested, hint = guess.supervised(train) or None, "no language that can be used has rows of two labels"
    if why:
        hint += f" ({', '.join(f'{x}: {problem}' for x, problem in list(why.items())[:5])})"
    if suggested and len(suggested) > MOST_BRANCHES:
        few = suggested[:3]
        hint = (
            f"{len(suggested)} languages have training rows ({', '.join(suggested)}). Each gets a branch and a teacher:"
            f" a step takes {suggestions.step_cost(backbone, len(suggested)):.1f} times the plain encoder's with all of"
            f" them, {suggestions.step_cost(backbone, 3):.1f} times with three; the others are measured only"
        )
        suggested = few if dialogue.interactive else None
        if dialogue.interactive:
            print(hint, file=sys.stderr)
    wished = ",".join(options.supervised) or None
    supervised = dialogue.ask("Languages to train on", "--supervised", wished, suggested, known, hint)
    rest = [x for x in usable if x not in supervised and (split or (heldout and all(x in by for by in heldout)))]
    wished = ",".join(options.zero_shot) or None
    zero_shot = rest if not rest and wished is None else dialogue.ask(
        "Languages to measure only", "--zero-shot", wished, rest, known
    )  # fmt: skip
    zero_shot = [x for x in zero_shot if x not in supervised]
    left = {x: why.get(x) or "not chosen" for x in there if x not in supervised and x not in zero_shot}
    if nameless := sum(by[""].total() for by in counts.values() if "" in by):
        left["''"] = f"{nameless:,} row{'s' * (nameless > 1)} without a language"
    return list(supervised), zero_shot, left


def _unfit(language: str, counts: dict[str, dict[str, Counter[str]]], split: bool) -> str:
    """Why a language cannot be used as its rows are; empty if it can."""
    rows = sum(by[language].total() for by in counts.values() if language in by)
    if not is_code(language):
        return f"{rows:,} row{'s' * (rows > 1)}, not a language's code"
    for name, by in counts.items():
        if not split and name != "train" and language not in by:
            return f"no {name} rows"
        if not split and (unlabelled := by.get(language, Counter())[""]):
            return f"{unlabelled} {name} rows have no label"
    return ""


def _list(text: str | list[str] | tuple[str, ...]) -> list[str]:
    """The parts of `a, b, c`."""
    return [x for part in text.split(",") if (x := part.strip())] if isinstance(text, str) else list(text)


def _stem(given: str) -> str:
    """A name for the configuration: that of the file without `train`, or of the folder or dataset."""
    parts = [x for x in Path(given).stem.replace(sources.MARK, "").split(".") if x not in ("", "train")]
    folders = (folder.name for folder in Path(given).absolute().parents if sources.MARK not in folder.name)
    return "-".join(parts) or next(folders)
