"""Trainer's own steps against the paper's loop in plain torch: the same parameters, and what a mistake would change."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mbkd import distributed
from mbkd.config import Distill, Training
from mbkd.train.optim import language_of
from tests.unit import loop_oracle
from tests.unit.loop_oracle import LANGUAGES, MISTAKES, configuration, moved, parameters, trainer

# The loop's own bf16 is this far from fp32 at most, in shares of the way; each mistake is further.
BF16 = 0.05


@pytest.fixture(scope="module")
def ranks() -> Iterator[distributed.Ranks]:
    distributed.quiet()
    yield distributed.start()
    distributed.stop()


def trained(folder: Path, ranks: distributed.Ranks, train: Any = None, distill: Any = None) -> dict[str, torch.Tensor]:
    """Parameters after all steps; at each of them what is idle must not move, nor its moments."""
    config = configuration(folder, train, distill)
    made = trainer(config, ranks)
    model, optimizer = made.engine.module, made.optimizer
    for step in range(made.plan.steps):
        language = made.plan.language(step)
        before, moments = parameters(model), idle_moments(optimizer, language)
        made.step(step)
        if config.train.idle_branches == "still":
            for name, parameter in parameters(model).items():
                if language_of(name, list(LANGUAGES)) not in (None, language):
                    assert torch.equal(parameter, before[name]), f"step {step} ({language}): {name} moved"
            for old, new in zip(moments, idle_moments(optimizer, language), strict=True):
                assert torch.equal(old, new), f"step {step} ({language}): an idle moment moved"
    made.refuse_not_finite()
    return parameters(model)


def idle_moments(optimizer: Any, active: str) -> list[torch.Tensor]:
    idle = [g for g in optimizer.param_groups if g["language"] not in (None, active)]
    states = [optimizer.state[p] for g in idle for p in g["params"] if p in optimizer.state]
    return [state[key].clone() for state in states for key in sorted(state) if torch.is_tensor(state[key])]


def largest(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
    assert a.keys() == b.keys()
    return max(float((a[name] - b[name]).abs().max()) for name in a)


# ---------------------------------------------------------------------------------------------- against the paper


@pytest.mark.parametrize("distill", [{}, {"tau_squared": True}, {"signal": "labels"}], ids=str)
@pytest.mark.parametrize("train", [{}, {"accumulation": 2}], ids=str)
def test_twelve_steps_in_fp32_equal_the_papers_loop(tmp_path: Path, ranks, train, distill):
    config = configuration(tmp_path, train, distill)
    languages = [loop_oracle.plan(config).language(step) for step in range(12)]
    assert set(languages) == set(LANGUAGES)
    assert largest(trained(tmp_path, ranks, train, distill), loop_oracle.train(config)) < 1e-6


def test_gradients_below_the_clip_are_unchanged(tmp_path: Path, ranks):
    found = trained(tmp_path, ranks, {"clip": 10.0})
    assert largest(found, loop_oracle.train(configuration(tmp_path, {"clip": 10.0}))) < 1e-6


@pytest.mark.parametrize("stage", [1, 2])
def test_zero_stages_equal_the_papers_loop_on_one_rank(tmp_path: Path, ranks, stage: int):
    found = trained(tmp_path, ranks, {"zero_stage": stage})
    assert largest(found, loop_oracle.train(configuration(tmp_path))) < 1e-6


def test_idle_branches_drift_as_in_deepspeed_if_configured(tmp_path: Path, ranks):
    found = trained(tmp_path, ranks, {"idle_branches": "drift"})
    wanted = loop_oracle.train(configuration(tmp_path), idle_branches="drift")
    assert largest(found, wanted) < 1e-6


@pytest.mark.parametrize("stage", [0, 1, 2])
def test_bf16_is_closer_to_fp32_than_any_mistake(tmp_path: Path, ranks, stage: int):
    """The bound is on the update: an untrained model is 1 away from the end of the way."""
    config = configuration(tmp_path)
    right = loop_oracle.train(config)
    found = trained(tmp_path, ranks, {"precision": "bf16", "zero_stage": stage})
    assert 0 < moved(config, found, right) < BF16
    if stage == 0:
        for name, mistake in MISTAKES.items():
            assert moved(config, loop_oracle.train(config, **mistake), right) > 2 * BF16, name


def test_two_accumulation_steps_in_bf16_equal_one_step_of_twice_the_rows(tmp_path: Path, ranks):
    config = configuration(tmp_path)
    found = trained(tmp_path, ranks, {"precision": "bf16", "accumulation": 2})
    assert moved(config, found, loop_oracle.train(config)) < BF16


# ------------------------------------------------------------------------------------------------ every field counts

TRAINING: dict[str, Any] = {
    "lr": 2e-2,
    "epochs": 0.25,
    "batch_size": 4,
    "warmup": 0.5,
    "weight_decay": 0.0,
    "clip": 10.0,
    "eps": 1e-2,
    "draw": "shuffled",
    "group_by_length": True,
    "idle_branches": "drift",
    "precision": "bf16",
}
NOT_IN_THE_PARAMETERS = {
    "accumulation": "the same rows in parts: the same model, see above",
    "zero_stage": "the same model on fewer bytes, see above",
    "deterministic": "the same bits on a CPU either way, see below",
    "max_length": "cuts rows when they are tokenised, before the loop",
    "draw_alpha": "with draw=proportional only, see below",
}
DISTILLING: dict[str, Any] = {
    "signal": "labels",
    "temperature": 2.0,
    "temperatures": {"fr": 2.0},
    "tau_squared": True,
    "hard_label_weight": 0.0,
    "languages": ["en", "fr"],
}
NOT_IN_THE_LOOP = {
    "hidden": "asks running teachers for their states: tests/unit/test_hidden.py",
    "hidden_weight": "the same",
    "allow_chance_teachers": "decides whether a teacher is refused, before the loop",
}


def test_every_field_is_tested_or_listed():
    assert TRAINING.keys() | NOT_IN_THE_PARAMETERS.keys() == Training.model_fields.keys()
    assert DISTILLING.keys() | NOT_IN_THE_LOOP.keys() == Distill.model_fields.keys()


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory, ranks) -> dict[str, torch.Tensor]:
    return trained(tmp_path_factory.mktemp("plain"), ranks)


@pytest.mark.parametrize(
    ("section", "name"), [("train", name) for name in TRAINING] + [("distill", name) for name in DISTILLING]
)
def test_a_field_changed_alone_changes_the_trained_parameters(tmp_path: Path, ranks, plain, section: str, name: str):
    values = TRAINING if section == "train" else DISTILLING
    found = trained(tmp_path, ranks, **{section: {name: values[name]}})
    shared = "head.weight"
    assert not torch.allclose(found[shared], plain[shared], rtol=0, atol=1e-5)


def test_deterministic_steps_use_deterministic_algorithms_and_are_bitwise_reproducible(tmp_path: Path, ranks, plain):
    found = trained(tmp_path, ranks, {"deterministic": True})
    assert torch.are_deterministic_algorithms_enabled()
    trained(tmp_path, ranks, {"epochs": 0.1})
    assert not torch.are_deterministic_algorithms_enabled()
    assert largest(found, plain) == 0


def test_a_seed_changes_the_draw_of_languages_and_rows(tmp_path: Path):
    one, two = (loop_oracle.plan(configuration(tmp_path).model_copy(update={"seed": seed})) for seed in (1, 2))
    assert [one.language(s) for s in range(12)] != [two.language(s) for s in range(12)]
    assert one.digest != two.digest


def test_each_language_learns_from_its_own_teacher(tmp_path: Path, ranks, plain):
    """Teachers of equal size, swapped: another student, and the one that the paper's loop makes of the swap."""
    swap = {"en": "fr", "fr": "zh", "zh": "en"}
    made = trainer(configuration(tmp_path), ranks)
    signal = made.source.signal
    object.__setattr__(made.source, "signal", lambda language, rows: signal(swap[language], rows))
    for step in range(made.plan.steps):
        made.step(step)
    found = parameters(made.engine.module)
    assert largest(found, loop_oracle.train(configuration(tmp_path), teacher_of=swap)) < 1e-6
    assert largest(found, plain) > 1e-3


# ------------------------------------------------------------------------------------------------------- it learns


def accuracy(made: Any) -> float:
    model, right = made.engine.module.eval(), []
    with torch.no_grad():
        for language, rows in made.inputs.train.items():
            batch = {name: torch.from_numpy(values) for name, values in rows.batch(np.arange(len(rows))).items()}
            right.append(model(**batch, language=language).logits.argmax(dim=1).numpy() == rows.labels)
    return float(np.mean(right))


def test_a_trained_model_is_well_above_chance_and_above_a_mistrained_one(tmp_path: Path, ranks):
    found = {}
    settings = {"epochs": 6.0, "weight_decay": 0.0, "clip": 1.0, "lr": 5e-3}
    for name, lr in (("trained", 5e-3), ("mistrained", 1e-6)):
        made = trainer(configuration(tmp_path, settings | {"lr": lr}), ranks)
        for step in range(made.plan.steps):
            made.step(step)
        found[name] = accuracy(made)
    assert found["trained"] > 0.9
    assert found["mistrained"] < 0.6
