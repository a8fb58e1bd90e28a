"""Claims about the ONNX graph of a trained model: its outputs, its shapes, and its report."""

import json
import resource
import shutil
from itertools import islice

import numpy as np
import pytest
import torch
from transformers import (
    AutoModel,
    BertConfig,
    DebertaV2Config,
    ElectraConfig,
    EuroBertConfig,
    ModernBertConfig,
    MPNetConfig,
    RemBertConfig,
    XLMRobertaConfig,
    XLMRobertaXLConfig,
)

from mbkd.config import Task
from mbkd.data import tasks
from mbkd.data.tokens import load_tokenizer
from mbkd.demo import toy, toy_models
from mbkd.errors import UserError
from mbkd.model import saved
from mbkd.model.mblm import MBLMForSequenceClassification
from mbkd.predict import export
from mbkd.predict.classifier import Classifier, GraphClassifier
from mbkd.terminal.results import print_export

pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

CLASSES, LONGEST = 5, 48
SIZES = {
    "hidden_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": 140,
    "initializer_range": 0.3,
}
SPECIAL = {"cls_token_id": 0, "bos_token_id": 0, "eos_token_id": 0, "sep_token_id": 0}


def tokenizer(kind):
    texts = {x: [part for pair in toy.unlabelled(x, 60) for part in pair] for x in toy.LANGUAGES}
    if kind == "bert":
        return toy_models.word_piece(texts["zh"] + texts["en"], 400)
    if kind == "modernbert":
        return toy_models.byte_level_bpe(texts["en"], 400)
    return toy_models.unigram(texts, 300)


def student(kind, folder, **fields):
    """A saved student with different branches and non-uniform mixers, and its tokenizer."""
    words = tokenizer(kind)
    sizes = {**SIZES, "vocab_size": len(words), "pad_token_id": words.pad_token_id}
    config = {
        "bert": lambda: BertConfig(**sizes),
        "xlm-roberta": lambda: XLMRobertaConfig(**sizes, type_vocab_size=1),
        "modernbert": lambda: ModernBertConfig(**sizes, **SPECIAL, local_attention=8, global_attn_every_n_layers=2),
        "deberta-v2": lambda: DebertaV2Config(
            **sizes,
            relative_attention=True,
            position_buckets=8,
            pos_att_type=["c2p", "p2c"],
            share_att_key=True,
            norm_rel_ebd="layer_norm",
            position_biased_input=False,
            conv_kernel_size=3,
        ),
        "electra": lambda: ElectraConfig(**sizes, embedding_size=8),
        "eurobert": lambda: EuroBertConfig(**sizes, head_dim=8, num_key_value_heads=1),
        "mpnet": lambda: MPNetConfig(**sizes),
        "rembert": lambda: RemBertConfig(**sizes, input_embedding_size=8),
        "xlm-roberta-xl": lambda: XLMRobertaXLConfig(**sizes, type_vocab_size=1),
    }[kind]()
    torch.manual_seed(0)
    AutoModel.from_config(config).save_pretrained(folder / "backbone")
    fields = {"branch_depth": 2, "mixer_length": LONGEST, "branch_languages": ("en", "fr", "zh"), **fields}
    model = MBLMForSequenceClassification.from_pretrained(folder / "backbone", num_labels=CLASSES, **fields)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            vector = name == "outer" or name.startswith("inner.")
            parameter.copy_(torch.randn_like(parameter) if vector else parameter + 0.2 * torch.randn_like(parameter))
    model.save_pretrained(folder / "model")
    words.save_pretrained(folder / "model")
    return folder / "model"


FURTHER = ("deberta-v2", "electra", "eurobert", "mpnet", "rembert", "xlm-roberta-xl")


