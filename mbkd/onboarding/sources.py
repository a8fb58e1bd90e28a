"""Sources of a new task's rows: a file, files per language, or a hub dataset, with their splits."""

import re
from collections import Counter
from pathlib import Path
from typing import Literal, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from mbkd.config import SPLITS, Task, language_key
from mbkd.data import hub, layouts, readers, tasks
from mbkd.data.layouts import HUB_SPLITS
from mbkd.data.readers import Rows
from mbkd.errors import UserError
from mbkd.onboarding.languages import is_code, is_sure

OTHER_NAMES = {
    "train": ("training",),
    "dev": ("development", "validation", "valid", "val", "trial"),
    "test": ("eval", "testing"),
}
MARK = "{language}"
CODE = "[A-Za-z]{2,3}([-_][A-Za-z]{4})?([-_][A-Za-z]{2})?|[A-Za-z]{4,}"  # a code or an English name


class RawDataset(NamedTuple):
    """The rows of a new task, and their files.

    path    hub id or folder in the hub's layout; None for plain files
    files   split -> file, or file with `{language}` in its name, or the hub's name of the split
    rows    split -> language -> rows; the language is None if a column must name it
    kind    own, xnli or marc; rows of xnli and marc have the columns text, text_pair and label
    unread  files that match `{language}` but are not rows of a language -> reason
    """

    path: str | None
    files: dict[str, str]
    rows: dict[str, dict[str | None, Rows]]
    kind: Literal["own", "xnli", "marc"] = "own"
    unread: dict[str, str] = {}  # noqa: RUF012

    @property
    def tables(self) -> list[Rows]:
        """The rows of every file."""
        return [rows for by_language in self.rows.values() for rows in by_language.values()]

    @property
    def columns(self) -> list[str]:
        """The columns that all files have, in the first file's order. Raises UserError if no column remains."""
        each = self.tables
        if common := [name for name in each[0].columns if all(name in rows.columns for rows in each)]:
            return common
        there = "; ".join(f"{rows.source} has {', '.join(rows.columns)}" for rows in each[:3])
        raise UserError(
            f"the files share no column: {there}; give them the same header, or use --header no for files without one"
        )

    def column(self, name: str, splits: tuple[str, ...] = SPLITS) -> pa.Array:
        """Return all values of a column. Raises UserError for a file without the column."""
        each = [rows.column(name) for split in splits for rows in self.rows.get(split, {}).values()]
        return pa.chunked_array(each, pa.large_string()).combine_chunks()


def find(given: str, header: bool = True, quoted: bool | None = None, whole: bool = False) -> RawDataset:
    """Read the rows of a file, a name with `{language}`, a folder, or a hub id. Raises UserError.

    A folder has the official files of XNLI or MARC, or the hub's layout.
    header, quoted: as in `readers.table`, for CSV and TSV files. whole: read the given file even if `mbkd init --split`
    has already written files of its splits.
    """
    if MARK not in given and not Path(given).expanduser().is_file():
        if official := _official(given):
            return official
        if given.lower().endswith(readers.ENDINGS):
            raise UserError(f"{given}: {'is a folder; name a file' if Path(given).is_dir() else 'no such file'}")
        return _on_the_hub(given)
    first, files = _split_of(given), {}
    for split in SPLITS:
        options = [given] if split == first else [] if whole and first is None else _names_of(given, split)
        if first is None and split == "train":  # existing files of the splits have priority over the whole file
            options.append(given)
        if there := [name for name in options if _languages(name)]:
            files[split] = there[0]
    if set(files) == {first}:  # a single file has the training rows, even if it is named after another split
        files = {"train": given}
    if not files:
        raise UserError(f"{given}: no such file, in any language")
    if "train" not in files:
        raise UserError(
            f"{given}: the name belongs to the {first} split; no training rows found, looked for"
            f" {' and '.join(_names_of(given, 'train'))}"
        )
    rows = {
        split: {language: readers.table(Path(name.replace(MARK, language or "")).expanduser(), header, quoted)
                for language in _languages(name)}
        for split, name in files.items()
    }  # fmt: skip
    unread: dict[str, str] = {}
    for split, by_language in rows.items():
        unread |= _leave_out_words(by_language)
        spelt: dict[str, str] = {}
        for language in filter(None, by_language):
            if (other := spelt.setdefault(language_key(language), language)) != language:
                raise UserError(f"{files[split]}: {other} and {language} are one language; join the two files")
    return RawDataset(None, files, rows, unread=unread)


