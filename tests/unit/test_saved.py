"""Claims about damaged model files and full disks: one message, and no traceback."""

import json
import resource
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from transformers import pipeline

from mbkd.data.tokens import load_tokenizer
from mbkd.distill import teachers
from mbkd.ensemble import model as ensemble
from mbkd.errors import UserError
from mbkd.model import backbones, saved
from mbkd.model.mblm import MBLMConfig, MBLMForSequenceClassification


def truncate(name: str, size: int = 200) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:size])


def other_sizes(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    for values in (config, config.get("backbone", {})):
        if "hidden_size" in values:
            values["hidden_size"] = 64
    (folder / "config.json").write_text(json.dumps(config))


def empty_pickle(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").touch()


def invalid_pickle(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(b"\xff" * 100)


WEIGHTS = {
    "truncated": truncate("model.safetensors"),
    "empty": truncate("model.safetensors", 0),
    "other-sizes": other_sizes,
    "empty-pickle": empty_pickle,
    "invalid-pickle": invalid_pickle,
    "truncated-config": truncate("config.json", 20),
}


@pytest.mark.parametrize("damage", WEIGHTS.values(), ids=WEIGHTS)
def test_damaged_weights_give_one_line_that_names_the_folder(damage, student: Path, world: Path, tmp_path: Path):
    for name, source in (("student", student), ("encoder", world / "models" / "student")):
        shutil.copytree(source, tmp_path / name)
        damage(tmp_path / name)
    model, encoder = tmp_path / "student", tmp_path / "encoder"
    for load in (
        lambda: saved.load(model),
        lambda: teachers.load(str(encoder)),
        lambda: backbones.load(str(encoder), {}),
        lambda: MBLMForSequenceClassification.from_pretrained(encoder, branch_languages=("en",), branch_depth=1),
    ):
        with pytest.raises(UserError) as error:
            load()
        assert str(tmp_path) in str(error.value)
        assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("file", "text"),
    [
        *(
            ("tokenizer.json", text)
            for text in ("", "{", "{}", "[]", '{"added_tokens": [], "model": {"type": "none"}}')
        ),
        *(("tokenizer_config.json", text) for text in ("", "{", "[]")),
    ],
)
def test_a_damaged_tokenizer_gives_one_line(file: str, text: str, student: Path, tmp_path: Path):
    shutil.copytree(student, tmp_path / "model")
    (tmp_path / "model" / file).write_text(text)
    with pytest.raises(UserError, match="the tokenizer cannot be loaded") as error:
        load_tokenizer(tmp_path / "model")
    assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize("limit", [100, 5000])
def test_a_full_disk_gives_one_message_when_a_model_is_saved(limit: int, student: Path, tmp_path: Path):
    model, tokenizer = saved.load(student), load_tokenizer(student)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))  # no file may be larger, as on a full disk
    try:
        with pytest.raises(UserError, match=r"the model cannot be written.*too large"):
            saved.save(model, tokenizer, tmp_path / "model")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    saved.save(model, tokenizer, tmp_path / "model")
    assert saved.load(tmp_path / "model").config.branch_languages == ["en", "fr"]
    assert load_tokenizer(tmp_path / "model").get_vocab() == tokenizer.get_vocab()


def test_a_truncating_pipeline_accepts_a_text_of_any_length(student: Path, tmp_path: Path):
    """The models are a student, and an ensemble whose members have other maximum lengths."""
    model, tokenizer = saved.load(student), load_tokenizer(student)
    tokenizer.model_max_length = 10**30  # as in many tokenizers on the hub
    short = MBLMForSequenceClassification(MBLMConfig(**model.config.to_dict() | {"mixer_length": 20}))
    saved.save(model, tokenizer, tmp_path / "student")
    saved.save(short, tokenizer, tmp_path / "short")
    ensemble.save([tmp_path / "student", tmp_path / "short"], tmp_path / "ensemble")
    for name, length in (("student", 128), ("short", 20), ("ensemble", 20)):
        classify = pipeline("text-classification", str(tmp_path / name))
        assert classify.tokenizer.model_max_length == length
        assert len(classify("good " * 999, truncation=True)) == 1
