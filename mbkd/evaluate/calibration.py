"""Calibration: temperatures fitted on dev rows, and the calibration error before and after; no torch.

Source: Guo et al., "On Calibration of Modern Neural Networks" (2017). Letters: B rows, C classes.
"""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

BINS = 15  # equal-width bins, as in the paper
COVERAGES = (0.9, 0.75, 0.5)  # shares of the rows, in order of confidence, that receive a label
RANGE = (0.02, 50.0)  # bounds of the temperature; if every dev row is correct, the optimum is 0
GRID = 100  # points of the spline over log T; its error is below 1e-6 of the loss
# Weight of all dev rows together in the temperature of a language, in rows. Chosen on the dev rows of SIB-200, 7 runs
# with 48 languages: for 8 to 88 rows per language, the log-likelihood of the held-out rows is within 0.0002 of the best
# weight. Without a prior, 8 or 15 rows give a lower likelihood than a single temperature.
PRIOR = 10.0

Logits = Mapping[str, np.ndarray]  # language -> (B, C), raw
Labels = Mapping[str, np.ndarray]  # language -> (B,)


def fit(logits: Logits, labels: Labels) -> float:
    """Temperature T that minimizes the negative log-likelihood of softmax(logits / T), averaged over all rows."""
    rows, classes = np.concatenate([logits[x] for x in labels]), np.concatenate(list(labels.values()))
    return _minimum(lambda log_temperature: _loss(rows, classes, log_temperature))


def fit_languages(logits: Logits, labels: Labels) -> dict[str, float]:
    """Temperature of each language: fitted on its rows, and on all rows with a weight of PRIOR rows together.

    The loss of all rows is read from a spline, so that the time grows with the rows and not with rows times languages.
    """
    from scipy.interpolate import CubicSpline

    rows, classes = np.concatenate([logits[x] for x in labels]), np.concatenate(list(labels.values()))
    low, high = np.log(RANGE)
    grid = np.linspace(low, high, GRID)
    overall = CubicSpline(grid, [_loss(rows, classes, x) for x in grid])

    def loss(language: str, log_temperature: float) -> float:
        own = _loss(logits[language], labels[language], log_temperature)
        return len(labels[language]) * own + PRIOR * float(overall(log_temperature))

    return {x: _minimum(partial(loss, x)) for x in labels}


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

    fitted: fit temperatures on dev. `temperature` is None (not calibrated) otherwise, or without dev rows.
    """
    fitted_on = list(labels["dev"]) if fitted and labels.get("dev") else []
    found: dict[str, Any] = {
        "temperature": fit(logits["dev"], labels["dev"]) if fitted_on else None,
        "temperatures": fit_languages(logits["dev"], labels["dev"]) if fitted_on else {},
    }

    def each(
        score: Callable[[np.ndarray, np.ndarray], Any], temperature: Callable[[str], float | None]
    ) -> dict[str, dict[str, Any]]:
        return {
            split: {x: score(probabilities(values[x], temperature(x)), labels[split][x]) for x in values}
            for split, values in logits.items()
            if values
        }

    def covered(values: np.ndarray, classes: np.ndarray) -> dict[str, float]:
        return {f"{coverage:g}": accuracy_at(values, classes, coverage) for coverage in COVERAGES}

    return {
        **found,
        "fitted_on": fitted_on,
        "error": each(error, lambda x: of(found, x)),
        "error_overall": each(error, lambda _: found["temperature"]),
        "error_before": each(error, lambda _: None),
        "accuracy_at_coverage": each(covered, lambda x: of(found, x)),
    }


def of(found: Mapping[str, Any], language: str) -> float | None:
    """Temperature of a language from the `calibration` entry of result.json, also of an earlier version."""
    temperature: float | None = found.get("temperatures", {}).get(language, found.get("temperature"))
    return temperature


def of_run(run: Path, accuracy: Mapping[str, Mapping[str, float]], fitted: bool) -> dict[str, Any]:
    """`summary` of a run's saved arrays. accuracy: of result.json; its splits and languages are read."""

    def arrays(kind: str) -> dict[str, dict[str, np.ndarray]]:
        return {split: {x: np.load(run / kind / f"{split}.{x}.npy") for x in each} for split, each in accuracy.items()}

    return summary(arrays("logits"), arrays("labels"), fitted)


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted: np.ndarray = logits - logits.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


def _loss(logits: np.ndarray, labels: np.ndarray, log_temperature: float) -> float:
    found = _log_softmax(logits.astype(np.float64) / np.exp(log_temperature))
    return float(-found[np.arange(len(labels)), labels].mean())


def _minimum(loss: Callable[[float], float]) -> float:
    """The temperature with the smallest loss; `loss` takes the logarithm of the temperature."""
    from scipy.optimize import minimize_scalar

    found = minimize_scalar(loss, bounds=np.log(RANGE), method="bounded", options={"xatol": 1e-6})
    return float(np.exp(found.x))
