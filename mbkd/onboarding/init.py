"""`mbkd init`: inspect the user's rows, ask for missing facts, and write a complete configuration."""

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

MOST_BRANCHES = 10  # maximum languages to train on in a guess; each language has a branch
MOST_SHOWN = 20  # maximum languages that a message lists


@dataclass(frozen=True)
class Options:
    """Options of the command line. None means a guess or a question."""

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
    """Write a configuration for the rows of a file, names with `{language}`, a folder, or a hub id.

    On request, also writes train, dev and test files next to a single file. A summary goes to standard error. Returns
    the configuration file. Raises UserError without writing a file.
    """
    dialogue = Dialogue(interactive)
    given = dialogue.ask("Rows: a file, file names with {language}, or a hub dataset", "SOURCE", given, None)
    out = out or Path(f"{_stem(given)}.yaml")
    if out.exists() and not force:
        raise UserError(f"{out}: exists already; --force overwrites it, --out names another file")
    given = _with_siblings(sources.in_folder(given), options, dialogue)
    source, options = _read(given, options, dialogue)
    columns, alone = _columns(source, given, options, dialogue)
    source, split = _splits(source, options, dialogue)

    labels, ordinal = _labels(source, columns["label"], options, dialogue)
    counts, merged = guess.languages(source, columns["language"], columns["label"], labels.spelt)
    if alone:  # one language, without a column
        counts = {split_: {alone: sum(by.values(), Counter())} for split_, by in counts.items()}

    backbone = options.backbone or suggestions.BACKBONE
    supervised, zero_shot, left = _languages(counts, split == "drawn", backbone, options, dialogue)
    backbone = dialogue.ask("Backbone: a folder or hub id", "--backbone", options.backbone, suggestions.BACKBONE)
    what = f"Fine-tune a teacher for each of {', '.join(supervised)}, and distil them?"
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
    with refuse_full(out), contextlib.ExitStack() as written:  # writes all files or no file
        written.enter_context(beside(out)).write_text(text, encoding="utf-8")
        if split:
            dropped = divide.write_all(source, split, columns, alone, labels, trained, named, force, written)
    spelt = {x for x, name in labels.spelt.items() if x != name}
    for line in summary.lines(source, taken, left, merged, spelt, dropped):
        print(line, file=sys.stderr)
    return out


def _read(given: str, options: Options, dialogue: Dialogue) -> tuple[sources.RawDataset, Options]:
    """Return the rows, and the options with `header=False` if the first line is a row."""
    whole = bool(options.split or options.split_column)
    source = sources.find(given, options.header is not False, options.quoting, whole)
    # Looks at one file only, because files without a header share no column names.
    rows = next(iter(source.rows["train"].values()))
    if options.header is None and guess.header_is_a_row(rows, options.label):
        what = f"Is the first line the header ({', '.join(rows.columns)[:100]})? It looks like a row."
        if not dialogue.confirm(what, "--header yes or --header no", None, False if dialogue.interactive else None):
            return sources.find(given, False, options.quoting, whole), replace(options, header=False)
    return source, options


def _with_siblings(given: str, options: Options, dialogue: Dialogue) -> str:
    """Return the name with `{language}` if the user also selects the files of other languages."""
    if options.language is not None or sources.MARK in given or not Path(given).expanduser().is_file():
        return given
    if (found := sources.siblings(given, options.header is not False, options.quoting)) is None:
        return given
    pattern, there, own = found
    rest = [x for x in there if x != own]
    others = ", ".join(rest[:MOST_SHOWN]) + (f" and {len(rest) - MOST_SHOWN} more" if len(rest) > MOST_SHOWN else "")
    if dialogue.interactive:
        what = f"{given} has files of other languages next to it ({others}). Use all of them?"
        return pattern if dialogue.confirm(what, "", None, True) else given
    print(f"Using {given} only. Files of {others} are next to it; {pattern!r} selects all of them.", file=sys.stderr)
    return given


def _columns(
    source: sources.RawDataset, given: str, options: Options, dialogue: Dialogue
) -> tuple[dict[str, Any], str | None]:
    """Return the column of each role, and the language of all rows if no column has it."""
    there = source.columns
    if source.kind != "own":
        return {"text": "text", "text_pair": "text_pair", "label": "label", "language": None}, None
    hint = f"the columns are {', '.join(there)}"
    if unfit := sorted({x for rows in source.tables for x in rows.unfit}):
        hint += f", and {', '.join(unfit)} with lists"

    def column(name: str) -> str:
        source.column(name)  # raises UserError for a missing column, and for one without text
        return name

    def label_column(name: str) -> str:
        if name in (found["text"], found["text_pair"]):
            raise UserError(f"column {name!r} has the text; name another column with --label")
        return column(name)

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
        if ends:  # the user selects the columns of one language
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
        "Column with the label", "--label", options.label, free["label"], label_column, candidates("label")
    )
    return found | {"language": language, "id": guessed.found["id"]}, alone


