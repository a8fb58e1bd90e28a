"""Datasets of the hub, or local folders in its layout, as the `datasets` library opens them."""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

from mbkd.data.readers import Rows, from_arrow, one_line
from mbkd.errors import UserError

if TYPE_CHECKING:  # a second that local files do not pay for
    import datasets


def read(path: str, language: str, split: str) -> Rows:
    """Read one language and split of a hub dataset, or of a local clone of one. Raises UserError."""
    import datasets

    with tempfile.TemporaryDirectory() as scratch:
        found = load(path, language, split, scratch if is_local(path) else None)
        rows = from_arrow(f"{path} ({split})", found.data.table)
    for name, feature in (found.features or {}).items():
        if isinstance(feature, datasets.ClassLabel):  # numbers to names, a row without a label to -1
            numbers = found.data.table[name].combine_chunks().fill_null(-1)
            rows.columns[name] = pa.array(["-1", *feature.names], pa.large_string()).take(pc.add(numbers, 1))
    return rows


def load(path: str, language: str, split: str, scratch: str | None = None) -> datasets.Dataset:
    """The dataset itself, by way of the cache of `datasets`, or of a scratch folder. Raises UserError."""
    import datasets

    try:
        where = keywords(path, language)
        return datasets.load_dataset(path, split=split, cache_dir=scratch, keep_in_memory=scratch is not None, **where)
    except UserError:
        raise
    except Exception as error:  # the hub, the network and the readers raise dozens of kinds
        raise UserError(f"{path}: split {split!r} for {language!r} cannot be loaded: {one_line(error)}") from None


@cache  # asked for every split and language, and each time over the network
def configurations(path: str) -> list[str]:
    """The names of a hub dataset's configurations. Raises UserError."""
    import datasets

    try:
        return list(datasets.get_dataset_config_names(path))
    except Exception as error:  # as above
        if is_local(path):
            raise UserError(f"{path}: cannot be opened in the hub's layout: {one_line(error)}") from None
        hint = f"if a folder is meant, write ./{path}"
        raise UserError(f"{path}: cannot be reached as a hub dataset: {one_line(error)}; {hint}") from None


def keywords(path: str, language: str) -> dict[str, str]:
    """Where a language lies in a hub dataset, as keywords of `load_dataset`. Raises UserError."""
    names = configurations(path)
    if language in names:
        return {"name": language}
    if is_local(path) and (Path(path) / language).is_dir():  # a clone without its README
        return {"data_dir": language}
    if len(names) == 1 or "default" in names:
        return {"name": "default" if "default" in names else names[0]}
    raise UserError(f"{path}: no configuration for language {language!r}; there are {', '.join(sorted(names))}")


def files(path: str, language: str) -> dict[str, list[str]]:
    """The splits of a hub dataset, each with its files. Raises UserError."""
    import datasets

    where = keywords(path, language)
    try:
        with tempfile.TemporaryDirectory() as scratch:
            builder = datasets.load_dataset_builder(path, cache_dir=scratch if is_local(path) else None, **where)
    except Exception as error:  # as above
        raise UserError(f"{path}: cannot be opened: {one_line(error)}") from None
    return {str(split): [str(file) for file in found] for split, found in (builder.config.data_files or {}).items()}


def is_local(path: str) -> bool:
    """Whether a path is a folder, not a hub id. Raises UserError for a folder that is not there."""
    folder = Path(path)
    if folder.is_dir():
        return True
    if folder.exists():
        raise UserError(f"task.path = {path}: is a file; name the folder that holds the data")
    if path.startswith((".", "/", "~")) or path.count("/") > 1:
        raise UserError(f"task.path = {path}: no such folder; looked for {folder.absolute()}")
    return False
