"""Intervals against closed forms and scipy, their coverage, and Holm's correction against its definition."""

import numpy as np
import pytest
from scipy import stats

from analysis import bootstrap
from analysis.bootstrap import estimate

# (spread over seeds, spread over rows, spread of both together) of a score x[s, i]; the paper's differences lie between
SPREADS = [(0.0, 1.0, 1.0), (0.0, 0.2, 1.0), (0.05, 0.5, 1.0), (0.5, 0.5, 1.0)]


def sample(rng: np.random.Generator, seeds: int, rows: int, spread: tuple[float, float, float]) -> np.ndarray:
    """Return scores of shape (seeds, rows) with mean 0."""
    by_seed, by_row, both = spread
    total = by_seed * rng.normal(size=(seeds, 1)) + by_row * rng.normal(size=rows)
    return (total + both * rng.normal(size=(seeds, rows))).astype(np.float32)


def interval(x: np.ndarray, draws: int, rng: np.random.Generator) -> bootstrap.Estimate:
    moves = bootstrap.row_draws([x.mean(axis=0)[:, None]], draws, rng)[:, 0]
    moves, test = bootstrap.with_seeds(moves, [([x], (int(rng.integers(2**31)),))])
    return bootstrap.estimate(float(x.mean()), moves, test=test)


def coverage(spread: tuple[float, float, float], trials: int, seeds: int = 5, rows: int = 200) -> float:
    """Return how often the 95 % interval covers the truth."""
    rng = np.random.default_rng(0)
    found = [interval(sample(rng, seeds, rows, spread), 1000, rng) for _ in range(trials)]
    return float(np.mean([x.low <= 0 <= x.high for x in found]))


def test_interval_over_rows_equals_the_normal_interval():
    x = np.random.default_rng(1).normal(0.3, 1, (1, 5010)).astype(np.float32)
    found = interval(x, 10_000, np.random.default_rng(2))
    error = x.std(ddof=1) / np.sqrt(x.size)
    assert found.low == pytest.approx(x.mean() - 1.96 * error, abs=0.05 * error)
    assert found.high == pytest.approx(x.mean() + 1.96 * error, abs=0.05 * error)


def test_interval_of_a_paired_difference_equals_scipys():
    rng = np.random.default_rng(3)
    right = np.stack([rng.random(1000) < 0.8] * 2)
    right[1] ^= rng.random(1000) < 0.1  # two systems agree on nine rows of ten
    expected = stats.bootstrap(
        right.astype(float), lambda a, b, axis: a.mean(axis) - b.mean(axis), paired=True, method="percentile",
        vectorized=True, n_resamples=10_000, rng=np.random.default_rng(4),
    )  # fmt: skip
    a, b = right.astype(np.float32)
    moves = bootstrap.row_draws([np.stack([a, b], axis=1)], 10_000, np.random.default_rng(5))
    found = bootstrap.estimate(float(a.mean() - b.mean()), moves[:, 0] - moves[:, 1])
    assert found.low == pytest.approx(expected.confidence_interval.low, abs=0.0011)
    assert found.high == pytest.approx(expected.confidence_interval.high, abs=0.0011)
    unpaired = np.sqrt(a.var() / 1000 + b.var() / 1000)
    assert found.high - found.low < 2 * 1.96 * unpaired / 1.5


def test_translated_rows_are_resampled_together_and_other_rows_separately():
    x = np.random.default_rng(6).normal(size=(2000, 1)).astype(np.float32)
    rng = np.random.default_rng(7)
    together = bootstrap.row_draws([(x + x) / 2], 4000, rng).std()
    apart = bootstrap.row_draws([x / 2, x / 2], 4000, rng).std()
    assert together == pytest.approx(x.std() / np.sqrt(2000), rel=0.05)
    assert apart == pytest.approx(together / np.sqrt(2), rel=0.05)


def test_seed_variance_beyond_the_interaction_equals_the_analysis_of_variance():
    rng = np.random.default_rng(8)
    found = [np.subtract(*bootstrap.seed_variance([sample(rng, 5, 300, (0.2, 1.0, 1.0))])) for _ in range(400)]
    assert np.mean(found) == pytest.approx(0.2**2 / 5, rel=0.1)


def test_seed_variance_does_not_grow_with_the_number_of_blocks():
    """Two languages with different rows and the same spread over seeds."""
    rng, found = np.random.default_rng(9), []
    for _ in range(400):
        both = sample(rng, 5, 600, (0.2, 1.0, 1.0))
        found.append(np.subtract(*bootstrap.seed_variance([both[:, :200] / 2, both[:, 200:] / 2])))
    assert np.mean(found) == pytest.approx(0.2**2 / 5, rel=0.1)


def test_one_seed_adds_no_error():
    assert bootstrap.seed_variance([np.ones((1, 9), np.float32)]) == (0.0, 0.0)


@pytest.mark.parametrize("spread", SPREADS)
def test_interval_covers_the_truth_roughly(spread: tuple[float, float, float]):
    assert 0.90 <= coverage(spread, 250) <= 0.99


@pytest.mark.slow
@pytest.mark.parametrize("spread", SPREADS)
def test_interval_covers_the_truth_93_to_97_times_in_a_hundred(spread: tuple[float, float, float]):
    assert 0.93 <= coverage(spread, 1000, rows=500) <= 0.97


def test_p_is_small_exactly_if_the_interval_excludes_zero():
    moves = np.random.default_rng(9).normal(size=10_000)
    assert bootstrap.estimate(1.8, moves).p > 0.05 > bootstrap.estimate(2.2, moves).p
    assert bootstrap.estimate(-2.2, moves).p < 0.05
    assert bootstrap.estimate(0.0, moves, margin=-2.2).p < 0.05
    assert bootstrap.estimate(0.0, np.zeros(10)).p == 1.0


@pytest.mark.parametrize("spread", [(0.05, 0.0, 1.0), (0.1, 0.2, 0.5), (0.5, 0.5, 1.0)])
def test_p_with_three_seeds_is_rarely_below_the_threshold_of_seven_claims(spread: tuple[float, float, float]):
    rng, level = np.random.default_rng(1), 0.05 / 7
    found = [interval(sample(rng, 3, 200, spread), 1000, rng).p for _ in range(800)]
    assert np.mean(np.array(found) < level) < 2 * level


def test_p_is_one_for_systems_with_equal_answers():
    assert estimate(0.0, np.zeros(1000), margin=-0.5).p == 1.0
    assert estimate(0.0, np.random.default_rng(0).normal(0, 0.1, 1000), margin=-0.5).p < 0.01


def test_holm_equals_its_definition():
    p = [0.01, 0.04, 0.03, 0.005]
    assert bootstrap.holm(p) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert bootstrap.holm([0.9, 0.8]) == [1.0, 1.0]
    assert bootstrap.holm([]) == []
