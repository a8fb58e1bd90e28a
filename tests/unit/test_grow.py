"""Claims about a trained model that gets a branch for one more language."""

import copy
import json
from pathlib import Path

import pytest
import torch

from mbkd import config as configuration
from mbkd.config import grown, paper
from mbkd.errors import UserError
from mbkd.model import grow
from mbkd.model.mblm import MBLMForSequenceClassification
from mbkd.model.mixer import mix
from mbkd.train.optim import parameter_groups
from tests.unit.test_mblm import (
    DIFFERENT,
    LANGUAGES,
    STRUCTURES,
    always_zero,
    batch,
    branch_of,
    gradients,
    logits_of,
    mblm,
    ragged,
    text,
    trained,
)

NEW = len(LANGUAGES)
LANGUAGE_ARGUMENTS = (*LANGUAGES, "de", "es", None)
every_structure = pytest.mark.parametrize("structure", STRUCTURES)


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def grown_pair(*args, **fields):
    """Return a trained model, and a copy of it with a closed German branch."""
    old = trained(*args, **fields)
    new = grow.GrowingMBLM(copy.deepcopy(old.config))
    new.load_state_dict(old.state_dict())
    new.grow("de")
    return old, new.eval()


def test_the_opening_interpolates_from_the_mix_of_the_others_to_the_mix_of_all():
    states, v, mask = torch.randn(4, 2, 7, 5), torch.randn(16), torch.ones(2, 7, dtype=torch.long)
    assert torch.equal(grow.mix_opening(states, v, mask, 0.0), mix(states[:-1], v, mask))
    torch.testing.assert_close(grow.mix_opening(states, v, mask, 1.0), mix(states, v, mask))
    half = grow.mix_opening(states, v, mask, 0.5)
    torch.testing.assert_close(2 * half, mix(states[:-1], v, mask) + mix(states, v, mask))


def test_without_mixers_the_opening_moves_from_the_mean_of_the_others_to_the_mean_of_all():
    _, new = grown_pair("bert", "no_mixers_all")
    values = [torch.randn(2, 7, 5) for _ in new.branches]
    closed, opened = torch.stack(values[:-1]).mean(0), torch.stack(values).mean(0)
    for opening in (0.0, 0.5, 1.0):
        new.opening = opening
        torch.testing.assert_close(new._mean(values), (1 - opening) * closed + opening * opened)


@pytest.mark.parametrize(
    ("backbone", "structure", "depth", "languages"),
    [
        *(("bert", structure, 2, LANGUAGES) for structure in STRUCTURES),
        *((backbone, "full", 1, LANGUAGES) for backbone in DIFFERENT),
        *(("bert", structure, 3, ("en",)) for structure in ("full", "no_mixers_single")),
    ],
)
def test_before_the_first_step_all_logits_are_bitwise_equal(backbone, structure, depth, languages):
    old, new = grown_pair(backbone, structure, languages, branch_depth=depth)
    new.eval()
    inputs = batch(backbone, [text(backbone, tokens) for tokens in (61, 3, 17)])
    for language in LANGUAGE_ARGUMENTS:
        assert torch.equal(logits_of(new, inputs, language), logits_of(old, inputs, language)), language


@every_structure
def test_the_new_branch_starts_as_the_mean_of_the_others_or_as_the_base_of_low_rank_ones(structure):
    old, new = grown_pair("bert", structure)
    state = old.state_dict()
    for name, parameter in new.named_parameters():
        if branch_of(name) != NEW:
            assert torch.equal(parameter, state[name]), name
            continue
        group, _, *rest = name.split(".")
        if group == "branches" and "low_rank" in structure:
            assert rest[1] == "down" or not parameter.any(), name  # low rank: the base without a difference
            continue
        others = [state[".".join([group, str(i), *rest])] for i in range(NEW)]
        torch.testing.assert_close(parameter, torch.stack(others).mean(dim=0))
    assert new.config.branch_languages == [*LANGUAGES, "de"]


@every_structure
@pytest.mark.parametrize("opening", [0.1, 1.0])
def test_after_opening_the_whole_new_branch_learns_and_nothing_else(structure, opening):
    _, new = grown_pair("bert", structure)
    new.opening = opening
    if opening == 1:
        with torch.no_grad():
            for parameter in new.branches[NEW].parameters():
                parameter.add_(0.2 * torch.randn_like(parameter))
    seen = set()
    for name, gradient in gradients(new, new.train()(**ragged("bert"), language="de").logits).items():
        if branch_of(name) == NEW:
            assert gradient is not None, name
            waits = ".down." in name and opening < 1  # multiplied by factors that are still zero
            assert always_zero(name) or waits or gradient.abs().max() > 0, name
            seen.add(name.split(".")[0])
        else:
            assert gradient is None, name
    assert "branches" in seen
    [*groups] = parameter_groups(new, new.config.branch_languages, 0.01)
    assert {group["language"] for group in groups} == {"de"}


def test_a_branch_next_to_a_single_branch_learns_without_dropout():
    """The new branch equals the only other branch at the start; with a learned gate, both would remain equal."""
    _, new = grown_pair("bert", "full", ("en",))
    new.opening = grow.opening(1, steps=100, warmup=0.1)
    found = gradients(new, new.eval()(**ragged("bert"), language="de").logits)
    assert all(always_zero(n) or g.abs().max() > 0 for n, g in found.items() if n.startswith("branches.1."))


