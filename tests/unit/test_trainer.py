"""Claims about Trainer, compared with the paper's loop in plain torch: equal parameters, and the effect of mistakes."""

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from transformers import BertConfig

from mbkd import distributed, runs
from mbkd.config import Distill, Training, changed
from mbkd.distill import signals
from mbkd.distill.hidden import Matching
from mbkd.errors import UserError
from mbkd.train import engine
from mbkd.train.optim import language_of
from tests.unit import loop_oracle
from tests.unit.loop_oracle import LANGUAGES, MISTAKES, configuration, parameters, relative_distance, trainer

# The maximum distance of bf16 from fp32, relative to the total update. Each mistake is further away.
BF16 = 0.05


@pytest.fixture(scope="module")
def ranks() -> Iterator[distributed.Ranks]:
    distributed.quiet()
    yield distributed.start()
    distributed.stop()


def trained(folder: Path, ranks: distributed.Ranks, train: Any = None, distill: Any = None) -> dict[str, torch.Tensor]:
    """Return the parameters after all steps; assert that idle parameters and their moments never change."""
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
                    assert not model.get_parameter(name).requires_grad, f"step {step} ({language}): {name} is trainable"
                    assert torch.equal(parameter, before[name]), f"step {step} ({language}): {name} changed"
            for old, new in zip(moments, idle_moments(optimizer, language), strict=True):
                assert torch.equal(old, new), f"step {step} ({language}): an idle moment changed"
    made.refuse_not_finite()
    return parameters(model)


def idle_moments(optimizer: Any, active: str) -> list[torch.Tensor]:
    idle = [g for g in optimizer.param_groups if g["language"] not in (None, active)]
    states = [optimizer.state[p] for g in idle for p in g["params"] if p in optimizer.state]
    return [state[key].clone() for state in states for key in sorted(state) if torch.is_tensor(state[key])]