@pytest.fixture(
    scope="module",
    params=["bert", "xlm-roberta", "modernbert", *(pytest.param(kind, marks=pytest.mark.slow) for kind in FURTHER)],
)
def exported(request, tmp_path_factory):
    """Return the student's folder, the report of its export, and the folder with the graph."""
    folder = student(request.param, tmp_path_factory.mktemp(request.param))
    return folder, *export.export(folder, ["fp32"], None, reviews(1000))


def reviews(count, seed=0):
    """Return pairs of the toy's reviews in six languages."""
    each = -(-count // len(toy.LANGUAGES))
    return [pair for x in toy.LANGUAGES for pair in islice(toy.unlabelled(x, each, seed=seed), each)][:count]


def session(file):
    import onnxruntime

    return onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])


def test_the_checked_rows_of_sorted_files_have_all_labels(tmp_path):
    lines = [f"row {i},{i // 20},en\n" for i in range(100)]
    (tmp_path / "dev.csv").write_text("text,label,language\n" + "".join(lines))
    values = {
        "kind": "own",
        "files": dict.fromkeys(("train", "dev"), str(tmp_path / "dev.csv")),
        "labels": list("01234"),
        "supervised": ["en"],
    }
    rows = export._task_rows(Task.model_validate(values), 10, "the")
    assert sorted(rows.label) == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]


def test_the_graph_agrees_with_torch_on_a_thousand_reviews(exported):
    """The oracle calls the tokenizer and the model directly, in batches of other shapes."""
    folder, report, out = exported
    graph, model, words = session(out / "model.onnx"), saved.load(folder), load_tokenizer(folder)
    pairs = reviews(1000, seed=5)
    worst, largest, same = 0.0, 1.0, 0
    for start in range(0, len(pairs), 40):
        texts = [list(x) for x in zip(*pairs[start : start + 40], strict=True)]
        batch = words(*texts, truncation="longest_first", max_length=LONGEST, padding=True, return_tensors="pt")
        with torch.no_grad():
            expected = model(**batch).logits.numpy()
        found = graph.run(None, {x.name: batch[x.name].numpy() for x in graph.get_inputs()})[0]
        worst, largest = max(worst, float(np.abs(found - expected).max())), max(largest, float(np.abs(expected).max()))
        same += int((found.argmax(1) == expected.argmax(1)).sum())
    assert worst <= 1e-4 * largest
    assert same >= 999
    assert report["rows"] == 1000
    assert report["engines"]["onnx fp32"]["agreement"] >= 0.999
    assert report["engines"]["onnx fp32"]["largest_difference"] <= 1e-4 * largest


def test_the_graph_accepts_any_number_of_rows_and_tokens_and_respects_the_mask(exported):
    folder, _, out = exported
    graph, model, words = session(out / "model.onnx"), saved.load(folder), load_tokenizer(folder)
    inputs = [x.name for x in graph.get_inputs()]
    assert inputs == [x for x in ("input_ids", "attention_mask", "token_type_ids") if x in words.model_input_names]
    assert [x.name for x in graph.get_outputs()] == ["logits"]
    for rows, width in ((1, 2), (1, LONGEST), (7, 3), (2, 31)):
        torch.manual_seed(rows * width)
        lengths = torch.randint(1, width + 1, (rows,)).index_fill(0, torch.tensor([0]), width)
        batch = {
            "input_ids": torch.randint(5, len(words), (rows, width)),
            "attention_mask": (torch.arange(width) < lengths[:, None]).long(),
            "token_type_ids": torch.zeros(rows, width, dtype=torch.long),
        }
        found = graph.run(None, {name: batch[name].numpy() for name in inputs})[0]
        with torch.no_grad():
            expected = model(**batch).logits.numpy()
            blind = model(**batch | {"attention_mask": torch.ones_like(batch["attention_mask"])}).logits.numpy()
        assert np.abs(found - expected).max() <= 1e-4 * max(1, np.abs(expected).max()), (rows, width)
        assert rows == 1 or np.abs(found - blind).max() > 1e-3


