"""Claims about teachers: tokens and classes, checks before training, several teachers, and shared teachers."""

import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification, DebertaV2Config

from mbkd import config as configuration
from mbkd import distributed, inputs
from mbkd.config import Columns, Config, Distill, Task, paper, parse
from mbkd.config import Teacher as Teaching
from mbkd.data.classifiers import fingerprint
from mbkd.data.tokens import Tokens, open_store
from mbkd.distill import checks, signals
from mbkd.distill.hidden import Matching
from mbkd.distill.teachers import Teacher, TeacherSignal
from mbkd.errors import UserError
from mbkd.estimate import cost
from mbkd.inputs import TeacherInput, prepare
from mbkd.model import flops, saved
from mbkd.onboarding import quality
from mbkd.train import engine, run
from mbkd.train.checkpoint import Schedule
from tests.conftest import random_student

LABELS = ("1", "2", "3", "4", "5")


@pytest.fixture(scope="module")
def ranks() -> Iterator[distributed.Ranks]:
    started = distributed.start()
    torch.set_num_threads(1)
    yield started
    distributed.stop()


def classifier(world: Path, folder: Path, name: str = "teacher-en", seed: int = 3) -> Path:
    """A classifier of five stars with random weights, large enough for its answers to differ."""
    torch.manual_seed(seed)
    shutil.copytree(world / "models" / name, folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder, id2label=dict(enumerate(LABELS)))
    for parameter in model.classifier.parameters():
        torch.nn.init.normal_(parameter)
    model.save_pretrained(folder)
    return folder


@pytest.fixture
def folder(world: Path, tmp_path: Path) -> Path:
    return classifier(world, tmp_path / "teacher")


def tokens(world: Path, tokenizer: Path, store: Path, split: str = "train", language: str = "en") -> Tokens:
    return open_store(store, Task(kind="marc", path=str(world / "data")), split, language, str(tokenizer), 128)


def given(world: Path, folder: Path, store: Path) -> TeacherInput:
    train, dev = (tokens(world, folder, store, split) for split in ("train", "dev"))
    return TeacherInput(str(folder), fingerprint(str(folder), store), 1.0, train, dev)


def edit_weights(folder: Path, change) -> None:
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file({k: v.contiguous() for k, v in weights.items()}, folder / "model.safetensors", metadata={"format": "pt"})


def edit_json(file: Path, **values: object) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


ROWS = np.arange(20)


def test_token_ids_of_the_student_are_refused(world: Path, folder: Path, ranks, tmp_path: Path):
    teacher = Teacher(str(folder), LABELS, ranks)
    teacher.refuse_other_tokens(tokens(world, folder, tmp_path))
    with pytest.raises(UserError, match="needs the tokens of its own tokenizer"):
        teacher.refuse_other_tokens(tokens(world, world / "models" / "student", tmp_path))


def test_missing_segment_ids_are_refused_before_training(world: Path, toy_yaml: Path, tmp_path: Path):
    """transformers 5 loads HerBERT, ALBERT and RemBERT in this way. A tokenizer without segment ids is valid."""
    models = world / "models"
    for name, tokenizer in (("lost", models / "teacher-zh"), ("by nature", models / "student")):
        shutil.copytree(models / "teacher-zh", tmp_path / name)
        for file in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copy(tokenizer / file, tmp_path / name / file)
        edit_json(tmp_path / name / "tokenizer_config.json", model_input_names=["input_ids", "attention_mask"])
    config = configuration.read(toy_yaml)
    zh = {name: Teaching(model=str(tmp_path / name)) for name in ("lost", "by nature")}
    lost, nature = (config.model_copy(update={"teachers": config.teachers | {"zh": (zh[x],)}}) for x in zh)
    with pytest.raises(UserError, match=r"lost: .* does not return them.*token_type_ids"):
        prepare(lost.teacher_run("zh"), tmp_path)
    (problem,) = quality.inspect(lost)["problems"]
    assert "does not return them" in problem
    assert quality.inspect(nature)["problems"] == []
    vocabulary = {"vocab_size": 200}
    edit_json(tmp_path / "by nature" / "config.json", **vocabulary)
    assert "segments.npy" not in prepare(nature.teacher_run("zh"), tmp_path).train["zh"].manifest["files"]
    alone = lost.task.model_copy(
        update={
            "kind": "own",
            "files": {"train": str(world / "data" / "dataset_{language}_train.json")},
            "columns": Columns(text="review_body", label="stars", language=None, id="review_id"),
            "labels": LABELS,
            "path": None,
        }
    )
    prepare(lost.teacher_run("zh").model_copy(update={"task": alone}), tmp_path)  # single texts have no second segment