def _leave_out_words(rows: dict[str | None, Rows]) -> dict[str, str]:
    """Remove files with other columns if their language may be another word, as in bar.csv.

    Returns the removed files with the reasons.
    """
    sure = [each for language, each in rows.items() if language and is_sure(language)]
    usual = Counter(frozenset(each.columns) for each in sure or rows.values()).most_common(1)
    if not usual or (not sure and usual[0][1] == 1):
        return {}
    others = [x for x, each in rows.items() if x and not is_sure(x) and set(each.columns) != usual[0][0]]
    return {
        rows[x].source: f"not read as {x!r}, because its columns differ ({', '.join(rows.pop(x).columns)})"
        for x in others
    }


def in_folder(given: str) -> str:
    """Return the training files' name in a folder with a subfolder per language; otherwise `given`."""
    folder = Path(given).expanduser()
    if MARK in given or not folder.is_dir():
        return given
    names = {file.name for split in ("train", "training") for file in folder.glob(f"*/{split}.*")}
    patterns = [str(Path(given) / MARK / name) for name in sorted(names) if name.lower().endswith(readers.TEXT_ENDINGS)]
    return next((x for x in patterns if _languages(x)), given)


def _official(given: str) -> RawDataset | None:
    """Return the official files of XNLI or MARC in a folder, or None. Raises UserError for an invalid row."""
    folder = Path(given).expanduser()
    kinds: tuple[Literal["xnli", "marc"], ...] = ("xnli", "marc") if folder.is_dir() else ()
    for kind in kinds:
        there = {split: layouts.languages(kind, split, folder) for split in SPLITS}
        train = tuple(there["train"])
        if not train:
            continue
        others = tuple(sorted({x for each in there.values() for x in each} - set(train)))
        task = Task(kind=kind, path=given, supervised=train, zero_shot=others)
        names = pa.array(tasks.label_names(task), pa.large_string())
        rows: dict[str, dict[str | None, Rows]] = {}
        for split in tasks.splits(task):
            for language in there[split]:
                found = tasks.load(task, split, language).data.table
                columns = {"text": found["text_a"], "text_pair": found["text_b"], "label": names.take(found["label"])}
                table = pa.table(columns)
                rows.setdefault(split, {})[language] = readers.from_arrow(f"{given} ({split}, {language})", table)
        return RawDataset(given, dict.fromkeys(rows, given), rows, kind)
    return None


def siblings(file: str, header: bool = True, quoted: bool | None = None) -> tuple[str, list[str], str] | None:
    """Find files whose name or folder differs only by a language: reviews.fr.csv and reviews.de.csv.

    Returns the name with `{language}`, the available languages, and the file's language; None without other files.
    header, quoted: as in `find`. A file whose language may be another word must have the columns of the named file.
    """
    path = Path(file)
    parts = _language_parts(file)
    parts += [(str(path.parents[1] / MARK / path.name), path.parent.name)] if is_code(path.parent.name) else []
    for pattern, language in parts:
        there = []
        for x in _languages(pattern):
            other = pattern.replace(MARK, x or "")
            if x == language or is_sure(x or "") or _same_columns(file, other, header, quoted):
                there.append(x or "")
        if len(there) > 1:
            return pattern, there, language
    return None


def _same_columns(one: str, other: str, header: bool, quoted: bool | None) -> bool:
    try:
        first, second = (set(readers.table(Path(x).expanduser(), header, quoted).columns) for x in (one, other))
    except UserError:
        return False
    return first == second


def language_in_name(file: str) -> str | None:
    """Return the language in a file's name or of its folder; None unless exactly one is found."""
    found = [language for _, language in _language_parts(file)]
    folder = Path(file).absolute().parent.name
    found += [folder] if not found and is_code(folder) else []
    return found[0] if len(found) == 1 else None


def _language_parts(file: str) -> list[tuple[str, str]]:
    """Return each language code in a file's name, after the name with `{language}` in its place."""
    path, found = Path(file), []
    words, start = list(re.finditer(_part("[A-Za-z]+"), path.stem)), 0
    while start < len(words):
        for end in range(min(start + 3, len(words)), start, -1):  # the longest code first, with script and country
            first, last = words[start].start(), words[end - 1].end()
            code = path.stem[first:last]
            if not split_named(words[start][0]) and re.fullmatch(CODE, code) and is_code(code):
                found.append((str(path.with_name(path.stem[:first] + MARK + path.stem[last:] + path.suffix)), code))
                start = end - 1
                break
        start += 1
    return found


