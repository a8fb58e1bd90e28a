"""Claims about the cache of teacher logits: it equals the engine's logits, is complete, and is built once a teacher."""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification

from mbkd import distributed
from mbkd.config import Task
from mbkd.data.classifiers import fingerprint
from mbkd.data.tokens import open_store
from mbkd.distill import cache, signals
from mbkd.distill.teachers import Teacher
from mbkd.errors import UserError
from mbkd.files import Store
from mbkd.inputs import TeacherInput
from tests.conftest import full_disk

LABELS = ("1", "2", "3", "4", "5")


@pytest.fixture(scope="module")
def ranks() -> Iterator[distributed.Ranks]:
    started = distributed.start()
    torch.set_num_threads(1)
    yield started
    distributed.stop()


@pytest.fixture
def classifier(world: Path, tmp_path: Path) -> Path:
    """A classifier of five stars with random weights, large enough for its answers to differ."""
    torch.manual_seed(3)
    folder = tmp_path / "teacher"
    shutil.copytree(world / "models" / "teacher-en", folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder, id2label=dict(enumerate(LABELS)))
    for parameter in model.classifier.parameters():
        torch.nn.init.normal_(parameter)
    model.save_pretrained(folder)
    return folder


def teacher_input(world: Path, folder: Path, store: Path, length: int = 128) -> TeacherInput:
    task = Task(kind="marc", path=str(world / "data"))
    train, dev = (open_store(store, task, split, "en", str(folder), length) for split in ("train", "dev"))
    return TeacherInput(str(folder), fingerprint(str(folder), store), 1.0, train, dev)


class CountingLoader:
    """Loads the teacher and counts the loads."""

    def __init__(self, folder: Path, ranks: distributed.Ranks):
        self.folder, self.ranks, self.calls = folder, ranks, 0

    def __call__(self) -> Teacher:
        self.calls += 1
        return Teacher(str(self.folder), LABELS, self.ranks)


@pytest.fixture
def opened(world: Path, classifier: Path, tmp_path: Path, ranks: distributed.Ranks):
    """Return a function that opens the cache as a run does, and returns the cache and the number of teacher loads."""

    def opened(length: int = 128) -> tuple[cache.Cache, int]:
        make = CountingLoader(classifier, ranks)
        store = tmp_path / "store"
        found = cache.open_cache(
            "en", teacher_input(world, classifier, store, length), make, store, ranks, allow_chance=True
        )
        return found, make.calls

    return opened


def change_one_weight(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    weights["classifier.out_proj.bias"][0] += 1
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def test_the_cache_equals_the_engines_logits_for_any_batch(world, classifier, opened, ranks, tmp_path):
    found, _ = opened()
    teacher = Teacher(str(classifier), LABELS, ranks)
    tokens = teacher_input(world, classifier, tmp_path / "store").train
    rows = np.random.default_rng(0).permutation(len(tokens))
    asked = torch.cat([teacher.signal(tokens, part).logits for part in np.array_split(rows, 9)]).numpy()
    assert found.logits.dtype == np.float32
    assert np.abs(found.logits[rows] - asked).max() < 5e-3  # fp16 has three significant digits
    assert (found.logits[rows].argmax(1) == asked.argmax(1)).mean() >= 0.999


def test_a_complete_cache_is_read_without_the_teacher(opened):
    first, loads = opened()
    assert loads == 1
    second, loads = opened()
    assert loads == 0
    assert second.sha256 == first.sha256
    assert np.array_equal(first.logits, second.logits)


def swap_labels(data: Path, _: Path) -> None:
    file = data / "dataset_en_train.json"
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    file.write_text("".join(json.dumps(row | {"stars": str(6 - int(row["stars"]))}) + "\n" for row in rows))


def add_a_row(data: Path, _: Path) -> None:
    file = data / "dataset_en_train.json"
    rows = file.read_text().splitlines(keepends=True)
    file.write_text("".join([*rows, json.dumps(json.loads(rows[0]) | {"review_id": "one more"}) + "\n"]))


def retrain_the_teacher(_: Path, teacher: Path) -> None:
    change_one_weight(teacher)


def replace_the_backbone(data: Path, _: Path) -> None:
    (data.parent / "student" / "model.safetensors").write_bytes(b"other weights")


def touch_all(data: Path, teacher: Path) -> None:
    for file in (*data.iterdir(), *teacher.iterdir()):
        file.write_bytes(file.read_bytes())
        os.utime(file, ns=(1, 1))


def add_rows_of_another_language(data: Path, _: Path) -> None:
    with (data / "dataset_fr_train.json").open("a") as file:
        file.write("{}\n")


@pytest.mark.parametrize(
    ("change", "loads"),
    [
        (swap_labels, 1),
        (add_a_row, 1),
        (retrain_the_teacher, 1),
        (replace_the_backbone, 0),
        (touch_all, 0),
        (add_rows_of_another_language, 0),
    ],
)
def test_a_cache_matches_the_current_rows_and_teacher(
    world: Path, classifier: Path, tmp_path: Path, ranks, change: Callable[[Path, Path], None], loads: int
):
    for name, source in {"data": world / "data", "student": world / "models" / "student"}.items():
        shutil.copytree(source, tmp_path / name)

    def opened() -> tuple[cache.Cache, int]:
        make, mine = CountingLoader(classifier, ranks), teacher_input(tmp_path, classifier, tmp_path / "store")
        return cache.open_cache("en", mine, make, tmp_path / "store", ranks, allow_chance=True), make.calls

    before, _ = opened()
    change(tmp_path / "data", classifier)
    after, asked = opened()
    assert asked == loads
    assert (after.folder == before.folder) == (not loads)
    assert before.logits.shape == (60, 5) and after.logits.shape == (60 + (change is add_a_row), 5)


def test_another_length_gets_a_separate_cache(opened):
    first, _ = opened()
    second, loads = opened(length=16)
    assert loads == 1
    assert second.folder != first.folder


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("logits.npy", lambda data: data[:-8], "bytes, not"),
        ("logits.npy", lambda data: data[:-1] + bytes([data[-1] ^ 1]), "another checksum"),
        ("manifest.json", lambda data: data[:-20], "manifest.json is damaged"),
        ("manifest.json", lambda data: data.replace(b'"fingerprint": "', b'"fingerprint": "0'), "another store's"),
    ],
    ids=["truncated", "altered", "manifest damaged", "another manifest"],
)
def test_a_damaged_cache_is_rebuilt_with_a_message(opened, capfd, name, change, message):
    first, _ = opened()
    before = np.array(first.logits)
    file = first.folder / name
    file.write_bytes(change(file.read_bytes()))
    again, loads = opened()
    assert loads == 1
    assert message in capfd.readouterr().err
    assert np.array_equal(again.logits, before)
    assert again.sha256 == first.sha256


