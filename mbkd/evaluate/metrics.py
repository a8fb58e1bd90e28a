"""Accuracy, mean absolute error and the averages AVG(S), AVG(Z), AVG(A) of the paper's tables; no torch."""

from collections.abc import Mapping, Sequence

import numpy as np


def accuracy(logits: np.ndarray, labels: np.ndarray) -> float:
    """Share of rows whose largest logit (rows, C) is at the label (rows,), 0 to 1."""
    from sklearn.metrics import accuracy_score  # a second, which a run's first step need not wait for

    return float(accuracy_score(labels, logits.argmax(axis=1)))


def mae(logits: np.ndarray, labels: np.ndarray) -> float:
    """Mean absolute error of the arg-max class, for ordinal labels such as stars (decision 30)."""
    from sklearn.metrics import mean_absolute_error

    return float(mean_absolute_error(labels, logits.argmax(axis=1)))


def averages(
    scores: Mapping[str, float], supervised: Sequence[str], zero_shot: Sequence[str]
) -> dict[str, float | None]:
    """Means over the supervised (S), zero-shot (Z) and all (A) languages; None where a score is missing."""

    def mean(languages: Sequence[str]) -> float | None:
        if not languages or any(language not in scores for language in languages):
            return None
        return float(np.mean([scores[language] for language in languages]))

    return {"S": mean(supervised), "Z": mean(zero_shot), "A": mean([*supervised, *zero_shot])}
