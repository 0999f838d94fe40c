"""Shift and scale each coordinate to mean 0 and standard deviation 1."""

from typing import final

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxflow.runtime.checks import check_event
from jaxflow.runtime.shapes import ArrayInput, Event, Scalar
from jaxflow.transforms.samples import checked_rows, is_concrete, places, samples_to_fit


@final
class Standardise(eqx.Module):
    r"""Elementwise `u = (x - mean) / scale`, with `log|det du/dx| = -sum(log scale)`.

    ```python
    import jax
    from jaxflow.transforms import Standardise

    x = 5.0 + 3.0 * jax.random.normal(jax.random.key(0), (100, 2))
    transform = Standardise.fit(x)
    u, log_det = jax.vmap(transform.forward)(x)  # (100, 2), (100,)
    ```
    """

    mean: Event
    scale: Event
    event_shape: tuple[int, ...] = eqx.field(static=True)

    def __init__(self, mean: Float[Array, "..."], scale: Float[Array, "..."]) -> None:
        """Make the transform from its parameters; `fit` estimates them from data.

        Args:
            mean: mean of the data, in its units, (*event).
            scale: standard deviation of the data, in its units, (*event).

        Raises:
            ValueError: the shapes differ, a value is not finite, or `scale` is less than the
                smallest normal number.
        """
        if mean.shape != scale.shape:
            raise ValueError(
                f"mean has shape {mean.shape} and scale has shape {scale.shape}; both must have "
                "the shape of one sample"
            )
        if is_concrete(mean, scale):
            least = jnp.finfo(jnp.asarray(scale).dtype).tiny
            wrong = ~(np.isfinite(scale) & (np.asarray(scale) >= least) & np.isfinite(mean))
            if wrong.any():
                raise ValueError(
                    f"mean and scale must be finite and scale at least {least:.1e}, but "
                    f"at {places(wrong)} mean is {np.asarray(mean)[wrong].tolist()} and scale is "
                    f"{np.asarray(scale)[wrong].tolist()}"
                )
        self.mean, self.scale = jnp.asarray(mean), jnp.asarray(scale)
        self.event_shape = mean.shape

    @classmethod
    def fit(cls, x: ArrayInput) -> "Standardise":
        """Estimate mean and standard deviation (divisor n).

        Args:
            x: samples, (n, *event).

        Returns:
            The transform; computed in float64, stored in the dtype of `x`.

        Raises:
            ValueError: a column is constant to rounding, a value is not finite, or there are
                fewer than two samples.
            TypeError: `x` does not hold real numbers.
        """
        values, dtype = samples_to_fit(x)
        mean, scale = values.mean(axis=0), values.std(axis=0)
        return cls(jnp.asarray(mean.astype(dtype)), jnp.asarray(scale.astype(dtype)))

    def check(self, x: ArrayInput) -> None:
        """Raise ValueError unless `x`, (rows, *event), is finite and of this event shape."""
        checked_rows(x, self.event_shape)

    def forward(self, x: Event) -> tuple[Event, Scalar]:
        """Map one sample to flow space: `(u, log|det du/dx|)`."""
        check_event("x", x, self.event_shape, "transform.forward")
        return (x - self.mean) / self.scale, -jnp.sum(jnp.log(self.scale))

    def inverse(self, u: Event) -> tuple[Event, Scalar]:
        """Map one point of flow space to data space: `(x, log|det dx/du|)`."""
        check_event("u", u, self.event_shape, "transform.inverse")
        return u * self.scale + self.mean, jnp.sum(jnp.log(self.scale))
