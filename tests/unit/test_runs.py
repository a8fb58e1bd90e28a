"""Claims about a run's files: they are complete or absent, even on a full disk."""

import errno
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mbkd import config as configuration
from mbkd import runs
from mbkd.cli.options import quiet
from mbkd.demo import toy
from mbkd.errors import UserError
from mbkd.evaluate import baseline, heat_map, measure, mixers
from mbkd.files import Store, write_json
from mbkd.model import card
from mbkd.onboarding.init import Options
from mbkd.onboarding.init import write as init
from mbkd.predict.stream import predict
from tests.conftest import full_disk
from tests.synthetic import make_result


def test_on_a_full_disk_the_old_json_file_is_kept_without_a_partial_file(tmp_path: Path):
    file = tmp_path / "result.json"
    write_json(file, {"accuracy": 0.5})
    before = file.read_bytes()
    with full_disk(), pytest.raises(UserError, match=rf"{file}: cannot be written .*too large.*; make room"):
        write_json(file, ["x" * 1000])
    assert list(tmp_path.iterdir()) == [file]
    assert file.read_bytes() == before


def test_a_json_file_is_flushed_to_disk_before_it_is_renamed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    file = tmp_path / "result.json"

    def fails(stream: int) -> None:
        assert os.fstat(stream).st_size > 0
        assert not file.exists()
        raise OSError(errno.EIO, "the disk is broken")

    monkeypatch.setattr(os, "fsync", fails)
    with pytest.raises(OSError, match="broken"):
        write_json(file, {"accuracy": 0.5})
    assert list(tmp_path.iterdir()) == []


def test_on_a_full_disk_a_store_leaves_no_part_and_is_built_at_the_next_try(tmp_path: Path):
    store = Store(tmp_path / "place" / "name", {"of": "this test"})

    def write(folder: Path) -> dict[str, str]:
        np.save(folder / "values.npy", np.zeros(1000))
        return {"what": "zeros"}

    with full_disk(), pytest.raises(UserError, match=f"{store.folder}: cannot be written .*make room"):
        store.open(write)
    assert [file.suffix for file in store.folder.parent.iterdir()] == [".lock"]
    store.open(write)
    assert store.problem() == ""


def test_on_a_full_disk_a_runs_arrays_give_one_message_and_no_partial_file(tmp_path: Path):
    arrays = {"en": np.zeros((100, 3), np.float32)}
    with full_disk(), pytest.raises(UserError, match=f"{tmp_path}/logits/dev.en.npy: cannot be written"):
        measure.save(tmp_path, "dev", arrays, arrays, {"en": ["a"] * 100})
    assert not [file for file in tmp_path.rglob("*") if file.is_file()]


def test_on_a_full_disk_metrics_keep_the_complete_earlier_lines(tmp_path: Path):
    """This holds even if the disk accepts a part of the lines."""
    file = tmp_path / "metrics.jsonl"
    runs.append_metrics(tmp_path, [{"step": 1}])
    before = file.read_bytes()
    with full_disk(), pytest.raises(UserError, match=f"{file}: cannot be written .*make room"):
        runs.append_metrics(tmp_path, [{"step": step} for step in range(2, 50)])
    assert file.read_bytes() == before
    runs.append_metrics(tmp_path, [{"step": 2}])
    assert file.read_text() == '{"step": 1}\n{"step": 2}\n'


ROWS = [{"text": f"{i**9 % 99991} words {i**7 % 99991}", "label": "yn"[i % 2], "language": "en"} for i in range(200)]
WEIGHTS = [{"language": "en", "mixer": "outer", "branch": x, "mean": 0.5, "std": 0.1} for x in ("en", "fr")]
MIXERS = {"split": "dev", "branches": ["en", "fr"], "rows": WEIGHTS}


def new_task(rows: Path, split: bool) -> object:
    return init(str(rows), rows.with_name("new.yaml"), Options(split=split), force=True, interactive=False)


