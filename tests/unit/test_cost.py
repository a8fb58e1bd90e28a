"""Claims about counted costs: they agree with torch's counter, with the models, and with the paper's ratios."""

import contextlib
import dataclasses
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from transformers import (
    AlbertConfig,
    BertConfig,
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

from mbkd.config import Config, changed, paper, parse
from mbkd.errors import UserError
from mbkd.estimate import cost
from mbkd.precision import autocast

ROWS, TOKENS, CPU = 3, 20, torch.device("cpu")
SMALL = {"hidden_size": 48, "num_attention_heads": 4, "intermediate_size": 100, "num_hidden_layers": 5}
SPECIAL = {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3, "cls_token_id": 2, "sep_token_id": 3}
BACKBONES = [
    BertConfig(**SMALL, vocab_size=50),
    XLMRobertaConfig(**SMALL, vocab_size=70, type_vocab_size=1, pad_token_id=1),
    ModernBertConfig(**SMALL, **SPECIAL, vocab_size=60),
]
RELATIVE = {"relative_attention": True, "position_buckets": 8, "max_position_embeddings": 64}
FEW = SMALL | {"num_hidden_layers": 2}
FURTHER = [
    DebertaV2Config(**FEW, **RELATIVE, pos_att_type=["c2p", "p2c"], share_att_key=True, conv_kernel_size=3),
    DebertaV2Config(**FEW, **RELATIVE, pos_att_type=["c2p", "p2c"]),
    DebertaV2Config(**FEW, **RELATIVE | {"position_buckets": -1}, pos_att_type=["p2c"], embedding_size=24),
    DistilBertConfig(dim=48, n_heads=4, hidden_dim=100, n_layers=2, vocab_size=50),
    ElectraConfig(**FEW, vocab_size=50, embedding_size=24),
    EuroBertConfig(**FEW, pad_token_id=0, vocab_size=50, head_dim=8, num_key_value_heads=2),
    EuroBertConfig(**FEW, pad_token_id=0, vocab_size=50, head_dim=12, classifier_pooling="bos"),
    MPNetConfig(**FEW, vocab_size=50),
    RemBertConfig(**FEW, vocab_size=50, input_embedding_size=24),
    XLMRobertaXLConfig(**FEW, vocab_size=50),
]
STRUCTURES = [
    {"branch_depth": 0},
    {},
    {"branch_rank": 2},
    {"branch_rank": 2, "detach": False},
    {"branch_rank": 2, "mixers": "none"},
    {"branch_depth": 1},
    {"branch_depth": 5},
    {"mixers": "outer"},
    {"mixers": "none"},
    {"detach": False},
    {"branch_position": "top"},
    {"branch_position": "top", "detach": False},
    {"branch_position": "top", "heads": "per_language"},
    {"branch_position": "top", "heads": "per_language", "detach": False},
    {"branch_position": "top", "heads": "per_language", "mixers": "none"},
]


@pytest.fixture(scope="module", params=BACKBONES, ids=lambda shape: shape.model_type)
def full(request, tmp_path_factory) -> Config:
    """MultiKD + MBLM with three branches of three layers on a small backbone, and a small teacher."""
    return configuration(request.param, tmp_path_factory.mktemp("shapes"))


def configuration(shape, folder: Path) -> Config:
    shape.save_pretrained(folder / "student")
    wide = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 3}
    RobertaConfig(**SMALL | wide, vocab_size=90).save_pretrained(folder / "teacher")
    teacher = {"model": str(folder / "teacher"), "fine_tuned": True}
    values = {
        "task": {"kind": "xnli", "path": str(folder)},
        "student": {"backbone": str(folder / "student"), "branch_depth": 3},
        "teachers": dict.fromkeys(("en", "fr", "zh"), teacher),
        "train": {"batch_size": ROWS, "max_length": TOKENS},
    }
    return parse(values, "test")


def paper_system(backbone: str = "mbert", **student) -> Config:
    return changed(paper.find(f"xnli-{backbone}-mblm", []), {"student": student})


@pytest.mark.parametrize("fields", STRUCTURES, ids=str)
def test_flops_of_a_student_step_equal_torchs_count(full: Config, fields: dict):
    config = changed(full, {"student": fields})
    assert cost.student_flops(config, ROWS, TOKENS) == pytest.approx(counted_step(config), rel=1e-4)


