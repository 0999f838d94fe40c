"""A mixture of Gaussians: a base with several modes."""

from typing import SupportsIndex

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float, PRNGKeyArray

from jaxflow.runtime.checks import check_columns, check_count, check_event
from jaxflow.runtime.extras import import_extra
from jaxflow.runtime.shapes import ArrayInput, Event, Scalar


class GaussianMixture(eqx.Module):
    """`sum_k p_k N(mean_k, L_k L_k^T)` on vectors, with `p_k = weight_k / sum_j weight_j`.

    The parameters are trained if `fit` is asked to. A sample's component is a discrete choice,
    so `sample` has no gradient in `weights`, and `ReverseKL` does not train them.

    ```python
    import jax
    from jaxflow import GaussianMixture

    x = jax.random.normal(jax.random.key(0), (200, 2))
    base = GaussianMixture.fit(x, components=3)
    log_p = base.log_prob(x[0])
    ```
    """

    weights: Float[Array, " components"]
    means: Float[Array, "components dim"]
    factors: Float[Array, "components dim dim"]

    def __init__(
        self,
        weights: ArrayInput,
        means: ArrayInput,
        factors: ArrayInput,
    ) -> None:
        """Make the density from its parameters; `fit` estimates them from data.

        Args:
            weights: (components,), positive; only their ratios count.
            means: (components, dim).
            factors: Cholesky factors `L` of the covariances, (components, dim, dim).

        Raises:
            ValueError: the shapes do not fit, the weights are not positive, or the
                factors are not lower triangular with a positive diagonal.
        """
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
    def fit(cls, x: ArrayInput, components: SupportsIndex, *, seed: int = 0) -> "GaussianMixture":
        """Maximum likelihood by scikit-learn, the best of four starts.

        Columns are scaled to standard deviation 1 first, so the answer does not depend on units.

        Args:
            x: rows in flow space, (rows, dim).
            components: number of Gaussians.
            seed: of the starts.

        Returns:
            The fitted mixture.

        Raises:
            ImportError: scikit-learn is not installed.
            ValueError: there are fewer rows than components, the rows are not finite vectors, or
                a column is constant.
        """
        need = "GaussianMixture.fit needs scikit-learn"
        mixture = import_extra("sklearn.mixture", "sklearn", need)
        check_columns(np.asarray(x))
        components = check_count("components", components)
        values = np.asarray(x, np.float64)
        mean, scale = values.mean(axis=0), values.std(axis=0)
        # Scaled: scikit-learn adds 1e-6 to each variance, whatever the units.
        fitted = mixture.GaussianMixture(components, n_init=4, random_state=seed)
        fitted.fit((values - mean) / scale)
        means = mean + scale * fitted.means_
        factors = scale[:, None] * np.linalg.cholesky(np.asarray(fitted.covariances_))
        dtype = jnp.result_type(jnp.asarray(x), 0.0)
        return cls(*(jnp.asarray(a, dtype) for a in (fitted.weights_, means, factors)))

    @property
    def event_shape(self) -> tuple[int, ...]:
        """Shape of one event, `(dim,)`."""
        return self.means.shape[1:]

    def log_prob(self, x: Event) -> Scalar:
        """Log-density of one event, in nats."""
        check_event("x", x, self.event_shape, "base.log_prob")
        means, factors = self.means, self.factors
        z = jax.vmap(lambda factor, gap: _solve(factor, gap))(factors, x[None] - means)
        log_scale = jnp.sum(jnp.log(jnp.diagonal(factors, axis1=1, axis2=2)), axis=1)
        each = -0.5 * jnp.sum(z**2, axis=1) - log_scale - 0.5 * x.size * jnp.log(2 * jnp.pi)
        log_weights = jnp.log(self.weights) - jnp.log(jnp.sum(self.weights))
        return jax.nn.logsumexp(each + log_weights)

    def cdf(self, x: Event) -> Event:
        """Distribution function, `sum_k p_k Phi((x - mean_k) / L_k)`, in one dimension only.

        Raises:
            NotImplementedError: there are several dimensions, which are not independent.
        """
        if self.event_shape != (1,):
            raise NotImplementedError(
                f"cdf is for a mixture in one dimension; this one has events of shape "
                f"{self.event_shape}, whose coordinates are not independent"
            )
        each = jax.scipy.stats.norm.cdf((x[None] - self.means) / self.factors[:, :, 0])
        return jnp.sum(self.weights[:, None] * each, axis=0) / jnp.sum(self.weights)

    def sample(self, key: PRNGKeyArray) -> Float[Array, " dim"]:
        """Draw one event."""
        component_key, noise_key = jax.random.split(key)
        k = jax.random.categorical(component_key, jnp.log(self.weights))
        z = jax.random.normal(noise_key, self.event_shape, self.means.dtype)
        return self.means[k] + jnp.dot(jnp.tril(self.factors[k]), z, precision="highest")


def _solve(factor: Float[Array, "dim dim"], gap: Float[Array, " dim"]) -> Float[Array, " dim"]:
    return jax.scipy.linalg.solve_triangular(factor, gap, lower=True)


def _check(weights: np.ndarray, factors: np.ndarray) -> None:
    if not (weights > 0).all():
        raise ValueError(f"weights={weights} must be positive")
    diagonal = np.diagonal(factors, axis1=1, axis2=2)
    if not (diagonal > 0).all() or np.triu(factors, 1).any():
        raise ValueError(
            "factors must be lower triangular with a positive diagonal: write "
            "np.linalg.cholesky(covariances)"
        )