def by_column(source: RawDataset, column: str) -> RawDataset:
    """Divide the rows of a single file by a column of splits. Raises UserError for other values."""
    values = source.column(column)
    names = {x: split_named(x) for x in pc.unique(values).to_pylist()}
    if unknown := [x for x, split in names.items() if split is None]:
        known = ", ".join(word for split in SPLITS for word in _words(split))
        raise UserError(f"--split-column {column}: {unknown[0]!r} is not a split; use {known}")
    rows: dict[str, dict[str | None, Rows]] = {}
    for split in SPLITS:
        wanted = pa.array([x for x, of in names.items() if of == split], pa.large_string())
        for language, each in source.rows["train"].items():
            kept = each.keep(pc.is_in(each.column(column), wanted))
            if len(kept.places):
                rows.setdefault(split, {})[language] = kept
    if "train" not in rows:
        raise UserError(f"--split-column {column}: no training rows; available: {', '.join(names)}")
    return source._replace(rows=rows)


def split_named(word: str) -> str | None:
    """Return the split that a word means, such as dev for TRIAL, or None."""
    return next((split for split in SPLITS if word.strip().lower() in _words(split)), None)


def _languages(pattern: str) -> list[str | None]:
    """Return the languages with a file of a pattern; [None] without `{language}`; [] without a file."""
    path = Path(pattern).expanduser()
    if MARK not in pattern:
        return [None] if path.is_file() else []
    parts = [re.sub(r"[*?\[]", "?", part).replace(MARK, "*") for part in path.parts]
    files = Path(path.anchor).glob(str(Path(*parts[bool(path.anchor) :])))
    shape = re.compile(re.escape(str(path)).replace(re.escape(MARK), r"(?P<language>[\w-]+)", 1)
                       .replace(re.escape(MARK), r"(?P=language)"))  # fmt: skip
    found = [shape.fullmatch(str(file)) for file in files]
    return sorted(x["language"] for x in found if x and is_code(x["language"]))


def _split_of(name: str) -> str | None:
    """Return the split in a file's name, or of its folder, or None."""
    path = Path(name)
    for split in SPLITS:
        if any(re.search(_part(word), path.name, re.IGNORECASE) for word in _words(split)):
            return split
    return next((split for split in SPLITS if path.parent.name.lower() in _words(split)), None)


def _names_of(name: str, split: str) -> list[str]:
    """Return possible names of the file of another split."""
    path, own = Path(name), _split_of(name)
    if own is None:
        return [str(path.with_name(f"{path.stem}{x}{word}{path.suffix}")) for word in _words(split) for x in "._-"]
    found = []
    for word in _words(split):
        for old in _words(own):
            changed = path.with_name(re.sub(_part(old), word, path.name, flags=re.IGNORECASE))
            found += [changed, changed.parent.with_name(word) / changed.name] if path.parent.name == old else [changed]
    return [str(x) for x in dict.fromkeys(found) if x != path]


def _part(word: str) -> str:
    """Return a pattern for a word without adjacent letters or digits."""
    return rf"(?<![^\W_])(?:{word})(?![^\W_])"


def _words(split: str) -> tuple[str, ...]:
    return (split, *OTHER_NAMES[split])


def _on_the_hub(given: str) -> RawDataset:
    """Read a hub dataset or a local folder in its layout. Languages are configurations, or values of a column."""
    if hub.is_local(given) and not next(Path(given).rglob("*.*"), None):
        raise UserError(f"{given}: the folder is empty")
    names = hub.configurations(given)
    if hub.is_local(given):  # a clone without its README
        names = [*names, *(folder.name for folder in sorted(Path(given).iterdir()) if folder.is_dir())]
    languages: list[str | None] = [*dict.fromkeys(name for name in names if is_code(name))] or [None]
    there = hub.files(given, languages[0] or "")
    files = {split: name for split, name in HUB_SPLITS.items() if name in there}
    if "train" not in files:
        raise UserError(f"{given}: no split 'train'; available: {', '.join(there) or 'none'}")
    rows = {split: {x: hub.read(given, x or "", name) for x in languages} for split, name in files.items()}
    return RawDataset(given, files, rows)
