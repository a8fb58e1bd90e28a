"""Claims about the paper's structures as configurations, and about MBLM among transformers' auto classes."""

import copy
import json
import os
import signal
import subprocess
import sys
from itertools import product
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer, XLMRobertaConfig

from mbkd import config as configuration
from mbkd import distributed
from mbkd.config import Student, paper, structures
from mbkd.ensemble import model as ensemble
from mbkd.errors import Stopped, UserError
from mbkd.estimate import dry_run
from mbkd.evaluate.folder import evaluate_folder
from mbkd.model import card, grow, saved
from mbkd.model.fold import fold
from mbkd.model.mblm import MBLMConfig, MBLMForSequenceClassification
from mbkd.predict import push
from mbkd.train.checkpoint import Schedule
from mbkd.train.run import _at_chance, run
from mbkd.train.student import build_student
from mbkd.train.trainer import Trainer
from tests.conftest import ENVIRONMENT, random_student
from tests.synthetic import make_result
from tests.unit.test_mblm import BACKBONES

TABLE_5 = {
    "mblm": "MultiKD + MBLM",
    "mblm-no-inner-mixers": "MultiKD + MBLM - inner-mixers",
    "mblm-no-mixers": "MultiKD + MBLM - all mixers (all)",
    "mblm-no-detach": "MultiKD + MBLM - detaching",
    "mblm-top": "MultiKD + MBLM + branches at the top",
    "mblm-multi-classifier": "MultiKD + MBLM + multi-classifier",
}


def test_every_row_of_table_5_is_a_recipe_with_its_name():
    for name, system in TABLE_5.items():
        assert paper.find(f"xnli-mbert-{name}", []).system == system
    single = paper.find("xnli-mbert-mblm-no-mixers", ["student.inference=single"])
    assert single.system == "MultiKD + MBLM - all mixers (single)"


def test_every_ablation_is_a_separate_run_and_equals_its_saved_configuration(tmp_path):
    configs = [paper.find(f"xnli-mbert-{name}", []) for name in TABLE_5]
    assert len({config.run_name for config in configs}) == len(configs)
    for config in configs:
        (tmp_path / "config.yaml").write_text(config.dump())
        assert paper.find(str(tmp_path / "config.yaml"), []) == config


def test_configuration_and_model_refuse_the_same_values():
    """Both accept or both refuse every combination of the four fields."""
    taken = 0
    for values in product(*structures.VALUES.values()):
        fields = dict(zip(structures.VALUES, values, strict=True))
        try:
            MBLMConfig(branch_languages=["en"], branch_depth=1, **fields)
        except UserError as refusal:
            with pytest.raises(UserError) as mine:
                paper.find("xnli-mbert-mblm", [f"student.{name}={value}" for name, value in fields.items()])
            assert str(refusal) in str(mine.value)
        else:
            Student(backbone="x", branch_depth=1, **fields)
            taken += 1
    assert 0 < taken < 24


def test_configuration_and_model_have_the_same_defaults():
    ours, theirs = Student(backbone="x"), MBLMConfig()
    for field in (*structures.VALUES, "branch_depth", "detach", "idle_dropout"):
        assert getattr(ours, field) == getattr(theirs, field), field


@pytest.mark.parametrize("name", list(paper.ABLATIONS))
def test_the_trained_student_has_the_configured_structure(name, world):
    config = paper.find(f"xnli-mbert-mblm-{name}", [f"student.backbone={world}/models/student"])
    config = config.model_copy(update={"student": config.student.model_copy(update={"branch_depth": 2})})
    model = build_student(config, ("a", "b", "c"))
    for field in (*structures.VALUES, "detach", "idle_dropout", "branch_depth"):
        assert getattr(model.config, field) == getattr(config.student, field), field
    assert model.config.branch_languages == ["en", "fr", "zh"]
    assert (len(model.inner[0]), model.outer is not None) == {
        "no-inner-mixers": (0, True),
        "no-mixers": (0, False),
        "no-detach": (1, True),
        "top": (1, True),
        "multi-classifier": (1, False),
    }[name]


