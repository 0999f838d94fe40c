"""The velocity of flow matching for Gaussian data: where a network starts."""

from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxflow.runtime.checks import check_unmasked
from jaxflow.runtime.shapes import ArrayInput, Event, Scalar


class GaussianVelocity(eqx.Module):
    r"""The field that carries `N(0, I)` at time 0 to `N(m, C)` at time 1 on straight paths.

    With `C = V diag(c) V^T`, the mean of `x_1 - x_0` given `x_t = (1 - t) x_0 + t x_1` is

        f(t, x) = m + V diag(g(t)) V^T (x - t m),    g = (t c - (1 - t)) / ((1 - t)^2 + t^2 c)

    (Lipman et al. 2023, "Flow Matching", arXiv 2210.02747, eq. 8, for Gaussian data), with trace
    `sum g(t)`. In `Sum((network, GaussianVelocity.fit(x)))` a network that is 0 at the start
    begins with the best Gaussian, and learns the rest. It describes the data and is not trained
    (`jaxflow.trainable`).

    ```python
    import jax
    from jaxflow import CNF, StandardNormal
    from jaxflow.dynamics import GaussianVelocity

    x = jax.random.normal(jax.random.key(0), (500, 2)) * 3 + 1
    flow = CNF(GaussianVelocity.fit(x), StandardNormal((2,)))  # the Gaussian of these rows
    ```

    Attributes:
        mean: `m`, (*event).
        vectors: columns of `V`, (entries, entries), orthonormal.
        variances: `c`, (entries,), positive.
    """

    mean: Float[Array, "*event"]
    vectors: Float[Array, "entries entries"]
    variances: Float[Array, " entries"]

    @classmethod
    def fit(cls, x: ArrayInput) -> "GaussianVelocity":
        """Take mean and covariance of rows, shrunk towards one variance for all entries.

        Ledoit and Wolf (2004), "A well-conditioned estimator for large-dimensional covariance
        matrices", J. Multivariate Analysis 88, section 3.2.

        Args:
            x: rows, (n, *event), two or more.

        Returns:
            The field, computed in float64 and stored in the dtype of `x`.

        Raises:
            ValueError: there are fewer than two rows, none of their entries varies, or cells of a
                masked array are masked.
        """
        check_unmasked("x", x)
        rows = np.asarray(x)
        if len(rows) < 2:
            raise ValueError(f"x has {len(rows)} rows, and a covariance needs two or more")
        flat = rows.reshape(len(rows), -1).astype(np.float64)
        mean = flat.mean(axis=0)
        flat = flat - mean
        covariance = flat.T @ flat / len(flat)
        scale = np.trace(covariance) / len(covariance)
        if not scale > 0:
            raise ValueError("x is constant or not finite, and has no covariance")
        # Distances to `scale I`, and of the rows' own products to their mean, both squared.
        far = np.sum(covariance**2) - len(covariance) * scale**2
        rough = (np.sum(np.sum(flat**2, axis=1) ** 2) / len(flat) - np.sum(covariance**2)) / len(
            flat
        )
        share = 1.0 if far <= 0 else float(np.clip(rough / far, 0.0, 1.0))
        values, vectors = np.linalg.eigh((1 - share) * covariance)
        dtype = jnp.asarray(rows[:0]).dtype
        # Rows fewer than entries, and float32, leave variances of 0.
        least = float(jnp.finfo(dtype).eps) * scale
        variances = np.maximum(values + share * scale, least)
        arrays = mean.reshape(rows.shape[1:]), vectors, variances
        return cls(*(jnp.asarray(array, dtype) for array in arrays))

    def __call__(self, t: Scalar, x: Event, cond: Any = None) -> Event:
        """`dx/dt` at one point; the condition does not matter."""
        t = jnp.asarray(t, x.dtype)
        vectors, mean = self.vectors.astype(x.dtype), self.mean.astype(x.dtype)
        along = vectors.T @ (x - t * mean).reshape(-1)
        return mean + (vectors @ (self._rates(t) * along)).reshape(x.shape)

    def with_trace(self, t: Scalar, x: Event, cond: Any = None) -> tuple[Event, Scalar]:
        """Value and trace, `(f, sum g(t))`."""
        return self(t, x), jnp.sum(self._rates(jnp.asarray(t, x.dtype)))

    def _rates(self, t: Scalar) -> Float[Array, " entries"]:
        c = self.variances.astype(t.dtype)
        return (t * c - (1 - t)) / ((1 - t) ** 2 + t**2 * c)
