"""Where the rows of a new task lie: a file, files by language, or a hub dataset, with its dev and test beside it."""

import re
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa

from mbkd.config import SPLITS
from mbkd.data import hub, readers
from mbkd.data.layouts import HUB_SPLITS
from mbkd.data.readers import Rows
from mbkd.errors import UserError
from mbkd.onboarding.languages import is_code

OTHER_NAMES = {"train": ("training",), "dev": ("development", "validation", "valid", "val"), "test": ("eval",)}
MARK = "{language}"


class Source(NamedTuple):
    """What was found.

    path    hub id or folder in the hub's layout; None for plain files
    files   split -> file, or file with `{language}` in its name, or the hub's name of the split
    rows    split -> language -> rows; the language is None where a column has to say it
    """

    path: str | None
    files: dict[str, str]
    rows: dict[str, dict[str | None, Rows]]

    @property
    def columns(self) -> list[str]:
        """The columns that all files have, in the order of the first one."""
        each = [rows.columns for by_language in self.rows.values() for rows in by_language.values()]
        return [name for name in each[0] if all(name in columns for columns in each)]

    def column(self, name: str, splits: tuple[str, ...] = SPLITS) -> pa.Array:
        """All values of a column."""
        each = [rows.columns[name] for split in splits for rows in self.rows.get(split, {}).values()]
        return pa.chunked_array(each, pa.large_string()).combine_chunks()


def find(given: str) -> Source:
    """Look at a file, a name with `{language}` in it, a folder in the hub's layout, or a hub id. Raises UserError."""
    if MARK not in given and not Path(given).expanduser().is_file():
        if given.lower().endswith(readers.ENDINGS):
            raise UserError(f"{given}: no such file")
        return _on_the_hub(given)
    names = _pattern(given) if MARK not in given else given
    first, files = _split_of(names), {}
    for split in SPLITS:
        options = [names] if split == first else _names_of(names, split)
        if first is None and split == "train":  # what was split already comes before the whole
            options.append(names)
        if there := [name for name in options if _languages(name)]:
            files[split] = there[0]
    if "train" not in files:
        raise UserError(f"{given}: no training rows found; looked for {' and '.join(_names_of(names, 'train'))}")
    rows = {
        split: {language: readers.table(Path(name.replace(MARK, language or "")).expanduser())
                for language in _languages(name)}
        for split, name in files.items()
    }  # fmt: skip
    return Source(None, files, rows)


def _pattern(file: str) -> str:
    """The file's name with `{language}` where it names a language: reviews.fr.csv beside reviews.de.csv."""
    path = Path(file)
    for part in re.finditer(_part("[A-Za-z]{2}([-_][A-Za-z]{2})?"), path.stem):
        name = path.stem[: part.start()] + MARK + path.stem[part.end() :] + path.suffix
        pattern = str(path.with_name(name))
        if is_code(part[0]) and len(_languages(pattern)) > 1:
            return pattern
    return file


def _languages(pattern: str) -> list[str | None]:
    """The languages for which a pattern's file is there; None for a file without `{language}`; nothing if none is."""
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
    """The split that a part of a file's name, or its folder's whole name, says it is."""
    path = Path(name)
    for split in SPLITS:
        if any(re.search(_part(word), path.name, re.IGNORECASE) for word in _words(split)):
            return split
    return next((split for split in SPLITS if path.parent.name.lower() in _words(split)), None)


def _names_of(name: str, split: str) -> list[str]:
    """What the file of another split may be called."""
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
    """A pattern for a word between other signs than letters and digits."""
    return rf"(?<![^\W_]){word}(?![^\W_])"


def _words(split: str) -> tuple[str, ...]:
    return (split, *OTHER_NAMES[split])


def _on_the_hub(given: str) -> Source:
    """A dataset of the hub or a local folder in its layout: a configuration for each language, or a column."""
    if hub.is_local(given) and not next(Path(given).rglob("*.*"), None):
        raise UserError(f"{given}: the folder is empty")
    names = hub.configurations(given)
    if hub.is_local(given):  # a clone without its README
        names = [*names, *(folder.name for folder in sorted(Path(given).iterdir()) if folder.is_dir())]
    languages: list[str | None] = [*dict.fromkeys(name for name in names if is_code(name))] or [None]
    there = hub.files(given, languages[0] or "")
    files = {split: name for split, name in HUB_SPLITS.items() if name in there}
    if "train" not in files:
        raise UserError(f"{given}: no split 'train'; there are {', '.join(there) or 'none'}")
    rows = {split: {x: hub.read(given, x or "", name) for x in languages} for split, name in files.items()}
    return Source(given, files, rows)
