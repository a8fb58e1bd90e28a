"""Is a difference real: a bootstrap over rows, the spread over seeds added; intervals, p-values, Holm's correction.

A score x[s, i] (seed s, row i) varies with the seed, with the row, and with both. Rows are resampled, the same ones for
all systems, with each system's mean over its seeds. What the seeds add on top of that is estimated from the seeds'
means and drawn from Student's t with R - 1 degrees of freedom: R = 5 values hold no tails to resample. Resampling rows
and seeds crosswise instead counts their interaction three times (docs/measurements.md has the coverage of both).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

CHUNK = 250  # draws at once


@dataclass(frozen=True)
class Estimate:
    """A mean or a difference, its 95 % interval, and the two-sided p-value of its being `margin`."""

    value: float
    low: float
    high: float
    p: float
    margin: float = 0.0


def row_draws(blocks: Sequence[np.ndarray], draws: int, rng: np.random.Generator) -> np.ndarray:
    """(draws, V): for each draw of the rows, how far the means move away from those of the sample.

    blocks: (n_b, V) each; the rows of a block are resampled together, the blocks independently, and V sums over blocks.
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
    """Standard error of the mean over R seeds that the resampling of rows does not see already; 0 for one seed.

    blocks: (R, n_b) each, as in `row_draws` for one V, by seed. The variance of the seeds' means, less what they vary
    because each of them is a mean over rows: for independent rows and seeds that part is in the draws of the rows.
    """
    seeds = len(blocks[0])
    if seeds < 2:
        return 0.0
    means = sum(block.mean(axis=1, dtype=np.float64) for block in blocks)  # (R,)
    interaction = 0.0  # variance of a seed's mean through rows x seeds
    for block in blocks:
        within = block.var(axis=1, ddof=1, dtype=np.float64).sum()
        shared = block.mean(axis=0, dtype=np.float64).var(ddof=1)
        interaction += (within - seeds * shared) / (seeds - 1) / block.shape[1]
    return float(np.sqrt(max(0.0, np.var(means, ddof=1) - interaction) / seeds))


def seed_draws(error: float, seeds: int, draws: int, rng: np.random.Generator) -> np.ndarray | float:
    """(draws,) of what the seeds add to a mean; 0 where they add nothing."""
    return error * rng.standard_t(seeds - 1, draws) if error > 0 else 0.0


def estimate(value: float, moves: np.ndarray, margin: float = 0.0) -> Estimate:
    """The percentile interval and the p-value from (draws,) movements around a value.

    Without any movement, as between systems that answer every row alike, nothing tells how far it may be off: p is 1.
    """
    found = value + moves
    low, high = np.quantile(found, [0.025, 0.975])
    tail = min(np.count_nonzero(found <= margin), np.count_nonzero(found >= margin))
    p = min(1.0, 2 * (tail + 1) / (len(found) + 1)) if np.ptp(moves) > 0 else 1.0
    return Estimate(value, float(low), float(high), p, margin)


def holm(p: Sequence[float]) -> list[float]:
    """Holm's step-down correction, in the order given (Holm 1979)."""
    order = sorted(range(len(p)), key=lambda i: p[i])
    found, largest = [0.0] * len(p), 0.0
    for rank, i in enumerate(order):
        largest = max(largest, min(1.0, (len(p) - rank) * p[i]))
        found[i] = largest
    return found
