"""A Gaussian whose mean is linear in labels, on any set of columns: where the flow starts."""

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from jaxflow.runtime.linear_algebra import cholesky, solve_lower

# Rows of the common covariance that the covariance of a label is averaged with, per column.
SHRINK = 2.0
# Iterations of expectation maximisation where cells are absent.
ITERATIONS = 15


class Conditions(NamedTuple):
    """Conditions of the continuous cells of one row or of rows.

    `seen` columns are present, `inputs` encode the discrete cells, `label` chooses the covariance.
    """

    seen: Any
    inputs: Any
    label: Any


class LinearGaussian(eqx.Module):
    """`u ~ N(a + B inputs, C_label)` on the present columns; `coefficients` are `a` and `B`."""

    coefficients: Float[Array, "columns entries"]
    covariances: Float[Array, "labels columns columns"]

    def forward(
        self, u: Float[Array, " columns"], conditions: Conditions
    ) -> tuple[Float[Array, " columns"], Float[Array, ""]]:
        """Standard normal scores of the present columns, 0 elsewhere, and the log-determinant."""
        gap = jnp.where(conditions.seen, u - self.mean(conditions), 0.0)
        factor = self._factor(conditions)
        z = solve_lower(factor, gap)
        return z, -jnp.sum(jnp.log(jnp.diagonal(factor)))

    def inverse(
        self, z: Float[Array, " columns"], conditions: Conditions
    ) -> Float[Array, " columns"]:
        """The columns of scores; anything where they are absent."""
        return self.mean(conditions) + self._factor(conditions) @ z

    def mean(self, conditions: Conditions) -> Float[Array, " columns"]:
        """The mean of all columns."""
        return self.coefficients[:, 0] + self.coefficients[:, 1:] @ conditions.inputs

    def rest(
        self, u: Float[Array, " columns"], known: Bool[Array, " columns"], conditions: Conditions
    ) -> tuple[Float[Array, " columns"], Float[Array, "columns columns"]]:
        """Mean of all columns given those that are known, and a factor of their covariance.

        Outside of the unknown present columns the factor is the identity.
        """
        free = conditions.seen & ~known
        covariance = self.covariances[conditions.label]
        inner = _masked(covariance, known)
        cross = jnp.where(jnp.outer(free, known), covariance, 0.0)
        factor, mean = cholesky(inner), self.mean(conditions)
        gain = jax.vmap(solve_lower, in_axes=(None, 0), out_axes=1)(factor, cross)
        gap = solve_lower(factor, jnp.where(known, u - mean, 0.0))
        mean = jnp.where(known, u, mean + gap @ gain)
        return mean, cholesky(_masked(covariance - gain.T @ gain, free))

    def _factor(self, conditions: Conditions) -> Float[Array, "columns columns"]:
        return cholesky(_masked(self.covariances[conditions.label], conditions.seen))


def fit_gaussian(
    u: Float[np.ndarray, "n columns"],
    inputs: Float[np.ndarray, "n inputs"],
    labels: Int[np.ndarray, " n"],
    num_labels: int,
    *,
    decay: float,
    ridge: float,
    diagonal: bool = False,
) -> LinearGaussian:
    """Fit to rows whose absent cells are NaN, by expectation maximisation.

    `decay` is the ridge of the coefficients, as a number of rows, or inf for none but the mean;
    `ridge` is added to the variances; `diagonal` columns are independent given the labels.
    """
    n, dim = u.shape
    absent = np.isnan(u)
    x = np.column_stack([np.ones(n), inputs]) if np.isfinite(decay) else np.ones((n, 1))
    penalty = np.diag([0.0, *[decay] * (x.shape[1] - 1)]) + 1e-9 * np.eye(x.shape[1])
    filled, more = np.where(absent, np.nanmean(u, axis=0), u), np.zeros((n, dim, dim))
    coefficients, common, left = np.zeros((x.shape[1], dim)), np.eye(dim), filled
    for _ in range(ITERATIONS if absent.any() else 1):
        coefficients = np.linalg.solve(x.T @ x + penalty, x.T @ filled)
        left = filled - x @ coefficients
        common = (left.T @ left + more.sum(axis=0)) / n + ridge * np.eye(dim)
        if diagonal:
            common = common * np.eye(dim)
        if absent.any():
            left, more = _expect(left, absent, common)
            filled = x @ coefficients + left
    covariances = []
    for label in range(num_labels):
        rows = labels == label
        own = left[rows].T @ left[rows] + more[rows].sum(axis=0)
        weight = SHRINK * dim if num_labels > 1 else 0.0
        each = (own + rows.sum() * ridge * np.eye(dim) + weight * common) / (rows.sum() + weight)
        covariances.append(each * np.eye(dim) if diagonal else each)
    if not np.isfinite(decay):
        coefficients = np.concatenate([coefficients, np.zeros((inputs.shape[1], dim))])
    return LinearGaussian(
        jnp.asarray(coefficients.T, float), jnp.asarray(np.stack(covariances), float)
    )


def _expect(
    left: np.ndarray, absent: np.ndarray, covariance: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Expected residuals of absent cells given the others of their row, and their covariances."""
    left = left.copy()
    more = np.zeros((len(left), *covariance.shape))
    patterns, which = np.unique(absent, axis=0, return_inverse=True)
    for i, gone in enumerate(patterns):
        rows, here = np.flatnonzero(which.reshape(-1) == i), ~gone
        gain = np.linalg.solve(covariance[np.ix_(here, here)], covariance[np.ix_(here, gone)])
        left[np.ix_(rows, gone)] = left[np.ix_(rows, here)] @ gain
        rest = covariance[np.ix_(gone, gone)] - covariance[np.ix_(gone, here)] @ gain
        more[np.ix_(rows, gone, gone)] = rest
    return left, more


def _masked(matrix: Float[Array, "d d"], mask: Bool[Array, " d"]) -> Float[Array, "d d"]:
    """The matrix on the entries of a mask, the identity on the others."""
    return jnp.where(jnp.outer(mask, mask), matrix, jnp.eye(len(matrix), dtype=matrix.dtype))
