"""The columns of a mixed table for the simple densities of `mixed_baselines.py`."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy import stats
from scipy.special import ndtri
from sklearn.mixture import GaussianMixture

from jaxflow.tables.kinds import Category
from jaxflow.tables.numeric import Number
from jaxflow.tables.plan import Coded, Plan

# Whole numbers with a state of their own: all, if so few differ, else those of so many rows.
FEW, FREQUENT = 30, 0.02
# Components of a mixture, and the ridge of its variances.
COMPONENTS, RIDGE = (1, 2, 4, 8), 1e-4
# A bin with less mass has no rows.
LEAST = 1e-6


class Column(NamedTuple):
    """Where the cells of a column are in `Coded`: its gap, discrete value and number, -1 for none.

    `count` is the number of its labels or `atoms`, 0 for whole numbers; limits and atoms are in
    codes.
    """

    name: str
    gap: int
    value: int
    y: int
    count: int
    lower: float
    upper: float
    atoms: tuple[float, ...] = ()

    def ordered(self, rows: Coded) -> np.ndarray:
        """The cells as numbers: labels by their code, atoms by their value; 0 for a gap."""
        codes = rows.codes[:, self.value] if self.value >= 0 else np.zeros(len(rows.y))
        if self.y < 0:
            return np.nan_to_num(codes)
        values = np.array([0.0, *self.atoms])[np.nan_to_num(codes).astype(int)]
        return np.nan_to_num(np.where(codes > 0, values, rows.y[:, self.y]))

    def numbers(self, rows: Coded) -> np.ndarray:
        """The cells of a column of numbers without its atoms, NaN for others."""
        if self.y >= 0:
            return rows.y[:, self.y]
        return rows.codes[:, self.value] if not self.count else np.full(len(rows.y), np.nan)


def columns_of(plan: Plan, laws: Sequence[Any]) -> list[Column]:
    """The fitted columns."""
    place = {(v.column, v.is_gap): i for i, v in enumerate(plan.variables)}
    columns = []
    for j, each in enumerate(plan.columns):
        if each.name not in plan.names:
            continue
        gap, value = place.get((j, True), -1), place.get((j, False), -1)
        y = plan.numbers.index(j) if j in plan.numbers else -1
        lower, upper, count, atoms = -np.inf, np.inf, 0, ()
        if isinstance(each.kind, Number):
            (lower, upper), count = plan.limits[:, y], len(each.kind.atoms)
            atoms = tuple((atom - each.kind.centre) / each.kind.scale for atom in each.kind.atoms)
        elif isinstance(each.kind, Category):
            count = laws[value].count
        else:
            lower, upper = laws[value].lower, laws[value].upper
        columns.append(Column(each.name, gap, value, y, count, lower, upper, atoms))
    return columns


class Scale(NamedTuple):
    """`u(x)`: a logarithm or a logit of numbers with limits, or a straight line."""

    lower: float
    upper: float

    def __call__(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """`u` and the logarithm of its slope; limits themselves are infinite."""
        with np.errstate(divide="ignore", invalid="ignore"):
            below, above = np.log(x - self.lower), np.log(self.upper - x)
            if np.isfinite([self.lower, self.upper]).all():
                return below - above, np.log(self.upper - self.lower) - below - above
            if np.isfinite(self.lower):
                return below, -below
            return (-above, -above) if np.isfinite(self.upper) else (x, np.zeros_like(x))

    def inverse(self, u: np.ndarray) -> np.ndarray:
        """Numbers."""
        if np.isfinite([self.lower, self.upper]).all():
            return self.lower + (self.upper - self.lower) / (1 + np.exp(-u))
        if np.isfinite(self.lower):
            return self.lower + np.exp(u)
        return self.upper - np.exp(-u) if np.isfinite(self.upper) else u


def mixture(u: np.ndarray) -> GaussianMixture:
    """A Gaussian mixture of rows, (n, columns), with the number of components of the best BIC."""
    ridge = RIDGE * float(u.var(axis=0).mean()) + 1e-12
    most = max(1, min(len(u) // (10 * u.shape[1]), len(np.unique(u, axis=0))))
    fits = [
        GaussianMixture(m, reg_covar=ridge, random_state=0).fit(u) for m in COMPONENTS if m <= most
    ]
    return min(fits, key=lambda each: each.bic(u))


class Curve:
    """The density of a column of numbers, or the probabilities of whole ones by its cells."""

    def __init__(self, x: np.ndarray, lower: float, upper: float, *, whole: bool) -> None:
        # A wide cell at a limit is cut at it, and a column of huge numbers has none.
        self.half, wide = 0.5 * whole, whole and (abs(lower) > 2**52 or abs(upper) > 2**52)
        self.lower, self.upper = lower - self.half, upper + self.half
        skewed = whole and lower > -(2**52) and x.mean() - lower < 3 * x.std()
        self.scale = Scale(-np.inf, np.inf) if whole else Scale(lower, upper)
        if wide and skewed:
            self.scale = Scale(lower - 1.0, np.inf)
        self.parts = mixture(self.scale(x)[0][:, None])
        means, covariances = np.asarray(self.parts.means_), np.asarray(self.parts.covariances_)
        self.mean, self.std = means[:, 0], covariances[:, 0, 0] ** 0.5

    def cdf(self, x: np.ndarray) -> np.ndarray:
        """The distribution function."""
        u = self.scale(np.clip(x, self.lower, self.upper))[0]
        return stats.norm.cdf(u[:, None], self.mean, self.std) @ self.parts.weights_

    def log_prob(self, x: np.ndarray) -> np.ndarray:
        """Log-density, or log-probability of the cell."""
        if self.half:
            return np.log(np.maximum(self.cdf(x + 0.5) - self.cdf(x - 0.5), 1e-300))
        u, log_slope = self.scale(x)
        return self.parts.score_samples(u[:, None]) + log_slope

    def sample(self, low: np.ndarray, high: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Draw a number between each two."""
        ends = [self.scale(np.clip(x, self.lower, self.upper))[0] for x in (low, high)]
        below, above = (stats.norm.cdf(u[:, None], self.mean, self.std) for u in ends)
        mass = np.maximum(above - below, 1e-300) * self.parts.weights_
        chosen = pick(mass / mass.sum(axis=1, keepdims=True), rng)
        i = np.arange(len(low))
        p = below[i, chosen] + rng.random(len(low)) * (above - below)[i, chosen]
        u = self.mean[chosen] + self.std[chosen] * ndtri(np.clip(p, 1e-15, 1 - 1e-15))
        x = np.clip(self.scale.inverse(np.clip(u, *ends)), low, high)
        return np.clip(np.round(x), low + 0.5, high - 0.5) if self.half else x