class Flops(FlopCounterMode):
    """torch's counter without module hooks, which fail on views without a graph, as in idle branches."""

    def __init__(self):
        super().__init__(display=False)
        self.mod_tracker = contextlib.nullcontext()
        self.mod_tracker.parents = {"Global"}


def counted_step(config: Config) -> int:
    """Return torch's count of the FLOPs of a training step."""
    model = cost.empty_student(config).train()
    ids = torch.randint(5, 50, (ROWS, TOKENS))
    # torch does not count the fused attention of a CPU
    with sdpa_kernel(SDPBackend.MATH), Flops() as counter:
        logits = model(ids, language="fr").logits
        nn.functional.cross_entropy(logits, torch.zeros(ROWS, dtype=torch.long)).backward()
    return counter.get_total_flops()


def counted_answer(model) -> int:
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), Flops() as counter:
        model.eval()(torch.randint(5, 50, (ROWS, TOKENS)))
    return counter.get_total_flops()


def test_flops_of_a_teacher_equal_torchs_count(full: Config):
    counted = counted_answer(cost.empty_teacher(full, full.teachers["en"][0].model))
    assert cost.teacher_flops(full, ROWS, TOKENS) == pytest.approx(counted, rel=1e-4)


@pytest.mark.parametrize("shape", FURTHER, ids=lambda shape: shape.model_type)
def test_flops_of_every_other_family_equal_torchs_count(shape, tmp_path: Path):
    """The model is a teacher, or a student that ends in a shared layer, full branches or low-rank branches."""
    config = configuration(shape, tmp_path)
    for fields in ({"branch_depth": 0}, {"branch_position": "top"}, {"branch_rank": 2}, {"branch_depth": 2}):
        student = changed(config, {"student": {"branch_depth": 1, **fields}})
        assert cost.student_flops(student, ROWS, TOKENS) == pytest.approx(counted_step(student), rel=1e-4), fields
        counted = counted_answer(cost.empty_student(student))
        assert cost.answer_flops(student, ROWS, TOKENS) == pytest.approx(counted, rel=1e-4), fields
    folder = str(tmp_path / "student")
    teacher = {"model": folder, "fine_tuned": True}
    taught = changed(config, {"teachers": dict.fromkeys(("en", "fr", "zh"), teacher)})
    counted = counted_answer(cost.empty_teacher(config, folder))
    assert cost.teacher_flops(taught, ROWS, TOKENS) == pytest.approx(counted, rel=1e-4)


def test_parameters_equal_the_models_with_and_without_embeddings(full: Config):
    model, size = cost.empty_student(full), cost.student_size(full)
    assert size.parameters == sum(p.numel() for p in model.parameters())
    tables = [name for name, _ in model.named_parameters() if "embeddings.weight" in name]
    assert size.embeddings == sum(model.get_parameter(name).numel() for name in tables) > 0


def test_time_ratios_equal_the_papers():
    """Table 6's 1.1 x includes the teacher in every step; 1.222 is 44 / 36 layers; 1.306 is without Eq. 8."""
    full, attached = paper_system(), paper_system(detach=False)
    assert round(cost.time_ratio(full, 32, 128, teacher=True, whole=True), 3) == 1.102
    assert round(cost.time_ratio(full, 32, 128, teacher=False, whole=True), 3) == 1.222
    assert round(cost.time_ratio(attached, 32, 128, teacher=True, whole=True), 3) == 1.306


def test_the_papers_models_are_counted_without_a_download():
    pooler, head = 768 * 768 + 768, 3 * 768 + 3
    for backbone, published in (("mbert", 177_853_440), ("xlmr", 278_043_648)):
        plain = cost.student_size(paper_system(backbone, branch_depth=0))
        assert plain.parameters == published - pooler + head
    counted = [cost.teacher_flops(paper_system(), 32, n, whole=True) / 1e9 for n in (128, 40)]
    assert counted == pytest.approx([2525.5, 778.2], abs=0.1)


@pytest.mark.parametrize("fields", STRUCTURES, ids=str)
def test_flops_of_a_prediction_equal_torchs_count(full: Config, fields: dict):
    config = changed(full, {"student": fields})
    counted = counted_answer(cost.empty_student(config))
    assert cost.answer_flops(config, ROWS, TOKENS) == pytest.approx(counted, rel=1e-4)