def test_a_graph_classifier_returns_torchs_probabilities(exported):
    folder, _, _ = exported
    texts = reviews(20, seed=3)
    by_torch, by_graph = Classifier(folder), GraphClassifier(folder, "fp32")
    assert (by_graph.labels, by_graph.branches) == (by_torch.labels, [])
    rows = by_torch.encode(texts)
    assert np.abs(by_graph.probabilities(rows) - by_torch.probabilities(rows)).max() < 1e-4
    with pytest.raises(UserError, match="the graph is missing"):
        GraphClassifier(folder, "int8")


def test_a_graph_states_and_uses_the_overall_temperature_for_every_language(exported, tmp_path):
    shutil.copytree(exported[0], tmp_path / "model")
    config = tmp_path / "model" / "config.json"
    temperatures = {"calibration_temperature": 2.0, "calibration_temperatures": {"en": 3.0}}
    config.write_text(json.dumps(json.loads(config.read_text()) | temperatures))
    graph = GraphClassifier(tmp_path / "model", "fp32")
    assert "overall temperature 2" in graph.calibration("en")
    assert np.array_equal(graph.classify(["good"], languages="en")[1], graph.classify(["good"])[1])


def test_agreement_and_accuracy_are_measured_in_each_language_of_a_task(world, tmp_path):
    task = Task(kind="marc", path=str(world / "data"), zero_shot=("de", "es", "ja"))
    folder = student("xlm-roberta", tmp_path, branch_depth=1)
    model = saved.load(folder)
    model.config.id2label = dict(enumerate("54321"))  # not the order of the task
    model.save_pretrained(folder)
    report, _ = export.export(folder, ["fp32"], None, task=task)
    assert (report["rows"], report["rows_from"]) == (120, "the task's dev rows in 6 languages")
    words = load_tokenizer(folder)
    for language in task.languages:
        right = 0
        for row in tasks.load(task, "dev", language):
            inputs = words(row["text_a"], row["text_b"], truncation="longest_first", max_length=LONGEST)
            with torch.no_grad():
                logits = model(**{x: torch.tensor([y]) for x, y in inputs.items()}).logits
            right += model.config.id2label[int(logits.argmax())] == str(row["label"] + 1)
        for engine in ("torch fp32", "onnx fp32"):
            assert report["engines"][engine]["accuracy"][language] == pytest.approx(right / 20)
    assert report["engines"]["onnx fp32"]["good"] is True
    assert set(report["engines"]["onnx fp32"]["agreement_by_language"].values()) == {1.0}


def test_a_graph_that_loses_over_a_point_in_a_language_is_not_good():
    """The graph has 98 of 100 correct rows in one language, torch has 100. The other language loses nothing."""
    rows = export.Rows([("", None)] * 200, "", ("en",) * 100 + ("fr",) * 100, (1,) * 200, ("a", "b"))
    logits = np.tile([0.0, 1.0], (200, 1))
    before = export.accuracies(logits, rows, [0, 1])
    logits[:2] = [1.0, 0.0]
    after = export.accuracies(logits, rows, [0, 1])
    assert (before["en"], after) == (1.0, {"en": 0.98, "fr": 1.0})
    assert export.lost(before, after) == {"en": pytest.approx(0.02)}
    logits[0] = [0.0, 1.0]
    assert export.lost(before, export.accuracies(logits, rows, [0, 1])) == {}


