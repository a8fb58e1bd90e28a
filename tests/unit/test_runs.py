"""A run's files are there whole or not at all, whatever becomes of the disk."""

import errno
import os
from pathlib import Path

import numpy as np
import pytest

from mbkd import runs
from mbkd.errors import UserError
from mbkd.evaluate import measure
from mbkd.files import Store, write_json
from tests.conftest import full_disk


def test_a_json_file_that_does_not_fit_on_the_disk_leaves_the_one_before_and_nothing_beside(tmp_path: Path):
    file = tmp_path / "result.json"
    write_json(file, {"accuracy": 0.5})
    before = file.read_bytes()
    with full_disk(), pytest.raises(UserError, match=rf"{file}: cannot be written .*too large.*; make room"):
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
    with full_disk(), pytest.raises(UserError, match=f"{tmp_path}/logits/dev.en.npy: cannot be written"):
        measure.save(tmp_path, "dev", arrays, arrays, {"en": ["a"] * 100})
    assert not [file for file in tmp_path.rglob("*") if file.is_file()]


def test_metrics_that_do_not_fit_on_the_disk_leave_the_whole_lines_before_them(tmp_path: Path):
    """Also where the disk takes a part of the lines."""
    file = tmp_path / "metrics.jsonl"
    runs.append_metrics(tmp_path, [{"step": 1}])
    before = file.read_bytes()
    with full_disk(), pytest.raises(UserError, match=f"{file}: cannot be written .*make room"):
        runs.append_metrics(tmp_path, [{"step": step} for step in range(2, 50)])
    assert file.read_bytes() == before
    runs.append_metrics(tmp_path, [{"step": 2}])
    assert file.read_text() == '{"step": 1}\n{"step": 2}\n'
