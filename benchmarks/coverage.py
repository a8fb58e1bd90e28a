"""Coverage of the report's 95 % intervals, compared with crosswise resampling, and small p-values without an effect.

usage: python -m benchmarks.coverage [--trials 1000] [--seeds 5] [--rows 500]
"""

import argparse
import sys

import numpy as np
from rich.table import Table

from analysis import bootstrap
from mbkd.terminal.console import make_console
from mbkd.terminal.progress import ProgressBar

DRAWS = 1000
# (spread over seeds, spread over rows, spread of both together) of a score x[s, i] whose mean is 0
SPREADS = ((0.0, 1.0, 1.0), (0.0, 0.2, 1.0), (0.05, 0.5, 1.0), (0.1, 0.5, 1.0), (0.5, 0.5, 1.0))


LEVEL = 0.05 / 7  # the smallest threshold of Holm's correction over seven claims


def ours(x: np.ndarray, rng: np.random.Generator) -> tuple[bootstrap.Estimate, bootstrap.Estimate]:
    """Estimate the mean of x (seeds, rows) as the report does, and with p from the draws of the interval."""
    moves = bootstrap.row_draws([x.mean(axis=0)[:, None]], DRAWS, rng)[:, 0]
    interval, test = bootstrap.with_seeds(moves, [([x], (int(rng.integers(2**31)),))])
    value = float(x.mean())
    return bootstrap.estimate(value, interval, test=test), bootstrap.estimate(value, interval)


def crosswise(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Draw the mean of x (seeds, rows) with rows and seeds both resampled. Returns (DRAWS,)."""
    seeds, rows = (_shares(n, rng) for n in x.shape)
    found: np.ndarray = np.einsum("ds,ds->d", seeds, rows @ x.T)
    return found


def _shares(n: int, rng: np.random.Generator) -> np.ndarray:
    """Return (DRAWS, n): the share of each of n items in n draws."""
    drawn = rng.integers(0, n, (DRAWS, n)) + n * np.arange(DRAWS)[:, None]
    found: np.ndarray = np.bincount(drawn.ravel(), minlength=DRAWS * n).reshape(DRAWS, n) / n
    return found


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.coverage", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--rows", type=int, default=500)
    asked = parser.parse_args()
    rng = np.random.default_rng(0)
    table = Table(
        *("seeds", "rows", "both", "report's", "crosswise", "p < 0.05 / 7", "with the interval's draws"),
        title=" ".join(["benchmarks.coverage", *sys.argv[1:]]),
    )
    for spread in SPREADS:
        by_seed, by_row, both = spread
        hits = np.zeros(4)
        with ProgressBar(f"spreads {spread}", asked.trials) as progress:
            for _ in range(asked.trials):
                x = by_seed * rng.normal(size=(asked.seeds, 1)) + by_row * rng.normal(size=asked.rows)
                x = (x + both * rng.normal(size=(asked.seeds, asked.rows))).astype(np.float32)
                report, other = ours(x, rng)
                low, high = np.quantile(crosswise(x, rng), [0.025, 0.975])
                hits += [report.low <= 0 <= report.high, low <= 0 <= high, report.p < LEVEL, other.p < LEVEL]
                progress.advance()
        table.add_row(*map(str, spread), *[f"{100 * share:.1f} %" for share in hits / asked.trials])
    make_console().print(table)


if __name__ == "__main__":
    main()
