"""Whether data and samples come from one density: two tests that need no log-density.

Rows come in pairs, one of the data and one sample, drawn at the row's own condition where there
is one. If both come from one density, either may as well be the other, so exchanging them pair
by pair gives the distribution of a statistic under that hypothesis, conditions or not.
"""

import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from jaxflow.diagnostics.findings import Finding, Line, p_value
from jaxflow.runtime.extras import install_extra

# Exchanges of the permutation test, and pairs below which the tests say too little.
EXCHANGES, LEAST = 2000, 20
# Parts of the cross-validation, trees of the classifier, the fewest rows in a leaf of one.
FOLDS, TREES, LEAF = 5, 200, 5

Rows = Float[np.ndarray, "rows columns"]


class MMD(NamedTuple):
    """Maximum mean discrepancy by a Gaussian kernel, and its permutation test.

    Attributes:
        num_rows: pairs of a row and a sample.
        squared: unbiased estimate of MMD^2; may be negative.
        p: part of the exchanges under which it is as large.
        level: p-values below this count as a difference.
    """

    num_rows: int
    squared: float
    p: float
    level: float

    def lines(self) -> list[Line]:
        """The statistic."""
        return [("samples, MMD^2", f"{self.squared:.2g}, {p_value(self.p)}")]

    def findings(self) -> list[Finding]:
        """Whether samples differ from data."""
        return [_finding("MMD", f"{p_value(self.p)}", self.num_rows, self.p < self.level)]


class C2ST(NamedTuple):
    """A classifier that tells data from samples, on rows it has not seen.

    Attributes:
        num_rows: pairs of a row and a sample.
        accuracy: part of the rows it gets right; 1/2 where nothing can be told.
        se: standard error of the accuracy where nothing can be told: that of 2 n coins,
            `1 / sqrt(8 n)`, times 1.5, since the folds of a cross-validation share their rows.
        p: one-sided p-value.
        level: p-values below this count as a difference.
    """

    num_rows: int
    accuracy: float
    se: float
    p: float
    level: float

    def lines(self) -> list[Line]:
        """The accuracy."""
        text = f"accuracy {self.accuracy:.3f} +- {self.se:.3f}, {p_value(self.p)}"
        return [("samples, classifier", text)]

    def findings(self) -> list[Finding]:
        """Whether samples differ from data."""
        text = f"accuracy {self.accuracy:.3f} +- {self.se:.3f}, {p_value(self.p)}"
        return [_finding("a classifier", text, self.num_rows, self.p < self.level)]


def _finding(who: str, numbers: str, num: int, differ: bool) -> Finding:
    if differ:
        return Finding(f"{who} tells samples from data ({numbers})", "bad")
    return Finding(f"{who} cannot tell {num:,} samples from as many rows ({numbers})", "good")


def mmd(data: Rows, samples: Rows, rng: np.random.Generator, level: float) -> MMD | str:
    """Compare rows with samples by a Gaussian kernel as wide as the median distance.

    Gretton et al. (2012), "A Kernel Two-Sample Test", JMLR 13.

    Args:
        data: rows, conditions among their columns, each column in units of its spread.
        samples: as many samples, a pair each with the row of the same number.
        rng: for the exchanges.
        level: p-values below this count as a difference.
    """
    num = len(data)
    if num < LEAST:
        return f"{num} pairs of row and sample are too few to tell"
    both = np.concatenate([data, samples])
    squares = np.sum(both**2, axis=1)
    distance = np.maximum(squares[:, None] + squares - 2 * both @ both.T, 0.0)
    median = np.median(distance[np.triu_indices(2 * num, 1)])
    kernel = np.exp(-distance / (median if median > 0 else 1.0))
    np.fill_diagonal(kernel, 0.0)
    # With signs s, +1 for data and -1 for samples, s^T K s is the sum within less that between.
    flips = rng.choice([-1.0, 1.0], size=(num, EXCHANGES))
    flips = np.concatenate([np.ones((num, 1)), flips], axis=1)
    signs = np.concatenate([flips, -flips])
    within = (kernel.sum() + np.sum(signs * (kernel @ signs), axis=0)) / 2
    between = kernel.sum() - within
    squared = within / (num * (num - 1)) - between / num**2
    # Equal up to the rounding of the sums counts as equal.
    as_large = np.sum(squared[1:] >= squared[0] - 1e-12)
    return MMD(num, float(squared[0]), float((1 + as_large) / (1 + EXCHANGES)), level)


def c2st(data: Rows, samples: Rows, rng: np.random.Generator, level: float) -> C2ST | str:
    """Let a forest of random trees tell rows from samples, by cross-validation.

    Lopez-Paz and Oquab (2017), "Revisiting Classifier Two-Sample Tests", ICLR, arXiv 1610.06545.
    The variance of the accuracy is that of independent guesses times
    `1 + folds test rows / training rows` (Nadeau and Bengio 2003, "Inference for the
    Generalization Error", Machine Learning 52).

    Args:
        data: rows, conditions among their columns.
        samples: as many samples, a pair each with the row of the same number.
        rng: for the classifier.
        level: p-values below this count as a difference.
    """
    try:
        from sklearn.ensemble import ExtraTreesClassifier
        from sklearn.model_selection import GroupKFold, cross_val_predict
    except ImportError:
        return f"a classifier needs scikit-learn: {install_extra('sklearn')}"
    from scipy import stats

    num = len(data)
    if num < LEAST:
        return f"{num} pairs of row and sample are too few to tell"
    seed = int(rng.integers(2**31))
    classifier = ExtraTreesClassifier(TREES, min_samples_leaf=LEAF, random_state=seed)
    # A pair stays together, lest a row's condition tell what became of the other.
    order = rng.permutation(num)
    rows = np.concatenate([data[order], samples[order]])
    labels, pairs = np.repeat([0, 1], num), np.tile(np.arange(num), 2)
    guess = cross_val_predict(classifier, rows, labels, groups=pairs, cv=GroupKFold(FOLDS))
    accuracy = float(np.mean(guess == labels))
    se = math.sqrt((1 + FOLDS / (FOLDS - 1)) / (8 * num))
    return C2ST(num, accuracy, se, float(stats.norm.sf((accuracy - 0.5) / se)), level)
