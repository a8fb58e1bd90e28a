"""Claims about calibrated probabilities: the fitted temperature, its metrics, and the unchanged raw logits."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.optimize import minimize_scalar
from transformers import pipeline
from typer.testing import CliRunner

from mbkd import config as configuration
from mbkd import distributed
from mbkd.cli import app
from mbkd.data.tokens import load_tokenizer
from mbkd.ensemble import runs as ensembles
from mbkd.evaluate import calibration
from mbkd.model import saved
from mbkd.predict.classifier import Classifier
from mbkd.predict.stream import predict
from mbkd.result import Result
from mbkd.terminal.results import print_calibration
from mbkd.train.checkpoint import Schedule
from mbkd.train.run import run


def world(temperature: float, rows: int = 20_000) -> tuple[np.ndarray, np.ndarray]:
    """Logits of an overconfident model (by the factor `temperature`), and labels from the true probabilities."""
    draw = np.random.default_rng(0)
    logits = 2 * draw.standard_normal((rows, 4))
    labels = (calibration.probabilities(logits, None).cumsum(axis=1) > draw.random((rows, 1))).argmax(axis=1)
    return temperature * logits, labels


@pytest.mark.parametrize("temperature", [0.2, 1.0, 6.0])
def test_the_fit_recovers_the_true_temperature(temperature):
    logits, labels = world(temperature)
    found = calibration.fit({"en": logits[:5000], "de": logits[5000:]}, {"en": labels[:5000], "de": labels[5000:]})
    assert found == pytest.approx(temperature, rel=0.03)
    assert calibration.error(calibration.probabilities(logits, found), labels) < 0.01
    if temperature != 1:
        assert calibration.error(calibration.probabilities(logits, None), labels) > 0.1


def test_two_languages_with_opposite_miscalibration_are_both_calibrated():
    raw, labels = world(1.0)
    dev, test, factors = slice(0, 2000), slice(2000, None), {"sure": 3.0, "shy": 0.4}
    logits = {
        name: {x: factor * raw[part] for x, factor in factors.items()} for name, part in (("dev", dev), ("test", test))
    }
    classes = {name: dict.fromkeys(factors, labels[part]) for name, part in (("dev", dev), ("test", test))}
    found = calibration.summary(logits, classes, fitted=True)
    assert found["fitted_on"] == list(factors)
    for language, factor in factors.items():
        assert found["temperatures"][language] == pytest.approx(factor, rel=0.1)
        assert found["error"]["test"][language] < 0.025
        assert found["error_overall"]["test"][language] > 0.05
        assert found["error_before"]["test"][language] > 0.05
        calibrated = calibration.probabilities(logits["test"][language], found["temperatures"][language])
        assert (calibrated.argmax(axis=1) == raw[test].argmax(axis=1)).all()
        naive = calibration.accuracy_at(calibrated, labels[test], 0.5)
        assert found["accuracy_at_coverage"]["test"][language]["0.5"] == naive


@pytest.mark.parametrize("rows", [4, 100])
def test_in_a_languages_temperature_all_rows_together_weigh_as_much_as_ten_of_its_rows(rows):
    raw, labels = world(2.0, rows=300)
    raw[:rows] *= 3
    labels[:4] = raw[:4].argmax(axis=1)  # alone, four correct rows have no optimum
    logits, classes = {"few": raw[:rows], "many": raw[rows:]}, {"few": labels[:rows], "many": labels[rows:]}

    def losses(language: str, temperature: float) -> list[float]:
        found = calibration.probabilities(logits[language], temperature)
        return [-np.log(row[label]) for row, label in zip(found, classes[language], strict=True)]

    def naive(temperature: float) -> float:
        own = losses("few", temperature)
        return sum(own) + 10 * np.mean(own + losses("many", temperature))

    best = minimize_scalar(naive, bounds=(0.3, 20), method="bounded", options={"xatol": 1e-6}).x
    assert calibration.fit_languages(logits, classes)["few"] == pytest.approx(best, rel=1e-4)


def test_the_time_of_the_fit_does_not_grow_with_rows_times_languages(monkeypatch: pytest.MonkeyPatch):
    raw, labels = world(2.0, rows=600)
    calls: list[int] = []
    real = calibration._log_softmax
    monkeypatch.setattr(calibration, "_log_softmax", lambda x: calls.append(len(x)) or real(x))
    work = []
    for count in (3, 100):
        calls.clear()
        calibration.fit_languages(dict(enumerate(np.split(raw, count))), dict(enumerate(np.split(labels, count))))
        work.append(sum(calls))
    assert work[1] < 1.2 * work[0]


def test_the_calibration_error_is_the_mean_distance_of_the_bins():
    found = np.array([[0.99, 0.01], [0.98, 0.02], [0.6, 0.4], [0.41, 0.59]])
    labels = np.array([0, 1, 0, 1])
    bins = (abs(0.985 - 0.5) * 2 + abs(0.595 - 1) * 1 + abs(0.605 - 1) * 0) / 4
    apart = abs(0.985 - 0.5) * 2 / 4 + abs(0.6 - 1) / 4 + abs(0.59 - 1) / 4  # 0.59 and 0.6 are in different bins of 15
    assert calibration.error(found, labels) == pytest.approx(apart)
    assert bins != apart


def test_accuracy_at_coverage_is_that_of_the_most_confident_rows():
    found = np.array([[0.9, 0.1], [0.3, 0.7], [0.4, 0.6], [0.5, 0.5]])
    labels = np.array([0, 1, 0, 1])
    assert [calibration.accuracy_at(found, labels, x) for x in (0.5, 0.75, 1)] == pytest.approx([1, 2 / 3, 0.5])


@pytest.fixture(scope="module")
def pair(toy_yaml: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two finished runs that differ in the seed."""
    distributed.quiet()
    ranks, root = distributed.start(), tmp_path_factory.mktemp("runs")
    overrides = ["distill.signal=labels", "train.epochs=1"]
    configs = [configuration.read(toy_yaml, [*overrides, f"seed={seed}"]) for seed in (1, 2)]
    made = [run(config, root, ranks, Schedule()) for config in configs]
    distributed.stop()
    return made


