"""Claims about the Python API: functions do what the commands do, and results keep the order of the texts."""

import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

import mbkd
from mbkd import config as configuration
from mbkd.data.tokens import load_tokenizer
from mbkd.demo import toy
from mbkd.model import saved

QUICK = {"distill.signal": "labels", "train.epochs": 0.25}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


def test_teach_takes_the_teacher_of_a_zero_shot_language(toy_yaml: Path, tmp_path: Path, monkeypatch):
    asked: list[configuration.Config] = []
    monkeypatch.setattr("mbkd.train.launch.carry_out", lambda wanted, *_: asked.extend(wanted) or {})
    values = yaml.safe_load(toy_yaml.read_text())
    values["teachers"]["de"] = values["teachers"]["en"]
    (tmp_path / "four.yaml").write_text(yaml.safe_dump(values))
    mbkd.teach(tmp_path / "four.yaml", runs=tmp_path)
    assert [x.languages for x in asked] == [("en",), ("fr",), ("zh",), ("de",)]


def test_train_returns_the_result_of_the_configured_run(toy_yaml: Path, root: Path):
    with ThreadPoolExecutor(1) as thread:  # Python sets signal handlers in the main thread only
        result = thread.submit(mbkd.train, toy_yaml, runs=root, ranks=1, seed=2, **QUICK).result()
    config = configuration.read(toy_yaml, ["distill.signal=labels", "train.epochs=0.25", "seed=2"])
    file = root / config.run_name / "result.json"
    assert result == mbkd.Result.read(file.parent)
    assert result.seed == 2
    assert result.step_seconds["gflop_per_second"] > 0
    before = file.stat().st_mtime_ns
    assert mbkd.train(config.model_copy(update={"seed": 1}), runs=root, seed=2) == result  # the finished run is read
    assert file.stat().st_mtime_ns == before

    scores = mbkd.evaluate(file.parent, config, "test", runs=root)
    assert scores.scores("test") == result.scores("test")
    assert mbkd.evaluate(mbkd.load(file.parent), toy_yaml, "test", runs=root, **QUICK) == scores
    assert "RANK" not in os.environ  # otherwise a later trainer in the same notebook would run as a rank


def test_a_failed_process_raises_an_error_and_does_not_exit(
    toy_yaml: Path, root: Path, world: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    shutil.copytree(world / "models" / "student", tmp_path / "encoder")
    (tmp_path / "encoder" / "model.safetensors").write_bytes(b"")
    with pytest.raises(mbkd.UserError, match="exit code 2"):
        mbkd.train(toy_yaml, runs=root, ranks=1, **QUICK, **{"student.backbone": tmp_path / "encoder"})
    assert "no pre-trained encoder could be loaded" in capfd.readouterr().err


def test_the_configuration_on_the_page_is_valid():
    page = (Path(__file__).parents[2] / "docs" / "python.md").read_text()
    code = page.split("```python\n")[1].split("mbkd.teach")[0]
    found: dict[str, Any] = {}
    exec(code, found)
    assert found["config"].languages == ("en", "fr")


def test_invalid_arguments_raise_a_user_error(toy_yaml: Path, root: Path, student: Path):
    with pytest.raises(mbkd.UserError, match=r"train\.lrr"):
        mbkd.train(toy_yaml, runs=root, **{"train.lrr": 1})
    with pytest.raises(mbkd.UserError, match="names no teacher"):
        mbkd.teach(configuration.read(toy_yaml), runs=root, teachers={}, distill={"signal": "labels"})
    for path in (root / "nothing", "no/model-of-this-name"):
        with pytest.raises(mbkd.UserError, match="no"):
            mbkd.load(path)
    model = mbkd.load(student)
    for arguments in (("text",), (["a"], ["b", "c"]), (["a"], None, ["en", "fr"]), ([None],), (["a"], [1])):
        with pytest.raises(mbkd.UserError):
            model.classify(*arguments)
    with pytest.raises(AttributeError):
        mbkd.no_such_name  # noqa: B018


def test_classify_keeps_the_order_and_passes_each_texts_language_to_the_model(student: Path):
    model, words, plain = mbkd.load(student), load_tokenizer(student), saved.load(student)
    model._model.config.inference = plain.config.inference = "single"
    model._model.config.mixers = plain.config.mixers = "none"
    rows = [pair for language in toy.LANGUAGES for pair in toy.unlabelled(language, 3)]
    texts = [text * (1 + i % 3) for i, (text, _) in enumerate(rows)]
    pairs = [second if i % 2 else None for i, (_, second) in enumerate(rows)]
    languages = [("en", "fr", "de", None)[i % 4] for i in range(len(rows))]
    labels, scores = model.classify(texts, pairs, languages, batch_tokens=200)
    for i, (text, second, language) in enumerate(zip(texts, pairs, languages, strict=True)):
        inputs = words(text, second, truncation="longest_first", max_length=128, return_tensors="pt")
        with torch.no_grad():
            expected = plain(**inputs, language=language).logits.softmax(dim=-1)[0].numpy()
        np.testing.assert_allclose(scores[i], expected, atol=2e-6)
        assert labels[i] == model.labels[expected.argmax()]
    assert np.array_equal(
        model.classify(texts, languages="en")[1], model.classify(texts, languages=["en"] * len(rows))[1]
    )
    assert not np.allclose(model.classify(texts, languages="en")[1], model.classify(texts, languages="fr")[1])
    assert np.array_equal(model.classify(texts, languages="EN")[1], model.classify(texts, languages="en")[1])
    assert model.classify([])[1].shape == (0, len(model.labels))


def test_imports_of_modules_with_the_same_name_do_not_replace_public_names():
    from mbkd.evaluate import metrics
    from mbkd.train import launch

    assert (mbkd.train.launch, mbkd.evaluate.metrics) == (launch, metrics)
    assert all(name == "__version__" or callable(getattr(mbkd, name)) for name in mbkd.__all__)
    assert set(mbkd.__all__) <= set(dir(mbkd))
