"""Bootstrap over rows plus the spread over seeds: intervals, p-values and Holm's correction.

A score x[s, i] (seed s, row i) varies with the seed, with the row, and with both. The bootstrap resamples rows, the
same rows for all systems, on each system's mean over seeds. The remaining variance of seeds is estimated from the
seeds' means. It is drawn from Student's t with R - 1 degrees of freedom: R = 5 values are too few to resample.
Resampling rows and seeds crosswise would count their interaction three times. docs/measurements.md reports the
coverage of both methods.
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


def seed_error(blocks: Sequence[np.ndarray]) -> float:
    """Standard error of the mean over R seeds beyond the row bootstrap's; 0 for one seed.

    blocks: (R, n_b) each, as one column of `row_draws`, by seed. The error is computed from the variance of the seeds'
    means minus the part that comes from the sample of rows, because `row_draws` contains that part.
    """
    seeds = len(blocks[0])
    if seeds < 2:
        return 0.0
    means = sum(block.mean(axis=1, dtype=np.float64) for block in blocks)  # (R,)
    interaction = 0.0  # variance of a seed's mean from the interaction of rows and seeds
    for block in blocks:
        within = block.var(axis=1, ddof=1, dtype=np.float64).sum()
        shared = block.mean(axis=0, dtype=np.float64).var(ddof=1)
        interaction += (within - seeds * shared) / (seeds - 1) / block.shape[1]
    return float(np.sqrt(max(0.0, np.var(means, ddof=1) - interaction) / seeds))


def seed_draws(error: float, seeds: int, draws: int, rng: np.random.Generator) -> np.ndarray | float:
    """Deviations (draws,) of a mean from the choice of seeds; 0 if `error` is 0."""
    return error * rng.standard_t(seeds - 1, draws) if error > 0 else 0.0


def estimate(value: float, moves: np.ndarray, margin: float = 0.0) -> Estimate:
    """Percentile interval and p-value from deviations (draws,) around a value.

    Without any deviation, as between systems with identical answers, p is 1.
    """
    found = value + moves
    low, high = np.quantile(found, [0.025, 0.975])
    tail = min(np.count_nonzero(found <= margin), np.count_nonzero(found >= margin))
    p = min(1.0, 2 * (tail + 1) / (len(found) + 1)) if np.ptp(moves) > 0 else 1.0
    return Estimate(value, float(low), float(high), p, margin)


def holm(p: Sequence[float]) -> list[float]:
    """Holm's step-down correction, in the order of the input (Holm 1979)."""
    order = sorted(range(len(p)), key=lambda i: p[i])
    found, largest = [0.0] * len(p), 0.0
    for rank, i in enumerate(order):
        largest = max(largest, min(1.0, (len(p) - rank) * p[i]))
        found[i] = largest
    return found
