"""The law of a number in steps: frequent numbers, those of the table, and a smooth mixture."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from scipy.special import expit, logit

from jaxflow.tables.softmax import NEVER, choose, log_softmax, log_sum
from jaxflow.transforms.kinds import is_skewed

# Frequent numbers with a probability of their own, and logistic densities of the others.
COMMON, COMPONENTS = 6, 5
# Most numbers whose frequencies are kept beside these.
KEPT = 1000
# Logits of a law: the frequent numbers, the table, the logistic densities; and all parameters.
LOGITS, PARAMETERS = COMMON + 1 + COMPONENTS, COMMON + 1 + 3 * COMPONENTS
# Shares of the smooth part in the frequencies, one of which is chosen, and before training.
SHARES, SMOOTH = np.array([0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9, 0.98]), 0.9
# Numbers of steps beyond this are no cells: float64 cannot count further.
MOST = 2.0**53
# Logarithms of the scales lie within these, in standard deviations.
LOG_SCALES = (-9.0, 4.0)

Codes = Float[np.ndarray, " n"]


@dataclass(frozen=True)
class Steps:
    """`P(k)` of an integer k within limits, for counts and for numbers in steps.

    Frequent numbers have probabilities of their own, and the others those of the table, T. Beside
    them stands a mixture of logistic densities over `u = (g(k) - centre) / scale`, integrated over
    the cell of each number and normalised within the limits, with F the logistic distribution
    function and `g(k) = log(1 + k - lower)` if `log`, else `g(k) = k`:

        P(k) = sum_c w_c [k = c] + w T(k) + sum_m w_m (F_m(k + 1/2) - F_m(k - 1/2)) / Z_m

    Every number within the limits has a probability, and no other has (discretised logistic
    mixtures: Salimans et al. 2017, arXiv 1701.05517). `common` are the frequent numbers; `values`
    and `counts` are other numbers of the table and their rows.
    """

    lower: float
    upper: float
    log: bool
    centre: float
    scale: float
    common: tuple[float, ...]
    values: tuple[float, ...] = ()
    counts: tuple[int, ...] = ()

    @classmethod
    def fit(cls, codes: Codes, lower: float, upper: float) -> "Steps":
        """The law for cells like these, with its limits; infinite ones become very large."""
        known = codes[~np.isnan(codes)]
        values, counts = np.unique(known, return_counts=True)
        order = np.argsort(-counts, kind="stable")
        kept = np.sort(order[COMMON : COMMON + KEPT])
        log = bool(np.isfinite(lower) and not np.isfinite(upper))
        log = log and is_skewed(known - lower, np.log1p(known - lower))
        lower, upper = float(max(lower, -MOST)), float(min(upper, MOST))
        g = np.log1p(known - lower) if log else known
        return cls(
            lower,
            upper,
            log,
            float(g.mean()),
            float(g.std()) or 1.0,
            tuple(values[order[:COMMON]].tolist()),
            tuple(values[kept].tolist()),
            tuple(counts[kept].tolist()),
        )

    @property
    def slots(self) -> Int[np.ndarray, " parameters"]:
        """Places of the parameters among `PARAMETERS`; the law has no others."""
        table = [COMMON] if self.values else []
        return np.r_[: len(self.common), table, COMMON + 1 : PARAMETERS].astype(int)

    @property
    def num_parameters(self) -> int:
        """Logits of all parts, then means and log-scales of the densities."""
        return len(self.slots)

    @property
    def num_inputs(self) -> int:
        """Entries of `encode`."""
        return 1 + len(self.common)

    def scaled(self, k: np.ndarray) -> np.ndarray:
        """`u` at numbers k, which may lie between two cells."""
        g = np.log1p(k - self.lower) if self.log else k
        return (g - self.centre) / self.scale

    def cells(self, codes: Codes, *, others: bool = False) -> Float[np.ndarray, "n 4"]:
        """Each cell's place among the frequent numbers, or -1, its lower edge, width and `log T`.

        With `others` they are those of the table, and `T` is that of the other rows.
        """
        k = np.nan_to_num(codes, nan=self.common[0])
        hits = k[:, None] == np.array(self.common)
        edge = self.scaled(k - 0.5)
        if self.log:  # a difference of large logarithms would lose its digits
            width = np.log1p(1 / (0.5 + k - self.lower)) / self.scale
        else:
            width = np.full_like(k, 1 / self.scale)
        index = np.where(hits.any(axis=1), hits.argmax(axis=1), -1)
        return np.stack([index, edge, width, self._log_table(k, others=others)], axis=1)

    def _log_table(self, k: np.ndarray, *, others: bool) -> Float[np.ndarray, " n"]:
        if not self.values:
            return np.full(len(k), NEVER)
        values, counts = np.array(self.values), np.array(self.counts, float)
        place = np.minimum(np.searchsorted(values, k), len(values) - 1)
        rows = np.where(values[place] == k, counts[place] - others, 0.0)
        total = max(counts.sum() - others, 1.0)
        return np.where(rows > 0, np.log(np.maximum(rows, 0.5) / total), NEVER)

    def encode(self, codes: Codes) -> Float[np.ndarray, "n inputs"]:
        """`u` of each cell, and which frequent number it is; zeros where it is absent (NaN)."""
        u = np.nan_to_num(self.scaled(np.clip(codes, self.lower, self.upper)))
        return np.column_stack([np.clip(u, -5, 5), codes[:, None] == np.array(self.common)])

    def frequencies(self, codes: Codes) -> Float[np.ndarray, " parameters"]:
        """Parameters that make the probabilities the smoothed frequencies of these cells.

        Of `SHARES` the smooth part has the one by which the rows are most likely, each given the
        others.
        """
        known = codes[~np.isnan(codes)]
        if not len(known):
            return self.start(codes)
        only = self._parameters(known, 1.0)
        only[: COMMON + 1] = NEVER
        cells = self.cells(known, others=True)
        smooth = np.exp(step_log_prob(np.tile(only, (len(known), 1)), cells, *self.span))
        hits = (known[:, None] == np.array(self.common)).astype(float)
        own = hits @ (hits.sum(axis=0) - 1) / max(len(known) - 1, 1)
        own += (1 - hits.mean(axis=0).sum()) * np.exp(cells[:, 3])
        with np.errstate(divide="ignore"):
            each = np.log(own[:, None] * (1 - SHARES) + smooth[:, None] * SHARES)
        return self._parameters(known, float(SHARES[each.sum(axis=0).argmax()]))[self.slots]

    def start(self, codes: Codes) -> Float[np.ndarray, " parameters"]:
        """Parameters to train from: near the frequencies, and mostly smooth."""
        return self._parameters(codes[~np.isnan(codes)], SMOOTH)[self.slots]

    def _parameters(self, known: Codes, smooth: float) -> Float[np.ndarray, " every"]:
        """All `PARAMETERS`, by the frequencies of cells and the share of the smooth part."""
        shares = np.zeros(COMMON + 1)
        hits = (known[:, None] == np.array(self.common)).sum(axis=0)
        shares[: len(hits)] = hits / max(len(known), 1)
        shares[COMMON] = 1 - shares.sum()
        ranks = (np.arange(COMPONENTS) + 0.5) / COMPONENTS
        means = np.quantile(self.scaled(known), ranks) if len(known) else 4 * ranks - 2
        own = np.log(np.maximum((1 - smooth) * shares, 1e-6))
        parts = own, [np.log(smooth / COMPONENTS)] * COMPONENTS, means, [np.log(0.3)] * COMPONENTS
        return np.concatenate(parts)

    def log_prob(
        self, parameters: Float[np.ndarray, "n parameters"], cells: Float[np.ndarray, "n 4"]
    ) -> Float[np.ndarray, " n"]:
        """Log-probability of each cell."""
        return step_log_prob(self._every(parameters), cells, *self.span)

    def _every(self, parameters: np.ndarray) -> Float[np.ndarray, "n every"]:
        every = np.full((len(parameters), PARAMETERS), NEVER)
        every[:, self.slots] = parameters
        return every

    def sample(self, parameters: np.ndarray, uniform: Float[np.ndarray, "n 2"]) -> Codes:
        """Draw a number for each row of parameters, (n, parameters)."""
        every, rows = self._every(parameters), np.arange(len(parameters))
        chosen = choose(every[:, :LOGITS], uniform[:, 0])
        part = np.maximum(chosen - COMMON - 1, 0)
        means, log_scales = np.split(every[:, LOGITS:], 2, axis=1)
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
        if self.values:
            edges = np.cumsum(self.counts)
            place = np.searchsorted(edges, uniform[:, 1] * edges[-1], side="right")
            place = np.minimum(place, len(edges) - 1)
            k = np.where(chosen == COMMON, np.array(self.values)[place], k)
        place = np.minimum(chosen, len(self.common) - 1)
        return np.where(chosen < COMMON, np.array(self.common)[place], k)

    @property
    def span(self) -> tuple[float, float]:
        """Lower edge of the least cell, and the distance to the upper edge of the largest."""
        first, last = self.scaled(np.array([self.lower - 0.5, self.upper + 0.5]))
        return float(first), float(last - first)


def step_log_prob(parameters: Any, cells: Any, first: Any, span: Any) -> Any:
    """Log-probability of each cell, (n,), by the parameters of `Steps`, (n, `PARAMETERS`).

    Logits that a law does not have are `NEVER`. `first` and `span` are `Steps.span`.
    """
    xp = parameters.__array_namespace__()
    weights = log_softmax(parameters[:, :LOGITS])
    means, log_scales = xp.split(parameters[:, LOGITS:], 2, axis=1)
    scales = xp.exp(xp.clip(log_scales, *LOG_SCALES))
    index, edge, width, log_table = (cells[:, i : i + 1] for i in range(4))
    inside = _log_mass((edge - means) / scales, width / scales)
    total = _log_mass((first - means) / scales, span / scales)
    smooth = log_sum(weights[:, COMMON + 1 :] + inside - total)
    place = xp.maximum(index, 0).astype(int)
    own = xp.take_along_axis(weights, place, axis=1)
    # A frequent number is not in the table.
    own = xp.where(index >= 0, own, weights[:, COMMON : COMMON + 1] + log_table)
    return xp.logaddexp(xp.maximum(own, NEVER), smooth)[:, 0]


def _log_mass(low: Any, width: Any) -> Any:
    """`log(F(low + width) - F(low))` for the logistic F, without cancellation."""
    xp = low.__array_namespace__()
    # log F(x) = -log(1 + exp(-x))
    tails = xp.logaddexp(0.0, -low - width) + xp.logaddexp(0.0, low)
    return xp.log(-xp.expm1(-width)) - tails
