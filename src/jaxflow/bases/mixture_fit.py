"""Fit Gaussian mixtures by expectation maximisation, in NumPy."""

import warnings
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from scipy.cluster.vq import kmeans2
from scipy.linalg import solve_triangular
from scipy.spatial.distance import cdist
from scipy.special import logsumexp

# A fit ends once a step gains less than this in the mean log-density of a row, in nats.
GAIN, MOST_STEPS = 1e-3, 100
# Steps of k-means before the first step, and how many are taken between looks for a change.
KMEANS_STEPS, KMEANS_EVERY = 30, 5
# Numbers in the arrays of a step: rows come in chunks.
CHUNK = 2**20
# A factor so large that a row belongs to its nearest centre alone.
CERTAIN = 1e9


class Mixture(NamedTuple):
    """Weights (k,), means (k, d), and lower triangular factors (k, d, d) of the covariances."""

    weights: Float[np.ndarray, " k"]
    means: Float[np.ndarray, "k d"]
    factors: Float[np.ndarray, "k d d"]

    def log_density(self, x: Float[np.ndarray, "n d"]) -> Float[np.ndarray, " n"]:
        """Log-density of each row, in nats."""
        each = []
        for weight, mean, factor in zip(*self, strict=True):
            z = solve_triangular(factor, (x - mean).T, lower=True)
            log_scale = np.log(np.diagonal(factor)).sum() + 0.5 * len(factor) * np.log(2 * np.pi)
            each.append(np.log(weight) - 0.5 * (z**2).sum(axis=0) - log_scale)
        return np.asarray(logsumexp(each, axis=0))


def fit_mixture(
    x: Float[np.ndarray, "n d"],
    components: int,
    ridge: float,
    covariance: str,
    *,
    seed: int = 0,
    starts: int = 1,
    averaged: int = 1,
) -> Mixture:
    """`GaussianMixture.fit` without checks."""
    mean, scale = x.mean(axis=0), x.std(axis=0)
    dim = x.shape[1]
    pairs = np.asarray(np.tril_indices(dim) if covariance == "full" else 2 * [range(dim)])
    fitted = []
    # Scaled, so that the ridge has the units of each column.
    for rows in _leave_one_share_out((x - mean) / scale, averaged, seed):
        rng = np.random.default_rng(seed + len(fitted))
        each = [_climb(rows, _cluster(rows, components, rng), pairs, ridge) for _ in range(starts)]
        fitted.append(max(each, key=lambda found: found[0])[1])
    weights, means, factors = map(np.concatenate, zip(*fitted, strict=True))
    return Mixture(weights / averaged, mean + scale * means, scale[:, None] * factors)


def _leave_one_share_out(
    x: Float[np.ndarray, "n dim"], count: int, seed: int
) -> Iterator[Float[np.ndarray, "m dim"]]:
    """The rows without one of `count` random shares, for each share; all rows for a count of 1."""
    if count == 1:
        yield x
        return
    share = np.random.default_rng(seed).permutation(len(x)) % count
    for k in range(count):
        yield x[share != k]