def test_a_run_saves_raw_logits_and_a_model_with_calibrated_logits(pair: list[Path], toy_yaml: Path):
    result = json.loads((pair[0] / "result.json").read_text())
    temperature = result["calibration"]["temperature"]
    model = saved.load(pair[0] / "model")
    assert model.config.calibration_temperature == temperature != 1
    task = configuration.read(toy_yaml).task
    assert result["calibration"]["fitted_on"] == list(task.languages)
    raw = {x: np.load(pair[0] / "logits" / f"dev.{x}.npy") for x in task.languages}
    labels = {x: np.load(pair[0] / "labels" / f"dev.{x}.npy") for x in task.languages}
    assert calibration.fit(raw, labels) == temperature
    temperatures = calibration.fit_languages(raw, labels)
    assert temperatures == result["calibration"]["temperatures"] == model.config.calibration_temperatures
    inputs = load_tokenizer(pair[0] / "model")(["good", "bad"], padding=True, return_tensors="pt")
    with torch.no_grad():
        calibrated = model(**inputs).logits
        with saved.raw_logits(model):
            torch.testing.assert_close(model(**inputs).logits / temperature, calibrated)
            for each in task.languages:
                assert torch.equal(model(**inputs, language=each).logits, model(**inputs).logits)
        for language, own in (("en", 4.0), ("de", 0.5), ("fr", 2.0), (None, 2.0)):
            saved.calibrate(model, 2.0, {"en": 4.0, "de": 0.5})
            torch.testing.assert_close(model(**inputs, language=language).logits, calibrated * temperature / own)
        saved.calibrate(model, temperature, temperatures)
        assert torch.equal(model.train()(**inputs).logits.argmax(1), calibrated.argmax(1))
    assert model.config.calibration_temperature == temperature
    assert model.config.calibration_temperatures == temperatures


def test_every_interface_returns_the_same_calibrated_probabilities(pair: list[Path]):
    model = pair[0] / "model"
    classifier = Classifier(model)
    texts = ["good quality", "bad", "ein gutes Ding"]
    expected = classifier.probabilities(classifier.encode([(x, None) for x in texts]))
    found = pipeline("text-classification", str(model), top_k=None, device="cpu")(texts)
    for row, scores in zip(expected, found, strict=True):
        by_label = {each["label"]: each["score"] for each in scores}
        assert [by_label[x] for x in classifier.labels] == pytest.approx(row.tolist(), abs=1e-5)
    assert classifier.calibration() == f"probabilities: calibrated, overall temperature {classifier.temperature:.3g}"


@pytest.fixture
def told(pair: list[Path], tmp_path: Path) -> Path:
    """A copy of a run whose model has other temperatures, because the tiny model's are all at the upper bound."""
    shutil.copytree(pair[0], tmp_path / "told")
    config = tmp_path / "told" / "model" / "config.json"
    own = {"calibration_temperature": 0.02, "calibration_temperatures": {"en": 0.01, "de": 0.05}}
    config.write_text(json.dumps(json.loads(config.read_text()) | own))
    return tmp_path / "told"