def test_a_student_whose_tokenizer_pads_on_the_left_is_refused(world: Path, toy_yaml: Path, tmp_path: Path):
    shutil.copytree(world / "models" / "student", tmp_path / "left")
    edit_json(tmp_path / "left" / "tokenizer_config.json", padding_side="left")
    config = configuration.read(toy_yaml, [f"student.backbone={tmp_path / 'left'}", "distill.signal=labels"])
    with pytest.raises(UserError, match="pads on the left"):
        prepare(config, tmp_path)


def deberta(folder: Path, words: Path, scale: float = 1.0) -> Path:
    """A classifier without SDPA in transformers; `scale` multiplies the last linear map before a norm."""
    shutil.copytree(words, folder)
    torch.manual_seed(0)
    config = DebertaV2Config(
        vocab_size=400, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64,
        relative_attention=True, pos_att_type=["c2p", "p2c"], max_position_embeddings=130, pooler_hidden_size=32,
        id2label=dict(enumerate(LABELS)), initializer_range=0.3,
    )  # fmt: skip
    model = AutoModelForSequenceClassification.from_config(config)
    with torch.no_grad():
        model.deberta.encoder.layer[0].output.dense.weight.mul_(scale)
    model.save_pretrained(folder)
    return folder


def test_a_classifier_without_sdpa_teaches_and_is_planned(world: Path, toy_yaml: Path, ranks, tmp_path: Path):
    folder = deberta(tmp_path / "deberta", world / "models" / "teacher-en")
    found = checks.examine(Teacher(str(folder), LABELS, ranks), "en", given(world, folder, tmp_path), tmp_path)
    checks.refuse("en", found, allow_chance=True)
    config = configuration.read(toy_yaml, [f"teachers.en={{model: {folder}, fine_tuned: true}}"])
    assert cost.teacher_sizes(config)["en"][0].layers == 1


def test_a_student_with_branches_teaches_and_its_flops_are_unknown(world, toy_yaml: Path, ranks, tmp_path: Path):
    folder = random_student(tmp_path / "mblm", world)
    edit_json(folder / "config.json", id2label={0: "1", 1: "2", 2: "3"}, label2id={"1": 0, "2": 1, "3": 2})
    teacher = Teacher(str(folder), LABELS[:3], ranks)
    compared = checks.parity(teacher, tokens(world, folder, tmp_path))
    assert compared["engine"]["agreement"] == compared["padding"]["agreement"] == 1
    assert flops.plain_size(teacher.engine.module) is None
    config = configuration.read(toy_yaml, [f"teachers.en={{model: {folder}, fine_tuned: true}}"])
    with pytest.raises(UserError, match="its cost cannot be estimated"):
        cost.teacher_sizes(config)
    hidden = Distill(hidden=({"student": 1, "teacher": 1},))
    with pytest.raises(UserError, match="gives no hidden states"):
        Matching(saved.load(folder), {"en": [teacher]}, {"en": [1.0]}, hidden)


