"""A run's files are there whole or not at all, whatever becomes of the disk."""

import errno
import os
import resource
from pathlib import Path

import pytest

from mbkd.files import write_json


def test_a_json_file_that_does_not_fit_on_the_disk_leaves_the_one_before_and_nothing_beside(tmp_path: Path):
    file = tmp_path / "result.json"
    write_json(file, {"accuracy": 0.5})
    before = file.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))  # as a full disk, for this process alone
    try:
        with pytest.raises(OSError, match="too large"):
            write_json(file, ["x" * 1000])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
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
