"""Probabilities that mean what they say: a temperature fitted on dev rows, and what it is worth; no torch.

Source: Guo et al., "On Calibration of Modern Neural Networks" (2017). Letters: B rows, C classes.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

BINS = 15  # of equal width, as in the paper
COVERAGES = (0.9, 0.75, 0.5)  # shares of the rows that are answered, the most confident ones
RANGE = (0.02, 50.0)  # of a temperature: where every dev row is right, the best one would be 0

Logits = Mapping[str, np.ndarray]  # language -> (B, C), raw
Labels = Mapping[str, np.ndarray]  # language -> (B,)


def fit(logits: Logits, labels: Labels) -> float:
    """The temperature T for which softmax(logits / T) has the least negative log-likelihood, each row counting once."""
    from scipy.optimize import minimize_scalar

    rows = np.concatenate([logits[x] for x in labels]).astype(np.float64)
    classes = np.concatenate(list(labels.values()))
    here = np.arange(len(rows))

    def loss(log_temperature: float) -> float:
        return float(-_log_softmax(rows / np.exp(log_temperature))[here, classes].mean())

    found = minimize_scalar(loss, bounds=np.log(RANGE), method="bounded", options={"xatol": 1e-6})
    return float(np.exp(found.x))


def probabilities(logits: np.ndarray, temperature: float | None) -> np.ndarray:
    """softmax(logits / T), (B, C); None: T = 1."""
    return np.exp(_log_softmax(logits.astype(np.float64) / (temperature or 1.0)))


def reliability(found: np.ndarray, labels: np.ndarray) -> list[tuple[int, float, float]]:
    """Rows, mean confidence and accuracy of every bin of confidence that has rows, from probabilities (B, C)."""
    return in_bins(found.max(axis=1), found.argmax(axis=1) == labels)


def in_bins(confidence: np.ndarray, right: np.ndarray) -> list[tuple[int, float, float]]:
    """The same from the confidence of each row, and whether it is right, both (B,)."""
    place = np.minimum((confidence * BINS).astype(int), BINS - 1)
    inside = [place == i for i in range(BINS)]
    return [(int(x.sum()), float(confidence[x].mean()), float(right[x].mean())) for x in inside if x.any()]


def error(found: np.ndarray, labels: np.ndarray) -> float:
    """The expected calibration error, 0 to 1: the mean distance of confidence and accuracy over the bins' rows."""
    bins = reliability(found, labels)
    return sum(rows * abs(confidence - right) for rows, confidence, right in bins) / len(labels)


def accuracy_at(found: np.ndarray, labels: np.ndarray, coverage: float) -> float:
    """The accuracy, 0 to 1, over that share of the rows in which the model is most confident."""
    answered = np.argsort(-found.max(axis=1), kind="stable")[: max(1, round(coverage * len(found)))]
    return float((found[answered].argmax(axis=1) == labels[answered]).mean())


def summary(logits: Mapping[str, Logits], labels: Mapping[str, Labels], fitted: bool) -> dict[str, Any]:
    """What result.json holds under `calibration`, from raw logits and labels by split.

    fitted: fit a temperature on dev. `temperature` is None without it, or without dev rows: not calibrated.
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
    """`summary` of the arrays that a run has saved; accuracy: as in its result.json, for its splits and languages."""

    def arrays(kind: str) -> dict[str, dict[str, np.ndarray]]:
        return {split: {x: np.load(run / kind / f"{split}.{x}.npy") for x in each} for split, each in accuracy.items()}

    return summary(arrays("logits"), arrays("labels"), fitted)


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted: np.ndarray = logits - logits.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