def test_a_teacher_that_overflows_in_half_precision_computes_in_fp32(
    world: Path, ranks, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    """mDeBERTa overflows in this way. torch has fp16 on every processor; DeepSpeed lists those with fast fp16."""
    monkeypatch.setattr(distributed.get_accelerator(), "supported_dtypes", lambda: [torch.float32, torch.float16])
    folder = deberta(tmp_path / "deberta", world / "models" / "teacher-en", 1e6)
    mine = given(world, folder, tmp_path)
    for reported in (True, False):  # the second check reads the stored result
        teacher = Teacher(str(folder), LABELS, ranks)
        assert teacher.precision == torch.float16
        found = checks.examine(teacher, "en", mine, tmp_path)
        checks.refuse("en", found, allow_chance=True)
        assert teacher.precision == torch.float32
        assert ("not finite in float16" in capfd.readouterr().err) == reported
        assert torch.isfinite(teacher.signal(mine.train, ROWS).logits).all()
    (kept,) = (tmp_path / "teachers").iterdir()
    edit_json(kept, precision="float16")  # as of another language, whose rows do not overflow
    checks.examine(teacher, "en", mine, tmp_path)
    assert teacher.precision == torch.float32


def test_labels_in_another_order_give_the_same_logits(world: Path, folder: Path, ranks, tmp_path: Path):
    expected = Teacher(str(folder), LABELS, ranks).signal(tokens(world, folder, tmp_path), ROWS).logits
    order = [3, 0, 4, 2, 1]
    edit_json(folder / "config.json", id2label={i: LABELS[old] for i, old in enumerate(order)},
              label2id={LABELS[old]: i for i, old in enumerate(order)})  # fmt: skip

    def permute(weights):
        for name in ("weight", "bias"):
            weights[f"classifier.out_proj.{name}"] = weights[f"classifier.out_proj.{name}"][order]

    edit_weights(folder, permute)
    found = Teacher(str(folder), LABELS, ranks).signal(tokens(world, folder, tmp_path), ROWS).logits
    # Not bitwise: a matrix product may round its last column, outside of full vectors, in another order.
    torch.testing.assert_close(found, expected, rtol=2e-3, atol=2e-3)


def test_other_labels_are_refused_by_name(folder: Path, ranks):
    edit_json(folder / "config.json", id2label=dict(enumerate(["1", "2", "3", "4", "good"])))
    with pytest.raises(UserError, match=r"1, 2, 3, 4, good.*1, 2, 3, 4, 5"):
        Teacher(str(folder), LABELS, ranks)


def test_a_correct_engine_passes_and_is_checked_once(world: Path, folder: Path, ranks, tmp_path: Path):
    teacher, mine = Teacher(str(folder), LABELS, ranks), given(world, folder, tmp_path)
    found = checks.examine(teacher, "en", mine, tmp_path)
    checks.refuse("en", found, allow_chance=True)
    for name in ("engine", "padding"):
        assert found[name]["agreement"] >= 0.999
        assert found[name]["difference"] < 0.05
    logits = teacher.signal(mine.dev, np.arange(len(mine.dev))).logits.numpy()
    assert found["accuracy"] == pytest.approx((logits.argmax(1) == mine.dev.labels).mean())
    (kept,) = (tmp_path / "teachers").iterdir()
    edit_json(kept, accuracy=0.875)
    assert checks.examine(teacher, "en", mine, tmp_path)["accuracy"] == 0.875


def test_an_engine_with_wrong_fp16_logits_is_refused_with_the_numbers(world, folder, ranks, tmp_path):
    if not distributed.half_supported():
        pytest.skip("this device computes in fp32 only")

    def far_from_zero(weights):  # fp16 numbers around 3000 are two apart: all five logits become equal
        weights["classifier.out_proj.weight"] *= 0.02
        weights["classifier.out_proj.bias"] = 3000 + torch.tensor([0.0, 0.0, 0.9, 0.0, 0.0])

    edit_weights(folder, far_from_zero)
    found = checks.examine(Teacher(str(folder), LABELS, ranks), "en", given(world, folder, tmp_path), tmp_path)
    assert found["engine"]["agreement"] < 0.999
    with pytest.raises(UserError, match=r"agree on \d+.*99.9% is needed.*largest logit difference"):
        checks.refuse("en", found, allow_chance=True)


def test_an_engine_whose_logits_are_not_finite_in_fp32_either_is_refused(world, folder: Path, ranks, tmp_path: Path):
    edit_weights(folder, lambda weights: weights["classifier.out_proj.bias"].add_(torch.inf))
    found = checks.examine(Teacher(str(folder), LABELS, ranks), "en", given(world, folder, tmp_path), tmp_path)
    with pytest.raises(UserError, match="not finite"):
        checks.refuse("en", found, allow_chance=True)


def test_a_teacher_at_chance_is_refused_unless_allowed(world: Path, folder: Path, ranks, tmp_path: Path):
    edit_weights(folder, lambda weights: weights["classifier.out_proj.weight"].zero_())  # all rows get the same logits
    found = checks.examine(Teacher(str(folder), LABELS, ranks), "en", given(world, folder, tmp_path), tmp_path)
    assert found["accuracy"] <= found["chance"]
    with pytest.raises(UserError, match=r"no better than chance.*allow_chance_teachers"):
        checks.refuse("en", found, allow_chance=False)
    checks.refuse("en", found, allow_chance=True)
    knows = found | {"accuracy": 0.9}
    checks.refuse("en", knows, allow_chance=False)


def test_a_files_hash_is_kept_until_the_file_changes(folder: Path, tmp_path: Path):
    first = fingerprint(str(folder), tmp_path)
    kept = {f: f.read_bytes() for f in (tmp_path / "hashes").iterdir()}
    assert fingerprint(str(folder), tmp_path) == first
    assert {f: f.read_bytes() for f in (tmp_path / "hashes").iterdir()} == kept
    file = folder / "model.safetensors"
    before = file.stat()
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))  # a copy with the same time and size
    assert fingerprint(str(folder), tmp_path) != first


