"""Normal densities with independent coordinates."""

import math
from collections.abc import Sequence
from typing import SupportsIndex

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.scipy.special import ndtr, ndtri
from jaxtyping import PRNGKeyArray

from jaxflow.runtime.checks import check_event, check_event_shape
from jaxflow.runtime.precision import as_floats
from jaxflow.runtime.shapes import ArrayInput, Event, Scalar


class StandardNormal(eqx.Module):
    """`N(0, I)` on events of any shape.

    ```python
    import jax
    from jaxflow import StandardNormal

    base = StandardNormal((3, 4))
    x = base.sample(jax.random.key(0))
    log_p = base.log_prob(x)
    ```
    """

    event_shape: tuple[int, ...] = eqx.field(static=True)

    def __init__(self, event_shape: Sequence[SupportsIndex] | SupportsIndex) -> None:
        """Make the density.

        Args:
            event_shape: shape of one event; an integer `d` for vectors, `()` for scalars.

        Raises:
            ValueError: a size is less than 1.
        """
        self.event_shape = check_event_shape(event_shape)

    def log_prob(self, x: Event) -> Scalar:
        """`-|x|^2 / 2 - (d / 2) log(2 pi)`, in nats."""
        check_event("x", x, self.event_shape, "base.log_prob")
        return -0.5 * jnp.sum(jnp.square(x)) - 0.5 * x.size * math.log(2 * math.pi)

    def sample(self, key: PRNGKeyArray) -> Event:
        """Draw one event."""
        return jax.random.normal(key, self.event_shape)

    def cdf(self, x: Event) -> Event:
        """Distribution function of each coordinate, `Phi(x_i)`."""
        return ndtr(x)

    def icdf(self, q: Event) -> Event:
        """Quantile of each coordinate, `Phi^-1(q_i)`."""
        return ndtri(q)


class DiagonalNormal(eqx.Module):
    """`N(mean, diag(scale^2))` on events of any shape.

    `fit(..., train=("field", "base"))` trains `mean` and `scale`.

    ```python
    import jax.numpy as jnp
    from jaxflow import DiagonalNormal

    base = DiagonalNormal(jnp.zeros(2), jnp.asarray([1.0, 3.0]))
    log_p = base.log_prob(jnp.asarray([0.5, -2.0]))
    ```
    """

    mean: Event
    scale: Event

    def __init__(self, mean: ArrayInput, scale: ArrayInput) -> None:
        """Make the density.

        Args:
            mean: (*event).
            scale: standard deviations, (*event), positive.

        Raises:
            ValueError: the shapes differ, a value is not finite, or a scale is not positive.
        """
        self.mean, self.scale = as_floats(mean), as_floats(scale)
        if self.mean.shape != self.scale.shape:
            raise ValueError(
                f"mean {self.mean.shape} and scale {self.scale.shape} differ in shape"
            )
        if isinstance(self.scale, Tracer) or isinstance(self.mean, Tracer):
            return
        if not (np.all(self.scale > 0) and np.isfinite([self.mean, self.scale]).all()):
            raise ValueError(
                f"scale={self.scale} must be positive and finite, and mean={self.mean} finite"
            )

    @property
    def event_shape(self) -> tuple[int, ...]:
        """Shape of one event."""
        return self.mean.shape

    def log_prob(self, x: Event) -> Scalar:
        """`-sum(z^2 / 2 + log(2 pi) / 2 + log scale)` with `z = (x - mean) / scale`, in nats."""
        check_event("x", x, self.event_shape, "base.log_prob")
        z = (x - self.mean) / self.scale
        log_scale = jnp.sum(jnp.log(self.scale))
        return -0.5 * jnp.sum(jnp.square(z) + math.log(2 * math.pi)) - log_scale

    def sample(self, key: PRNGKeyArray) -> Event:
        """Draw one event."""
        return self.mean + self.scale * jax.random.normal(key, self.mean.shape, self.mean.dtype)

    def cdf(self, x: Event) -> Event:
        """Distribution function of each coordinate, `Phi(z_i)`."""
        return ndtr((x - self.mean) / self.scale)

    def icdf(self, q: Event) -> Event:
        """Quantile of each coordinate, `mean_i + scale_i Phi^-1(q_i)`."""
        return self.mean + self.scale * ndtri(q)
