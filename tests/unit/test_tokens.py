"""Claims about the token store, with tokenizers built here and with the small encoders if they are present."""

import csv
import json
import logging
import multiprocessing
import os
import random
import shutil
import signal
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock

from mbkd import files
from mbkd.config import Columns, Task
from mbkd.data import tokens
from mbkd.data.tokens import open_store, tokenizer_fingerprint
from mbkd.errors import UserError

MODELS = Path(__file__).parents[2].parent / "shared" / "models"
MINI = [
    pytest.param(name, marks=pytest.mark.skipif(not (MODELS / name).is_dir(), reason=f"{MODELS / name} does not exist"))
    for name in ("mini-en", "mini-fr", "mini-zh", "mini-mplm")
]
SPECIALS = {"unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]", "pad_token": "[PAD]"}
WORDS = ["the", "a", "cat", "dog", "sat", "on", "and", "it", "was", "très", "bon", "好", "的", "not", "yes"]


def make_tokenizer(folder, segments=True, padding_side="right", extra=()):
    """A BERT-like tokenizer of a few words; its pad id is not 0."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast  # imported here to start the processes below faster

    vocabulary = {word: index for index, word in enumerate([*SPECIALS.values(), *WORDS, *extra])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 1), ("[SEP]", 2)],
    )
    names = ["input_ids", "token_type_ids", "attention_mask"] if segments else ["input_ids", "attention_mask"]
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, model_input_names=names, padding_side=padding_side, **SPECIALS
    ).save_pretrained(folder)
    return str(folder)


def make_task(folder, count=200, pair=True, seed=0):
    """A task of random sentences, some of them far longer than the tests' max_length."""
    folder.mkdir(parents=True, exist_ok=True)
    draw = random.Random(seed)
    with (folder / "train-en.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "pair", "label", "id"])
        for row in range(count):
            first, second = (" ".join(draw.choices(WORDS, k=draw.randint(1, 30))) for _ in range(2))
            writer.writerow([first, second, ("no", "yes")[row % 2], f"item-{row}"])
    return Task(
        kind="own",
        files={"train": str(folder / "train-{language}.csv")},
        columns=Columns(text_pair="pair" if pair else None, id="id"),
        labels=("no", "yes"),
        supervised=("en",),
    )


def texts_of(task):
    with Path(task.files["train"].replace("{language}", "en")).open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    return [r["text"] for r in rows], [r["pair"] for r in rows] if task.columns.text_pair else None


def padded_by_the_tokenizer(name, task, rows, max_length, **padding):
    from transformers import AutoTokenizer

    first, second = texts_of(task)
    return AutoTokenizer.from_pretrained(name)(
        [first[r] for r in rows],
        [second[r] for r in rows] if second else None,
        truncation="longest_first",
        max_length=max_length,
        return_tensors="np",
        **(padding or {"padding": True}),
    )


def assert_same(ours, theirs):
    assert sorted(ours) == sorted(theirs)
    for name, array in ours.items():
        assert array.dtype == np.int64
        np.testing.assert_array_equal(array, theirs[name], err_msg=name)


def assert_whole(store, task, name, caplog):
    """Assert that opening the store again verifies every checksum without a message."""
    caplog.clear()
    open_store(store, task, "train", "en", name, 24)
    assert caplog.text == ""


@pytest.mark.parametrize("pair", [True, False])
@pytest.mark.parametrize(("segments", "padding_side"), [(True, "right"), (False, "right"), (True, "left")])
def test_a_batch_equals_the_tokenizers_padding(tmp_path, segments, padding_side, pair):
    name = make_tokenizer(tmp_path / "tokenizer", segments, padding_side)
    task = make_task(tmp_path / "data", pair=pair)
    store = open_store(tmp_path, task, "train", "en", name, 24)
    assert len(store) == 200
    assert store.lengths.max() == 24
    for rows in np.random.default_rng(0).integers(0, 200, (20, 7)):
        assert_same(store.batch(rows), padded_by_the_tokenizer(name, task, rows, 24))
    wide = padded_by_the_tokenizer(name, task, [3, 1], 24, padding="max_length")
    assert_same(store.batch(np.array([3, 1]), width=24), wide)


@pytest.mark.parametrize("name", MINI)
def test_a_batch_equals_a_small_encoders_tokenizer_padding(tmp_path, name):
    model, task = str(MODELS / name), make_task(tmp_path / "data")
    store = open_store(tmp_path, task, "train", "en", model, 32)
    for rows in np.random.default_rng(0).integers(0, 200, (10, 7)):
        assert_same(store.batch(rows), padded_by_the_tokenizer(model, task, rows, 32))
    assert ("token_type_ids" in store.batch(np.arange(3))) == (name == "mini-zh")


def test_a_batch_equals_a_python_tokenizers_padding(tmp_path):
    from transformers import PhobertTokenizer

    (tmp_path / "vocab.txt").write_text("".join(f"{word} 1\n" for word in WORDS), encoding="utf-8")
    (tmp_path / "bpe.codes").write_text("t h 1\n", encoding="utf-8")
    tokenizer = PhobertTokenizer(str(tmp_path / "vocab.txt"), str(tmp_path / "bpe.codes"))
    assert not tokenizer.is_fast
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    name, task = str(tmp_path / "tokenizer"), make_task(tmp_path / "data")
    store = open_store(tmp_path, task, "train", "en", name, 24)
    rows = np.arange(40)
    assert_same(store.batch(rows), padded_by_the_tokenizer(name, task, rows, 24))


def test_the_second_text_keeps_its_segment_id(tmp_path):
    name, task = make_tokenizer(tmp_path / "tokenizer"), make_task(tmp_path / "data")
    batch = open_store(tmp_path, task, "train", "en", name, 64).batch(np.array([0]))
    first, second = (text[0].split() for text in texts_of(task))
    assert batch["token_type_ids"][0].tolist() == [0] * (len(first) + 2) + [1] * (len(second) + 1)


def test_the_chunks_of_a_build_do_not_affect_the_store(tmp_path, monkeypatch):
    name, task = make_tokenizer(tmp_path / "tokenizer"), make_task(tmp_path / "data")
    whole = open_store(tmp_path / "whole", task, "train", "en", name, 24)
    monkeypatch.setattr(tokens, "CHUNK", 7)
    parts = open_store(tmp_path / "parts", task, "train", "en", name, 24)
    assert parts.manifest["files"] == whole.manifest["files"]


def test_labels_and_ids_are_in_the_files_order(tmp_path):
    name, task = make_tokenizer(tmp_path / "tokenizer"), make_task(tmp_path / "data", count=5)
    store = open_store(tmp_path, task, "train", "en", name, 24)
    assert store.labels.tolist() == [0, 1, 0, 1, 0]
    assert store.row_ids == [f"item-{row}" for row in range(5)]


def test_a_row_longer_than_the_width_is_refused(tmp_path):
    name, task = make_tokenizer(tmp_path / "tokenizer"), make_task(tmp_path / "data")
    store = open_store(tmp_path, task, "train", "en", name, 24)
    with pytest.raises(ValueError, match="24 tokens does not fit the width 8"):
        store.batch(np.arange(200), width=8)
    with pytest.raises(IndexError):
        store.batch(np.array([200]))


def test_a_second_opening_does_not_tokenise(tmp_path, caplog):
    name, task = make_tokenizer(tmp_path / "tokenizer"), make_task(tmp_path / "data")
    caplog.set_level(logging.INFO, "mbkd.data.tokens")
    first = open_store(tmp_path, task, "train", "en", name, 24)
    assert len(caplog.records) == 1
    second = open_store(tmp_path, task, "train", "en", name, 24)
    assert len(caplog.records) == 1
    assert second.fingerprint == first.fingerprint
    assert_same(second.batch(np.arange(9)), first.batch(np.arange(9)))


def test_another_length_tokenizer_or_text_gives_another_store(tmp_path):
    name, task = make_tokenizer(tmp_path / "tokenizer"), make_task(tmp_path / "data")
    stores = [open_store(tmp_path, task, "train", "en", name, length) for length in (24, 32)]
    make_tokenizer(tmp_path / "tokenizer", extra=["new"])
    stores.append(open_store(tmp_path, task, "train", "en", name, 24))
    make_task(tmp_path / "data", seed=1)
    stores.append(open_store(tmp_path, task, "train", "en", name, 24))
    assert len({store.folder for store in stores}) == len({store.fingerprint for store in stores}) == 4
    assert_same(stores[3].batch(np.arange(5)), padded_by_the_tokenizer(name, task, range(5), 24))


def test_other_files_next_to_a_tokenizer_do_not_change_its_fingerprint(tmp_path):
    name = make_tokenizer(tmp_path / "tokenizer")
    before = tokenizer_fingerprint(name)
    (tmp_path / "tokenizer" / "model.safetensors").write_bytes(b"weights")
    (tmp_path / "tokenizer" / "README.md").write_text("notes")
    shutil.move(name, tmp_path / "moved")
    assert tokenizer_fingerprint(str(tmp_path / "moved")) == before


@pytest.mark.parametrize("file", ["ids.npy", "offsets.npy", "segments.npy", "labels.npy", "row_ids.json"])
def test_a_truncated_file_is_named_and_rebuilt(tmp_path, caplog, file):
    name, task = make_tokenizer(tmp_path / "tokenizer"), make_task(tmp_path / "data")
    store = open_store(tmp_path, task, "train", "en", name, 24)
    size = (store.folder / file).stat().st_size
    os.truncate(store.folder / file, size // 2)
    store = open_store(tmp_path, task, "train", "en", name, 24)
    assert f"{file} has {size // 2:,} bytes, not {size:,}; it is built again" in caplog.text
    assert_whole(tmp_path, task, name, caplog)
    assert_same(store.batch(np.arange(9)), padded_by_the_tokenizer(name, task, range(9), 24))


@pytest.mark.parametrize("manifest", ["", "{}", "[]", '{"files": {}, "fingerprint": "of another store"}', None])
def test_a_store_without_its_manifest_is_rebuilt(tmp_path, caplog, manifest):
    name, task = make_tokenizer(tmp_path / "tokenizer"), make_task(tmp_path / "data")
    file = open_store(tmp_path, task, "train", "en", name, 24).folder / "manifest.json"
    file.unlink() if manifest is None else file.write_text(manifest)
    open_store(tmp_path, task, "train", "en", name, 24)
    assert "manifest.json" in caplog.text
    assert_whole(tmp_path, task, name, caplog)


def test_a_complete_store_opens_on_a_read_only_disk(tmp_path):
    name, task = make_tokenizer(tmp_path / "tokenizer"), make_task(tmp_path / "data")
    folder = open_store(tmp_path, task, "train", "en", name, 24).folder
    folder.with_name(folder.name + ".lock").unlink()
    open_store(tmp_path, task, "train", "en", name, 24)
    assert list(folder.parent.iterdir()) == [folder]  # no lock was taken


def test_a_folder_without_a_tokenizer_is_refused_by_name(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UserError, match=rf"{tmp_path}: no tokenizer .* tokenizer\.json .*vocab.*save_pretrained"):
        tokenizer_fingerprint(str(tmp_path))
    with pytest.raises(UserError, match="nowhere: no such folder"):
        tokenizer_fingerprint(str(tmp_path / "nowhere"))


def test_a_tokenizer_that_cannot_be_used_is_refused_by_name(tmp_path):
    task = make_task(tmp_path / "data")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "tokenizer.json").write_text("{")
    with pytest.raises(UserError, match="broken: the tokenizer cannot be loaded"):
        open_store(tmp_path, task, "train", "en", str(tmp_path / "broken"), 24)
    name = make_tokenizer(tmp_path / "padless")
    config = json.loads((tmp_path / "padless" / "tokenizer_config.json").read_text())
    del config["pad_token"]
    (tmp_path / "padless" / "tokenizer_config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="padless: the tokenizer has no pad token"):
        open_store(tmp_path, task, "train", "en", name, 24)


def _open_at_once(barrier, results, store, task, name):
    """Open the store at the same time as the other process; report the number of rows and the output."""
    messages = []
    handler = logging.Handler()
    handler.emit = lambda record: messages.append(record.getMessage())
    logger = logging.getLogger("mbkd.data.tokens")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    barrier.wait(timeout=60)
    opened = open_store(store, task, "train", "en", name, 24)
    logger.removeHandler(handler)
    results.put((len(opened), messages))


def _build_slowly(store, task, name):
    tokens.CHUNK = 1
    open_store(store, task, "train", "en", name, 24)


def test_concurrent_processes_build_a_store_once(tmp_path):
    name, task = make_tokenizer(tmp_path / "tokenizer"), make_task(tmp_path / "data", count=3000)
    spawn = multiprocessing.get_context("spawn")
    barrier, results = spawn.Barrier(2), spawn.Queue()
    process = spawn.Process(target=_open_at_once, args=(barrier, results, tmp_path, task, name))
    process.start()
    _open_at_once(barrier, results, tmp_path, task, name)
    (rows_a, messages_a), (rows_b, messages_b) = results.get(timeout=60), results.get(timeout=60)
    process.join()
    assert rows_a == rows_b == 3000
    assert sum(message.startswith("tokenised") for message in messages_a + messages_b) == 1


def test_a_waiting_process_repeats_its_report(tmp_path, monkeypatch, caplog):
    name, task = make_tokenizer(tmp_path / "tokenizer"), make_task(tmp_path / "data")
    folder = open_store(tmp_path, task, "train", "en", name, 24).folder
    shutil.rmtree(folder)
    monkeypatch.setattr(files, "PATIENCE", 0.05)
    monkeypatch.setattr(files, "REPEAT", 0.1)
    waiting = threading.Thread(target=open_store, args=(tmp_path, task, "train", "en", name, 24))
    with FileLock(f"{folder}.lock"):
        waiting.start()
        waiting.join(0.4)
        assert waiting.is_alive()
        assert not folder.exists()
    waiting.join()
    assert folder.exists()
    assert caplog.text.count(f"waiting for another process that builds {folder.name}") >= 2


def test_a_killed_build_is_rebuilt(tmp_path, caplog):
    name, task = make_tokenizer(tmp_path / "tokenizer"), make_task(tmp_path / "data", count=5000)
    process = multiprocessing.get_context("spawn").Process(target=_build_slowly, args=(tmp_path, task, name))
    process.start()
    deadline = time.monotonic() + 60
    while not any(file.stat().st_size > 4096 for file in (tmp_path / "tokens").glob("*.part/ids.npy")):
        assert process.is_alive()
        assert time.monotonic() < deadline
        time.sleep(0.001)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    (left,) = (tmp_path / "tokens").glob("*.part")
    assert not left.with_suffix("").exists()  # the store does not look complete
    store = open_store(tmp_path, task, "train", "en", name, 24)
    assert len(store) == 5000
    assert not left.exists()
    assert_whole(tmp_path, task, name, caplog)


@pytest.mark.parametrize("file", ["ids.npy", "offsets.npy", "segments.npy", "labels.npy", "row_ids.json"])
def test_a_store_with_a_flipped_bit_is_named_and_rebuilt(tmp_path, caplog, file):
    name, task = make_tokenizer(tmp_path / "tokenizer"), make_task(tmp_path / "data")
    store = open_store(tmp_path, task, "train", "en", name, 24)
    whole = (store.folder / file).read_bytes()
    (store.folder / file).write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    # The first rank of a job verifies the store for the others.
    open_store(tmp_path, task, "train", "en", name, 24, verified=True)
    assert "differs from the written file" not in caplog.text
    again = open_store(tmp_path, task, "train", "en", name, 24)
    assert f"{file} differs from the written file" in caplog.text
    assert (again.folder / file).read_bytes() == whole
