"""Two-sample tests of data against samples; they need no log-density.

Rows come in pairs: a row of the data, and a sample drawn at the row's condition if there is one.
If both come from the same density, exchanging the two rows of a pair changes nothing. Random
exchanges therefore give the distribution of a statistic under this hypothesis, with or without
conditions.
"""

import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from jaxflow.diagnostics.findings import LEAST, TESTS, Finding, Line, p_value, too_few
from jaxflow.runtime.extras import install_extra

# Fewest random exchanges, and how many are made at once.
EXCHANGES, _TOGETHER = 2000, 4000
# Folds of the cross-validation, trees of the classifier, fewest rows in a leaf.
FOLDS, TREES, LEAF = 5, 200, 5

Matrix = Float[np.ndarray, "rows columns"]


class MMD(NamedTuple):
    """Maximum mean discrepancy of a kernel, and its permutation test.

    `squared` is the unbiased estimate of MMD^2, which may be negative; `p` the share of exchanges
    with one at least as large. P-values below `level` count as a difference.
    """

    num_rows: int
    squared: float
    p: float
    level: float

    def lines(self) -> list[Line]:
        """Return the estimate and its p-value."""
        return [("samples, MMD^2", f"{self.squared:.2g}, {p_value(self.p)}")]

    def findings(self) -> list[Finding]:
        """Return whether samples differ from data."""
        return [_finding("MMD", "", self)]


class C2ST(NamedTuple):
    """Classifier two-sample test: a classifier separates data from samples, on unseen rows.

    The accuracy is 1/2 if they agree. Its standard error is that of 2 n coins, `1 / sqrt(8 n)`,
    times 1.5, because the folds of a cross-validation share rows; `p` is one-sided.
    """

    num_rows: int
    accuracy: float
    se: float
    p: float
    level: float

    def lines(self) -> list[Line]:
        """Return the accuracy and its p-value."""
        return [("samples, classifier", f"{self._accuracy()}, {p_value(self.p)}")]

    def findings(self) -> list[Finding]:
        """Return whether samples differ from data."""
        return [_finding("a classifier", f"{self._accuracy()}, ", self)]

    def _accuracy(self) -> str:
        return f"accuracy {self.accuracy:.3f} +- {self.se:.3f}"


def _finding(who: str, statistic: str, test: MMD | C2ST) -> Finding:
    numbers = f"({statistic}{p_value(test.p, test.level)})"
    if test.p < test.level:
        text = f"{who} distinguishes samples from data {numbers}: the flow does not fit the data"
        return Finding(text, "bad")
    text = f"{who} cannot distinguish {test.num_rows:,} samples from as many rows {numbers}"
    return Finding(text, "good")


def mmd(data: Matrix, samples: Matrix, rng: np.random.Generator, level: float) -> MMD | str:
    """Compare rows and paired samples by a Gaussian kernel as wide as the median distance.

    Gretton et al. (2012), "A Kernel Two-Sample Test", JMLR 13. Conditions are columns too, and
    each column is divided by its spread. Returns the reason if there are too few pairs.
    """
    num = len(data)
    if num < LEAST:
        return too_few(num)
    distance = _squared_distances(data, samples)
    median = np.median(distance[np.triu_indices(2 * num, 1)])
    kernel = np.exp(-distance / (median if median > 0 else 1.0))
    return MMD(num, *exchange_test(kernel, rng, level), level)


def energy(
    data: Matrix, samples: Matrix, rng: np.random.Generator, level: float
) -> tuple[float, float] | str:
    """Compare rows and paired samples by the energy distance, with a permutation test.

    `2 E|x - y| - E|x - x'| - E|y - y'|`, which is 0 for equal densities only (Szekely and Rizzo
    2004, "Testing for Equal Distributions in High Dimension", InterStat 5). On a manifold give
    embedded points: `|x - y|` is then a chord. With lengths of geodesics the test would overlook
    densities on a sphere that differ equally at antipodes (Lyons 2013, "Distance covariance in
    metric spaces", Annals of Probability 41).

    Returns the distance and the p-value, or the reason if there are too few pairs.
    """
    if len(data) < LEAST:
        return too_few(len(data))
    return exchange_test(-np.sqrt(_squared_distances(data, samples)), rng, level)


def _squared_distances(data: Matrix, samples: Matrix) -> Float[np.ndarray, "both both"]:
    both = np.concatenate([data, samples])
    squares = np.sum(both**2, axis=1)
    return np.maximum(squares[:, None] + squares - 2 * both @ both.T, 0.0)


def exchange_test(
    kernel: Float[np.ndarray, "both both"], rng: np.random.Generator, level: float
) -> tuple[float, float]:
    """The unbiased estimate of MMD^2 with a kernel of both sets of rows, and its p-value."""
    num = len(kernel) // 2
    np.fill_diagonal(kernel, 0.0)
    # With signs s_i, -1 where pair i is exchanged: sum within - sum between = s^T difference s.
    total, first, last = kernel.sum(), slice(num), slice(num, None)
    difference = kernel[first, first] + kernel[last, last]
    difference -= kernel[first, last] + kernel[last, first]

    def estimate(signs: np.ndarray) -> np.ndarray:
        within = (total + np.sum(signs * (difference @ signs), axis=0)) / 2
        return within / (num * (num - 1)) - (total - within) / num**2

    squared = float(estimate(np.ones((num, 1)))[0])
    # Enough that the smallest p-value, corrected for the number of tests, is below `level`.
    exchanges = max(EXCHANGES, math.ceil(TESTS / level))
    as_large = 0
    for start in range(0, exchanges, _TOGETHER):
        signs = rng.choice([-1.0, 1.0], size=(num, min(_TOGETHER, exchanges - start)))
        # Differences up to the rounding of the sums count as ties.
        as_large += int(np.sum(estimate(signs) >= squared - 1e-12))
    return squared, (1 + as_large) / (1 + exchanges)


def c2st(data: Matrix, samples: Matrix, rng: np.random.Generator, level: float) -> C2ST | str:
    """Classify rows and paired samples by a forest of random trees, with cross-validation.

    Lopez-Paz and Oquab (2017), "Revisiting Classifier Two-Sample Tests", ICLR, arXiv 1610.06545.
    The variance of the accuracy is that of independent guesses times
    `1 + folds test rows / training rows` (Nadeau and Bengio 2003, "Inference for the
    Generalization Error", Machine Learning 52). Returns the reason if no test is possible.
    """
    try:
        from sklearn.ensemble import ExtraTreesClassifier
        from sklearn.model_selection import GroupKFold, cross_val_predict
    except ImportError:
        return f"a classifier needs scikit-learn: {install_extra('sklearn')}"
    from scipy import stats

    num = len(data)
    if num < LEAST:
        return too_few(num)
    seed = int(rng.integers(2**31))
    classifier = ExtraTreesClassifier(TREES, min_samples_leaf=LEAF, random_state=seed)
    # The two rows of a pair stay in one fold: they share a condition.
    order = rng.permutation(num)
    rows = np.concatenate([data[order], samples[order]])
    labels, pairs = np.repeat([0, 1], num), np.tile(np.arange(num), 2)
    guess = cross_val_predict(classifier, rows, labels, groups=pairs, cv=GroupKFold(FOLDS))
    accuracy = float(np.mean(guess == labels))
    se = math.sqrt((1 + FOLDS / (FOLDS - 1)) / (8 * num))
    return C2ST(num, accuracy, se, float(stats.norm.sf((accuracy - 0.5) / se)), level)
