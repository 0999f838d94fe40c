"""Rotate and scale vectors to mean 0 and the identity as covariance."""

from typing import Any, final

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxflow.transforms.samples import check_sample, host_samples
from jaxflow.transforms.standardise import Standardise

# The least share of the largest variance that a direction may have.
SINGULAR = 1e-10


@final
class Whiten(eqx.Module):
    r"""`u = W (x - mean)` with `W` lower triangular and `W cov W^T = I`, for vectors.

    `log|det du/dx| = sum(log diag W)`, a constant. Columns that depend on each other linearly
    have no density; nearly so, their rounding is blown up.

    Attributes:
        mean: the data's mean, (dim,).
        factor: `W^-1`, the Cholesky factor of the data's covariance, (dim, dim).
        event_shape: `(dim,)`.
    """

    mean: Float[Array, " dim"]
    factor: Float[Array, "dim dim"]
    event_shape: tuple[int, ...] = eqx.field(static=True)

    def __init__(self, mean: Float[Array, " dim"], factor: Float[Array, "dim dim"]) -> None:
        if factor.shape != (*mean.shape, *mean.shape) or mean.ndim != 1:
            raise ValueError(
                f"mean has shape {mean.shape} and factor has shape {factor.shape}; give (dim,) "
                "and (dim, dim)"
            )
        self.mean, self.factor, self.event_shape = mean, factor, mean.shape

    @classmethod
    def fit(cls, x: Any) -> "Whiten":
        """Take mean and covariance (divisor n) of the samples `x` (n, dim), in float64.

        Raises:
            ValueError: samples that are no vectors, a constant column, or columns that depend
                on each other linearly.
        """
        values, dtype = host_samples(x)
        if values.ndim != 2:
            raise ValueError(f"x has shape {values.shape}; vectors (n, dim) can be whitened")
        Standardise.fit(x)
        spread = values.std(axis=0)
        correlation = np.cov(values / spread, rowvar=False, ddof=0).reshape(2 * [len(spread)])
        least = np.linalg.eigvalsh(correlation)[0]
        if least < SINGULAR * len(spread):
            raise ValueError(
                f"the columns of x depend on each other linearly (least eigenvalue of their "
                f"correlations {least:.1e}), so that they have no density; drop one of them"
            )
        factor = spread[:, None] * np.linalg.cholesky(correlation)
        return cls(
            jnp.asarray(values.mean(axis=0).astype(dtype)), jnp.asarray(factor.astype(dtype))
        )

    def forward(self, x: Float[Array, " dim"]) -> tuple[Float[Array, " dim"], Float[Array, ""]]:
        """Map one sample to flow space: `(u, log|det du/dx|)`."""
        check_sample("x", x, self.event_shape)
        mean, factor = jax.lax.stop_gradient((self.mean, self.factor))
        u = jax.scipy.linalg.solve_triangular(factor, x - mean, lower=True)
        return u, -jnp.sum(jnp.log(jnp.diagonal(factor)))

    def inverse(self, u: Float[Array, " dim"]) -> tuple[Float[Array, " dim"], Float[Array, ""]]:
        """Map one sample to data space: `(x, log|det dx/du|)`."""
        check_sample("u", u, self.event_shape)
        mean, factor = jax.lax.stop_gradient((self.mean, self.factor))
        x = jnp.dot(factor, u, precision="highest") + mean
        return x, jnp.sum(jnp.log(jnp.diagonal(factor)))
