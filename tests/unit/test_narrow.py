"""Claims about the last layer computed for the head's position only: equal numbers for a sixth of the work."""

import copy

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import (
    AutoModel,
    AutoModelForSequenceClassification,
    BertConfig,
    CamembertConfig,
    DebertaV2Config,
    DistilBertConfig,
    ElectraConfig,
    EuroBertConfig,
    ModernBertConfig,
    MPNetConfig,
    RemBertConfig,
    RobertaConfig,
    XLMRobertaConfig,
    XLMRobertaXLConfig,
)

from mbkd.model import backbones

SIZES = {"vocab_size": 40, "hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 12}
POSITIONS = {"max_position_embeddings": 40, "pad_token_id": 1, "initializer_range": 0.3}
LIKE_BERT = (BertConfig, RobertaConfig, XLMRobertaConfig, CamembertConfig, ElectraConfig, RemBertConfig)
RELATIVE = {"relative_attention": True, "position_buckets": 4, "norm_rel_ebd": "layer_norm"}
NARROWED = [
    *(kind(**SIZES, **POSITIONS) for kind in (*LIKE_BERT, MPNetConfig, XLMRobertaXLConfig)),
    *(
        DebertaV2Config(**SIZES, **POSITIONS, **RELATIVE, conv_kernel_size=3, pos_att_type=kinds, share_att_key=share)
        for kinds, share in ((["c2p", "p2c"], True), (["c2p", "p2c"], False), (["p2c"], False))
    ),
    DebertaV2Config(**SIZES, **POSITIONS, pos_att_type=None),  # no relative positions
    DistilBertConfig(vocab_size=40, dim=8, n_layers=2, n_heads=2, hidden_dim=12, initializer_range=0.3),
    EuroBertConfig(**SIZES, **POSITIONS, head_dim=6, num_key_value_heads=1, classifier_pooling="bos"),
    *(
        ModernBertConfig(**SIZES, **POSITIONS, local_attention=4, global_attn_every_n_layers=n, attention_bias=n > 1)
        for n in (1, 2)  # global or local attention in the last layer
    ),
]
SINGLE = ("deberta-v2", "eurobert", "modernbert")  # these models compute scales, angles or softmax in single precision
EAGER_ALONE = ("deberta-v2", "mpnet", "rembert")


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def batch() -> dict[str, torch.Tensor]:
    """Five texts of up to nine tokens, padded."""
    ids = torch.randint(5, 40, (5, 9))
    mask = (torch.arange(9) < torch.tensor([9, 2, 5, 9, 1])[:, None]).long()
    return {"input_ids": ids.masked_fill(mask == 0, 1), "attention_mask": mask}


def classifier(config, attention: str = "sdpa"):
    """The full model and its narrowed copy, in double precision without dropout."""
    whole = AutoModelForSequenceClassification.from_config(config, attn_implementation=attention).double().eval()
    narrow = copy.deepcopy(whole)
    backbones.narrow_classifier(narrow)
    return whole, narrow


@pytest.mark.parametrize(
    ("config", "attention"),
    [
        (config, way)
        for config in NARROWED
        for way in ("sdpa", "eager")
        if (way == "eager" or config.model_type not in EAGER_ALONE)
        if (way == "sdpa" or config.model_type != "modernbert")  # padding gives NaN in transformers in double precision
    ],
    ids=lambda value: getattr(value, "model_type", value),
)
def test_logits_and_gradients_equal_those_of_the_full_layer(config, attention):
    whole, narrow = classifier(config, attention)
    inputs = batch()
    near = 1e-5 if config.model_type in SINGLE else 1e-12
    for full in (inputs, {"input_ids": inputs["input_ids"]}):
        for model in (whole, narrow):
            model.zero_grad()
            model(**full).logits.square().sum().backward()
        torch.testing.assert_close(narrow(**full).logits, whole(**full).logits, rtol=near, atol=near)
        for (name, a), b in zip(narrow.named_parameters(), whole.parameters(), strict=True):
            torch.testing.assert_close(a.grad, b.grad, rtol=max(near, 1e-9), atol=near, msg=name)
    with FlopCounterMode(display=False) as less:
        narrow(**inputs)
    with FlopCounterMode(display=False) as more:
        whole(**inputs)
    assert less.get_total_flops() < more.get_total_flops()


def test_hidden_states_and_hooks_receive_the_first_position():
    whole, narrow = classifier(NARROWED[0])
    seen = []
    narrow.bert.encoder.layer[-1].register_forward_hook(lambda layer, inputs, output: seen.append(output))
    inputs = batch()
    found = narrow(**inputs, output_hidden_states=True).hidden_states
    expected = whole(**inputs, output_hidden_states=True).hidden_states
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a[:, 0], b[:, 0])
    assert torch.equal(seen[0], found[-1])
    assert seen[0].shape == (5, 1, 8)


def test_a_copy_of_a_narrowed_model_uses_its_own_weights():
    _, narrow = classifier(NARROWED[0])
    inputs = batch()
    before = narrow(**inputs).logits
    other = copy.deepcopy(narrow)
    with torch.no_grad():
        for parameter in other.bert.encoder.layer[-1].parameters():
            parameter.zero_()
    assert torch.equal(narrow(**inputs).logits, before)
    assert not torch.equal(other(**inputs).logits, before)
    assert list(other.state_dict()) == list(narrow.state_dict())


@pytest.mark.parametrize("where", ["attention_probs_dropout_prob", "hidden_dropout_prob"])
def test_dropout_is_active_in_training_only(where):
    rates = {"attention_probs_dropout_prob": 0.0, "hidden_dropout_prob": 0.0, where: 0.5}
    encoder = AutoModel.from_config(BertConfig(**SIZES, **POSITIONS, **rates), attn_implementation="sdpa")
    layer, states = encoder.encoder.layer[-1], torch.randn(2, 9, 8)
    backbones.BertLike.narrow(layer)
    assert not torch.equal(layer.train()(states), layer(states))
    assert torch.equal(layer.eval()(states), layer(states))


@pytest.mark.parametrize(
    "config",
    [
        ModernBertConfig(**SIZES, **POSITIONS, classifier_pooling="mean"),
        EuroBertConfig(**SIZES, **POSITIONS, head_dim=4, classifier_pooling="late"),
        DebertaV2Config(**SIZES | {"num_hidden_layers": 1}, **POSITIONS, conv_kernel_size=3),
    ],
    ids=lambda config: config.model_type,
)
def test_a_classifier_that_reads_all_positions_is_not_narrowed(config):
    whole, narrow = classifier(config, "eager")
    inputs = batch()
    assert torch.equal(narrow(**inputs).logits, whole(**inputs).logits)