# Name: maximum size of a file, and a function that writes to a folder from a configuration and a model.
WRITERS: dict[str, tuple[int, Callable[[Path, Path, Path], object]]] = {
    "predict .jsonl": (900, lambda at, _, model: predict(model, at / "rows.csv", at / "x.jsonl", "text", None, 99)),
    "predict .tsv": (900, lambda at, _, model: predict(model, at / "rows.csv", at / "x.tsv", "text", None, 99)),
    "model card": (100, lambda at, yaml, _: card.write(at, configuration.read(yaml), make_result())),
    "heat map": (900, lambda at, _, __: heat_map.write(heat_map.draw(MIXERS), at / "weights.png")),
    "mixers": (60, lambda at, _, __: mixers.write(MIXERS, at / "weights.csv")),
    "init": (900, lambda at, _, __: new_task(at / "rows.csv", split=False)),
    "init --split": (2500, lambda at, _, __: new_task(at / "rows.csv", split=True)),
    "init --split of parquet": (2500, lambda at, _, __: new_task(at / "rows.parquet", split=True)),
    "baseline": (800, lambda at, yaml, _: baseline.baseline(configuration.read(yaml), at)),
    "demo's reviews": (999, lambda at, _, __: toy.write_reviews(at, train=30, dev=10, test=10)),
}


@pytest.mark.parametrize("name", WRITERS)
def test_a_full_disk_gives_one_message_and_no_partial_file(name: str, toy_yaml: Path, student: Path, tmp_path: Path):
    largest, write = WRITERS[name]
    quiet()  # output goes to a file with limited size, too
    (tmp_path / "rows.csv").write_text("".join(f"{','.join(x)}\n" for x in [list(ROWS[0]), *map(dict.values, ROWS)]))
    pq.write_table(pa.Table.from_pylist(ROWS), tmp_path / "rows.parquet")
    given = files_of(tmp_path)
    if name == "baseline":  # another test covers its token store
        shutil.rmtree(write(tmp_path, toy_yaml, student))
    for attempt in range(2):
        with (
            full_disk(largest),
            pytest.raises(UserError, match=r"^\S+: cannot be written \(.*too large.*\); make room"),
        ):
            write(tmp_path, toy_yaml, student)
        assert files_of(tmp_path) == given
        if attempt == 0 and name != "baseline":  # a finished baseline is not rebuilt
            write(tmp_path, toy_yaml, student)
            assert len(files_of(tmp_path)) > len(given)
            given = files_of(tmp_path)


def files_of(folder: Path) -> dict[Path, bytes]:
    """Return the files of a folder, without the store."""
    return {x: x.read_bytes() for x in folder.rglob("*") if x.is_file() and "store" not in x.parts}


def test_predictions_appear_when_complete_but_a_named_pipe_receives_them_directly(student: Path, tmp_path: Path):
    (tmp_path / "rows.txt").write_text("good\nbad\n")
    os.mkfifo(tmp_path / "pipe.jsonl")
    read = subprocess.Popen(["cat", tmp_path / "pipe.jsonl"], stdout=subprocess.PIPE)
    predict(student, tmp_path / "rows.txt", tmp_path / "pipe.jsonl", "text", None, 99)
    received, _ = read.communicate(timeout=60)
    (tmp_path / "link.jsonl").symlink_to(tmp_path / "target.jsonl")
    predict(student, tmp_path / "rows.txt", tmp_path / "link.jsonl", "text", None, 99)
    assert (tmp_path / "target.jsonl").read_bytes() == received and received.count(b"\n") == 2
    assert (tmp_path / "pipe.jsonl").is_fifo() and (tmp_path / "link.jsonl").is_symlink()


def test_a_damaged_record_of_the_environment_stops_a_resumed_run_with_the_remedy(tmp_path: Path):
    (tmp_path / "metrics.jsonl").touch()
    for content in ("", "[]"):
        (tmp_path / "environment.json").write_text(content)
        with pytest.raises(UserError, match=r"environment.json: cannot be read .*; --fresh trains the run again"):
            runs.resume(tmp_path, 1, 0, {})