STRUCTURES = {
    "plain": {"branch_depth": 0, "branch_languages": ()},
    "no-inner-mixers": {"mixers": "outer"},
    "no-mixers": {"mixers": "none"},
    "top": {"branch_position": "top"},
    "multi-classifier-no-mixers": {"branch_position": "top", "mixers": "none", "heads": "per_language"},
    "multi-classifier": {"branch_position": "top", "heads": "per_language"},
}
QUICK = (("xlm-roberta", "no-mixers"), ("bert", "multi-classifier"))  # all eighteen together are slow


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        pytest.param(kind, name, marks=() if (kind, name) in QUICK else pytest.mark.slow)
        for kind in ("bert", "xlm-roberta", "modernbert")
        for name in STRUCTURES
    ],
)
def test_every_structure_of_table_5_exports(kind: str, name: str, tmp_path):
    folder = student(kind, tmp_path, **STRUCTURES[name])
    _, out = export.export(folder, ["fp32"], None)  # refuses a graph with other logits than the model
    graph, model = session(out / "model.onnx"), saved.load(folder)
    ids = torch.randint(5, 300, (3, 17))
    mask = (torch.arange(17) < torch.tensor([[17], [9], [1]])).long()
    batch = {"input_ids": ids, "attention_mask": mask, "token_type_ids": torch.zeros_like(ids)}
    found = graph.run(None, {x.name: batch[x.name].numpy() for x in graph.get_inputs()})[0]
    with torch.no_grad():
        expected = model(**batch).logits.numpy()
    assert np.abs(found - expected).max() <= 1e-4
    assert np.ptp(expected, axis=0).max() > 1e-2  # the rows differ, so the graph depends on them


def trained(folder):
    """Train a saved student on the length of texts until its logits are far apart; return its folder."""
    model, words = saved.load(folder).train(), load_tokenizer(folder)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for step in range(60):
        pairs = reviews(32, seed=100 + step)
        batch = words([x[0] for x in pairs], truncation=True, max_length=LONGEST, padding=True, return_tensors="pt")
        labels = (batch["attention_mask"].sum(1) // 12).clamp(max=CLASSES - 1)
        torch.nn.functional.cross_entropy(model(**batch).logits, labels).backward()
        optimizer.step()
        optimizer.zero_grad()
    model.eval().save_pretrained(folder)
    return folder


def test_fp16_and_int8_graphs_are_smaller_and_measured(tmp_path):
    folder = trained(student("xlm-roberta", tmp_path, branch_depth=1))
    report, out = export.export(folder, ["fp16", "int8"], tmp_path / "graphs", [(x, None) for x, _ in reviews(1000)])
    assert json.loads((out / "export.json").read_text()) == report
    assert sorted(x.name for x in out.iterdir()) == ["export.json", "model_fp16.onnx", "model_int8.onnx"]
    assert report["rows_from"] == "the given rows"
    assert "VNNI" in report["processor"]
    engines = report["engines"]
    assert list(engines) == ["torch fp32", "onnx fp16", "onnx int8"]
    for name, least in (("onnx fp16", 0.99), ("onnx int8", 0.9)):
        assert engines[name]["largest_difference"] > 0
        assert least < engines[name]["agreement"] <= 1
        assert engines[name]["bytes"] == (out / engines[name]["file"]).stat().st_size
        assert engines[name]["rows_per_second"] > 0
    graph = session(out / "model_fp16.onnx")
    assert {str(x.type) for x in graph.get_inputs()} == {"tensor(int64)"}
    assert graph.get_outputs()[0].type == "tensor(float)"


def test_no_quantised_weight_is_signed(tmp_path):
    """Signed weights saturate on processors without VNNI, so a test of agreement would depend on the processor."""
    import onnx

    _, out = export.export(student("xlm-roberta", tmp_path, branch_depth=1), ["int8"], None)
    kinds = {x.data_type for x in onnx.load(out / "model_int8.onnx").graph.initializer}
    assert onnx.TensorProto.UINT8 in kinds
    assert onnx.TensorProto.INT8 not in kinds


def test_a_graph_states_no_shape_of_a_tensor_inside(exported):
    """Some versions of onnxruntime refuse the exporter's shapes when they quantize a graph."""
    import onnx

    assert not onnx.load(exported[2] / "model.onnx").graph.value_info


def test_rows_of_any_other_folder_are_random_tokens_of_its_own_tokenizer(tmp_path):
    report, _ = export.export(student("bert", tmp_path, branch_depth=1), ["fp32"], None)
    assert (report["rows"], report["rows_from"]) == (1000, "random tokens")


@pytest.mark.parametrize("texts", [["good"], ["a good thing " * 50] * 3], ids=["one", "equally long"])
def test_a_graph_traced_on_rows_without_padding_respects_the_mask(texts, tmp_path):
    folder = student("bert", tmp_path, branch_depth=1)
    export.export(folder, ["fp32"], None, [(text, None) for text in texts])
    torch_classifier, graph = Classifier(folder), GraphClassifier(folder, "fp32")
    rows = graph.encode([("bad", None), ("a good thing", None), ("good", "bad")])
    assert np.abs(graph.probabilities(rows) - torch_classifier.probabilities(rows)).max() < 1e-4


def test_an_unknown_precision_is_refused_with_the_valid_ones(tmp_path):
    with pytest.raises(UserError, match="fp32, fp16, int8"):
        export.export(tmp_path, ["fp8"], None)


def test_a_failed_export_leaves_the_folder_unchanged(tmp_path):
    """The failures are a full disk, and a graph with other logits than the model."""
    folder = student("bert", tmp_path, branch_depth=1)
    model = saved.load(folder)
    with torch.no_grad():
        model.head.bias.fill_(torch.nan)  # no graph agrees with NaN
    model.save_pretrained(folder)
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limit[1]))  # no file may be larger, as on a full disk
    try:
        with pytest.raises(UserError, match=r"cannot be written \(.*too large\); make room"):
            export.export(folder, ["fp32"], None)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert not (folder / "onnx").exists()

    (folder / "onnx").mkdir()
    before = {"model.onnx": b"a graph", "model.onnx.data": b"its weights", "export.json": b"{}"}
    for name, content in before.items():
        (folder / "onnx" / name).write_bytes(content)
    with pytest.raises(UserError, match="logits differ"):
        export.export(folder, ["int8", "fp32"], None)
    assert {x.name: x.read_bytes() for x in (folder / "onnx").iterdir()} == before


