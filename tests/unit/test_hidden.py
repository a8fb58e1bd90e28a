"""Claims about hidden-state matching: the chosen layers, one projection per language, and refused layers."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from transformers import BertConfig

from mbkd import distributed
from mbkd.config import Distill, Task, Training
from mbkd.data.tokens import open_store
from mbkd.distill.hidden import Matching
from mbkd.distill.teachers import Teacher
from mbkd.errors import UserError
from mbkd.model.mblm import MBLMConfig, MBLMForSequenceClassification
from mbkd.train.engine import training_engine
from mbkd.train.optim import BranchAdamW, parameter_groups
from tests.unit.test_teachers import LABELS, classifier

LANGUAGES = ["en", "fr"]
DISTILL = Distill(hidden=({"student": 2, "teacher": 2}, {"student": 3, "teacher": 1}))


@pytest.fixture(scope="module")
def teachers(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, list[Teacher]]]:
    """One teacher of en and two of fr, each with 2 layers of width 32."""
    ranks = distributed.start()
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("teachers")
    names = {"en": ["teacher-en"], "fr": ["teacher-fr", "student"]}
    yield {x: [Teacher(str(classifier(world, folder / n, n)), LABELS, ranks) for n in names[x]] for x in LANGUAGES}
    distributed.stop()


def student(**structure: object) -> MBLMForSequenceClassification:
    """Return a student with 3 layers of width 16, two of them in branches."""
    torch.manual_seed(0)
    backbone = BertConfig(vocab_size=50, hidden_size=16, num_hidden_layers=3, num_attention_heads=2,
                          intermediate_size=32, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)  # fmt: skip
    return MBLMForSequenceClassification(MBLMConfig(backbone.to_dict(), LANGUAGES, 2, num_labels=5, **structure))


def matching(
    model: MBLMForSequenceClassification, teachers: dict[str, list[Teacher]], distill: Distill = DISTILL
) -> Matching:
    return Matching(model, teachers, {"en": [1.0], "fr": [3.0, 1.0]}, distill)


def batches(world: Path, teachers: list[Teacher], language: str) -> list[dict[str, np.ndarray]]:
    """Return five rows as input of each of a language's teachers."""
    task = Task(kind="marc", path=str(world / "data"))
    stores = [open_store(world / "store", task, "train", language, x.path, 128) for x in teachers]
    return [store.batch(np.arange(5)) for store in stores]


def states(world: Path, teachers: list[Teacher], language: str) -> tuple[tuple[torch.Tensor, ...], ...]:
    """Return the hidden states of a language's teachers for five rows, from layers 2 and 1."""
    given = zip(teachers, batches(world, teachers, language), strict=True)
    return tuple(state for teacher, batch in given for state in teacher.answer(batch, (2, 1)).states or ())


@pytest.mark.parametrize("position", ["bottom", "top"])
def test_the_distance_compares_the_chosen_layers_of_the_active_branch(world: Path, teachers, position: str):
    model = student(branch_position=position).eval()
    for parameter in model.branches[1].parameters():  # makes the branches different
        torch.nn.init.normal_(parameter, std=0.1)
    match = matching(model, teachers)
    own, (shared,) = model.branches[1], model.shared
    layers = [own[1], shared] if position == "bottom" else [own[0], own[1]]
    outputs: list[torch.Tensor] = []
    for layer in layers:
        layer.register_forward_hook(lambda module, inputs, output: outputs.append(output[:, 0]))
    output = model(torch.randint(1, 50, (5, 7)), language="fr", return_states=True)
    assert len(output.hidden_states) == 4
    expected = 0.0
    given = batches(world, teachers["fr"], "fr")
    for weight, teacher, batch, projections in zip(
        (0.75, 0.25), teachers["fr"], given, match.projections[1:], strict=True
    ):
        tensors = distributed.tensors(batch, torch.device("cpu"))
        wanted = teacher.engine.module(**tensors, output_hidden_states=True).hidden_states
        for state, project, number in zip(outputs, projections, (2, 1), strict=True):
            expected += weight * F.mse_loss(project(state), wanted[number][:, 0].float()).item() / 2
    found = match("fr", output.hidden_states, states(world, teachers["fr"], "fr"))
    assert found.item() == pytest.approx(expected, rel=1e-5)


