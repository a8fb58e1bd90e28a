"""Claims about MBLM as a whole (Eq. 5-12, Fig 2-4), compared with the oracle and with its encoders."""

import copy
import json

import pytest
import torch
from torch import nn
from transformers import (
    AutoModel,
    AutoModelForSequenceClassification,
    BertConfig,
    BertForPreTraining,
    CamembertConfig,
    DebertaV2Config,
    DistilBertConfig,
    ElectraConfig,
    EuroBertConfig,
    GPT2Config,
    ModernBertConfig,
    MPNetConfig,
    RemBertConfig,
    RobertaConfig,
    T5Config,
    XLMRobertaConfig,
    XLMRobertaXLConfig,
)

from mbkd.errors import UserError
from mbkd.model.mblm import MBLMConfig, MBLMForSequenceClassification
from tests.unit.oracle import Oracle

LAYERS, WIDTH, CLASSES = 3, 8, 3
LANGUAGES = ("en", "fr", "zh")
LANGUAGE_ARGUMENTS = (*LANGUAGES, "de", None)  # supervised languages, a zero-shot language, and no language

SIZES = {
    "vocab_size": 40,
    "hidden_size": WIDTH,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 2,
    "intermediate_size": 12,
    "initializer_range": 0.3,  # with 0.02, a tiny encoder hardly distinguishes texts
}
POSITIONS = {"max_position_embeddings": 140, "pad_token_id": 1, "type_vocab_size": 1}
BACKBONES = {
    "bert": BertConfig(**SIZES, max_position_embeddings=140),
    "xlm-roberta": XLMRobertaConfig(**SIZES, **POSITIONS),
    "distilbert": DistilBertConfig(
        vocab_size=40,
        dim=WIDTH,
        n_layers=LAYERS,
        n_heads=2,
        hidden_dim=12,
        initializer_range=0.3,
        max_position_embeddings=140,
    ),
    "modernbert": ModernBertConfig(
        **SIZES,
        max_position_embeddings=140,
        pad_token_id=0,
        bos_token_id=2,
        cls_token_id=2,
        eos_token_id=3,
        sep_token_id=3,
        local_attention=4,
        global_attn_every_n_layers=2,  # global, local, global attention
        attention_dropout=0.1,
        mlp_dropout=0.1,
        embedding_dropout=0.1,
        classifier_dropout=0.1,
    ),
    "deberta-v2": DebertaV2Config(
        **SIZES,
        relative_attention=True,
        max_position_embeddings=140,
        pos_att_type=["c2p", "p2c"],
        share_att_key=True,
        norm_rel_ebd="layer_norm",
        position_biased_input=False,
        conv_kernel_size=3,
        conv_act="tanh",
    ),
    "electra": ElectraConfig(**SIZES, embedding_size=6, max_position_embeddings=140),
    "eurobert": EuroBertConfig(
        **SIZES, head_dim=4, num_key_value_heads=1, pad_token_id=0, max_position_embeddings=140, attention_dropout=0.1
    ),
    "mpnet": MPNetConfig(**SIZES, max_position_embeddings=140),
    "rembert": RemBertConfig(
        **SIZES,
        input_embedding_size=6,
        max_position_embeddings=140,
        hidden_dropout_prob=0.1,
        attention_probs_dropout_prob=0.1,
    ),
    "xlm-roberta-xl": XLMRobertaXLConfig(**SIZES, **POSITIONS),
    "roberta": RobertaConfig(**SIZES, **POSITIONS),
    "camembert": CamembertConfig(**SIZES, **POSITIONS),
}
TWINS = ("roberta", "camembert")  # the architecture of XLM-R
DIFFERENT = tuple(name for name in BACKBONES if name not in TWINS)