@pytest.fixture(scope="module")
def without_mixers(world, tmp_path_factory):
    """A student without mixers and with different branches, its tokenizer, and a configuration of its task."""
    folder = tmp_path_factory.mktemp("student")
    torch.manual_seed(0)
    backbone = world / "models" / "student"
    labels = {str(i): i - 1 for i in range(1, 6)}
    model = MBLMForSequenceClassification.from_pretrained(
        backbone,
        branch_languages=("en", "fr", "zh"),
        branch_depth=1,
        mixers="none",
        label2id=labels,
        id2label={i: name for name, i in labels.items()},
    )
    with torch.no_grad():
        for parameter in model.branches.parameters():
            parameter.add_(0.5 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(backbone).save_pretrained(folder)
    values = {
        "task": {"kind": "marc", "path": str(world / "data"), "zero_shot": ["de", "es", "ja"]},
        "student": {"backbone": str(backbone), "branch_depth": 1, "mixers": "none"},
        "distill": {"signal": "labels"},
    }
    (folder / "toy.yaml").write_text(yaml.safe_dump(values))
    return folder


def test_a_run_without_mixers_is_evaluated_with_both_inference_settings(without_mixers, tmp_path):
    config = paper.find(str(without_mixers / "toy.yaml"), [])
    found = {
        way: evaluate_folder(without_mixers, config, "test", tmp_path, way).accuracy["test"]
        for way in (None, "all", "single")
    }
    assert found[None] == found["all"]
    assert {x: found["all"][x] for x in ("de", "es", "ja")} == {x: found["single"][x] for x in ("de", "es", "ja")}
    assert found["all"] != found["single"]
    with pytest.raises(UserError, match="one of all, single"):
        evaluate_folder(without_mixers, config, "test", tmp_path, "both")


def test_the_other_inference_setting_reuses_the_finished_training(toy_yaml: Path, tmp_path: Path):
    distributed.quiet()
    ranks = distributed.start()
    overrides = ["distill.signal=labels", "student.mixers=none", "train.epochs=0.3"]
    trained = run(configuration.read(toy_yaml, overrides), tmp_path, ranks, Schedule())
    single = run(configuration.read(toy_yaml, [*overrides, "student.inference=single"]), tmp_path, ranks, Schedule())
    distributed.stop()
    results = [json.loads((folder / "result.json").read_text()) for folder in (trained, single)]
    assert results[1]["trained_as"] == trained.name
    assert results[1]["system"] == "MultiTrain + MBLM - all mixers (single)"
    for name in ("steps", "train_seconds", "step_seconds", "parameters"):
        assert results[1][name] == results[0][name]
    assert results[1]["made_from"].keys() == {*results[0]["made_from"], f"weights of {trained.name}"}
    weights = [(folder / "model" / "model.safetensors").read_bytes() for folder in (trained, single)]
    assert weights[0] == weights[1]
    for language in ("de", "es", "ja"):  # decision 24: zero-shot languages use the same inference
        logits = [np.load(folder / "logits" / f"test.{language}.npy") for folder in (trained, single)]
        assert np.array_equal(*logits)
    assert json.loads((single / "model" / "config.json").read_text())["inference"] == "single"


def test_a_stopped_run_resumes_although_the_other_inference_setting_is_finished(
    toy_yaml: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    step = Trainer.step

    def stop_in_third_step(trainer: Trainer, number: int, stop: bool) -> bool:
        if number == 2:
            os.kill(os.getpid(), signal.SIGTERM)  # as sent by Slurm
        return step(trainer, number, stop)

    distributed.quiet()
    ranks = distributed.start()
    overrides = ["distill.signal=labels", "student.mixers=none", "train.epochs=0.5"]
    single = configuration.read(toy_yaml, [*overrides, "student.inference=single"])
    with monkeypatch.context() as during, pytest.raises(Stopped):
        during.setattr(Trainer, "step", stop_in_third_step)
        run(single, tmp_path, ranks, Schedule())
    trained = run(configuration.read(toy_yaml, overrides), tmp_path, ranks, Schedule())
    stopped = run(single, tmp_path, ranks, Schedule())
    distributed.stop()
    weights = [load_file(folder / "model" / "model.safetensors") for folder in (trained, stopped)]
    assert weights[0].keys() == weights[1].keys()
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert "trained_as" not in json.loads((stopped / "result.json").read_text())


def test_a_run_that_has_not_learned_is_marked_with_a_warning(toy_yaml: Path, tmp_path: Path, capsys):
    distributed.quiet()
    ranks = distributed.start()
    overrides = ["distill.signal=labels", "student.branch_depth=0", "train.epochs=0.1", "train.lr=1e-9"]
    made = run(configuration.read(toy_yaml, overrides), tmp_path, ranks, Schedule())
    distributed.stop()
    assert json.loads((made / "result.json").read_text())["at_chance"] is True
    warning = f"warning: {made.name}: the dev accuracy in en, fr, zh is no better than the most frequent class; try "
    assert warning in capsys.readouterr().err


@pytest.mark.parametrize(
    ("labels", "right", "stuck"),
    [
        ([0, 1] * 50, 50, True),
        ([0, 1] * 50, 60, True),  # two standard errors above 50
        ([0, 1] * 50, 61, False),
        ([0] * 90 + [1] * 10, 94, True),  # 90 % without reading
        ([0] * 90 + [1] * 10, 97, False),
    ],
)
def test_chance_is_the_most_frequent_class_of_the_trained_languages(labels: list[int], right: int, stuck: bool):
    other = SimpleNamespace(labels=[0] * 500)  # a zero-shot language
    heldout = {
        "dev": {"en": SimpleNamespace(labels=labels[:40]), "fr": SimpleNamespace(labels=labels[40:]), "de": other}
    }
    accuracy = {"en": min(right, 40) / 40, "fr": max(right - 40, 0) / 60, "de": 0.0}
    inputs = SimpleNamespace(heldout=heldout)
    assert _at_chance({"dev": {"accuracy": accuracy}}, inputs, ("en", "fr")) is stuck
    assert _at_chance({}, SimpleNamespace(heldout={}), ("en", "fr")) is False


@pytest.mark.parametrize("structure", [{"mixers": "none"}, {"heads": "per_language", "branch_position": "top"}, {}])
def test_without_detaching_training_does_not_depend_on_zero_gradients_of_deepspeed(structure, toy_yaml: Path):
    """At stage 1, DeepSpeed replaces missing gradients by zeros; at stage 0 with one rank, gradients may be missing."""
    distributed.quiet()
    ranks = distributed.start()
    found = []
    for stage in (0, 1):
        values = {"student": {"detach": False, **structure}, "train": {"zero_stage": stage, "eps": 1e-5}}
        config = configuration.changed(configuration.read(toy_yaml), values)
        torch.manual_seed(0)
        trainer = dry_run.trainer(config, {x: np.full(80, 12) for x in config.languages}, ranks)
        for step in range(6):
            trainer.step(step)
        found.append([p.detach().clone() for p in trainer.engine.module.parameters()])
        assert len({trainer.plan.language(step) for step in range(6)}) > 1
    distributed.stop()
    torch.testing.assert_close(*found, rtol=0, atol=2e-6)


def test_a_classifier_with_other_labels_is_fine_tuned_with_a_new_head(toy_yaml: Path, tmp_path: Path):
    encoder = AutoConfig.from_pretrained(configuration.read(toy_yaml).teachers["en"][0].model, num_labels=7)
    before = AutoModelForSequenceClassification.from_config(encoder)
    before.save_pretrained(tmp_path)
    teacher = Student(backbone=str(tmp_path), branch_depth=0, head="own")
    config = configuration.read(toy_yaml).model_copy(update={"student": teacher})
    model = build_student(config, ("a", "b", "c"))
    assert model.config.num_labels == 3
    for name, parameter in before.base_model.named_parameters():
        assert torch.equal(parameter, model.base_model.get_parameter(name))
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(UserError, match="no pre-trained encoder could be loaded"):
        build_student(config, ("a", "b", "c"))


def test_the_seed_decides_the_new_weights_of_a_student(toy_yaml: Path):
    config = configuration.read(toy_yaml)
    weights = [build_student(config.model_copy(update={"seed": s}), ("a", "b")).head.weight for s in (1, 1, 2)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


# ------------------------------------------------------------------------------------------- among the auto classes


@pytest.mark.parametrize(
    "code",
    [
        "import mbkd; from transformers import AutoTokenizer, AutoModelForSequenceClassification",
        "import mbkd; from transformers import AutoModelForSequenceClassification, AutoTokenizer",
        "from transformers import AutoTokenizer, AutoModelForSequenceClassification; import mbkd",
        "import transformers, mbkd; from transformers import BertModel, AutoTokenizer; "
        "from transformers import AutoModelForSequenceClassification",
        "import mbkd.ensemble.model; from transformers import AutoTokenizer, AutoModelForSequenceClassification",
        "import mbkd.model.saved; from transformers import AutoTokenizer, AutoModelForSequenceClassification",
    ],
)
def test_importing_mbkd_registers_the_model_with_transformers_in_any_order(code, without_mixers):
    code += f"""
AutoTokenizer.from_pretrained({str(without_mixers)!r})
print(type(AutoModelForSequenceClassification.from_pretrained({str(without_mixers)!r})).__name__)
from transformers import AutoConfig
member = AutoConfig.from_pretrained({str(without_mixers)!r}).to_dict()
ensemble = AutoConfig.for_model("mbkd-ensemble", members=[member])
print(type(AutoModelForSequenceClassification.from_config(ensemble)).__name__)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=ENVIRONMENT, check=False)
    assert done.stdout.split() == ["MBLMForSequenceClassification", "EnsembleForSequenceClassification"], done.stderr
    assert "mblm" not in done.stderr  # no warning about an unknown model type of the tokenizer


def test_importing_mbkd_alone_imports_neither_transformers_nor_torch():
    code = "import sys, mbkd; print({'torch', 'transformers'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=ENVIRONMENT, check=True)
    assert done.stdout.strip() == "set()"


def test_a_saved_student_is_loaded_and_not_rebuilt(without_mixers):
    first, second = (MBLMForSequenceClassification.from_pretrained(without_mixers) for _ in range(2))
    for name, parameter in first.state_dict().items():
        assert torch.equal(parameter, second.state_dict()[name]), name
    assert first.config.mixers == "none"


def test_the_auto_class_builds_a_configuration_by_its_name():
    config = AutoConfig.for_model("mblm", backbone=XLMRobertaConfig().to_dict())
    assert isinstance(config, MBLMConfig)


FAMILIES = ("deberta-v2", "distilbert", "electra", "eurobert", "modernbert", "mpnet", "rembert", "xlm-roberta-xl")
KINDS = ("mblm", "without mixers", "ensemble", "low rank", "folded", "grown", "low rank, grown", *FAMILIES)


@pytest.fixture(scope="module")
def kinds(
    student: Path, without_mixers: Path, world: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """Folders of each kind of saved model, and of an MBLM on each further family."""
    low = random_student(tmp_path_factory.mktemp("low"), world, branch_rank=2)
    found = {"mblm": student, "without mixers": without_mixers, "low rank": low}
    tokenizer = AutoTokenizer.from_pretrained(student)
    made = {"folded": fold(AutoModelForSequenceClassification.from_pretrained(student))}
    for name, source in (("grown", student), ("low rank, grown", low)):
        growing = grow.GrowingMBLM.from_pretrained(source)
        growing.grow("de")
        growing.opening = 1.0
        made[name] = growing.eval().whole()
    for family in FAMILIES:
        encoder = copy.deepcopy(BACKBONES[family])
        encoder.vocab_size, encoder.pad_token_id = len(tokenizer), tokenizer.pad_token_id
        values = {"backbone": encoder.to_dict(), "branch_languages": ("en", "fr"), "branch_depth": 2, "num_labels": 3}
        torch.manual_seed(0)
        made[family] = MBLMForSequenceClassification(MBLMConfig(**values))
    for name, model in made.items():
        found[name] = tmp_path_factory.mktemp("kind")
        saved.save(model, copy.deepcopy(tokenizer), found[name])
    ensemble.save([student, low], folder := tmp_path_factory.mktemp("ensemble"))
    return found | {"ensemble": folder}


@pytest.mark.parametrize("kind", KINDS)
def test_transformers_features_of_a_classifier_work_or_raise_a_clear_error(kind, kinds, tmp_path):
    load = AutoModelForSequenceClassification.from_pretrained
    model = load(kinds[kind]).eval()
    inputs = AutoTokenizer.from_pretrained(kinds[kind])(
        ["good", "very bad, very bad"], padding=True, return_tensors="pt"
    )
    expected = model(**inputs).logits
    for dtype, tolerance in (("bfloat16", 0.2), ("float16", 0.02)):
        found = load(kinds[kind], dtype=dtype).eval()(**inputs).logits
        assert (found.float() - expected).abs().max() < tolerance * expected.abs().max()
    logits, *rest = model(**inputs, return_dict=False)
    assert torch.equal(logits, expected)
    assert not rest
    for name in ("output_hidden_states", "output_attentions"):
        with pytest.raises(ValueError, match=name):
            model(**inputs, **{name: True})
        model(**inputs, **{name: False})
    if kind in ("mblm", "low rank", "ensemble"):  # each takes seconds
        torch.testing.assert_close(torch.compile(model, backend="eager")(**inputs).logits, expected)
    model.save_pretrained(tmp_path)
    assert torch.equal(load(tmp_path).eval()(**inputs).logits, expected)
    assert load(tmp_path, num_labels=expected.shape[1]).config.problem_type is None


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "without mixers"])
def test_gradients_with_and_without_checkpointing_are_equal(kind, kinds):
    found = []
    for checkpointing in (False, True):
        model = AutoModelForSequenceClassification.from_pretrained(kinds[kind])
        if checkpointing and kind == "mpnet":  # MPNet in transformers does not support this
            with pytest.raises(ValueError, match="not compatible with gradient checkpointing"):
                model.gradient_checkpointing_enable()
            return
        if checkpointing:
            model.gradient_checkpointing_enable()
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
            if hasattr(module, "attention_dropout"):
                module.attention_dropout = 0.0
        calls: list[int] = []
        for layer in model.modules():
            if "Attention" in type(layer).__name__:
                layer.register_forward_pre_hook(lambda *_, calls=calls: calls.append(1))
        loss = model.train()(torch.tensor([[5, 6, 7, 8]]), labels=torch.tensor([1]), language="en").loss
        before = len(calls)
        loss.backward()
        assert (len(calls) > before) == checkpointing  # layers are recomputed
        found.append({name: p.grad for name, p in model.named_parameters()})
    for name, gradient in found[0].items():
        assert (gradient is None) == (found[1][name] is None)
        if gradient is not None:
            torch.testing.assert_close(found[1][name], gradient, msg=name)


@pytest.mark.parametrize("kind", ["mblm", "low rank"])
def test_checkpointing_recomputes_with_the_dropout_of_the_own_branch_only(kind, kinds):
    found = []
    for checkpointing in (False, True):
        model = AutoModelForSequenceClassification.from_pretrained(kinds[kind], idle_dropout=False)
        if checkpointing:
            model.gradient_checkpointing_enable()
        torch.manual_seed(0)
        model.train()(torch.tensor([[5, 6, 7, 8]]), labels=torch.tensor([1]), language="en").loss.backward()
        found.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    assert found[0].keys() == found[1].keys()
    for name, gradient in found[0].items():
        torch.testing.assert_close(found[1][name], gradient, msg=name)


def test_a_larger_vocabulary_is_saved_and_loaded(student, tmp_path):
    model = AutoModelForSequenceClassification.from_pretrained(student)
    before = model.get_input_embeddings().num_embeddings
    model.resize_token_embeddings(before + 3)
    model.save_pretrained(tmp_path)
    again = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    assert again.get_input_embeddings().num_embeddings == before + 3


# ------------------------------------------------------------------------------------------------- card and publishing


@pytest.fixture
def student_with_card(without_mixers, tmp_path):
    """A copy of the student with a card."""
    for file in without_mixers.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    config = paper.find(str(without_mixers / "toy.yaml"), [])
    result = make_result(
        system=config.system,
        labels=("1", "2"),
        parameters=12345,
        branches=("en", "fr", "zh"),
        accuracy={"test": dict.fromkeys(config.task.languages, 0.5)},
        averages={"test": {"S": 0.5, "Z": 0.25, "A": 0.375}},
        calibration={"temperature": 0.25, "temperatures": {"en": 0.2, "fr": 0.3}, "fitted_on": ["en", "fr"]},
    )
    card.write(tmp_path, config, result)
    return tmp_path


def test_the_card_lists_languages_scores_configuration_and_licence(student_with_card, world):
    text = (student_with_card / "README.md").read_text()
    metadata = yaml.safe_load(text.split("---\n")[1])
    assert metadata["language"] == ["en", "fr", "zh", "de", "es", "ja"]
    assert metadata["license"] == "unknown"
    assert "| test | 50.00 | 50.00 |" in text
    assert "25.00 | 37.50 |" in text
    assert "mixers: none" in text
    assert "calibrated on dev rows of en, fr (temperature 0.25, by language 0.2 to 0.3)" in text
    assert "import mbkd" in text
    assert str(world) not in text  # paths of the machine are private
    assert "trust_remote_code" not in text


def test_the_upload_is_the_folder_with_the_licence_in_its_card(student_with_card):
    (student_with_card / ".cache").mkdir()
    (student_with_card / ".cache" / "secret").write_text("x")
    files = push.push(student_with_card, "me/my-model", private=True, licence="apache-2.0", dry_run=True)
    assert {"README.md", "config.json", "model.safetensors", "tokenizer.json"} <= set(files)
    assert files["model.safetensors"] == (student_with_card / "model.safetensors").stat().st_size
    assert not any("secret" in name for name in files)
    readme = next(x for x in push.additions(student_with_card, "apache-2.0") if x.path_in_repo == "README.md")
    with readme.as_file() as stream:
        assert yaml.safe_load(stream.read().decode().split("---\n")[1])["license"] == "apache-2.0"
    assert "unknown" in (student_with_card / "README.md").read_text()  # the folder itself is unchanged


def test_invalid_repository_names_and_folders_without_a_card_are_refused(student_with_card, without_mixers):
    with pytest.raises(UserError, match="me/my/model"):
        push.push(student_with_card, "me/my/model", private=False, licence=None, dry_run=True)
    with pytest.raises(UserError, match=r"README\.md"):
        push.push(without_mixers, "me/my-model", private=False, licence=None, dry_run=True)
