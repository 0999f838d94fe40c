"""Rotate and scale vectors to mean 0 and identity covariance."""

from typing import final

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxflow.runtime.checks import check_event
from jaxflow.runtime.dependence import check_independent
from jaxflow.runtime.linear_algebra import solve_lower
from jaxflow.runtime.shapes import ArrayInput, Event, Scalar
from jaxflow.transforms.samples import checked_rows, is_concrete, samples_to_fit

# Columns are linearly dependent if a linear combination of others leaves less than this share of
# the spread of one, times the square root of their number.
SINGULAR = 1e-5


@final
class Whiten(eqx.Module):
    r"""`u = W (x - mean)` for vectors, with `W` lower triangular and `W cov W^T = I`.

    `log|det du/dx| = sum(log diag W)`, a constant.

    ```python
    import jax, jax.numpy as jnp
    from jaxflow.transforms import Whiten

    x = jax.random.normal(jax.random.key(0), (100, 2)) @ jnp.asarray([[1.0, 2.0], [0.0, 1.0]])
    transform = Whiten.fit(x)
    u, log_det = jax.vmap(transform.forward)(x)
    ```
    """

    mean: Float[Array, " dim"]
    factor: Float[Array, "dim dim"]
    event_shape: tuple[int, ...] = eqx.field(static=True)

    def __init__(self, mean: Float[Array, " dim"], factor: Float[Array, "dim dim"]) -> None:
        """Make the transform from its parameters; `fit` estimates them from data.

        Args:
            mean: mean of the data, (dim,).
            factor: `W^-1`, the Cholesky factor of the data's covariance, (dim, dim).

        Raises:
            ValueError: the shapes do not fit, or the diagonal of `factor` is not positive.
        """
        if factor.shape != (*mean.shape, *mean.shape) or mean.ndim != 1:
            raise ValueError(
                f"mean has shape {mean.shape} and factor has shape {factor.shape}; give (dim,) "
                "and (dim, dim)"
            )
        if is_concrete(mean, factor) and not (np.diagonal(factor) > 0).all():
            raise ValueError(
                "factor must have a positive diagonal: write np.linalg.cholesky(covariance)"
            )
        self.mean, self.factor, self.event_shape = mean, factor, mean.shape

    @classmethod
    def fit(cls, x: ArrayInput) -> "Whiten":
        """Estimate mean and covariance (divisor n).

        Args:
            x: samples, (n, dim).

        Returns:
            The transform; computed in float64, stored in the dtype of `x`.

        Raises:
            ValueError: the samples are not vectors, a column is constant, or columns are
                linearly dependent.
        """
        if np.ndim(x) != 2:
            raise ValueError(f"x has shape {np.shape(x)}; only vectors (n, dim) can be whitened")
        values, dtype = samples_to_fit(x)
        spread = values.std(axis=0)
        correlation = np.cov(values / spread, rowvar=False, ddof=0).reshape(2 * [len(spread)])
        check_independent(np.asarray(x), least=SINGULAR * len(spread) ** 0.5)
        factor = spread[:, None] * np.linalg.cholesky(correlation)
        return cls(
            jnp.asarray(values.mean(axis=0).astype(dtype)), jnp.asarray(factor.astype(dtype))
        )

    def by_column(self) -> dict[str, Float[Array, " dim"]]:
        """Mean and standard deviation of each column, as `print(flow)` shows them."""
        return {
            "mean": self.mean,
            "deviation": jnp.sqrt(jnp.sum(jnp.tril(self.factor) ** 2, axis=1)),
        }

    def check(self, x: ArrayInput) -> None:
        """Raise ValueError unless `x`, (rows, dim), is finite and of this event shape."""
        checked_rows(x, self.event_shape)

    def forward(self, x: Event) -> tuple[Event, Scalar]:
        """Map one sample to flow space: `(u, log|det du/dx|)`."""
        check_event("x", x, self.event_shape, "transform.forward")
        u = solve_lower(self.factor, x - self.mean)
        return u, -jnp.sum(jnp.log(jnp.diagonal(self.factor)))

    def inverse(self, u: Event) -> tuple[Event, Scalar]:
        """Map one point of flow space to data space: `(x, log|det dx/du|)`."""
        check_event("u", u, self.event_shape, "transform.inverse")
        x = jnp.dot(jnp.tril(self.factor), u, precision="highest") + self.mean
        return x, jnp.sum(jnp.log(jnp.diagonal(self.factor)))