def test_several_teachers_are_averaged_by_their_weights():
    a, b = torch.randn(4, 5), torch.randn(4, 5)
    first, second = (lambda rows: TeacherSignal(a[rows])), (lambda rows: TeacherSignal(b[rows]))
    signal = signals.averaged({"en": [(3.0, first), (1.0, second)], "fr": [(2.0, second)]})
    rows = np.array([2, 0])
    assert torch.allclose(signal("en", rows).logits, 0.75 * a[rows] + 0.25 * b[rows])
    assert torch.equal(signal("fr", rows).logits, b[rows])


def several(toy_yaml: Path, **teachers: object) -> Config:
    values = yaml.safe_load(toy_yaml.read_text())
    values["teachers"] |= teachers
    return parse(values, "test")


def test_teachers_of_a_deterministic_run_use_deterministic_algorithms(world, toy_yaml, ranks, tmp_path):
    """On a GPU, torch reads cuBLAS' setting at the first matrix product, which is a teacher's."""
    teacher = {"model": str(classifier(world, tmp_path / "teacher")), "fine_tuned": True}
    config = configuration.changed(
        several(toy_yaml, en=teacher),
        {"distill": {"languages": ["en"]}, "train": {"deterministic": True, "epochs": 0.1}},
    )
    seen = set()
    noted = torch.nn.modules.module.register_module_forward_hook(
        lambda *_: seen.add((torch.are_deterministic_algorithms_enabled(), "CUBLAS_WORKSPACE_CONFIG" in os.environ))
    )
    run.run(config, tmp_path, ranks, Schedule())
    noted.remove()
    distributed.deterministic(False)
    os.environ.pop("CUBLAS_WORKSPACE_CONFIG")
    assert seen == {(True, True)}


def test_one_multilingual_teacher_is_loaded_once_and_a_list_is_averaged(world, toy_yaml, ranks, tmp_path):
    many, other = (classifier(world, tmp_path / x, "student", seed) for seed, x in enumerate(("many", "other")))
    both = [{"model": str(many), "fine_tuned": True, "weight": 3}, {"model": str(other), "fine_tuned": True}]
    config = several(toy_yaml, en=both[0], fr=both, zh=both[1])
    assert list(paper.teacher_runs(config)) == []
    source = signals.open_source(config, prepare(config, tmp_path), tmp_path, ranks)
    (en,), (first, second), (zh,) = (source.teachers[x] for x in ("en", "fr", "zh"))
    assert en is first
    assert second is zh
    assert set(source.fingerprints["teachers"]) == {"en", "fr 1", "fr 2", "zh"}
    assert [len(source.accuracy[x]) for x in ("en", "fr", "zh")] == [1, 2, 1]
    fr = tokens(world, many, tmp_path / "store", language="fr")
    expected = 0.75 * first.signal(fr, ROWS).logits + 0.25 * second.signal(fr, ROWS).logits
    assert torch.allclose(source.signal("fr", ROWS).logits, expected, atol=1e-6)
    cached = config.model_copy(update={"distill": config.distill.model_copy(update={"signal": "cache"})})
    read = signals.open_source(cached, prepare(cached, tmp_path), tmp_path, ranks)
    assert read.teachers == {}
    assert torch.allclose(read.signal("fr", ROWS).logits, expected, atol=5e-3)
    assert read.accuracy == source.accuracy
    # A cache that is older than the dev rows does not answer for their accuracy.
    prepared = prepare(cached, tmp_path)
    (before,) = prepared.teachers["en"]
    later = replace(before, dev=tokens(world, many, tmp_path / "store", "test"))
    changed = replace(prepared, teachers=prepared.teachers | {"en": (later,)})
    (share,) = signals.open_source(cached, changed, tmp_path, ranks).accuracy["en"]
    answers = first.signal(later.dev, np.arange(len(later.dev))).logits.argmax(dim=1).numpy()
    assert share == pytest.approx((answers == np.asarray(later.dev.labels)).mean(), abs=0.01)
    assert len([*(tmp_path / "store" / "teachers").glob("en-*.json")]) == 2  # checks of two dev splits


def test_each_teacher_of_a_list_is_a_separate_run_and_the_list_equals_its_yaml(toy_yaml: Path):
    two = [{"model": "a"}, {"model": "b"}, {"model": "c", "fine_tuned": True}]
    config = several(toy_yaml, en=two, fr={"model": "a"}, zh={"model": "a"})
    runs = [(run.languages, run.student.backbone) for run in paper.teacher_runs(config)]
    assert runs == [(("en",), "a"), (("en",), "b"), (("fr",), "a"), (("zh",), "a")]
    written = yaml.safe_load(config.dump())
    assert isinstance(written["teachers"]["fr"], dict)
    assert parse(written, "again") == config
    with pytest.raises(UserError, match=r"teachers\.en: a is named twice"):
        several(toy_yaml, en=[{"model": "a"}, {"model": "a"}])


