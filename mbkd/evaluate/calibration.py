"""Calibration: a temperature fitted on dev rows, and the calibration error before and after; no torch.

Source: Guo et al., "On Calibration of Modern Neural Networks" (2017). Letters: B rows, C classes.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

BINS = 15  # equal-width bins, as in the paper
COVERAGES = (0.9, 0.75, 0.5)  # shares of the rows, in order of confidence, that receive a label
RANGE = (0.02, 50.0)  # bounds of the temperature; if every dev row is correct, the optimum is 0

Logits = Mapping[str, np.ndarray]  # language -> (B, C), raw
Labels = Mapping[str, np.ndarray]  # language -> (B,)


def fit(logits: Logits, labels: Labels) -> float:
    """Temperature T that minimizes the negative log-likelihood of softmax(logits / T), averaged over rows."""
    from scipy.optimize import minimize_scalar

    rows = np.concatenate([logits[x] for x in labels]).astype(np.float64)
    classes = np.concatenate(list(labels.values()))
    here = np.arange(len(rows))

    def loss(log_temperature: float) -> float:
        return float(-_log_softmax(rows / np.exp(log_temperature))[here, classes].mean())

    found = minimize_scalar(loss, bounds=np.log(RANGE), method="bounded", options={"xatol": 1e-6})
    return float(np.exp(found.x))


def probabilities(logits: np.ndarray, temperature: float | None) -> np.ndarray:
    """softmax(logits / T): (B, C). None means T = 1."""
    return np.exp(_log_softmax(logits.astype(np.float64) / (temperature or 1.0)))


def reliability(found: np.ndarray, labels: np.ndarray) -> list[tuple[int, float, float]]:
    """Rows, mean confidence and accuracy of every non-empty confidence bin, from probabilities (B, C)."""
    return in_bins(found.max(axis=1), found.argmax(axis=1) == labels)


def in_bins(confidence: np.ndarray, right: np.ndarray) -> list[tuple[int, float, float]]:
    """Rows, mean confidence and accuracy of every non-empty bin, from confidence (B,) and correctness (B,)."""
    place = np.minimum((confidence * BINS).astype(int), BINS - 1)
    inside = [place == i for i in range(BINS)]
    return [(int(x.sum()), float(confidence[x].mean()), float(right[x].mean())) for x in inside if x.any()]


def error(found: np.ndarray, labels: np.ndarray) -> float:
    """Expected calibration error, 0 to 1: mean gap between confidence and accuracy, weighted by rows per bin."""
    bins = reliability(found, labels)
    return sum(rows * abs(confidence - right) for rows, confidence, right in bins) / len(labels)


def accuracy_at(found: np.ndarray, labels: np.ndarray, coverage: float) -> float:
    """Accuracy, 0 to 1, on the `coverage` share of rows with the highest confidence."""
    answered = np.argsort(-found.max(axis=1), kind="stable")[: max(1, round(coverage * len(found)))]
    return float((found[answered].argmax(axis=1) == labels[answered]).mean())


def summary(logits: Mapping[str, Logits], labels: Mapping[str, Labels], fitted: bool) -> dict[str, Any]:
    """The `calibration` entry of result.json, from raw logits and labels by split.

    fitted: fit a temperature on dev. `temperature` is None (not calibrated) otherwise, or without dev rows.
    """
    temperature = fit(logits["dev"], labels["dev"]) if fitted and labels.get("dev") else None

    def each(score: Any) -> dict[str, dict[str, Any]]:
        return {
            split: {x: score(values[x], labels[split][x]) for x in values} for split, values in logits.items() if values
        }

    def covered(values: np.ndarray, classes: np.ndarray) -> dict[str, float]:
        found = probabilities(values, temperature)
        return {f"{coverage:g}": accuracy_at(found, classes, coverage) for coverage in COVERAGES}

    return {
        "temperature": temperature,
        "fitted_on": list(labels["dev"]) if temperature is not None else [],
        "error": each(lambda values, classes: error(probabilities(values, temperature), classes)),
        "error_before": each(lambda values, classes: error(probabilities(values, None), classes)),
        "accuracy_at_coverage": each(covered),
    }


def of_run(run: Path, accuracy: Mapping[str, Mapping[str, float]], fitted: bool) -> dict[str, Any]:
    """`summary` of a run's saved arrays. accuracy: of result.json; its splits and languages are read."""

    def arrays(kind: str) -> dict[str, dict[str, np.ndarray]]:
        return {split: {x: np.load(run / kind / f"{split}.{x}.npy") for x in each} for split, each in accuracy.items()}

    return summary(arrays("logits"), arrays("labels"), fitted)


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted: np.ndarray = logits - logits.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