def test_an_unreadable_chunk_is_recomputed(world, classifier, opened, ranks, tmp_path, monkeypatch):
    monkeypatch.setattr(cache, "TOKENS_PER_BATCH", 256)
    monkeypatch.setattr(cache, "BATCHES_PER_CHUNK", 1)
    first, _ = opened()
    parts = first.folder.with_name(first.folder.name + ".parts")
    assert not parts.exists()
    expected = (first.folder / "logits.npy").read_bytes()
    tokens = teacher_input(world, classifier, tmp_path / "store").train
    shutil.rmtree(first.folder)
    cache._chunks(Teacher(str(classifier), LABELS, ranks), "en", tokens, first.folder, ranks)
    several = sorted(parts.iterdir())
    assert len(several) > 5
    several[0].write_bytes(several[0].read_bytes()[:-4])
    several[1].write_bytes(b"")
    several[2].unlink()
    kept = several[3].stat().st_mtime_ns
    again, loads = opened()
    assert loads == 1
    assert (again.folder / "logits.npy").read_bytes() == expected
    assert kept < again.folder.joinpath("manifest.json").stat().st_mtime_ns


def test_a_full_disk_gives_one_message_and_the_cache_is_built_at_the_next_try(opened):
    first, _ = opened()
    shutil.rmtree(first.folder)
    with full_disk(first.logits.nbytes), pytest.raises(UserError, match=r"cannot be written .*make room"):
        opened()
    assert not first.folder.exists()
    again, _ = opened()
    assert again.sha256 == first.sha256


def test_logits_that_are_not_finite_are_refused(world, opened, ranks, tmp_path, monkeypatch):
    found, _ = opened()
    store = Store(found.folder, {})
    tokens = teacher_input(world, tmp_path / "teacher", tmp_path / "store").train
    (rows,) = (np.concatenate(chunk) for chunk in cache._plan(tokens))
    logits = np.zeros((len(tokens), 5), np.float32)
    logits[7, 2] = np.inf
    parts = cache._parts(store.folder)
    parts.mkdir()
    np.save(parts / "0.npy", logits[rows])
    assert tokens.row_ids[7] in cache._assemble(store, {"labels": LABELS}, tokens)
    assert not store.folder.exists()


def test_a_refused_teacher_leaves_no_cache(world, classifier, tmp_path, ranks):
    store = tmp_path / "store"
    mine = teacher_input(world, classifier, store)
    with pytest.raises(UserError, match="chance"):
        cache.open_cache("en", mine, CountingLoader(classifier, ranks), store, ranks)
    strangers = replace(mine, train=open_store(store, Task(kind="marc", path=str(world / "data")), "train", "en",
                                               str(world / "models" / "student"), 128))  # fmt: skip
    with pytest.raises(UserError, match="needs the tokens of its own tokenizer"):
        cache.open_cache("en", strangers, CountingLoader(classifier, ranks), store, ranks, allow_chance=True)
    assert not [p for p in (store / "logits").iterdir() if p.suffix != ".lock"]


def test_cached_classes_come_in_the_students_order(tmp_path: Path):
    logits = np.arange(12, dtype=np.float32).reshape(4, 3)
    np.save(tmp_path / "logits.npy", logits)
    manifest = {"labels": {"0": "b", "1": "c", "2": "a"}, "files": {"logits.npy": {"sha256": ""}}, "checked": {}}
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    ask = signals.cached(cache.Cache(tmp_path), ("a", "b", "c"), torch.device("cpu"))
    rows = np.array([3, 1])
    assert ask(rows).logits.tolist() == logits[rows][:, [2, 0, 1]].tolist()