STRUCTURES = {
    "full": {},
    "no_inner_mixers": {"mixers": "outer"},
    "no_mixers_all": {"mixers": "none", "inference": "all"},
    "no_mixers_single": {"mixers": "none", "inference": "single"},
    "no_detach": {"detach": False},
    "top": {"branch_position": "top"},
    "top_own_heads": {"branch_position": "top", "heads": "per_language"},
    "top_own_heads_no_mixers": {"branch_position": "top", "heads": "per_language", "mixers": "none"},
    "idle_branches_without_dropout": {"idle_dropout": False},
    "low_rank": {"branch_rank": 2},
    "low_rank_top_own_heads": {"branch_rank": 2, "branch_position": "top", "heads": "per_language"},
}
ALL_STRUCTURES = {**STRUCTURES, "plain": {"branch_depth": 0}}

every_branched_structure = pytest.mark.parametrize("structure", STRUCTURES)
every_backbone = pytest.mark.parametrize("backbone", BACKBONES)
different_backbones = pytest.mark.parametrize("backbone", DIFFERENT)


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def encoder(backbone="bert"):
    return AutoModel.from_config(copy.deepcopy(BACKBONES[backbone])).eval()


def mblm(backbone="bert", structure="full", languages=LANGUAGES, source=None, **fields):
    fields = {"branch_depth": 2, "mixer_length": 128, **ALL_STRUCTURES[structure], **fields}
    config = MBLMConfig(
        backbone=BACKBONES[backbone].to_dict(), branch_languages=languages, num_labels=CLASSES, **fields
    )
    return MBLMForSequenceClassification(config, copy.deepcopy(source) if source is not None else encoder(backbone))


def trained(*args, **fields):
    """A model with different branches and non-uniform mixers."""
    model = mblm(*args, **fields)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            vector = name == "outer" or name.startswith("inner.")
            parameter.copy_(torch.randn_like(parameter) if vector else parameter + 0.2 * torch.randn_like(parameter))
    return model.eval()


def random_vectors(model):
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name == "outer" or name.startswith("inner."):
                parameter.normal_()
    return model


def text(backbone, tokens):
    return torch.randint(5, 40, (tokens,)).tolist()


