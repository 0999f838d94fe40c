"""Laws of one discrete cell: exact probabilities of labels and of numbers in steps.

A law turns a vector of parameters into the probability of a cell. Cells are codes: the number of
a label, or the number of steps from an origin. What depends on a cell alone is computed in float64
on the host (`cells`, `encode`). Probabilities are those of NumPy arrays or of jax arrays.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from scipy.special import expit, logit

# Labels with an input of their own to the networks; the rarer ones share none.
SHOWN = 32
# Frequent numbers with a probability of their own, and logistic densities of the others.
COMMON, COMPONENTS = 6, 5
# Rows that each label is counted with beside those of the table.
PSEUDO = 0.5
# Share of the smooth part of `Steps` before training.
SMOOTH = 0.9
# Numbers of steps beyond this are no cells: float64 cannot count further.
MOST = 2.0**53
# Logarithms of the scales lie within these, in standard deviations.
LOG_SCALES = (-9.0, 4.0)
# The logit of what does not exist.
NEVER = -1e30

Codes = Float[np.ndarray, " n"]


@dataclass(frozen=True)
class Labels:
    """`P(k)`, a softmax over `count` labels.

    Attributes:
        count: number of labels; the frequent ones come first.
    """

    count: int

    @property
    def num_parameters(self) -> int:
        """A logit for each label."""
        return self.count

    @property
    def slots(self) -> Int[np.ndarray, " parameters"]:
        """Places of the parameters among those of similar laws."""
        return np.arange(self.count)

    @property
    def num_inputs(self) -> int:
        """Entries of `encode`."""
        return min(self.count, SHOWN)

    def cells(self, codes: Codes) -> Float[np.ndarray, "n 3"]:
        """What `log_prob` needs of each cell: its label."""
        zeros = np.zeros(len(codes))
        return np.stack([np.nan_to_num(codes), zeros, zeros], axis=1)

    def encode(self, codes: Codes) -> Float[np.ndarray, "n inputs"]:
        """One-hot labels; zeros for cells that are absent (NaN) and for rare labels."""
        return (codes[:, None] == np.arange(self.num_inputs)).astype(float)

    def start(self, codes: Codes) -> Float[np.ndarray, " parameters"]:
        """Parameters that make the probabilities the smoothed frequencies of these cells."""
        known = codes[~np.isnan(codes)].astype(int)
        counts = np.bincount(known, minlength=self.count) + PSEUDO
        return np.log(counts / counts.sum())

    def log_prob(
        self, parameters: Float[np.ndarray, "n parameters"], cells: Float[np.ndarray, "n 3"]
    ) -> Float[np.ndarray, " n"]:
        """Log-probability of each cell."""
        return label_log_prob(parameters, cells)

    def sample(self, parameters: np.ndarray, uniform: Float[np.ndarray, "n 2"]) -> Codes:
        """Draw a label for each row of parameters, (n, parameters)."""
        return _choose(parameters, uniform[:, 0]).astype(float)


@dataclass(frozen=True)
class Steps:
    """`P(k)` of an integer k within limits, for counts and for numbers in steps.

    Frequent numbers have probabilities of their own; beside them stands a mixture of logistic
    densities over `u = (g(k) - centre) / scale`, integrated over the cell of each number and
    normalised within the limits, with F the logistic distribution function:

        P(k) = sum_c w_c [k = c] + sum_m w_m (F_m(k + 1/2) - F_m(k - 1/2)) / Z_m

    Every number within the limits has a probability, and no other has (discretised logistic
    mixtures: Salimans et al. 2017, arXiv 1701.05517).

    Attributes:
        lower: least k.
        upper: largest k.
        log: whether `g(k) = log(1 + k - lower)`; else `g(k) = k`.
        centre: mean of g.
        scale: standard deviation of g.
        common: the numbers with a probability of their own, the frequent ones first.
    """

    lower: float
    upper: float
    log: bool
    centre: float
    scale: float
    common: tuple[float, ...]

    @classmethod
    def fit(cls, codes: Codes, lower: float, upper: float) -> "Steps":
        """The law for cells like these, with its limits; infinite ones become very large."""
        known = codes[~np.isnan(codes)]
        values, counts = np.unique(known, return_counts=True)
        common = values[np.argsort(-counts, kind="stable")][:COMMON]
        log = bool(np.isfinite(lower)) and not np.isfinite(upper) and _is_skewed(known - lower)
        lower, upper = float(max(lower, -MOST)), float(min(upper, MOST))
        g = np.log1p(known - lower) if log else known
        scale = float(g.std()) or 1.0
        return cls(lower, upper, log, float(g.mean()), scale, tuple(common.tolist()))

    @property
    def num_parameters(self) -> int:
        """Logits of the frequent numbers, then logits, means and log-scales of the densities."""
        return len(self.common) + 3 * COMPONENTS

    @property
    def slots(self) -> Int[np.ndarray, " parameters"]:
        """Places of the parameters among those of laws with `COMMON` frequent numbers."""
        return np.r_[: len(self.common), COMMON : COMMON + 3 * COMPONENTS]

    @property
    def num_inputs(self) -> int:
        """Entries of `encode`."""
        return 1 + len(self.common)

    def scaled(self, k: np.ndarray) -> np.ndarray:
        """`u` at numbers k, which may lie between two cells."""
        g = np.log1p(k - self.lower) if self.log else k
        return (g - self.centre) / self.scale

    def cells(self, codes: Codes) -> Float[np.ndarray, "n 3"]:
        """Each cell's place among the frequent numbers, or -1, its lower edge and its width."""
        k = np.nan_to_num(codes, nan=self.common[0])
        hits = k[:, None] == np.array(self.common)
        edge = self.scaled(k - 0.5)
        if self.log:  # a difference of large logarithms would lose its digits
            width = np.log1p(1 / (0.5 + k - self.lower)) / self.scale
        else:
            width = np.full_like(k, 1 / self.scale)
        return np.stack([np.where(hits.any(axis=1), hits.argmax(axis=1), -1), edge, width], axis=1)

    def encode(self, codes: Codes) -> Float[np.ndarray, "n inputs"]:
        """`u` of each cell, and which frequent number it is; zeros where it is absent (NaN)."""
        u = np.nan_to_num(self.scaled(np.clip(codes, self.lower, self.upper)))
        return np.column_stack([np.clip(u, -5, 5), codes[:, None] == np.array(self.common)])

    def start(self, codes: Codes) -> Float[np.ndarray, " parameters"]:
        """Parameters near the frequencies of these cells."""
        known = codes[~np.isnan(codes)]
        counts = (known[:, None] == np.array(self.common)).sum(axis=0) + PSEUDO
        rest = max(len(known) - counts.sum(), 0) / max(len(known), 1)
        smooth = max(rest, SMOOTH) / COMPONENTS
        atoms = (1 - COMPONENTS * smooth) * counts / counts.sum()
        ranks = (np.arange(COMPONENTS) + 0.5) / COMPONENTS
        means = np.quantile(self.scaled(known), ranks) if len(known) else 4 * ranks - 2
        log_scales = np.full(COMPONENTS, np.log(0.3))
        weights = np.log([*np.maximum(atoms, 1e-6), *[smooth] * COMPONENTS])
        return np.concatenate([weights, means, log_scales])

    def log_prob(
        self, parameters: Float[np.ndarray, "n parameters"], cells: Float[np.ndarray, "n 3"]
    ) -> Float[np.ndarray, " n"]:
        """Log-probability of each cell."""
        every = np.full((len(parameters), COMMON + 3 * COMPONENTS), NEVER)
        every[:, self.slots] = parameters
        return step_log_prob(every, cells, *self.span)

    def sample(self, parameters: np.ndarray, uniform: Float[np.ndarray, "n 2"]) -> Codes:
        """Draw a number for each row of parameters, (n, parameters)."""
        num, rows = len(self.common), np.arange(len(parameters))
        chosen = _choose(parameters[:, : num + COMPONENTS], uniform[:, 0])
        part = np.maximum(chosen - num, 0)
        means, log_scales = np.split(parameters[:, num + COMPONENTS :].astype(float), 2, axis=1)
        mean, scale = means[rows, part], np.exp(np.clip(log_scales[rows, part], *LOG_SCALES))
        first, span = self.span
        low, high = (first - mean) / scale, (first + span - mean) / scale
        # Reflected where the limits lie in the upper tail, whose probabilities round to 1.
        sign = np.where(low > 0, -1.0, 1.0)
        low, high = np.where(low > 0, -high, low), np.where(low > 0, -low, high)
        p = expit(low) + uniform[:, 1] * (expit(high) - expit(low))
        tiny = np.finfo(float).tiny
        g = mean + scale * sign * logit(np.clip(p, tiny, 1 - np.finfo(float).epsneg))
        g = self.centre + self.scale * g
        k = self.lower + np.expm1(np.minimum(g, np.log(MOST))) if self.log else g
        k = np.clip(np.round(k), self.lower, self.upper)
        return np.where(chosen < num, np.array(self.common)[np.minimum(chosen, num - 1)], k)

    @property
    def span(self) -> tuple[float, float]:
        """Lower edge of the least cell, and the distance to the upper edge of the largest."""
        first, last = self.scaled(np.array([self.lower - 0.5, self.upper + 0.5]))
        return float(first), float(last - first)


