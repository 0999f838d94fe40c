"""Ranks of truths among draws: a test that they are uniform, and its band.

If a truth and its k draws come from one density, its rank is uniform on 0..k, whatever is ranked.
Among n ranks, the number `N_j` of those at most j is binomial, with probability
`z_j = (j + 1) / (k + 1)`. The statistic is the smallest probability, over all j, of as few or as
many (Sailynoja, Burkner and Vehtari 2022, "Graphical test for discrete uniformity and its
applications in goodness-of-fit evaluation and multiple sample comparison", arXiv 2103.10522). Its
p-value is exact: the steps of `N_j` are independent Poisson numbers conditional on their sum, so a
recursion over j gives the probability that no count leaves a band.
"""

from functools import lru_cache

import numpy as np
from jaxtyping import Float, Int

# Below this, a bound replaces the p-value: 1 minus a probability has no digits left.
LEAST = 1e-10
# Halvings of the interval of logarithms in which the band's probability lies.
HALVINGS = 30
# Numbers that differ by less are equal up to rounding.
ROUNDING = 1e-9

Counts = Int[np.ndarray, " k"]


def rank(
    truth: Float[np.ndarray, " n"], draws: Float[np.ndarray, "n k"], rng: np.random.Generator
) -> Int[np.ndarray, " n"]:
    """Number of draws below each truth, from 0 to k; ties count as below at random."""
    below = (draws < truth[:, None]).sum(axis=1)
    equal = (draws == truth[:, None]).sum(axis=1)
    return below + rng.integers(0, equal + 1)


def uniform_p(ranks: Int[np.ndarray, " n"], num_draws: int) -> float:
    """The p-value of ranks on 0..`num_draws`, small where they are not uniform."""
    from scipy.stats import binom

    n, share = len(ranks), _shares(num_draws)
    counts = counts_of(ranks, num_draws)
    least = min(binom.cdf(counts, n, share).min(), binom.sf(counts - 1, n, share).min())
    bound = min(1.0, 2 * num_draws * float(least))
    return bound if bound < LEAST else min(bound, _leaving_probability(float(least), n, num_draws))


@lru_cache(maxsize=64)
def band(n: int, num_draws: int, level: float) -> tuple[Counts, Counts]:
    """Least and largest counts at each j: ranks with p-values of `level` or more stay inside."""
    low, high = np.log(level / (2 * num_draws)), np.log(level)
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        leaves = _leaving_probability(float(np.exp(middle)), n, num_draws) >= level
        low, high = (low, middle) if leaves else (middle, high)
    return _band_of_tail(float(np.exp(low)), n, num_draws)


def counts_of(ranks: Int[np.ndarray, " n"], num_draws: int) -> Counts:
    """Number of ranks that are at most j, for j from 0 to `num_draws` - 1."""
    return np.cumsum(np.bincount(ranks, minlength=num_draws + 1))[:-1]


def _shares(num_draws: int) -> Float[np.ndarray, " k"]:
    return np.arange(1, num_draws + 1) / (num_draws + 1)


def _band_of_tail(tail: float, n: int, num_draws: int) -> tuple[Counts, Counts]:
    """Smallest and largest counts with tail probabilities above `tail`."""
    from scipy.stats import binom

    low = binom.ppf(tail * (1 + ROUNDING), n, _shares(num_draws)).astype(int)
    return low, n - low[::-1]


def _leaving_probability(tail: float, n: int, num_draws: int) -> float:
    """Probability that uniform ranks leave the band of `tail` at some j."""
    from scipy.stats import poisson

    low, high = _band_of_tail(tail, n, num_draws)
    if (low > high).any():
        return 1.0
    rate = n / (num_draws + 1)
    step = poisson.pmf(np.arange(np.max(high - np.append(0, low[:-1])) + 1), rate)
    mass, first = np.ones(1), 0
    for least, most in zip(low, high, strict=True):
        mass = np.convolve(mass, step)[least - first : most - first + 1]
        first = least
    rest = n - first - np.arange(len(mass))
    return max(0.0, 1 - float(mass @ poisson.pmf(rest, rate) / poisson.pmf(n, n)))
