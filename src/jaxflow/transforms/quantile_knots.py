"""Fit a monotone curve from the values of one column to normal scores (NumPy, float64)."""

from statistics import NormalDist

import numpy as np
from jaxtyping import Float

Column = Float[np.ndarray, " n"]
Knots = Float[np.ndarray, " k"]
OtherKnots = Float[np.ndarray, " m"]

# The positions of the knots mix equal steps of probability (detail in the bulk) with equal steps
# of normal score (detail in the tails). The weight and the outermost probability are a compromise
# chosen on held-out rows of six tables: skewed tails need a smaller weight, several modes a larger
# one.
PROBABILITY_WEIGHT = 0.7
OUTER_ROWS = 30
OUTER_PROBABILITY = (0.003, 0.1)

# Smallest gap between knots (closer ones would turn an atom into a cliff): relative to the span of
# the outermost knots, in units in the last place of the knot, and in normal scores.
MIN_GAP_SPAN = 1e-6
MIN_GAP_ULPS = 16
MIN_GAP_SCORE = 1e-3


def default_num_knots(n: int) -> int:
    """One knot per 100 rows, at least 6 and at most 40."""
    return min(max(n // 100, 6), 40)


def fit_column(column: Column, num_knots: int, eps: float) -> tuple[Knots, Knots, Knots]:
    """Knots `x_k`, their normal scores `y_k` and slopes `dy/dx`; at most `num_knots` of each.

    `x_k` are data values and `y_k = Phi^-1(F(x_k))`, where `F` is the mid-distribution function
    (values below plus half of those equal), so tied values share one knot. Inner slopes are
    Steffen's: the slope of the parabola through three neighbours, limited to twice the smaller
    adjacent secant. Outer slopes maximise the likelihood of the rows beyond. The values are finite
    and not constant in the dtype that will hold the knots, of spacing `eps` at 1.
    """
    values, counts = np.unique(column, return_counts=True)
    ranks = (np.cumsum(counts) - 0.5 * counts) / len(column)
    picks = np.searchsorted(ranks, _knot_probabilities(num_knots, len(column)))
    picks = np.unique(np.minimum(picks, len(values) - 1))
    x, y = _keep_apart(values[picks], _normal_scores(ranks[picks]), eps)
    if len(x) < 2:  # nearly all rows share one value
        x, y = values[[0, -1]], _normal_scores(ranks[[0, -1]])
    width, secant = np.diff(x), np.diff(y) / np.diff(x)
    left, right = secant[:-1], secant[1:]
    parabola = (left * width[1:] + right * width[:-1]) / (width[1:] + width[:-1])
    inner = np.minimum(parabola, 2 * np.minimum(left, right))
    low = _tail_slope(x[0] - column[column < x[0]], -y[0], secant[0])
    high = _tail_slope(column[column > x[-1]] - x[-1], y[-1], secant[-1])
    return x, y, np.concatenate([[low], inner, [high]])


def pad_knots(
    x: Knots, y: Knots, slopes: Knots, num_knots: int
) -> tuple[OtherKnots, OtherKnots, OtherKnots]:
    """Pad to `num_knots` with knots on the upper linear tail; the curve does not change.

    Steps of at least 1 in score and the span in value stay strictly increasing in float32.
    """
    extra = np.arange(1, num_knots - len(x) + 1)
    step = max(1 / slopes[-1], x[-1] - x[0])
    return (
        np.concatenate([x, x[-1] + step * extra]),
        np.concatenate([y, y[-1] + slopes[-1] * step * extra]),
        np.concatenate([slopes, np.full(len(extra), slopes[-1])]),
    )


def _normal_scores(probabilities: Knots) -> Knots:
    return np.array([NormalDist().inv_cdf(float(p)) for p in probabilities])


def _knot_probabilities(num_knots: int, n: int) -> Knots:
    """Positions of the knots, as probabilities from `p` to `1 - p`."""
    low, high = OUTER_PROBABILITY
    outer = min(max(OUTER_ROWS / n, low), high)
    by_probability = _normal_scores(np.linspace(outer, 1 - outer, num_knots))
    by_score = np.linspace(by_probability[0], by_probability[-1], num_knots)
    scores = PROBABILITY_WEIGHT * by_probability + (1 - PROBABILITY_WEIGHT) * by_score
    return np.array([NormalDist().cdf(float(s)) for s in scores])


def _keep_apart(x: Knots, y: Knots, eps: float) -> tuple[OtherKnots, OtherKnots]:
    """Drop inner knots that are too close to a neighbour; the outermost stay if they differ."""

    def apart(i: int, j: int) -> bool:
        rounding = MIN_GAP_ULPS * eps * max(abs(x[i]), abs(x[j]))
        gap = max(MIN_GAP_SPAN * (x[-1] - x[0]), rounding)
        return bool(x[j] - x[i] > gap and y[j] - y[i] > MIN_GAP_SCORE)

    last = len(x) - 1
    if not apart(0, last):
        return x[:1], y[:1]
    picked = [0]
    for j in range(1, last):
        if apart(picked[-1], j) and apart(j, last):
            picked.append(j)
    picked.append(last)
    return x[picked], y[picked]


def _tail_slope(beyond: Column, score: float, secant: float) -> float:
    """The slope `c` of the linear tail that maximises the likelihood of the rows beyond the knot.

    For distances `e_i > 0` beyond a knot of outward score `y`, the log-likelihood
    `sum_i [log c - (y + c e_i)^2 / 2]` is largest at the positive root of
    `c^2 sum e^2 + c y sum e = m`. Far outliers make `c` small, so they stay within a few units of
    score. Like the inner slopes, `c` is limited to twice the last secant.
    """
    if len(beyond) == 0:
        return secant
    pull = score * beyond.sum()
    root = np.sqrt(pull**2 + 4 * len(beyond) * (beyond**2).sum())
    return min(2 * len(beyond) / (pull + root), 2 * secant)
