"""Normal densities with independent entries."""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.core import Tracer
from jaxtyping import Array, Float, PRNGKeyArray


class StandardNormal(eqx.Module):
    """`N(0, I)` on events of any shape.

    Attributes:
        event_shape: shape of one event; `()` for scalars.
    """

    event_shape: tuple[int, ...] = eqx.field(static=True)

    def __init__(self, event_shape: tuple[int, ...] | int) -> None:
        shape = (event_shape,) if isinstance(event_shape, int) else tuple(event_shape)
        if any(size < 1 for size in shape):
            raise ValueError(f"event_shape={shape} must hold sizes of at least 1")
        self.event_shape = shape

    def log_prob(self, x: Float[Array, "*event"]) -> Float[Array, ""]:
        """`-|x|^2 / 2 - (d / 2) log(2 pi)`, nats."""
        return -0.5 * jnp.sum(jnp.square(x)) - 0.5 * x.size * math.log(2 * math.pi)

    def sample(self, key: PRNGKeyArray) -> Float[Array, "*event"]:
        """One event."""
        return jax.random.normal(key, self.event_shape)


class DiagonalNormal(eqx.Module):
    """`N(mean, diag(scale^2))` on events of any shape; its parameters are not trained.

    Attributes:
        mean: (*event).
        scale: standard deviations, (*event).
    """

    mean: Float[Array, "*event"]
    scale: Float[Array, "*event"]

    def __init__(self, mean: Float[Array, "*event"], scale: Float[Array, "*event"]) -> None:
        self.mean, self.scale = jnp.asarray(mean), jnp.asarray(scale)
        if self.mean.shape != self.scale.shape:
            raise ValueError(
                f"mean {self.mean.shape} and scale {self.scale.shape} differ in shape"
            )
        if not isinstance(self.scale, Tracer) and not bool(jnp.all(self.scale > 0)):
            raise ValueError(f"scale={self.scale} must be positive")

    @property
    def event_shape(self) -> tuple[int, ...]:
        """Shape of one event."""
        return self.mean.shape

    def log_prob(self, x: Float[Array, "*event"]) -> Float[Array, ""]:
        """Log-density of one event, nats."""
        mean, scale = jax.lax.stop_gradient((self.mean, self.scale))
        z = (x - mean) / scale
        return -0.5 * jnp.sum(jnp.square(z) + math.log(2 * math.pi)) - jnp.sum(jnp.log(scale))

    def sample(self, key: PRNGKeyArray) -> Float[Array, "*event"]:
        """One event."""
        mean, scale = jax.lax.stop_gradient((self.mean, self.scale))
        return mean + scale * jax.random.normal(key, self.mean.shape, self.mean.dtype)