@every_structure
def test_an_open_model_is_saved_as_an_mblm_and_a_closed_model_equals_the_old_one(structure, tmp_path):
    old, new = grown_pair("bert", structure)
    with torch.no_grad():
        for parameter in new.branches[NEW].parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    new.eval().opening = 1.0
    new.whole().save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["architectures"] == ["MBLMForSequenceClassification"]
    loaded, inputs = MBLMForSequenceClassification.from_pretrained(tmp_path), ragged("bert")
    for language in LANGUAGE_ARGUMENTS:
        assert torch.equal(logits_of(loaded, inputs, language), logits_of(new, inputs, language)), language
    assert not torch.equal(logits_of(new, inputs, None), logits_of(old, inputs, None))
    new.opening = 0.0
    for language in LANGUAGE_ARGUMENTS:
        assert torch.equal(logits_of(new, inputs, language), logits_of(old, inputs, language)), language


def test_the_opening_starts_at_zero_and_is_complete_after_the_warm_up():
    assert [grow.opening(step, steps=100, warmup=0.1) for step in (0, 5, 10, 99)] == [0.0, 0.5, 1.0, 1.0]
    assert [grow.opening(step, steps=3, warmup=0.0) for step in (0, 1, 2)] == [0.0, 1.0, 1.0]


# ---------------------------------------------------------------------------------------------- as a configuration


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model")
    mblm("bert", "no_inner_mixers").save_pretrained(path)
    return path


VALUES = {
    "task": {"kind": "own", "files": {"train": "x.csv"}, "labels": ["a", "b", "c"], "supervised": ["en", "fr", "zh"],
             "zero_shot": ["es", "de"]},
    "student": {"backbone": "some/encoder"},
    "teachers": {x: {"model": f"teacher-{x}"} for x in ("en", "fr", "zh")},
}  # fmt: skip


def test_the_new_language_becomes_supervised_and_only_its_branch_is_trained(folder):
    distill = {"temperatures": {"en": 4.0}, "hidden": [{"student": 1, "teacher": 2}], "languages": ["en", "fr"]}
    values = VALUES | {"distill": distill}
    overrides = grown.overrides(folder, values, "de")
    found = configuration.parse(configuration.override(values, overrides), "test")
    assert found.languages == ("de",)
    assert (found.task.supervised, found.task.zero_shot) == (("en", "fr", "zh", "de"), ("es",))
    assert (found.student.backbone, found.student.branch_depth, found.student.mixers) == (str(folder), 2, "outer")
    assert found.system == "MBLM - inner-mixers + de (labels)"


def test_a_teacher_of_the_new_language_is_used(folder):
    values = copy.deepcopy(VALUES)
    values["task"] |= {"supervised": ["en", "fr", "zh", "de"], "zero_shot": ["es"]}
    values["teachers"]["de"] = {"model": "teacher-de"}
    found = configuration.parse(configuration.override(values, grown.overrides(folder, values, "de")), "test")
    assert found.distill.signal == "online"
    assert [run.languages for run in paper.teacher_runs(found)] == [("de",)]
    assert found.system == "MBLM - inner-mixers + de (teacher)"


def test_teach_and_grow_use_the_same_teacher_of_a_language_that_is_still_zero_shot(folder):
    values = VALUES | {"teachers": VALUES["teachers"] | {"de": {"model": "teacher-de"}}}
    with pytest.raises(UserError, match="'de' is a zero-shot language; move it"):
        configuration.parse(values, "test")
    for more in ({}, {"distill": {"languages": ["en"]}}):
        given = values | more
        taught = configuration.parse(configuration.override(given, grown.overrides_to_teach(given)), "test")
        new = configuration.parse(configuration.override(given, grown.overrides(folder, given, "de")), "test")
        assert [*paper.teacher_runs(taught)][-1:] == [*paper.teacher_runs(new)]
        assert taught.task.zero_shot == ("es",)
    assert grown.overrides_to_teach(VALUES) == []


@pytest.mark.parametrize("wrong", [{"task": "own"}, {"task": {"zero_shot": "de"}}, {"teachers": 3}, {"distill": "x"}])
def test_values_of_wrong_types_give_one_message(folder, wrong):
    values = VALUES | wrong
    with pytest.raises(UserError, match=r"must be a (mapping|list of languages)"):
        grown.overrides(folder, values, "de")
    if "distill" not in wrong:
        with pytest.raises(UserError, match=r"must be a (mapping|list of languages)"):
            grown.overrides_to_teach(values)


@pytest.mark.parametrize(
    ("more", "labels", "message"),
    [
        (["student.grow=fr"], ("LABEL_0", "LABEL_1", "LABEL_2"), "already has a branch for 'fr' (en, fr, zh)"),
        ([], ("LABEL_1", "LABEL_0", "LABEL_2"), "in this order, not LABEL_1"),
        (["train.max_length=64"], ("LABEL_0", "LABEL_1", "LABEL_2"), "trained with 128"),
        (["student.mixers=all"], ("LABEL_0", "LABEL_1", "LABEL_2"), "student.mixers = 'all'"),
    ],
)
def test_a_configuration_that_does_not_match_the_model_is_refused(folder, more, labels, message):
    overrides = [*grown.overrides(folder, VALUES, "de"), *more]
    with pytest.raises(UserError) as refusal:
        grown.check(configuration.parse(configuration.override(VALUES, overrides), "test"), labels)
    assert message in str(refusal.value)


def test_a_language_or_a_model_that_cannot_grow_is_refused(folder, tmp_path):
    with pytest.raises(UserError, match="its languages are en, fr, zh, es, de"):
        grown.overrides(folder, VALUES, "pl")
    mblm("bert", "plain").save_pretrained(tmp_path)
    with pytest.raises(UserError, match="has no branches"):
        grown.overrides(tmp_path, VALUES, "de")