def test_an_export_replaces_an_older_export_and_partial_files_of_a_killed_one(tmp_path):
    folder, out = student("bert", tmp_path, branch_depth=1), tmp_path / "graphs"
    (out / ".part").mkdir(parents=True)
    for name in (".part/model.onnx", "model.onnx", "model.onnx.data", "model_int8.onnx"):
        (out / name).write_bytes(b"old")
    report, _ = export.export(folder, ["fp32", "fp32"], out)
    assert sorted(x.name for x in out.iterdir()) == ["export.json", "model.onnx", "model_int8.onnx"]
    assert report["engines"]["onnx fp32"]["bytes"] == (out / "model.onnx").stat().st_size
    assert (out / "model_int8.onnx").read_bytes() == b"old"
    assert session(out / "model.onnx").get_outputs()[0].name == "logits"


def test_a_warning_names_a_bad_graph_and_the_language_with_the_largest_loss(capsys):
    torch_found = {"bytes": 1, "rows_per_second": 1.0, "accuracy": {"en": 0.9, "fr": 0.8}}
    graph = torch_found | {"file": "model_int8.onnx", "accuracy": {"en": 0.895, "fr": 0.75}, "good": False}
    graph |= {"agreement": 0.9, "agreement_by_language": {"en": 1.0, "fr": 0.8}, "largest_difference": 0.5}
    report = {
        "rows": 240,
        "rows_by_language": {"en": 200, "fr": 40},
        "rows_from": "x",
        "threads": 1,
        "engines": {"torch fp32": torch_found, "onnx int8": graph},
    }
    print_export(report)
    output = capsys.readouterr().out
    assert "model_int8.onnx is kept but loses accuracy: in fr, accuracy fell from 80.00 to 75.00 on 40 rows" in output
    assert "89.50" in output and "same label as torch" in output