def _cluster(
    x: Float[np.ndarray, "n d"], components: int, rng: np.random.Generator
) -> Float[np.ndarray, "k d"]:
    """Centres of k-means, from rows far apart (greedy k-means++).

    Each next centre is the best of a few rows drawn in proportion to their squared distances from
    the nearest centre (Arthur and Vassilvitskii 2007, "k-means++: the advantages of careful
    seeding").
    """
    centres = x[rng.integers(len(x), size=1)]
    nearest = cdist(x, centres, "sqeuclidean")[:, 0]
    for _ in range(components - 1):
        total = nearest.sum()
        share = nearest / total if total > 0 else None
        tried = rng.choice(len(x), 2 + int(np.log(components)), p=share)
        each = np.minimum(nearest, cdist(x[tried], x, "sqeuclidean"))
        best = int(each.sum(axis=1).argmin())
        centres, nearest = np.append(centres, x[tried[best], None], axis=0), each[best]
    with warnings.catch_warnings():
        # A centre without rows stays where it is.
        warnings.simplefilter("ignore")
        for _ in range(KMEANS_STEPS // KMEANS_EVERY):
            before, centres = centres, kmeans2(x, centres, iter=KMEANS_EVERY, minit="matrix")[0]
            if np.array_equal(before, centres):
                break
    return centres


def _climb(
    x: Float[np.ndarray, "n d"],
    centres: Float[np.ndarray, "k d"],
    pairs: Int[np.ndarray, "2 q"],
    ridge: float,
) -> tuple[float, Mixture]:
    """Expectation maximisation from clusters: the mean log-density of the rows, and the mixture.

    The log-density of a row and its component is linear in the row's monomials up to degree 2, and
    the next parameters follow from their means, so a step is two matrix products. `pairs` names
    the monomials of degree 2, and so the entries of the covariances.
    """
    # A row belongs to its nearest centre at first.
    parts = -(centres**2).sum(axis=1)[:, None], 2 * centres, np.zeros((len(centres), len(pairs.T)))
    coefficients = CERTAIN * np.concatenate(parts, axis=1)
    before = -np.inf
    for step in range(MOST_STEPS):
        mean, sums = _expected(x, pairs, coefficients)
        mixture, coefficients = _maximised(sums, pairs, ridge)
        if step and mean - before < GAIN:
            break
        before = mean if step else before
    return mean, mixture


def _expected(
    x: Float[np.ndarray, "n d"],
    pairs: Int[np.ndarray, "2 q"],
    coefficients: Float[np.ndarray, "k p"],
) -> tuple[float, Float[np.ndarray, "k p"]]:
    """Mean log-density of the rows, and their monomials weighted by each component's share."""
    log_density, sums = 0.0, np.zeros_like(coefficients)
    for rows in np.array_split(x.T, -(-len(x) * sum(coefficients.shape) // CHUNK), axis=1):
        first, second = rows[pairs[0]], rows[pairs[1]]
        monomials = np.concatenate([np.ones_like(rows[:1]), rows, first * second])
        log_joint = coefficients @ monomials
        top = log_joint.max(axis=0)
        shares = np.exp(log_joint - top)
        total = shares.sum(axis=0)
        log_density += float((top + np.log(total)).sum())
        sums += (shares / total) @ monomials.T
    return log_density / len(x), sums


def _maximised(
    sums: Float[np.ndarray, "k p"], pairs: Int[np.ndarray, "2 q"], ridge: float
) -> tuple[Mixture, Float[np.ndarray, "k p"]]:
    """The mixture of highest likelihood, and the coefficients of its log-density."""
    count, dim = len(sums), sums.shape[1] - len(pairs.T) - 1
    # A component of no rows keeps a little weight.
    shares = sums[:, 0] + 10 * np.finfo(float).eps
    first, second = np.split(sums[:, 1:] / shares[:, None], [dim], axis=1)
    (i, j), eye = pairs, np.eye(dim)
    covariance = np.zeros((count, dim, dim))
    covariance[:, i, j] = covariance[:, j, i] = second - first[:, i] * first[:, j]
    factors = np.linalg.cholesky(covariance + ridge * eye)
    inverse = np.linalg.inv(factors)
    precision = inverse.transpose(0, 2, 1) @ inverse
    weights, linear = shares / shares.sum(), np.einsum("kij,kj->ki", precision, first)
    constant = np.log(weights) - 0.5 * (linear * first).sum(axis=1) - 0.5 * dim * np.log(2 * np.pi)
    constant += np.log(np.diagonal(inverse, axis1=1, axis2=2)).sum(axis=1)
    quadratic = precision[:, i, j] * np.where(i == j, -0.5, -1.0)
    coefficients = np.concatenate([constant[:, None], linear, quadratic], axis=1)
    return Mixture(weights, first, factors), coefficients
