"""A mixture of Gaussians: a base with several modes."""

from typing import SupportsIndex

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float, PRNGKeyArray

from jaxflow.bases.mixture_fit import fit_mixture
from jaxflow.runtime.checks import as_matrix, check_choice, check_columns, check_count, check_event
from jaxflow.runtime.linear_algebra import solve_lower
from jaxflow.runtime.precision import as_floats
from jaxflow.runtime.shapes import ArrayInput, Event, Scalar


class GaussianMixture(eqx.Module):
    """`sum_k p_k N(mean_k, L_k L_k^T)` on vectors, with `p_k = weight_k / sum_j weight_j`.

    `fit(..., train=("field", "base"))` trains the parameters. A sample's component is a discrete
    choice, so `sample` has no gradient in `weights`, and `ReverseKL` does not train them.

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
            ValueError: the shapes do not fit, a value is not finite, the weights are not
                positive, or the factors are not lower triangular with a positive diagonal.
        """
        self.weights, self.means, self.factors = map(as_floats, (weights, means, factors))
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
        parts = self.weights, self.means, self.factors
        if not any(isinstance(part, Tracer) for part in parts):
            _check_values(*map(np.asarray, parts))

    @classmethod
    def fit(
        cls,
        x: ArrayInput,
        components: SupportsIndex,
        *,
        ridge: float = 1e-6,
        covariance: str = "full",
        seed: int = 0,
        starts: SupportsIndex = 4,
        averaged: SupportsIndex = 1,
    ) -> "GaussianMixture":
        """Maximum likelihood, the best of several starts of expectation maximisation.

        Columns are scaled to standard deviation 1 first, so the answer does not depend on units.

        Args:
            x: rows in flow space, (rows, dim).
            components: number of Gaussians.
            ridge: added to each variance of the scaled columns, positive. With few rows per
                component a larger one, such as 0.01, fits new rows better.
            covariance: `"full"`, or `"diag"` for components without correlations.
            seed: of the starts.
            starts: number of starts.
            averaged: number of mixtures to average, each fitted with another share of the rows
                left out; the result has `averaged` times the components. It fits new rows better
                (Ormoneit and Tresp 1998, "Averaging, maximum penalized likelihood and Bayesian
                estimation for improving Gaussian mixture probability density estimates", IEEE
                Transactions on Neural Networks 9). 1 for one mixture of all rows.

        Returns:
            The fitted mixture.

        Raises:
            ValueError: there are fewer rows than components, the rows are not finite vectors, a
                column is constant, `ridge` or `covariance` is not allowed, or `ridge` is so small
                that a component's covariance is singular.
        """
        values = as_matrix(x, "x", "rows, dim")
        check_columns(np.asarray(x))
        components, seed = check_count("components", components), check_count("seed", seed, 0)
        starts, averaged = check_count("starts", starts), check_count("averaged", averaged)
        fewest = len(values) - (-(-len(values) // averaged) if averaged > 1 else 0)
        if components > fewest:
            raise ValueError(
                f"components={components} must be at most {fewest}, the number of rows"
                + (f" without one of averaged={averaged} shares" if averaged > 1 else "")
            )
        if not 0 < ridge < float("inf"):
            raise ValueError(f"ridge={ridge} must be a positive number")
        check_choice("covariance", covariance, ("full", "diag"))
        settings = {"seed": seed, "starts": starts, "averaged": averaged}
        try:
            parts = fit_mixture(values, components, ridge, covariance, **settings)
        except np.linalg.LinAlgError:
            raise ValueError(
                f"ridge={ridge} is too small: a component's covariance is singular; give a larger "
                "one, such as ridge=1e-6"
            ) from None
        dtype = jnp.result_type(jnp.asarray(x), 0.0)
        return cls(*(jnp.asarray(part, dtype) for part in parts))

    @property
    def event_shape(self) -> tuple[int, ...]:
        """Shape of one event, `(dim,)`."""
        return self.means.shape[1:]

    def log_prob(self, x: Event) -> Scalar:
        """Log-density of one event, in nats."""
        check_event("x", x, self.event_shape, "base.log_prob")
        means, factors = self.means, self.factors
        z = jax.vmap(solve_lower)(factors, x[None] - means)
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


def _check_values(weights: np.ndarray, means: np.ndarray, factors: np.ndarray) -> None:
    if not ((weights > 0).all() and np.isfinite(weights.sum())):
        raise ValueError(f"weights={weights} must be positive, with a finite sum")
    if not (np.isfinite(means).all() and np.isfinite(factors).all()):
        raise ValueError("means and factors must be finite")
    diagonal = np.diagonal(factors, axis1=1, axis2=2)
    if not (diagonal > 0).all() or np.triu(factors, 1).any():
        raise ValueError(
            "factors must be lower triangular with a positive diagonal: write "
            "np.linalg.cholesky(covariances)"
        )