def batch(backbone, texts, width=None):
    """Texts padded to `width`, or to the longest; BERT also gets segment ids."""
    width = width or max(map(len, texts))
    padding = BACKBONES[backbone].pad_token_id
    rows = {
        "input_ids": torch.tensor([row + [padding] * (width - len(row)) for row in texts]),
        "attention_mask": torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in texts]),
    }
    if backbone == "bert":
        segments = [[int(i >= len(row) // 2) for i in range(len(row))] + [0] * (width - len(row)) for row in texts]
        rows["token_type_ids"] = torch.tensor(segments)
    return rows


def ragged(backbone):
    return batch(backbone, [text(backbone, tokens) for tokens in (6, 3)])


def logits_of(model, inputs, language):
    with torch.no_grad():
        return model(**inputs, language=language).logits


def gradients(model, logits):
    model.zero_grad(set_to_none=True)
    nn.functional.cross_entropy(logits, torch.tensor([0, 2])).backward()
    return {name: parameter.grad for name, parameter in model.named_parameters()}


# ------------------------------------------------------------------------------------------------------- step 0


def base_logits(source, model, inputs, language):
    """The plain encoder under the model's head; with several heads, the chosen head or their mean (Fig 4d)."""
    with torch.no_grad():
        first = source(**inputs).last_hidden_state[:, 0]
        if not hasattr(model, "heads") or model.config.branch_depth == 0 or model.config.heads == "shared":
            return model.head(first)
        own = [head(first) for head in model.heads]
        languages = list(model.config.branch_languages)
        return own[languages.index(language)] if language in languages else torch.stack(own).mean(dim=0)


@pytest.mark.parametrize(("depth", "branches"), [(0, 3), (1, 2), (1, 3), (2, 1), (2, 2), (2, 3), (3, 2), (3, 3)])
@every_branched_structure
def test_before_training_mblm_is_the_plain_encoder_for_any_depth_branches_and_mixers(structure, depth, branches):
    source, inputs = encoder(), ragged("bert")
    model = mblm("bert", structure, LANGUAGES[:branches], source, branch_depth=depth).eval()
    for tolerance in (1e-6, 5e-6):
        for language in ("en", "zh", None):
            expected = base_logits(source, model, inputs, language)
            torch.testing.assert_close(logits_of(model, inputs, language), expected, rtol=0, atol=tolerance)
        random_vectors(model)


@pytest.mark.parametrize(("depth", "branches"), [(0, 3), (1, 3), (2, 2), (LAYERS, 1), (LAYERS, 3)])
@pytest.mark.parametrize("structure", ["full", "top"])
@pytest.mark.parametrize("backbone", [name for name in BACKBONES if name != "bert"])
def test_before_training_every_backbone_is_unchanged(backbone, structure, depth, branches):
    source, inputs = encoder(backbone), ragged(backbone)
    model = mblm(backbone, structure, LANGUAGES[:branches], source, branch_depth=depth).eval()
    for tolerance in (1e-6, 5e-6):
        for language in ("fr", None):
            expected = base_logits(source, model, inputs, language)
            torch.testing.assert_close(logits_of(model, inputs, language), expected, rtol=0, atol=tolerance)
        random_vectors(model)


@different_backbones
@pytest.mark.parametrize("position", ["bottom", "top"])
def test_branches_start_as_bitwise_copies_of_the_encoders_layers(backbone, position):
    source = encoder(backbone)
    model = mblm(backbone, source=source, branch_position=position)
    theirs = getattr(source, "layers", None) or getattr(source, "transformer", getattr(source, "encoder", None)).layer
    chosen = list(theirs)[:2] if position == "bottom" else list(theirs)[-2:]
    for branch in model.branches:
        for ours, layer in zip(branch, chosen, strict=True):
            added = {name for name, _ in ours.named_parameters()} - {name for name, _ in layer.named_parameters()}
            assert not {name for name in added if not name.startswith("conv.")}  # DeBERTa: of its encoder
            for name, original in layer.named_parameters():
                tensor = ours.get_parameter(name)
                assert torch.equal(tensor, original)
                assert tensor.data_ptr() != original.data_ptr()
    pointers = [parameter.data_ptr() for branch in model.branches for parameter in branch.parameters()]
    assert len(set(pointers)) == len(pointers)


@pytest.mark.parametrize("structure", ["full", "no_inner_mixers", "top", "top_own_heads"])
def test_mixers_start_at_zero_even_if_a_checkpoint_has_none(structure, tmp_path):
    mblm("bert", structure, mixers="none").save_pretrained(tmp_path)
    config = mblm("bert", structure).config
    for model in (
        mblm("bert", structure),
        MBLMForSequenceClassification(config),
        MBLMForSequenceClassification.from_pretrained(tmp_path, config=config),
    ):
        vectors = [p for name, p in model.named_parameters() if name == "outer" or name.startswith("inner.")]
        assert vectors
        assert not any(vector.any() for vector in vectors)


# ---------------------------------------------------------------------------------------------- oracle: outputs


@every_backbone
def test_the_oracle_without_branches_is_the_encoder_of_transformers(backbone):
    source, inputs = encoder(backbone), ragged(backbone)
    model = mblm(backbone, "plain", source=source).eval()
    with torch.no_grad():
        expected = model.head(source(**inputs).last_hidden_state[:, 0])
        torch.testing.assert_close(Oracle(model)(**inputs), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("depth", "branches"), [(1, 3), (2, 2), (2, 3), (LAYERS, 3), (LAYERS, 1)])
@every_branched_structure
def test_logits_equal_the_oracle_for_every_structure(structure, depth, branches):
    inputs, model = ragged("bert"), trained("bert", structure, LANGUAGES[:branches], branch_depth=depth)
    for language in LANGUAGE_ARGUMENTS:
        with torch.no_grad():
            expected = Oracle(model)(**inputs, language=language)
        torch.testing.assert_close(logits_of(model, inputs, language), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("backbone", "structure"),
    [
        *((backbone, structure) for backbone in DIFFERENT[1:] for structure in STRUCTURES),
        *((backbone, structure) for backbone in ("roberta", "camembert") for structure in ("full", "top_own_heads")),
    ],
)
def test_logits_equal_the_oracle_for_every_backbone(backbone, structure):
    inputs, model = ragged(backbone), trained(backbone, structure)
    for language in ("fr", "de", None):
        with torch.no_grad():
            expected = Oracle(model)(**inputs, language=language)
        torch.testing.assert_close(logits_of(model, inputs, language), expected, rtol=0, atol=1e-5)


def test_without_a_mask_every_position_is_a_token():
    inputs, model = batch("bert", [text("bert", 6)] * 2), trained()
    masked = logits_of(model, inputs, "en")
    del inputs["attention_mask"]
    torch.testing.assert_close(logits_of(model, inputs, "en"), masked, rtol=0, atol=1e-6)


@every_branched_structure
def test_the_language_changes_logits_exactly_in_language_dependent_structures(structure):
    inputs, model = ragged("bert"), trained("bert", structure)
    zero_shot = logits_of(model, inputs, None)
    assert torch.equal(logits_of(model, inputs, "de"), zero_shot)
    asks = structure == "no_mixers_single" or "own_heads" in structure
    for language in LANGUAGES:
        assert torch.equal(logits_of(model, inputs, language), zero_shot) != asks


@every_branched_structure
def test_logits_do_not_depend_on_the_autograd_graph(structure):
    """The model's mode (`train` or `eval`) decides between training and inference, not the caller's `no_grad`."""
    inputs, model = ragged("bert"), trained("bert", structure)
    for language in LANGUAGE_ARGUMENTS:
        recorded = model(**inputs, language=language).logits.detach()
        torch.testing.assert_close(recorded, logits_of(model, inputs, language), rtol=0, atol=1e-6)


@pytest.mark.parametrize("structure", ["full", "no_inner_mixers", "no_mixers_single", "top", "top_own_heads"])
def test_the_order_of_the_branches_does_not_matter(structure):
    inputs, model, order = ragged("bert"), trained("bert", structure), [2, 0, 1]
    twin = mblm("bert", structure, [LANGUAGES[i] for i in order]).eval()
    state = model.state_dict()
    renamed = {}
    for name in twin.state_dict():
        group, *rest = name.split(".")
        if group in ("branches", "inner", "heads"):
            rest[0] = str(order[int(rest[0])])
        renamed[name] = state[".".join([group, *rest])]
    twin.load_state_dict(renamed)
    for language in LANGUAGE_ARGUMENTS:
        torch.testing.assert_close(
            logits_of(twin, inputs, language), logits_of(model, inputs, language), rtol=0, atol=1e-5
        )


# -------------------------------------------------------------------------------------------- oracle: gradients


def compare_with_the_oracle(model, inputs, language):
    """With dropout and the same random state, the losses and all gradients are equal, including missing gradients."""
    model = model.double().train()
    torch.manual_seed(1)
    logits = model(**inputs, language=language).logits
    ours = gradients(model, logits)
    torch.manual_seed(1)
    expected = Oracle(model)(**inputs, language=language)
    torch.testing.assert_close(logits.detach(), expected.detach(), rtol=0, atol=1e-6)
    theirs = gradients(model, expected)
    for name, gradient in theirs.items():
        assert (ours[name] is None) == (gradient is None), f"{name}: {ours[name]} instead of {gradient}"
        if gradient is not None:
            torch.testing.assert_close(ours[name], gradient, rtol=1e-6, atol=1e-8, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize(("depth", "branches"), [(1, 3), (2, 1), (2, 2), (2, 3), (LAYERS, 3)])
@every_branched_structure
def test_gradients_with_dropout_equal_those_of_the_detach_rule(structure, depth, branches):
    model = trained("bert", structure, LANGUAGES[:branches], branch_depth=depth)
    compare_with_the_oracle(model, ragged("bert"), LANGUAGES[branches - 1])


@pytest.mark.parametrize("structure", ["full", "no_detach", "no_mixers_all", "top", "top_own_heads"])
@pytest.mark.parametrize("backbone", DIFFERENT[1:])
def test_gradients_with_dropout_equal_those_of_the_detach_rule_for_every_backbone(backbone, structure):
    compare_with_the_oracle(trained(backbone, structure), ragged(backbone), "fr")


def test_dropout_is_active_in_these_comparisons():
    model, inputs = trained().train(), ragged("bert")
    assert not torch.equal(logits_of(model, inputs, "en"), logits_of(model, inputs, "en"))


@pytest.mark.parametrize("idle_dropout", [True, False])
def test_idle_branches_use_dropout_only_if_configured(idle_dropout):
    """All other dropout rates are 0, so only the idle branches can make two passes differ."""
    model, inputs = trained(idle_dropout=idle_dropout).train(), ragged("bert")
    for name, module in model.named_modules():
        if isinstance(module, nn.Dropout) and not name.startswith(("branches.1", "branches.2")):
            module.p = 0.0
    first, second = logits_of(model, inputs, "en"), logits_of(model, inputs, "en")
    assert torch.equal(first, second) != idle_dropout


def test_an_idle_branch_learns_with_dropout_on_a_batch_of_its_language():
    model = trained(idle_dropout=False).double().train()
    for language in ("en", "fr"):
        model(**ragged("bert"), language=language)
    compare_with_the_oracle(model, ragged("bert"), "zh")


# --------------------------------------------------------------------------------- which parameters learn (Eq. 8)


def branch_of(name):
    """The index of the branch that a parameter belongs to, or None if it is shared."""
    group, *rest = name.split(".")
    return int(rest[0]) if group in ("branches", "inner", "heads") else None


def always_zero(name):
    """A bias of the keys shifts all scores of a query equally, so the softmax does not change."""
    return name.endswith(("key.bias", "k_lin.bias", "attn.k.bias"))


@pytest.mark.parametrize("language", ["en", "zh"])
@pytest.mark.parametrize("structure", [name for name in STRUCTURES if name != "no_detach"])
@different_backbones
def test_a_batch_gives_gradients_to_its_branch_and_the_shared_layers_only(backbone, structure, language):
    model, inputs = trained(backbone, structure).train(), ragged(backbone)
    own = LANGUAGES.index(language)
    for name, gradient in gradients(model, model(**inputs, language=language).logits).items():
        if branch_of(name) not in (None, own):
            assert gradient is None, name
        else:
            assert gradient is not None, name
            assert always_zero(name) or gradient.abs().max() > 1e-7, name


@different_backbones
@pytest.mark.parametrize("position", ["bottom", "top"])
def test_without_the_detach_rule_all_branches_and_mixers_learn(backbone, position):
    model, inputs = trained(backbone, "no_detach", branch_position=position).train(), ragged(backbone)
    for name, gradient in gradients(model, model(**inputs, language="fr").logits).items():
        assert gradient is not None, name
        assert always_zero(name) or gradient.abs().max() > 1e-7, name


def test_without_mixers_a_training_batch_goes_through_its_own_branch_only():
    for structure in ("no_mixers_all", "no_mixers_single", "top_own_heads_no_mixers"):
        model, inputs = trained("bert", structure).train(), ragged("bert")
        seen = [[] for _ in LANGUAGES]
        for branch, calls in zip(model.branches, seen, strict=True):
            for layer in branch:
                layer.register_forward_hook(lambda *_, calls=calls: calls.append(1))
        model(**inputs, language="zh")
        assert [len(calls) for calls in seen] == [0, 0, 2], structure


def test_with_mixers_every_batch_runs_through_all_branches():
    model, inputs = trained(), ragged("bert")
    seen = []
    for branch in model.branches:
        for layer in branch:
            layer.register_forward_hook(lambda *_: seen.append(1))
    for language, training in (("en", True), ("en", False), ("de", False), (None, False)):
        seen.clear()
        logits_of(model.train(training), inputs, language)
        assert len(seen) == 2 * len(LANGUAGES), (language, training)


# ------------------------------------------------------------------------------------------- "- all mixers" (4b)


@different_backbones
@pytest.mark.parametrize("position", ["bottom", "top"])
def test_without_mixers_zero_shot_languages_get_the_same_logits_from_single_and_all(backbone, position):
    model = trained(backbone, "no_mixers_all", branch_position=position)
    inputs = ragged(backbone)
    answers = {}
    for inference in ("all", "single"):
        model.config.inference = inference
        answers[inference] = [logits_of(model, inputs, language) for language in LANGUAGE_ARGUMENTS]
    for language, together, alone in zip(LANGUAGE_ARGUMENTS, answers["all"], answers["single"], strict=True):
        assert torch.equal(together, alone) == (language not in LANGUAGES)


@different_backbones
def test_without_mixers_single_uses_only_the_supervised_languages_branch(backbone):
    model, inputs = trained(backbone, "no_mixers_single"), ragged(backbone)
    before = {language: logits_of(model, inputs, language) for language in LANGUAGE_ARGUMENTS}
    with torch.no_grad():
        for parameter in model.branches[1].parameters():
            parameter.add_(torch.randn_like(parameter))
    for language in LANGUAGE_ARGUMENTS:
        assert torch.equal(logits_of(model, inputs, language), before[language]) == (language in ("en", "zh"))


# ------------------------------------------------------------------------------------------------------ padding


@pytest.mark.parametrize(
    ("backbone", "structure"), [*((name, "full") for name in BACKBONES), *(("bert", name) for name in STRUCTURES)]
)
def test_the_width_of_the_padding_does_not_change_logits(backbone, structure):
    model = trained(backbone, structure)
    short, longer = text(backbone, 11), text(backbone, 19)
    for language in ("fr", None):
        alone = logits_of(model, batch(backbone, [short]), language)[0]
        for width in (24, 128):
            padded = logits_of(model, batch(backbone, [short], width), language)[0]
            torch.testing.assert_close(padded, alone, rtol=0, atol=1e-5)
            mixed = logits_of(model, batch(backbone, [longer, short, text(backbone, width)], width), language)[1]
            torch.testing.assert_close(mixed, alone, rtol=0, atol=1e-5)


@every_backbone
def test_token_ids_of_the_padding_do_not_change_logits(backbone):
    model, inputs = trained(backbone), batch(backbone, [text(backbone, 12), text(backbone, 5)])
    changed = {name: tensor.clone() for name, tensor in inputs.items()}
    changed["input_ids"][1, 5:] = torch.randint(5, 40, (7,))
    torch.testing.assert_close(logits_of(model, changed, "en"), logits_of(model, inputs, "en"), rtol=0, atol=1e-5)


@different_backbones
def test_wide_padding_does_not_change_gradients(backbone):
    """With local attention, distant padding has no visible key; this must not give NaN."""
    model, texts = trained(backbone).double(), [text(backbone, tokens) for tokens in (9, 4)]
    narrow = gradients(model, model(**batch(backbone, texts), language="en").logits)
    wide = gradients(model, model(**batch(backbone, texts, 128), language="en").logits)
    for name, gradient in narrow.items():
        if gradient is not None:
            torch.testing.assert_close(wide[name], gradient, rtol=0, atol=1e-6, msg=lambda m, n=name: f"{n}: {m}")
    noisy = gradients(model.train(), model.float()(**batch(backbone, texts, 128), language="en").logits)
    assert all(gradient is None or torch.isfinite(gradient).all() for gradient in noisy.values())


# --------------------------------------------------------------------------------------------- files and loading


@pytest.mark.parametrize(
    ("backbone", "structure"),
    [
        *((backbone, structure) for backbone in ("bert", "modernbert") for structure in ALL_STRUCTURES),
        *(
            (backbone, structure)
            for backbone in BACKBONES
            if backbone not in ("bert", "modernbert")
            for structure in ("full", "top_own_heads", "no_mixers_all", "plain")
        ),
    ],
)
def test_saving_and_loading_is_bitwise_exact(backbone, structure, tmp_path):
    model, inputs = trained(backbone, structure), ragged(backbone)
    model.save_pretrained(tmp_path)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["config.json", "model.safetensors"]
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    assert type(loaded) is MBLMForSequenceClassification
    assert not loaded.training
    ours, theirs = model.state_dict(), loaded.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(
        torch.equal(tensor, theirs[name]) and tensor.dtype == theirs[name].dtype for name, tensor in ours.items()
    )
    ours, theirs = dict(model.named_buffers()), dict(loaded.named_buffers())
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items())
    for language in ("fr", None):
        assert torch.equal(logits_of(loaded, inputs, language), logits_of(model, inputs, language))


@pytest.mark.parametrize(
    ("backbone", "structure"), [*((name, "full") for name in BACKBONES), *(("bert", name) for name in ALL_STRUCTURES)]
)
def test_a_saved_configuration_is_loaded_unchanged(backbone, structure, tmp_path):
    config = mblm(backbone, structure).config
    config.save_pretrained(tmp_path)
    loaded = MBLMConfig.from_pretrained(tmp_path)
    fields = ("branch_languages", "branch_depth", "mixer_length", "branch_position", "mixers", "heads", "inference")
    for field in (*fields, "detach", "idle_dropout", "num_labels"):
        assert getattr(loaded, field) == getattr(config, field), field
    assert loaded.backbone_config.to_dict() == BACKBONES[backbone].to_dict()
    loaded.save_pretrained(tmp_path / "again")
    first, second = (json.loads(file.read_text()) for file in tmp_path.rglob("config.json"))
    assert first == second


def test_any_word_can_be_a_language_code(tmp_path):
    words = ("to", "half", "type", "zh-Hant", "train", "keys")
    model, inputs = trained("bert", "top_own_heads", words, branch_depth=1), ragged("bert")
    model.save_pretrained(tmp_path)
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    answers = [logits_of(loaded, inputs, word) for word in words]
    for word, answer in zip(words, answers, strict=True):
        assert torch.equal(answer, logits_of(model, inputs, word))
    assert not any(torch.equal(answers[0], other) for other in answers[1:])


@every_backbone
def test_a_student_is_built_from_the_folder_of_a_pre_trained_encoder(backbone, tmp_path):
    source, inputs = encoder(backbone), ragged(backbone)
    source.save_pretrained(tmp_path)
    model = MBLMForSequenceClassification.from_pretrained(
        tmp_path, branch_languages=LANGUAGES, branch_depth=2, num_labels=5
    ).eval()
    assert list(model.config.branch_languages) == list(LANGUAGES)
    assert (model.config.branch_depth, model.config.num_labels) == (2, 5)
    with torch.no_grad():
        expected = model.head(source(**inputs).last_hidden_state[:, 0])
    assert expected.shape == (2, 5)
    assert expected.abs().max() > 0
    for language in LANGUAGE_ARGUMENTS:
        torch.testing.assert_close(logits_of(model, inputs, language), expected, rtol=0, atol=1e-6)
    model.save_pretrained(tmp_path / "student")
    again = AutoModelForSequenceClassification.from_pretrained(tmp_path / "student")
    assert torch.equal(logits_of(again, inputs, "en"), logits_of(model, inputs, "en"))


def test_a_student_is_built_from_a_checkpoint_with_pre_training_heads_or_in_half_precision(tmp_path):
    source, inputs = BertForPreTraining(copy.deepcopy(BACKBONES["bert"])).eval(), ragged("bert")
    source.save_pretrained(tmp_path / "single")
    source.to(torch.bfloat16).save_pretrained(tmp_path / "half")
    source = source.float()  # rounded to the values of the half-precision file
    for folder in ("single", "half"):
        model = MBLMForSequenceClassification.from_pretrained(
            tmp_path / folder, branch_languages=LANGUAGES, branch_depth=2
        ).eval()
        model.save_pretrained(tmp_path / "student")
        again = AutoModelForSequenceClassification.from_pretrained(tmp_path / "student")
        for student in (model, again):
            assert {parameter.dtype for parameter in student.parameters()} == {torch.float32}, folder
        assert torch.equal(logits_of(again, inputs, "en"), logits_of(model, inputs, "en"))
    with torch.no_grad():
        expected = model.head(source.bert(**inputs).last_hidden_state[:, 0])
    torch.testing.assert_close(logits_of(model, inputs, "en"), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("config", [GPT2Config(n_layer=1, n_embd=8, n_head=2, vocab_size=10), T5Config()])
def test_an_unsupported_backbone_is_refused_by_name(config, tmp_path):
    config.save_pretrained(tmp_path)
    with pytest.raises(UserError) as refusal:
        MBLMForSequenceClassification.from_pretrained(tmp_path, branch_languages=LANGUAGES, branch_depth=1)
    for word in (config.model_type, *BACKBONES, "student.head=own"):
        assert word in str(refusal.value)
    with pytest.raises(UserError, match=config.model_type):
        MBLMForSequenceClassification(MBLMConfig(backbone=config.to_dict(), branch_languages=LANGUAGES, branch_depth=1))


def test_a_folder_without_an_encoder_is_refused_by_its_path(tmp_path):
    with pytest.raises(UserError, match="nothing-here"):
        MBLMForSequenceClassification.from_pretrained(
            tmp_path / "nothing-here", branch_languages=LANGUAGES, branch_depth=1
        )


@pytest.mark.parametrize("depth", [-1, LAYERS + 1])
def test_a_depth_that_the_encoder_does_not_have_is_refused(depth):
    with pytest.raises(UserError, match=f"branch_depth {depth}"):
        mblm(branch_depth=depth)


def test_labels_give_the_cross_entropy_of_the_logits():
    model, inputs, labels = trained(), ragged("bert"), torch.tensor([0, 2])
    output = model(**inputs, labels=labels, language="en")
    torch.testing.assert_close(output.loss, nn.functional.cross_entropy(output.logits, labels))


# ------------------------------------------------------------------------------------------------ low-rank branches


@different_backbones
def test_a_low_rank_branch_is_the_base_layer_with_its_difference_added(backbone):
    """The oracle is a model with full branches that store the sums."""
    low, inputs = trained(backbone, "low_rank"), ragged(backbone)
    full = mblm(backbone, "full")
    full.load_state_dict(low.state_dict(), strict=False)
    with torch.no_grad():
        for branch, copies in zip(low.branches, full.branches, strict=True):
            for layer, base, copied in zip(branch, low.base, copies, strict=True):
                copied.load_state_dict(base.state_dict())
                for name, up, down in zip(layer.linear, layer.up, layer.down, strict=True):
                    copied.get_submodule(name).weight.add_(up @ down)
    for language in ("fr", "de", None):
        expected = logits_of(full.eval(), inputs, language)
        torch.testing.assert_close(logits_of(low, inputs, language), expected, rtol=0, atol=1e-5)


def test_low_rank_branches_add_only_their_factors():
    plain, low = mblm(structure="plain"), mblm(structure="low_rank", branch_rank=3)
    linear = [m for m in low.base[0].modules() if isinstance(m, nn.Linear)]
    factors = sum(3 * (m.in_features + m.out_features) for m in linear)
    depth, count = low.config.branch_depth, len(LANGUAGES)
    mixers = ((depth - 1) * count + 1) * low.config.mixer_length
    extra = sum(p.numel() for p in low.parameters()) - sum(p.numel() for p in plain.parameters())
    assert extra == depth * count * factors + mixers


def test_the_mode_of_a_low_rank_layer_decides_the_dropout_of_its_base():
    model = trained("bert", "low_rank").train()
    layer, states = model.branches[0][0], torch.randn(2, 5, model.branches[0][0].down[0].shape[1])

    def output():
        found = layer(states)
        return found[0] if isinstance(found, tuple) else found

    assert not torch.equal(output(), output())
    layer.eval()
    assert torch.equal(output(), output())