def test_projections_of_other_languages_stay_bitwise_equal(world: Path, teachers):
    model = student()
    groups = parameter_groups(model, LANGUAGES, 0.01)
    model.matching = matching(model, teachers)
    groups += model.matching.groups(0.01)
    optimizer = BranchAdamW(groups, lr=0.1)
    assert {id(p) for g in groups for p in g["params"]} == {id(p) for p in model.parameters()}
    assert all((p.ndim > 1) == (g["weight_decay"] > 0) for g in groups for p in g["params"])
    for language in ("fr", "en", "en"):
        before = {n: p.detach().clone() for n, p in model.named_parameters() if n.startswith("matching.")}
        optimizer.begin(language, 0.1)
        output = model(torch.randint(1, 50, (5, 7)), language=language, return_states=True)
        model.matching(language, output.hidden_states, states(world, teachers[language], language)).backward()
        for parameter in model.parameters():  # as DeepSpeed does
            parameter.grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        optimizer.step()
        optimizer.zero_grad()
        changed = {n for n, p in model.named_parameters() if n in before and not torch.equal(p, before[n])}
        first = {n for n in before if n.startswith("matching.projections.0.")}
        assert changed == (first if language == "en" else before.keys() - first)


@pytest.mark.parametrize("stage", [0, 1, 2])
def test_deepspeeds_engine_trains_the_projections_at_every_zero_stage(world: Path, teachers, stage: int):
    found = {}
    for driver in ("torch", "deepspeed"):
        model = student()
        groups = parameter_groups(model, LANGUAGES, 0.01)
        model.matching = matching(model, teachers)
        groups += model.matching.groups(0.01)
        settings = Training(batch_size=5, zero_stage=stage, precision="fp32", clip=1e9, lr=0.01, eps=1e-5)
        ranks = teachers["en"][0].ranks
        driven, optimizer = model, BranchAdamW(groups, lr=settings.lr, eps=settings.eps)
        if driver == "deepspeed":
            driven, optimizer = training_engine(model, groups, settings, ranks)
        for step, language in enumerate(("fr", "en", "en", "fr")):
            before = {n: p.detach().clone() for n, p in model.named_parameters()}
            optimizer.begin(language, settings.lr)
            torch.manual_seed(step)
            output = driven(torch.randint(1, 50, (5, 7)), language=language, return_states=True)
            distance = model.matching(language, output.hidden_states, states(world, teachers[language], language))
            loss = output.logits.square().mean() + distance  # the head has a gradient, too
            if driver == "deepspeed":
                driven.backward(loss)
                driven.step()
            else:
                loss.backward()
                optimizer.step()
                optimizer.zero_grad()
            other = {"en": ("branches.1.", "matching.projections.1."), "fr": ("branches.0.", "matching.projections.0.")}
            still = {n for n, p in model.named_parameters() if torch.equal(p, before[n])}
            assert {n for n in before if n.startswith(other[language])} <= still
            assert f"matching.projections.{LANGUAGES.index(language)}.0.weight" not in still
        found[driver] = {n: p.detach().clone() for n, p in model.named_parameters()}
    assert max((found["torch"][n] - found["deepspeed"][n]).abs().max().item() for n in found["torch"]) < 1e-6


def test_missing_layers_are_refused(teachers):
    with pytest.raises(UserError, match="the student has 3 layers, not 4"):
        matching(student(), teachers, Distill(hidden=({"student": 4, "teacher": 1},)))
    with pytest.raises(UserError, match="has 2 layers, not 3"):
        matching(student(), teachers, Distill(hidden=({"student": 1, "teacher": 3},)))
