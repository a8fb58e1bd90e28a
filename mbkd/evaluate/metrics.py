"""Accuracy, mean absolute error, and the paper's averages AVG(S), AVG(Z) and AVG(A); no torch."""

import math
from collections.abc import Mapping, Sequence

import numpy as np


def accuracy(logits: np.ndarray, labels: np.ndarray) -> float:
    """Share of rows, 0 to 1, whose largest logit is at the label. logits: (rows, C), labels: (rows,)."""
    from sklearn.metrics import accuracy_score  # imported here, so that training starts without this slow import

    return float(accuracy_score(labels, logits.argmax(axis=1)))


def mae(logits: np.ndarray, labels: np.ndarray) -> float:
    """Mean absolute error of the argmax class, for ordinal labels such as stars (decision 30)."""
    from sklearn.metrics import mean_absolute_error

    return float(mean_absolute_error(labels, logits.argmax(axis=1)))


def chance(labels: np.ndarray) -> tuple[float, float]:
    """Accuracy of the most frequent class, and two standard errors above it. labels: (rows,)."""
    rate = float(np.bincount(labels).max()) / len(labels)
    return rate, rate + 2 * math.sqrt(rate * (1 - rate) / len(labels))


def averages(
    scores: Mapping[str, float], supervised: Sequence[str], zero_shot: Sequence[str]
) -> dict[str, float | None]:
    """Means over the supervised (S), zero-shot (Z) and all (A) languages; None if a score is missing."""

    def mean(languages: Sequence[str]) -> float | None:
        if not languages or any(language not in scores for language in languages):
            return None
        return float(np.mean([scores[language] for language in languages]))

    return {"S": mean(supervised), "Z": mean(zero_shot), "A": mean([*supervised, *zero_shot])}