def test_a_given_language_changes_the_probabilities_and_not_the_label(told: Path, tmp_path: Path):
    texts = ["good quality", "bad", "ein gutes Ding", "so so"]
    (tmp_path / "rows.txt").write_text("".join(f"{x}\n" for x in texts))
    classifier = Classifier(told)
    labels, alone = classifier.classify(texts)
    found_labels, found = classifier.classify(texts, languages=["en", "de", None, "sw"])
    powers = alone ** np.array([[2], [0.4], [1], [1]])  # the overall temperature over that of the language
    assert found_labels == labels
    np.testing.assert_allclose(found, powers / powers.sum(axis=1, keepdims=True), atol=1e-4)
    assert np.abs(found - alone).max(axis=1)[:2].min() > 0.01
    for options, line in (
        ([], "overall temperature 0.02"),
        (["--language", "de"], "temperature 0.05 of de"),
        (["--language", "sw"], "overall temperature 0.02 (none for sw)"),
    ):
        arguments = ["predict", told, tmp_path / "rows.txt", "--out", tmp_path / "out.jsonl", *options]
        done = CliRunner().invoke(app, list(map(str, arguments)))
        assert done.exit_code == 0, (done.output, done.exception)
        assert f"probabilities: calibrated, {line}\n" in done.stderr
        rows = [json.loads(row) for row in (tmp_path / "out.jsonl").read_text().splitlines()]
        _, expected = classifier.classify(texts, languages=options[1] if options else None)
        np.testing.assert_allclose([list(row["probabilities"].values()) for row in rows], expected, atol=2e-6)
        assert [row["label"] for row in rows] == labels


def test_models_and_results_without_temperatures_by_language_are_read_as_before(told: Path, capsys):
    _, alone = Classifier(told).classify(["good", "bad"])
    new = Result.read(told)
    config, file = told / "model" / "config.json", told / "result.json"
    values, found = json.loads(config.read_text()), json.loads(file.read_text())
    del values["calibration_temperatures"]
    found["calibration"]["error"] = found["calibration"].pop("error_overall")
    del found["calibration"]["temperatures"]
    config.write_text(json.dumps(values))
    file.write_text(json.dumps(found))
    assert np.array_equal(Classifier(told).classify(["good", "bad"], languages="de")[1], alone)
    old = Result.read(told)
    assert calibration.of(old.calibration, "de") == old.calibration["temperature"]
    for result, numbers in ((old, 2), (new, 3)):
        print_calibration(result)
        shown = capsys.readouterr().out
        assert len(re.findall(r"on test ([^%]+) %", shown)[0].split(" -> ")) == numbers
        assert ("by language" in shown) == (result is new)


def test_an_ensemble_averages_raw_logits_and_has_its_own_temperature(pair: list[Path], tmp_path: Path):
    result = ensembles.write_model(pair, tmp_path / "ens2")
    model, members = saved.load(tmp_path / "ens2"), [saved.load(each / "model") for each in pair]
    inputs = load_tokenizer(tmp_path / "ens2")(["good", "bad"], padding=True, return_tensors="pt")
    for member in members:
        saved.calibrate(member, None)
    with torch.no_grad():
        raw = sum(member(**inputs).logits for member in members) / 2
        torch.testing.assert_close(model(**inputs).logits, raw / result.calibration["temperature"])
        assert model.config.calibration_temperatures == result.calibration["temperatures"]
        assert [each["calibration_temperatures"] for each in model.config.members] == [{}, {}]
        saved.calibrate(model, 2.0, {"de": 0.5})
        torch.testing.assert_close(model(**inputs, language="de").logits, raw / 0.5)
    trained = []
    for temperature in (result.calibration["temperature"], None):
        saved.calibrate(model.train(), temperature)
        torch.manual_seed(0)
        trained.append(model(**inputs).logits)
    assert torch.equal(*trained)


def test_without_dev_rows_a_model_is_not_calibrated_and_the_output_reports_this(student: Path, tmp_path: Path, capsys):
    logits = {"test": {"en": np.array([[2.0, 1.0], [0.0, 1.0]])}}
    found = calibration.summary(logits, {"test": {"en": np.array([0, 1])}}, fitted=True)
    assert (found["temperature"], found["temperatures"], found["fitted_on"]) == (None, {}, [])
    assert found["error"] == found["error_before"]
    (tmp_path / "rows.txt").write_text("good\n")
    predict(student, tmp_path / "rows.txt", tmp_path / "out.jsonl", "text", None, 256)
    assert "not calibrated" in capsys.readouterr().err


def test_rows_below_the_minimum_confidence_get_no_label(student: Path, tmp_path: Path, capsys):
    (tmp_path / "rows.txt").write_text("good\nbad\nso so\nein gutes Ding\n")
    answers = []
    for name in ("out.jsonl", "sure.jsonl"):
        threshold = np.median([max(x["probabilities"].values()) for x in answers]) if answers else 0.0
        predict(student, tmp_path / "rows.txt", tmp_path / name, "text", None, 256, min_confidence=threshold)
        rows = [json.loads(line) for line in (tmp_path / name).read_text().splitlines()]
        if answers:
            for before, row in zip(answers, rows, strict=True):
                sure = max(row["probabilities"].values()) >= threshold
                assert row == before | {"label": before["label"] if sure else None}
            assert {row["label"] is None for row in rows} == {True, False}
            left = sum(row["label"] is None for row in rows)
            assert f"{left} without a label, below" in capsys.readouterr().err
        answers = rows
