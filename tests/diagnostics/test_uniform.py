"""The test that ranks are uniform: exact p-values, and the band that says the same."""

from itertools import product

import numpy as np
import pytest
from scipy import stats

from jaxflow.diagnostics.posteriors.uniform import band, counts_of, rank, uniform_p


def statistic(ranks, num_draws):
    """The least probability of as few, or as many, ranks up to j."""
    n, least = len(ranks), 1.0
    for j in range(num_draws):
        count, share = int(np.sum(ranks <= j)), (j + 1) / (num_draws + 1)
        least = min(least, stats.binom.cdf(count, n, share), stats.binom.sf(count - 1, n, share))
    return least


@pytest.mark.parametrize(("n", "num_draws"), [(4, 4), (6, 2), (5, 1), (1, 5)])
def test_p_values_are_those_of_all_outcomes_counted(n, num_draws):
    outcomes = [np.asarray(each) for each in product(range(num_draws + 1), repeat=n)]
    values = np.asarray([statistic(each, num_draws) for each in outcomes])
    for i in range(0, len(outcomes), max(1, len(outcomes) // 30)):
        exact = np.mean(values <= values[i] * (1 + 1e-9))
        # The bound `2 k` times the statistic may be smaller where few outcomes are possible.
        p = uniform_p(outcomes[i], num_draws)
        assert p == pytest.approx(min(exact, 2 * num_draws * values[i], 1.0), abs=1e-12)


@pytest.mark.parametrize(("n", "num_draws"), [(50, 9), (300, 99)])
def test_p_values_of_uniform_ranks_are_uniform(n, num_draws):
    rng = np.random.default_rng(0)
    p = [uniform_p(rng.integers(0, num_draws + 1, n), num_draws) for _ in range(300)]
    for level in (0.05, 0.2, 0.5):
        count = np.sum(np.asarray(p) < level)
        # Discrete, so a little below the level.
        assert stats.binom.cdf(count, 300, level) > 1e-3
        assert stats.binom.sf(count - 1, 300, level) > 1e-3


@pytest.mark.parametrize("tilt", [0.0, 0.15, 0.3])
def test_a_curve_leaves_its_band_if_the_p_value_is_below_the_level(tilt):
    rng, n, k, left = np.random.default_rng(1), 200, 19, 0
    low, high = band(n, k, 0.05)
    assert (low <= high).all()
    np.testing.assert_array_equal(low, n - high[::-1])
    for _ in range(100):
        ranks = np.floor((k + 1) * rng.random(n) ** (1 + tilt)).astype(int)
        counts = counts_of(ranks, k)
        outside = bool(((counts < low) | (counts > high)).any())
        assert outside == (uniform_p(ranks, k) < 0.05)
        left += outside
    assert left < 15 if tilt == 0 else left > 15


def test_extreme_ranks_have_tiny_p_values():
    for ranks in (np.zeros(500, int), np.full(500, 99), np.repeat([0, 99], 250)):
        assert uniform_p(ranks, 99) < 1e-100
    assert uniform_p(np.repeat(np.arange(100), 5), 99) == 1.0


def test_equal_values_are_ranked_at_random():
    rng = np.random.default_rng(2)
    truth, draws = rng.integers(0, 3, 2000), rng.integers(0, 3, (2000, 9))
    ranks = rank(truth.astype(float), draws.astype(float), rng)
    assert uniform_p(ranks, 9) > 0.01
    first = rank(np.full(2000, -np.inf), np.full((2000, 9), -np.inf), rng)
    assert uniform_p(first, 9) > 0.01
    np.testing.assert_array_equal(rank(np.asarray([2.5]), np.arange(9.0)[None], rng), [3])