def _named_language(source: sources.RawDataset, given: str) -> str | None:
    """Return the language in the file's name if the rows look like this language."""
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
    """Return the rows, divided by a split column on request, and the kind of split files to write, if any."""
    column = options.split_column
    if set(source.files) != {"train"} or source.path is not None:
        if asked := f"--split-column {column}" if column else "--split" if options.split else "":
            there = ", ".join(f"{split} {file}" for split, file in source.files.items())
            raise UserError(f"{asked}: the splits exist already ({there}); omit the option")
        return source, None
    if column is None and options.split is None and (seen := guess.split_column(source)):
        what = f"The column {seen!r} names the split of each row. Write one file per split next to the source?"
        if dialogue.confirm(what, f"--split-column {seen}, --split or --no-split", None, dialogue.interactive or None):
            column = seen
    if column:
        return sources.by_column(source, column), "official"
    split = dialogue.confirm(
        "The rows have no split. Write train, dev and test files next to the source (80, 10 and 10 %)?",
        "--split or --no-split", options.split, True if dialogue.interactive else None,
    )  # fmt: skip
    return source, "drawn" if split else None


def _labels(source: sources.RawDataset, column: str, options: Options, dialogue: Dialogue) -> tuple[guess.Labels, bool]:
    """Return the labels, and whether they are ordinal."""
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
        raise UserError(f"--labels: the rows also have the label {missing[0]!r}; add it to the list")
    ordinal = seen.ordinal
    if len(names) > 2:
        what = "Are the labels ordered steps of a scale, such as stars?"
        ordinal = dialogue.confirm(what, "--ordinal", options.ordinal, ordinal)
    return labels._replace(names=names), ordinal


def _languages(
    counts: dict[str, dict[str, Counter[str]]], split: bool, backbone: str, options: Options, dialogue: Dialogue
) -> tuple[list[str], list[str], dict[str, str]]:
    """Return the supervised languages, the zero-shot languages, and the unused languages with the reasons."""
    heldout = [by for split, by in counts.items() if split != "train"]
    there = sorted({x for by in counts.values() for x in by if x})
    why = {x: problem for x in there if (problem := _unfit(x, counts, split))}
    usable = [x for x in there if x not in why]

    called = {language_key(x): x for x in there}  # zho-hans also selects zho_Hans

    def known(text: str) -> list[str]:
        if unknown := [x for x in _list(text) if language_key(x) not in called]:
            raise UserError(f"no rows of {unknown[0]}; available languages: {', '.join(there)}")
        return list(dict.fromkeys(called[language_key(x)] for x in _list(text)))

    train = {x: count for x, count in counts.get("train", {}).items() if x in usable}
    suggested, hint = guess.supervised(train) or None, "no usable language has rows of two labels"
    if why:
        hint += f" ({', '.join(f'{x}: {problem}' for x, problem in list(why.items())[:5])})"
    if suggested and len(suggested) > MOST_BRANCHES:
        few = suggested[:3]
        cost, cost_of_few = (suggestions.step_cost(backbone, len(each)) for each in (suggested, few))
        hint = (
            f"{len(suggested)} languages have training rows ({', '.join(suggested)}). Each needs a branch and a"
            f" teacher. A step costs {cost:.1f} times that of the plain encoder with all languages, and"
            f" {cost_of_few:.1f} times with three; the other languages are then zero-shot"
        )
        suggested = few if dialogue.interactive else None
        if dialogue.interactive:
            print(hint, file=sys.stderr)
    wished = ",".join(options.supervised) or None
    supervised = dialogue.ask("Languages to train on", "--supervised", wished, suggested, known, hint)
    rest = [x for x in usable if x not in supervised and (split or (heldout and all(x in by for by in heldout)))]
    wished = ",".join(options.zero_shot) or None

    def others(text: str) -> list[str]:
        if trained := [x for x in known(text) if x in supervised]:
            raise UserError(f"--zero-shot {trained[0]}: is a language to train on; remove it from one of the lists")
        return known(text)

    zero_shot = rest if not rest and wished is None else dialogue.ask(
        "Zero-shot languages, for evaluation only", "--zero-shot", wished, rest, others
    )  # fmt: skip
    left = {x: why.get(x) or "not chosen" for x in there if x not in supervised and x not in zero_shot}
    if nameless := sum(by[""].total() for by in counts.values() if "" in by):
        left["''"] = f"{nameless:,} row{'s' * (nameless > 1)} without a language"
    return list(supervised), zero_shot, left


def _unfit(language: str, counts: dict[str, dict[str, Counter[str]]], split: bool) -> str:
    """Return the reason why a language is unusable, or ""."""
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
    """Return the parts of `a, b, c`."""
    return [x for part in text.split(",") if (x := part.strip())] if isinstance(text, str) else list(text)


def _stem(given: str) -> str:
    """Return a name for the configuration: of the file without `train`, or of the folder or dataset."""
    parts = [x for x in Path(given).stem.replace(sources.MARK, "").split(".") if x not in ("", "train")]
    folders = (folder.name for folder in Path(given).absolute().parents if sources.MARK not in folder.name)
    return "-".join(parts) or next(folders)