def test_a_language_may_have_its_own_temperature(toy_yaml: Path):
    values = yaml.safe_load(toy_yaml.read_text())
    values["distill"] = {"temperature": 6, "temperatures": {"zh": 4}}
    distill = parse(values, "test").distill
    assert [distill.temperature_of(x) for x in ("en", "fr", "zh")] == [6, 6, 4]
    values["distill"]["temperatures"] = {"de": 4}
    with pytest.raises(UserError, match=r"temperatures.*'de'"):
        parse(values, "test")


def test_rows_beyond_the_positions_of_backbone_or_teachers_are_refused_in_one_message(world, toy_yaml, tmp_path):
    """This holds even without rows of this length, because the check of the teachers pads."""
    roberta, bert = (classifier(world, tmp_path / x, x) for x in ("teacher-en", "teacher-zh"))
    given = {"en": roberta, "fr": roberta, "zh": bert}
    config = several(toy_yaml, **{x: {"model": str(path), "fine_tuned": True} for x, path in given.items()})

    def of_length(length: int) -> Config:
        return config.model_copy(update={"train": config.train.model_copy(update={"max_length": length})})

    with pytest.raises(UserError) as error:
        prepare(of_length(131), tmp_path)
    takes = ((world / "models" / "student", 128), (roberta, 128), (bert, 130))
    each = ", ".join(f"{path} takes {longest} tokens" for path, longest in takes)
    assert str(error.value) == f"train.max_length = 131: {each}; set it to 128 at most"
    with pytest.raises(UserError, match=r"student takes 128.*teacher-en takes 128 tokens; set it to 128"):
        prepare(of_length(130), tmp_path)
    assert not (tmp_path / "store").exists()
    prepare(of_length(128), tmp_path)


def test_every_phase_before_the_first_step_is_reported_in_order(
    world: Path, toy_yaml: Path, ranks, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
):
    """The test removes the initial delay of progress bars."""
    for module in (inputs, run, engine, signals, checks):
        monkeypatch.setattr(module, "PATIENCE", 0)
    folder = classifier(world, tmp_path / "teacher")
    overrides = ["distill.languages=[en]", f"teachers.en={{model: {folder}, fine_tuned: true}}", "train.epochs=0.2"]
    run.run(configuration.read(toy_yaml, overrides), tmp_path / "runs", ranks, Schedule())
    reported = capsys.readouterr().err.splitlines()
    started = [line for line in reported if line.endswith("  started")]
    phases = (
        "token stores",
        "loading the student",
        "loading a teacher",
        "checking the teacher of en",
        "starting DeepSpeed",
    )
    assert len(started) == len(phases) + 3
    assert all(map(str.startswith, started, (*phases, "MonoKD + MBLM", "measuring dev", "measuring test")))


def test_a_teacher_that_reads_padding_as_text_disagrees_with_itself(world: Path, folder: Path, ranks, tmp_path: Path):
    teacher = Teacher(str(folder), LABELS, ranks)
    engine = teacher.engine
    teacher.engine = lambda attention_mask=None, **batch: engine(**batch)
    found = checks.parity(teacher, tokens(world, folder, tmp_path))
    assert found["padding"]["difference"] > 0.05 > found["engine"]["difference"]


def test_the_bound_of_a_teachers_accuracy_is_two_standard_errors_above_a_guess(
    world: Path, folder: Path, ranks, tmp_path: Path
):
    teacher, dev = Teacher(str(folder), LABELS[::-1], ranks), tokens(world, folder, tmp_path, "dev")
    found = checks.dev_accuracy(teacher, dev)
    rate = found["chance"]
    assert found["bound"] == pytest.approx(rate + 2 * (rate * (1 - rate) / found["dev"]) ** 0.5)
    dev.labels = teacher.signal(dev, np.arange(len(dev))).logits.argmax(dim=1).numpy()  # in the student's order
    assert checks.dev_accuracy(teacher, dev)["accuracy"] == 1


@pytest.mark.parametrize("name", ["engine", "padding"])
def test_one_row_in_a_thousand_may_disagree(name: str):
    same = {"agreement": 1.0, "difference": 0.0, "rows": 2000}
    found = {"precision": "fp32", "teacher": "t", "accuracy": None, "engine": same, "padding": same}
    checks.refuse("en", found | {name: same | {"agreement": 0.999}}, allow_chance=False)
    with pytest.raises(UserError, match=r"agree on 99\.85%"):
        checks.refuse("en", found | {name: same | {"agreement": 0.9985}}, allow_chance=False)
