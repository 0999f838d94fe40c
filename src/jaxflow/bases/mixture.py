"""A mixture of Gaussians: a base with as many modes as the data."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float, PRNGKeyArray

from jaxflow.runtime.extras import import_extra


class GaussianMixture(eqx.Module):
    """`sum_k weight_k N(mean_k, L_k L_k^T)` on vectors; its parameters are not trained.

    Attributes:
        weights: (components,), positive, of sum 1.
        means: (components, dim).
        factors: Cholesky factors `L` of the covariances, lower triangular with a positive
            diagonal, (components, dim, dim).

    Raises:
        ValueError: shapes that do not fit, weights that are not positive or not of sum 1, factors
            that are not lower triangular with a positive diagonal.
    """

    weights: Float[Array, " components"]
    means: Float[Array, "components dim"]
    factors: Float[Array, "components dim dim"]

    def __init__(self, weights: Any, means: Any, factors: Any) -> None:
        self.weights, self.means, self.factors = map(jnp.asarray, (weights, means, factors))
        count, *size = self.means.shape
        if len(size) != 1 or self.weights.shape != (count,):
            raise ValueError(
                f"weights have shape {self.weights.shape} and means have shape "
                f"{self.means.shape}; give (components,) and (components, dim)"
            )
        if self.factors.shape != (count, *size, *size):
            raise ValueError(
                f"factors have shape {self.factors.shape}; give (components, dim, dim), here "
                f"{(count, *size, *size)}"
            )
        if not any(isinstance(a, Tracer) for a in (self.weights, self.factors)):
            _check(np.asarray(self.weights), np.asarray(self.factors))

    @classmethod
    def fit(cls, x: Any, components: int, *, seed: int = 0) -> "GaussianMixture":
        """Maximum likelihood by scikit-learn, the best of four starts.

        Args:
            x: rows in flow space, (rows, dim).
            components: how many Gaussians.
            seed: of the starts.

        Raises:
            ImportError: scikit-learn is not there.
            ValueError: fewer rows than components, or rows that are no finite vectors.
        """
        need = "GaussianMixture.fit needs scikit-learn"
        mixture = import_extra("sklearn.mixture", "sklearn", need)
        values = np.asarray(x, np.float64)
        fitted = mixture.GaussianMixture(components, n_init=4, random_state=seed).fit(values)
        factors = np.linalg.cholesky(np.asarray(fitted.covariances_))
        dtype = jnp.result_type(jnp.asarray(x), 0.0)
        return cls(*(jnp.asarray(a, dtype) for a in (fitted.weights_, fitted.means_, factors)))

    @property
    def event_shape(self) -> tuple[int, ...]:
        """Shape of one event."""
        return self.means.shape[1:]

    def log_prob(self, x: Float[Array, " dim"]) -> Float[Array, ""]:
        """Log-density of one event, nats."""
        weights, means, factors = jax.lax.stop_gradient((self.weights, self.means, self.factors))
        z = jax.vmap(lambda factor, gap: _solve(factor, gap))(factors, x[None] - means)
        log_scale = jnp.sum(jnp.log(jnp.diagonal(factors, axis1=1, axis2=2)), axis=1)
        each = -0.5 * jnp.sum(z**2, axis=1) - log_scale - 0.5 * x.size * jnp.log(2 * jnp.pi)
        return jax.nn.logsumexp(each + jnp.log(weights))

    def sample(self, key: PRNGKeyArray) -> Float[Array, " dim"]:
        """One event."""
        weights, means, factors = jax.lax.stop_gradient((self.weights, self.means, self.factors))
        which, noise = jax.random.split(key)
        k = jax.random.categorical(which, jnp.log(weights))
        z = jax.random.normal(noise, means.shape[1:], means.dtype)
        return means[k] + jnp.dot(factors[k], z, precision="highest")


def _solve(factor: Float[Array, "dim dim"], gap: Float[Array, " dim"]) -> Float[Array, " dim"]:
    return jax.scipy.linalg.solve_triangular(factor, gap, lower=True)


def _check(weights: np.ndarray, factors: np.ndarray) -> None:
    if not (weights > 0).all() or abs(weights.sum() - 1) > 1e-4:
        raise ValueError(f"weights={weights} must be positive and of sum 1")
    diagonal = np.diagonal(factors, axis1=1, axis2=2)
    if not (diagonal > 0).all() or np.triu(factors, 1).any():
        raise ValueError(
            "factors must be lower triangular with a positive diagonal: write "
            "np.linalg.cholesky(covariances)"
        )
