"""Claims about counted costs: they agree with torch's own counter, with the models, and with the paper's ratios."""

import dataclasses

import pytest
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from transformers import BertConfig, ModernBertConfig, RobertaConfig, XLMRobertaConfig

from mbkd.config import Config, changed, paper, parse
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
STRUCTURES = [
    {"branch_depth": 0},
    {},
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
    """MultiKD + MBLM of three branches of three layers on a small backbone, its teacher another small encoder."""
    folder = tmp_path_factory.mktemp("shapes")
    request.param.save_pretrained(folder / "student")
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
def test_flops_of_a_student_step_are_those_that_torch_counts(full: Config, fields: dict):
    config = changed(full, {"student": fields})
    model = cost.empty_student(config).train()
    ids = torch.randint(5, 50, (ROWS, TOKENS))
    # torch does not count the fused attention of a CPU
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        logits = model(ids, language="fr").logits
        nn.functional.cross_entropy(logits, torch.zeros(ROWS, dtype=torch.long)).backward()
    assert cost.student_flops(config, ROWS, TOKENS) == pytest.approx(counter.get_total_flops(), rel=1e-4)


def test_flops_of_a_teacher_are_those_that_torch_counts(full: Config):
    model = cost.empty_teacher(full, full.teachers["en"][0].model).eval()
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model(torch.randint(5, 50, (ROWS, TOKENS)))
    assert cost.teacher_flops(full, ROWS, TOKENS) == pytest.approx(counter.get_total_flops(), rel=1e-4)


def test_parameters_are_those_of_the_model_with_and_without_its_tables(full: Config):
    model, size = cost.empty_student(full), cost.student_size(full)
    assert size.parameters == sum(p.numel() for p in model.parameters())
    tables = [name for name, _ in model.named_parameters() if "embeddings.weight" in name]
    assert size.embeddings == sum(model.get_parameter(name).numel() for name in tables) > 0


def test_the_papers_time_ratios():
    """1.1 x in Table 6 is with the teacher in every step; 1.222 is 44 / 36 layers; 1.306 is without Eq. 8."""
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
def test_flops_of_an_answer_are_those_that_torch_counts(full: Config, fields: dict):
    config = changed(full, {"student": fields})
    model = cost.empty_student(config).eval()
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model(torch.randint(5, 50, (ROWS, TOKENS)))
    assert cost.answer_flops(config, ROWS, TOKENS) == pytest.approx(counter.get_total_flops(), rel=1e-4)


def test_a_last_layer_of_one_position_saves_seven_percent_of_a_student_and_nothing_below_a_mixer():
    plain, ends_in_branches = paper_system(branch_depth=0), paper_system(branch_depth=12)
    size = dataclasses.replace(cost.student_size(plain), narrow=True)
    assert size.forward(32, 128) / size.forward(32, 128, whole=True) == pytest.approx(0.93, abs=0.005)
    wide = [cost.student_flops(ends_in_branches, 32, 128, whole) for whole in (True, False)]
    assert wide[0] == wide[1]


# --------------------------------------------------------------------------------------------------------- memory


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("fields", [{"branch_depth": 0}, {}, {"detach": False}], ids=str)
def test_activations_are_estimated_from_above_and_not_far(full: Config, fields: dict, precision: str):
    """Against the bytes that autograd really keeps, weights left out, attention not fused."""
    config = changed(full, {"student": fields})
    model = cost.empty_student(config).train()
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    # Nor are their casts to 16 bit activations.
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


def test_zero_stages_divide_what_they_say(full: Config):
    def memory(ranks: int, precision: str = "bf16", **train) -> dict[str, int]:
        return cost.memory(changed(full, {"train": {"batch_size": 4, **train}}), precision, False, ranks, TOKENS)

    alone, one, two = memory(1), memory(2, zero_stage=1), memory(2, zero_stage=2)
    size = cost.student_size(full).parameters
    assert alone["parameters"] == one["parameters"] == two["parameters"] == 4 * size
    assert alone["optimizer"] == 8 * size
    assert one["optimizer"] == two["optimizer"] == 6 * size
    assert one["gradients"] == 2 * two["gradients"] == 4 * size
    assert memory(1, zero_stage=1)["optimizer"] == 12 * size  # DeepSpeed moves a copy of what it divides
    half, whole = memory(2, "fp32"), memory(1, "fp32")
    assert half["activations"] == pytest.approx(whole["activations"] / 2, abs=1)


def test_gradients_of_idle_branches_are_counted_only_where_they_are_made(full: Config):
    def gradients(fields: dict, **train) -> int:
        config = changed(full, {"student": fields, "train": train})
        return cost.memory(config, "fp32", False, 1, TOKENS)["gradients"]

    size = cost.student_size(full)
    assert gradients({}) == 4 * (size.parameters - 2 * 3 * size.layer_weights)
    assert gradients({}, idle_branches="drift") == gradients({"detach": False}) == 4 * size.parameters


def test_teachers_take_memory_only_where_they_run(full: Config):
    def teachers(half: bool = False, **distill) -> int:
        return cost.memory(changed(full, {"distill": distill}), "fp32", half, 1, TOKENS)["teachers"]

    size = cost.teacher_sizes(full)["en"][0].parameters
    assert teachers() == 4 * size  # one model serves all three languages here
    assert teachers(half=True) == 2 * size
    assert teachers(signal="cache") == teachers(signal="labels") == 0