Law = Labels | Steps


def label_log_prob(logits: Any, cells: Any) -> Any:
    """Log-probability of each cell, (n,), by the logits of all labels, (n, labels)."""
    xp = logits.__array_namespace__()
    index = cells[:, :1].astype(int)
    return xp.take_along_axis(_log_softmax(logits), index, axis=1)[:, 0]


def step_log_prob(parameters: Any, cells: Any, first: Any, span: Any) -> Any:
    """Log-probability of each cell, (n,), by the parameters of `Steps`, (n, parameters).

    Args:
        parameters: those of laws with `COMMON` frequent numbers; `NEVER` where there are fewer.
        cells: as `Steps.cells`.
        first: lower edge of the least number, in u.
        span: distance of the upper edge of the largest number from it.
    """
    xp = parameters.__array_namespace__()
    weights = _log_softmax(parameters[:, : COMMON + COMPONENTS])
    means, log_scales = xp.split(parameters[:, COMMON + COMPONENTS :], 2, axis=1)
    scales = xp.exp(xp.clip(log_scales, *LOG_SCALES))
    index, edge, width = (cells[:, i : i + 1] for i in range(3))
    inside = _log_mass((edge - means) / scales, width / scales)
    total = _log_mass((first - means) / scales, span / scales)
    smooth = _log_sum(weights[:, COMMON:] + inside - total)
    place = xp.maximum(index, 0).astype(int)
    own = xp.take_along_axis(weights, place, axis=1)
    return xp.logaddexp(xp.where(index >= 0, own, NEVER), smooth)[:, 0]