def pick(p: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A column of each row of probabilities."""
    edges = np.cumsum(p, axis=1)
    return np.minimum(
        (rng.random((len(p), 1)) * edges[:, -1:] >= edges).sum(axis=1), p.shape[1] - 1
    )


class Node:
    """A column as states, and the density of a cell within its state.

    State 0 is a gap. Next come labels, atoms, or frequent whole numbers, and then the bins of the
    other numbers; with `bins=0` all numbers are one state, whose density is left to others.
    """

    def __init__(self, column: Column, rows: Coded, bins: int) -> None:
        self.column, self.curve, self.listed = column, None, np.zeros(0)
        x, whole = column.numbers(rows), column.y < 0
        x = x[~np.isnan(x)]
        few = False
        if whole and len(x):
            values, counts = np.unique(x, return_counts=True)
            few = len(values) <= FEW
            self.listed = values if few else values[counts > FREQUENT * len(x)]
            rest = x[~np.isin(x, self.listed)]
            x = rest if len(rest) > FEW else x
        self.first = 1 + (column.count or len(self.listed))
        self.edges, self.left = np.array([-np.inf, np.inf]), np.zeros(1)
        if bins and len(x):
            half = 0.5 * whole
            low, high = column.lower - half, column.upper + half
            inner = np.quantile(x, np.arange(1, 1 if few else bins) / bins)
            inner = np.unique(np.floor(inner) + 0.5 if whole else inner)
            self.edges = np.array([low, *inner[(inner > low) & (inner < high)], high])
            self.curve = Curve(x, column.lower, column.upper, whole=whole)
            self.left = np.diff(self.curve.cdf(self.edges))
            if len(self.listed):
                place = np.searchsorted(self.edges, self.listed) - 1
                np.subtract.at(self.left, place, np.exp(self.curve.log_prob(self.listed)))
        numbers = self.left > LEAST if self.curve is not None else [column.y >= 0]
        self.possible = np.array([column.gap >= 0, *[True] * (self.first - 1), *numbers])

    def split(self, rows: Coded) -> tuple[np.ndarray, np.ndarray]:
        """The state of each cell, and its log-density within it."""
        column, n = self.column, len(rows.y)
        state, inside = np.zeros(n, int), np.zeros(n)
        if column.count:
            # A code 0 is the first label, but stands for a number beside atoms.
            codes = rows.codes[:, column.value] + (column.y < 0)
            state = np.nan_to_num(codes).astype(int)
        x = column.numbers(rows)
        own = np.isin(x, self.listed)
        state[own] = 1 + np.searchsorted(self.listed, x[own])
        free = np.flatnonzero(~np.isnan(x) & ~own)
        bins = np.clip(np.searchsorted(self.edges, x[free]) - 1, 0, len(self.edges) - 2)
        state[free] = self.first + bins
        if self.curve is not None and free.size:
            log_p = self.curve.log_prob(x[free])
            inside[free] = log_p - np.log(np.maximum(self.left[bins], LEAST))
        return state, inside

    def fill(self, rows: Coded, state: np.ndarray, rng: np.random.Generator) -> None:
        """Write cells of these states."""
        column = self.column
        if column.gap >= 0:
            rows.codes[:, column.gap] = state == 0
        x, first = np.full(len(state), np.nan), self.first
        bins = np.flatnonzero(state >= first)
        if self.curve is not None and bins.size:
            at = state[bins] - first
            for _ in range(20):
                x[bins] = self.curve.sample(self.edges[at], self.edges[at + 1], rng)
                again = np.isin(x[bins], self.listed)
                bins, at = bins[again], at[again]
        own = (state > 0) & (state < first)
        if len(self.listed):
            x[own] = self.listed[state[own] - 1]
        if column.count:
            codes = np.where(state >= first, 0.0, state - float(column.y < 0))
            rows.codes[:, column.value] = np.where(state == 0, np.nan, codes)
        elif column.value >= 0:
            rows.codes[:, column.value] = x
        if column.y >= 0:
            rows.y[:, column.y] = x


def nodes_of(
    columns: Sequence[Column], rows: Coded, bins: int, *, numbers: bool = True
) -> list[Node]:
    """A node for each column; without `numbers` continuous ones have no bins."""
    return [Node(each, rows, bins if numbers or each.y < 0 else 0) for each in columns]
