"""A run's files are there whole or not at all, whatever becomes of the disk."""

import contextlib
import errno
import os
import resource
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from mbkd.errors import UserError
from mbkd.evaluate import measure
from mbkd.files import Store, write_json


@contextlib.contextmanager
def full_disk() -> Iterator[None]:
    """No file of this process may grow beyond 100 bytes."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_a_json_file_that_does_not_fit_on_the_disk_leaves_the_one_before_and_nothing_beside(tmp_path: Path):
    file = tmp_path / "result.json"
    write_json(file, {"accuracy": 0.5})
    before = file.read_bytes()
    with full_disk(), pytest.raises(OSError, match="too large"):
        write_json(file, ["x" * 1000])
    assert list(tmp_path.iterdir()) == [file]
    assert file.read_bytes() == before


def test_a_json_file_is_on_the_disk_before_it_takes_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    file = tmp_path / "result.json"

    def fails(stream: int) -> None:
        assert os.fstat(stream).st_size > 0
        assert not file.exists()
        raise OSError(errno.EIO, "the disk is broken")

    monkeypatch.setattr(os, "fsync", fails)
    with pytest.raises(OSError, match="broken"):
        write_json(file, {"accuracy": 0.5})
    assert list(tmp_path.iterdir()) == []


def test_a_store_that_does_not_fit_on_the_disk_leaves_no_part_and_is_built_at_the_next_try(tmp_path: Path):
    store = Store(tmp_path / "place" / "name", {"of": "this test"})

    def write(folder: Path) -> dict[str, str]:
        np.save(folder / "values.npy", np.zeros(1000))
        return {"what": "zeros"}

    with full_disk(), pytest.raises(UserError, match=f"{store.folder}: cannot be written .*make room"):
        store.open(write)
    assert [file.suffix for file in store.folder.parent.iterdir()] == [".lock"]
    store.open(write)
    assert store.problem() == ""


def test_arrays_of_a_run_that_do_not_fit_on_the_disk_end_in_one_message_and_none_is_torn(tmp_path: Path):
    arrays = {"en": np.zeros((100, 3), np.float32)}
    with full_disk(), pytest.raises(UserError, match=f"{tmp_path}: cannot be written"):
        measure.save(tmp_path, "dev", arrays, arrays, {"en": ["a"] * 100})
    assert not [file for file in tmp_path.rglob("*") if file.is_file()]
