"""Bootstrap over rows plus the spread over seeds: intervals, p-values and Holm's correction.

A score x[s, i] (seed s, row i) varies with the seed, with the row, and with both. The bootstrap resamples rows, the
same rows for all systems, on each system's mean over seeds. The remaining variance of seeds is estimated from the
seeds' means. It is drawn from Student's t with R - 1 degrees of freedom: R = 5 values are too few to resample.
Resampling rows and seeds crosswise would count their interaction three times. docs/measurements.md reports the
coverage of both methods.

The interval's tails are too short for Holm's thresholds if seeds are few: the remaining variance is often estimated
as 0. So p-values draw the whole variance of the seeds' means from Student's t, and only the rest from the rows.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

CHUNK = 250  # draws per matrix product


@dataclass(frozen=True)
class Estimate:
    """A mean or a difference, its 95 % interval, and the two-sided p-value for the hypothesis value = margin."""

    value: float
    low: float
    high: float
    p: float
    margin: float = 0.0


def row_draws(blocks: Sequence[np.ndarray], draws: int, rng: np.random.Generator) -> np.ndarray:
    """Deviations (draws, V) of resampled means from the sample's means.

    blocks: (n_b, V) each, for V means; each mean is a sum over blocks of the block's mean. The blocks are resampled
    independently, and the V columns of a block with the same rows.
    """
    total = np.zeros((draws, blocks[0].shape[1]), dtype=np.float32)
    for block in blocks:
        n = len(block)
        centred = (block - block.mean(axis=0, dtype=np.float64)).astype(np.float32)  # (n, V)
        for start in range(0, draws, CHUNK):
            size = min(CHUNK, draws - start)
            rows = rng.integers(0, n, (size, n)) + n * np.arange(size)[:, None]
            counts = np.bincount(rows.ravel(), minlength=size * n).reshape(size, n)
            total[start : start + size] += counts.astype(np.float32) @ centred / n
    return total


def seed_variance(blocks: Sequence[np.ndarray]) -> tuple[float, float]:
    """Variance of the mean over R seeds, and its part from the interaction of rows and seeds; 0 for one seed.

    blocks: (R, n_b) each, as one column of `row_draws`, by seed. `row_draws` contains the interaction, too.
    """
    seeds = len(blocks[0])
    if seeds < 2:
        return 0.0, 0.0
    means = sum(block.mean(axis=1, dtype=np.float64) for block in blocks)  # (R,)
    interaction = 0.0  # variance of a seed's mean from the interaction of rows and seeds
    for block in blocks:
        within = block.var(axis=1, ddof=1, dtype=np.float64).sum()
        shared = block.mean(axis=0, dtype=np.float64).var(ddof=1)
        interaction += (within - seeds * shared) / (seeds - 1) / block.shape[1]
    return float(np.var(means, ddof=1)) / seeds, float(interaction) / seeds


def with_seeds(
    moves: np.ndarray, parts: Sequence[tuple[Sequence[np.ndarray], Sequence[int]]]
) -> tuple[np.ndarray, np.ndarray]:
    """Deviations (draws,) with the spread over seeds: for the interval, and for p.

    moves: (draws,) of the rows. parts: the blocks (R, n_b) of independent sets of seeds, and the seed of their draws.
    """
    known = [seed_variance(blocks) for blocks, _ in parts]
    spread = float(np.var(moves))
    rest = max(0.0, spread - sum(interaction for _, interaction in known)) / spread if spread else 0.0
    interval, test = moves, moves * np.sqrt(rest)
    for (blocks, stream), (whole, interaction) in zip(parts, known, strict=True):
        if whole > 0:
            t = np.random.default_rng(stream).standard_t(len(blocks[0]) - 1, len(moves))
            interval = interval + np.sqrt(max(0.0, whole - interaction)) * t
            test = test + np.sqrt(whole) * t
    return interval, test


def estimate(value: float, moves: np.ndarray, margin: float = 0.0, test: np.ndarray | None = None) -> Estimate:
    """Percentile interval and p-value from deviations (draws,) around a value.

    test: deviations for p, if others than the interval's. Without any deviation, as between systems with identical
    answers, p is 1.
    """
    low, high = np.quantile(value + moves, [0.025, 0.975])
    test = moves if test is None else test
    found = value + test
    tail = min(np.count_nonzero(found <= margin), np.count_nonzero(found >= margin))
    p = min(1.0, 2 * (tail + 1) / (len(found) + 1)) if np.ptp(test) > 0 else 1.0
    return Estimate(value, float(low), float(high), p, margin)


def holm(p: Sequence[float]) -> list[float]:
    """Holm's step-down correction, in the order of the input (Holm 1979)."""
    order = sorted(range(len(p)), key=lambda i: p[i])
    found, largest = [0.0] * len(p), 0.0
    for rank, i in enumerate(order):
        largest = max(largest, min(1.0, (len(p) - rank) * p[i]))
        found[i] = largest
    return found