def largest(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
    assert a.keys() == b.keys()
    return max(float((a[name] - b[name]).abs().max()) for name in a)


# -------------------------------------------------------------------------------------- comparison with the paper


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
    expected = loop_oracle.train(configuration(tmp_path), idle_branches="drift")
    assert largest(found, expected) < 1e-6


@pytest.mark.parametrize("stage", [0, 1, 2])
def test_bf16_is_closer_to_fp32_than_any_mistake(tmp_path: Path, ranks, stage: int):
    """The bound is relative to the update: an untrained model has distance 1."""
    config = configuration(tmp_path)
    right = loop_oracle.train(config)
    found = trained(tmp_path, ranks, {"precision": "bf16", "zero_stage": stage})
    assert 0 < relative_distance(config, found, right) < BF16
    if stage == 0:
        for name, mistake in MISTAKES.items():
            assert relative_distance(config, loop_oracle.train(config, **mistake), right) > 2 * BF16, name


def test_two_accumulation_steps_in_bf16_equal_one_step_of_twice_the_rows(tmp_path: Path, ranks):
    config = configuration(tmp_path)
    found = trained(tmp_path, ranks, {"precision": "bf16", "accumulation": 2})
    assert relative_distance(config, found, loop_oracle.train(config)) < BF16


# ------------------------------------------------------------------------------------------ every field has an effect

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
    "accumulation": "the same model from smaller micro-batches, see above",
    "zero_stage": "the same model in partitions, see above",
    "deterministic": "bitwise equal on a CPU, see below",
    "compile": "the same numbers, see below",
    "evaluate": "measures and does not train, see below",
    "max_length": "truncates rows before the loop",
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
    "hidden": "needs states of online teachers: tests/unit/test_hidden.py",
    "hidden_weight": "needs hidden states, see below",
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
def test_every_field_changes_the_trained_parameters(tmp_path: Path, ranks, plain, section: str, name: str):
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


def test_compiled_layers_equal_eager_layers_before_and_after_a_resume(tmp_path: Path, ranks, monkeypatch):
    """The backend needs no C++ compiler. Tracing and widths are those of the default backend."""
    monkeypatch.setattr(engine, "BACKEND", "aot_eager")
    fields = {"group_by_length": True}
    languages = {"languages": ["en", "fr"]}
    ways = {way: configuration(tmp_path, fields | {"compile": way}, languages) for way in (True, False)}
    compiled, eager = (trainer(ways[way], ranks) for way in (True, False))
    graphs = torch._dynamo.utils.counters["stats"]
    for step in range(4):
        compiled.step(step)
        eager.step(step)
    assert {compiled.plan.language(step) for step in range(4)} == {"en", "fr"}
    widths = {batch.inputs["input_ids"].shape[1] for step in range(4) for batch in compiled.batches(step)}
    made = graphs["unique_graphs"]
    assert len(widths) == 2 and widths <= {8, 16}
    assert 3 <= made <= 4 * len(widths)  # languages share their graphs
    compiled.directory = tmp_path / "run"
    runs.begin(compiled.directory, ways[True], {})
    compiled.inputs = dataclasses.replace(compiled.inputs, heldout={"dev": compiled.inputs.train})
    compiled.measure("dev", epoch=1)
    assert graphs["unique_graphs"] == made
    names = compiled.engine.module.state_dict().keys()
    assert names == eager.engine.module.state_dict().keys()
    compiled.done = 4
    compiled.checkpoint()
    resumed = trainer(ways[True], ranks, compiled.directory)
    resumed.begin_or_resume()
    for step in range(4, 8):
        resumed.step(step)
        eager.step(step)
    torch.testing.assert_close(resumed.sums, eager.sums, rtol=0, atol=1e-5)
    assert largest(parameters(resumed.engine.module), parameters(eager.engine.module)) < 1e-5


def test_a_checkpoint_of_another_backbone_is_refused(tmp_path: Path, ranks):
    config = configuration(tmp_path)
    made = {}
    for name in ("first", "second"):
        made[name] = trainer(config, ranks, tmp_path / "run")
        made[name].inputs = dataclasses.replace(made[name].inputs, made_from={"backbone": name})
    runs.begin(tmp_path / "run", config, {})
    made["first"].step(0)
    made["first"].done = 1
    made["first"].checkpoint()
    with pytest.raises(UserError, match=r"inputs have changed.*\n  backbone: was 'first', is 'second'"):
        made["second"].begin_or_resume()


def test_the_distance_of_hidden_states_is_multiplied_by_its_weight(tmp_path: Path, ranks):
    losses = {}
    for weight in (0.25, 1.0, 2.0):
        distill = {"hidden": [{"student": 1, "teacher": 2}], "hidden_weight": weight}
        made = trainer(configuration(tmp_path, {}, distill), ranks)
        model, original = made.engine.module, made.source.signal
        shape = SimpleNamespace(config=BertConfig(hidden_size=16, num_hidden_layers=2))
        teacher: Any = SimpleNamespace(engine=SimpleNamespace(module=shape), path="teacher")
        torch.manual_seed(0)
        each = {x: [teacher] for x in LANGUAGES}
        model.matching = Matching(model, each, {x: [1.0] for x in LANGUAGES}, made.config.distill)

        def signal(language: str, rows: np.ndarray, original: Any = original) -> signals.TeacherSignal:
            return signals.TeacherSignal(original(language, rows).logits, ((torch.ones(len(rows), 16),),))

        made.source = signals.TeacherSource(signal)
        made.step(0)
        losses[weight] = float(made.sums[:, 0].sum())
    distance = losses[2.0] - losses[1.0]
    assert distance > 0.1
    assert losses[1.0] - losses[0.25] == pytest.approx(0.75 * distance, abs=1e-5)


def test_a_new_branch_opens_over_the_warm_up(tmp_path: Path, ranks):
    made = trainer(configuration(tmp_path), ranks)
    made.config = changed(made.config, {"student": {"grow": "fr"}})
    opened = []
    for step in range(5):
        made.step(step)
        opened.append(made.engine.module.opening)
    assert opened == [0, 1 / 3, 2 / 3, 1, 1]


def test_dropout_differs_between_seeds_steps_and_ranks(tmp_path: Path, ranks):
    def drawn(seed: int, step: int, rank: int) -> int:
        made = trainer(configuration(tmp_path).model_copy(update={"seed": seed}), ranks)
        made.ranks = distributed.Ranks(rank, 2, ranks.device)
        made.step(step)
        return torch.initial_seed()

    seeds = [drawn(1, 0, 0), drawn(2, 0, 0), drawn(1, 1, 0), drawn(1, 0, 1)]
    assert len(set(seeds)) == 4
    assert drawn(1, 0, 0) == seeds[0]


def test_a_record_has_the_means_of_its_window_and_dev_is_measured_at_the_end_of_an_epoch(tmp_path: Path, ranks):
    """Loss and KL differ by the teacher's entropy; the learning rate is that of the window's last step."""
    config = configuration(tmp_path, {"epochs": 1.5, "lr": 1e-3}, {"hard_label_weight": 0.0, "temperatures": {}})
    made = trainer(config, ranks, tmp_path / "run")
    made.inputs = dataclasses.replace(made.inputs, heldout={"dev": made.inputs.train})
    made.begin_or_resume()
    made.train()
    made.write_metrics()
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [(line["step"], line.get("split")) for line in lines] == [(20, None), (24, "dev"), (36, None)]
    assert [line["epoch"] for line in lines] == [20 / 24, 1, 1.5]
    warm = int(0.25 * 36)
    rates = [1e-3 * (36 - step) / (36 - warm) for step in (19, 35)]
    assert [line["lr"] for line in lines if "lr" in line] == pytest.approx(rates, rel=1e-9)
    for line, window in ((lines[0], range(20)), (lines[2], range(20, 36))):
        entropies: dict[str, list[float]] = {}
        for step in window:
            language = made.plan.language(step)
            p = np.exp(loop_oracle.Rows(language).teacher[made.plan.rows(step)] / 8)
            p /= p.sum(axis=1, keepdims=True)
            entropies.setdefault(language, []).append(-(p * np.log(p)).sum(axis=1).mean())
        assert line["languages"].keys() == entropies.keys()
        for language, each in line["languages"].items():
            assert each["loss"] - each["kl"] == pytest.approx(np.mean(entropies[language]), abs=1e-5)
            assert each["kl"] > 0
    assert "share_of_peak" not in lines[0] and lines[0]["gflop_per_second"] > 0


def test_dev_is_measured_after_every_epoch_or_not_before_the_end_and_the_model_is_the_same(tmp_path: Path, ranks):
    found = {}
    for when in ("epoch", "end"):
        config = configuration(tmp_path, {"epochs": 3, "evaluate": when})
        made = trainer(config, ranks, tmp_path / when)
        made.inputs = dataclasses.replace(made.inputs, heldout={"dev": made.inputs.train})
        made.begin_or_resume()
        made.train()
        made.write_metrics()
        lines = [json.loads(line) for line in (tmp_path / when / "metrics.jsonl").read_text().splitlines()]
        assert [line["step"] for line in lines if "split" in line] == ([24, 48] if when == "epoch" else [])
        found[when] = parameters(made.engine.module)
    assert largest(found["epoch"], found["end"]) == 0


@pytest.mark.parametrize("what", ["gradient", "loss"])
def test_a_step_whose_loss_or_gradient_is_not_finite_is_named(tmp_path: Path, ranks, what: str):
    made = trainer(configuration(tmp_path), ranks)
    made.step(0)
    made.refuse_not_finite()
    if what == "gradient":
        made.engine.module.head.weight.register_hook(lambda gradient: gradient * torch.inf)
    else:
        made.config = changed(made.config, {"distill": {"temperatures": {"en": 1e-40, "fr": 1e-40, "zh": 1e-40}}})
    made.step(1)
    made.done = 2
    with pytest.raises(UserError, match=rf"step 2, language {made.plan.language(1)}: loss or gradient is not finite"):
        made.refuse_not_finite()


def test_a_seed_changes_the_draw_of_languages_and_rows(tmp_path: Path):
    one, two = (loop_oracle.plan(configuration(tmp_path).model_copy(update={"seed": seed})) for seed in (1, 2))
    assert [one.language(s) for s in range(12)] != [two.language(s) for s in range(12)]
    assert one.digest != two.digest


def test_each_language_learns_from_its_own_teacher(tmp_path: Path, ranks, plain):
    """Swapped teachers of equal size give another student, equal to that of the paper's loop with the swap."""
    swap = {"en": "fr", "fr": "zh", "zh": "en"}
    made = trainer(configuration(tmp_path), ranks)
    signal = made.source.signal
    object.__setattr__(made.source, "signal", lambda language, rows: signal(swap[language], rows))
    for step in range(made.plan.steps):
        made.step(step)
    found = parameters(made.engine.module)
    assert largest(found, loop_oracle.train(configuration(tmp_path), teacher_of=swap)) < 1e-6
    assert largest(found, plain) > 1e-3


# -------------------------------------------------------------------------------------------------------- learning


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
