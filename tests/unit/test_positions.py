"""Claims about a model's maximum length: the model runs at this length and fails with one more token."""

import json
from pathlib import Path

import pytest
import torch
from transformers import (
    AutoModel,
    AutoTokenizer,
    BertConfig,
    CamembertConfig,
    DistilBertConfig,
    ModernBertConfig,
    RobertaConfig,
    XLMRobertaConfig,
)

from mbkd import config as configuration
from mbkd.errors import UserError
from mbkd.evaluate.folder import evaluate_folder
from mbkd.model import positions, saved
from mbkd.model.configuration import EnsembleConfig, MBLMConfig
from mbkd.model.mblm import MBLMForSequenceClassification

SIZES = {"vocab_size": 50, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
DISTILBERT = {"vocab_size": 50, "dim": 16, "n_layers": 1, "n_heads": 2, "hidden_dim": 16}
SPECIAL = {"pad_token_id": 1, "cls_token_id": 0, "bos_token_id": 0, "eos_token_id": 2, "sep_token_id": 2}


@pytest.mark.parametrize(
    ("config", "longest"),
    [
        (BertConfig(**SIZES, max_position_embeddings=40), 40),
        (RobertaConfig(**SIZES, max_position_embeddings=40), 38),
        (XLMRobertaConfig(**SIZES, max_position_embeddings=40), 38),
        (CamembertConfig(**SIZES, max_position_embeddings=40, pad_token_id=5), 34),
        (XLMRobertaConfig(**SIZES, max_position_embeddings=40, pad_token_id=0), 39),
        (DistilBertConfig(**DISTILBERT, max_position_embeddings=40), 40),
    ],
    ids=lambda x: getattr(x, "model_type", str(x)),
)
def test_an_encoder_accepts_the_stated_number_of_tokens_and_no_more(config, longest: int, tmp_path: Path):
    model = AutoModel.from_config(config).eval()
    model.save_pretrained(tmp_path)
    assert positions.of(config.to_dict()) == positions.of_model(str(tmp_path)) == longest
    with torch.no_grad():
        model(input_ids=torch.full((1, longest), 7))
        with pytest.raises((RuntimeError, IndexError)):
            model(input_ids=torch.full((1, longest + 1), 7))


def test_rotary_positions_end_at_the_configured_length_although_the_model_accepts_more():
    config = ModernBertConfig(**SIZES, **SPECIAL, max_position_embeddings=40)
    assert positions.of(config.to_dict()) == 40
    with torch.no_grad():
        AutoModel.from_config(config).eval()(input_ids=torch.full((1, 41), 7))


def test_relative_positions_without_an_end_have_no_limit():
    assert positions.of({"model_type": "t5"}) is None
    assert positions.of({"model_type": "xlnet", "max_position_embeddings": -1}) is None


def test_a_student_and_an_ensemble_have_the_smallest_limit_of_their_parts(world: Path):
    encoder = XLMRobertaConfig(**SIZES, max_position_embeddings=40).to_dict()
    branches = {"branch_languages": ["en"], "branch_depth": 1}
    short, long = MBLMConfig(encoder, mixer_length=20, **branches), MBLMConfig(encoder, mixer_length=60, **branches)
    plain = MBLMConfig(encoder, mixer_length=20)
    found = [positions.of(x.to_dict()) for x in (short, long, plain, EnsembleConfig([long.to_dict(), short.to_dict()]))]
    assert found == [20, 38, 38, 20]


def test_a_student_with_mixers_longer_than_its_positions_classifies_long_texts(world: Path):
    """Models from training data without long rows are saved in this way."""
    model = MBLMForSequenceClassification.from_pretrained(
        world / "models" / "student", branch_languages=("en",), branch_depth=1, mixer_length=600
    ).eval()
    tokenizer = AutoTokenizer.from_pretrained(world / "models" / "student")
    length = saved.max_tokens(model.config, tokenizer)
    assert length == 128
    row = tokenizer("good " * 1000, truncation=True, max_length=length, return_tensors="pt")
    assert row["input_ids"].shape == (1, length)
    with torch.no_grad():
        assert model(**row).logits.isfinite().all()


def test_a_folder_without_a_model_is_named(tmp_path: Path):
    for values in ("{", "[]", '"x"', json.dumps({"model_type": "mblm"})):
        (tmp_path / "config.json").write_text(values)
        with pytest.raises(UserError, match=f"{tmp_path}: no model here"):
            positions.of_model(str(tmp_path))


def test_a_model_is_evaluated_within_its_maximum_length(toy_yaml: Path, world: Path, tmp_path: Path):
    labels = tuple("12345")
    torch.manual_seed(0)
    model = MBLMForSequenceClassification.from_pretrained(
        world / "models" / "student",
        branch_languages=("en",),
        branch_depth=1,
        mixer_length=12,
        id2label=dict(enumerate(labels)),
        label2id={name: i for i, name in enumerate(labels)},
    )
    saved.save(model, AutoTokenizer.from_pretrained(world / "models" / "student"), tmp_path / "model")
    long, short = (configuration.read(toy_yaml, [f"train.max_length={n}"]) for n in (128, 12))
    found = evaluate_folder(tmp_path / "model", long, "test", tmp_path)
    assert found == evaluate_folder(tmp_path / "model", short, "test", tmp_path)