def test_a_last_layer_of_one_position_saves_seven_percent_of_a_student_and_nothing_below_a_mixer():
    plain, ends_in_branches = paper_system(branch_depth=0), paper_system(branch_depth=12)
    size = dataclasses.replace(cost.student_size(plain), narrow=True)
    assert size.forward(32, 128) / size.forward(32, 128, whole=True) == pytest.approx(0.93, abs=0.005)
    wide = [cost.student_flops(ends_in_branches, 32, 128, whole) for whole in (True, False)]
    assert wide[0] == wide[1]


# --------------------------------------------------------------------------------------------------------- memory


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("fields", [{"branch_depth": 0}, {}, {"detach": False}], ids=str)
def test_activations_are_bounded_closely_from_above(full: Config, fields: dict, precision: str):
    """Compare with the bytes that autograd keeps, without weights, with unfused attention."""
    config = changed(full, {"student": fields})
    model = cost.empty_student(config).train()
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    # Casts of weights to 16 bits are not activations either.
    shapes = {s for p in model.parameters() if p.ndim == 2 for s in (tuple(p.shape), tuple(p.shape)[::-1])}
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights and tuple(tensor.shape) not in shapes:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    hooks = torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x)
    with sdpa_kernel(SDPBackend.MATH), hooks, autocast(precision, CPU):
        loss = model(torch.randint(5, 50, (ROWS, TOKENS)), language="fr").logits.sum()
    measured = sum(kept.values())
    estimated = cost.activations(config, cost.KEPT_BYTES[precision], ROWS, TOKENS)
    assert loss.requires_grad
    assert 0.9 <= estimated / measured <= 1.6, estimated / measured


def test_zero_stages_divide_the_documented_parts(full: Config):
    def memory(ranks: int, precision: str = "bf16", **train) -> dict[str, int]:
        return cost.memory(changed(full, {"train": {"batch_size": 4, **train}}), precision, False, ranks, TOKENS)

    alone, one, two = memory(1), memory(2, zero_stage=1), memory(2, zero_stage=2)
    size = cost.student_size(full).parameters
    assert alone["parameters"] == one["parameters"] == two["parameters"] == 4 * size
    assert alone["optimizer"] == 8 * size
    assert one["optimizer"] == two["optimizer"] == 6 * size
    assert one["gradients"] == 2 * two["gradients"] == 4 * size
    assert memory(1, zero_stage=1)["optimizer"] == 12 * size  # DeepSpeed adds an fp32 copy of partitioned parameters
    half, whole = memory(2, "fp32"), memory(1, "fp32")
    assert half["activations"] == pytest.approx(whole["activations"] / 2, abs=1)


def test_gradients_of_idle_branches_are_counted_only_if_they_exist(full: Config):
    def gradients(fields: dict, **train) -> int:
        config = changed(full, {"student": fields, "train": train})
        return cost.memory(config, "fp32", False, 1, TOKENS)["gradients"]

    size = cost.student_size(full)
    assert gradients({}) == 4 * (size.parameters - 2 * 3 * size.layer_weights)
    assert gradients({}, idle_branches="drift") == gradients({"detach": False}) == 4 * size.parameters


def test_a_grown_student_is_not_estimated(full: Config):
    with pytest.raises(UserError, match=r"student\.grow"):
        cost.student_size(changed(full, {"student": {"grow": "fr"}}))


@pytest.mark.parametrize("own", [True, False])
def test_a_model_that_shares_its_layers_is_not_estimated(own: bool, full: Config, tmp_path: Path):
    AlbertConfig(num_hidden_layers=3, hidden_size=16, num_attention_heads=2).save_pretrained(tmp_path)
    student = {"backbone": str(tmp_path), "head": "own", "branch_depth": 0}
    teachers = {"teachers": {"en": {"model": str(tmp_path)}}, "distill": {"languages": ["en"]}}
    config = changed(full, {"student": student} if own else teachers)
    with pytest.raises(UserError, match="its cost cannot be estimated"):
        cost.student_size(config) if own else cost.teacher_sizes(config)


def test_teachers_take_memory_only_if_they_run(full: Config):
    def teachers(half: bool = False, **distill) -> int:
        return cost.memory(changed(full, {"distill": distill}), "fp32", half, 1, TOKENS)["teachers"]

    size = cost.teacher_sizes(full)["en"][0].parameters
    assert teachers() == 4 * size  # one model serves all three languages here
    assert teachers(half=True) == 2 * size
    assert teachers(signal="cache") == teachers(signal="labels") == 0
