"""Student's t with any location, scale and correlations, fitted by maximum likelihood."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy.linalg import solve_triangular
from scipy.special import gammaln

# Degrees of freedom that are tried, from light tails to heavy ones.
DEGREES = (20.0, 10.0, 6.0, 4.0, 3.0, 2.0, 1.5, 1.0)
# Steps of expectation maximisation for each, from the fit of the one before.
ITERATIONS = 15
# Distance of the quartiles of a standard normal.
NORMAL_QUARTILES = 1.349


class HeavyTails(NamedTuple):
    """Independent Student's t coordinates `factor^-1 (x - mean)`, all with the same `df`."""

    mean: Float[np.ndarray, " dim"]
    factor: Float[np.ndarray, "dim dim"]
    df: float

    def log_density(self, x: Float[np.ndarray, "n dim"]) -> Float[np.ndarray, " n"]:
        """Log-density of rows, in nats."""
        df, z = self.df, _whitened(x, self.mean, self.factor)
        peak = gammaln((df + 1) / 2) - gammaln(df / 2) - 0.5 * np.log(df * np.pi)
        each = peak - (df + 1) / 2 * np.log1p(z**2 / df)
        return each.sum(axis=1) - np.log(np.diagonal(self.factor)).sum()


def fit_heavy_tails(x: Float[np.ndarray, "n dim"], covariance: str, ridge: float) -> HeavyTails:
    """The most likely of `DEGREES`, with location and scale by expectation maximisation.

    Correlations are those of the multivariate t (Lange, Little and Taylor 1989, "Robust
    Statistical Modeling Using the t Distribution"), or none if `covariance` is `"diag"`. Then each
    coordinate gets its own scale. `ridge` is added to each variance, as a share of that of the
    column's distinct values: without it few rows, or many equal ones, have no most likely scale.
    """
    best, highest = None, -np.inf
    floor = ridge * np.array([_spread(np.unique(column)) for column in x.T]) ** 2
    mean = x.mean(axis=0)
    cov = np.cov(x, rowvar=False, ddof=0).reshape(2 * x.shape[1:]) + np.diag(floor)
    for df in DEGREES:
        for _ in range(ITERATIONS):
            mean, cov = _improved(x, mean, cov, df, covariance)
            cov = cov + np.diag(floor)
        density = _own_scales(x, mean, np.linalg.cholesky(cov), df, floor)
        value = density.log_density(x).mean()
        if value < highest:
            break
        best, highest = density, value
    assert best is not None
    return best


def _spread(values: np.ndarray) -> float:
    """The standard deviation of a normal with the same quartiles, blind to outliers."""
    low, high = np.quantile(values, (0.25, 0.75))
    return float(high - low) / NORMAL_QUARTILES


def _improved(
    x: np.ndarray, mean: np.ndarray, cov: np.ndarray, df: float, covariance: str
) -> tuple[np.ndarray, np.ndarray]:
    """Location and scatter after one step: distant rows (entries for `"diag"`) count less."""
    if covariance == "diag":
        square, width = (x - mean) ** 2 / np.diagonal(cov), 1
    else:
        z, width = _whitened(x, mean, np.linalg.cholesky(cov)), x.shape[1]
        square = np.sum(z**2, axis=1, keepdims=True)
    weight = np.broadcast_to((df + width) / (df + square), x.shape)
    mean = np.sum(weight * x, axis=0) / np.sum(weight, axis=0)
    gap = np.sqrt(weight) * (x - mean)
    cov = gap.T @ gap / len(x)
    return mean, np.diag(np.diagonal(cov)) if covariance == "diag" else cov


def _own_scales(
    x: np.ndarray, mean: np.ndarray, factor: np.ndarray, df: float, floor: np.ndarray
) -> HeavyTails:
    """A scale for each coordinate, with a variance of at least `floor` given those before it."""
    least = np.sqrt(floor) / np.diagonal(factor)
    square, scale = _whitened(x, mean, factor) ** 2, np.ones(x.shape[1])
    for _ in range(ITERATIONS):
        weight = (df + 1) / (df + square / scale**2)
        scale = np.maximum(np.sqrt(np.mean(weight * square, axis=0)), least)
    return HeavyTails(mean, factor * scale, df)


def _whitened(x: np.ndarray, mean: np.ndarray, factor: np.ndarray) -> np.ndarray:
    return solve_triangular(factor, (x - mean).T, lower=True).T