def _log_mass(low: Any, width: Any) -> Any:
    """`log(F(low + width) - F(low))` for the logistic F, without cancellation."""
    xp = low.__array_namespace__()
    # log F(x) = -log(1 + exp(-x))
    tails = xp.logaddexp(0.0, -low - width) + xp.logaddexp(0.0, low)
    return xp.log(-xp.expm1(-width)) - tails


def _log_sum(x: Any) -> Any:
    """`log(sum(exp(x)))` of each row, as a column."""
    xp = x.__array_namespace__()
    largest = xp.max(x, axis=1, keepdims=True)
    return largest + xp.log(xp.sum(xp.exp(x - largest), axis=1, keepdims=True))


def _log_softmax(x: Any) -> Any:
    return x - _log_sum(x)


def _choose(logits: np.ndarray, uniform: np.ndarray) -> np.ndarray:
    """An index for each row of logits, by a uniform number."""
    weights = np.exp(logits.astype(float) - logits.max(axis=1, keepdims=True))
    edges = np.cumsum(weights, axis=1)
    return (uniform[:, None] * edges[:, -1:] >= edges[:, :-1]).sum(axis=1)


def _is_skewed(x: np.ndarray) -> bool:
    """Whether the logarithm of numbers from 0 on is much less skewed than the numbers."""

    def skew(values: np.ndarray) -> float:
        scale = values.std()
        return float(np.mean(((values - values.mean()) / scale) ** 3)) if scale else 0.0

    return skew(x) > 2.0 and abs(skew(np.log1p(x))) < 0.5 * skew(x)
