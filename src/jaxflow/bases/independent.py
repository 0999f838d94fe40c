"""Products of bases: independent groups of columns."""

from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import PRNGKeyArray

from jaxflow.runtime.checks import check_event
from jaxflow.runtime.shapes import Event, Scalar, split


class Independent(eqx.Module):
    """Independent groups of columns, each with a base of its own.

    ```python
    import jax
    from jaxflow import StandardNormal
    from jaxflow.bases import Independent, UniformOn
    from jaxflow.manifolds import Sphere

    base = Independent((UniformOn(Sphere(2)), StandardNormal(2)))
    x = base.sample(jax.random.key(0))  # 5 entries
    ```

    Attributes:
        parts: one or more bases of vectors, in the order of the columns.

    Raises:
        ValueError: `parts` is empty, or the events of one are not vectors.
    """

    parts: tuple[Any, ...]

    def __init__(self, parts: Sequence[Any]) -> None:
        self.parts = tuple(parts)
        shapes = [tuple(part.event_shape) for part in self.parts]
        if not shapes or any(len(shape) != 1 for shape in shapes):
            raise ValueError(f"parts={parts!r} must be bases of vectors; they have {shapes}")

    @property
    def event_shape(self) -> tuple[int, ...]:
        """Shape of one event."""
        return (sum(part.event_shape[0] for part in self.parts),)

    def log_prob(self, x: Event) -> Scalar:
        """Sum of the parts' log-densities, in nats."""
        check_event("x", x, self.event_shape, "base.log_prob")
        sizes = [part.event_shape[0] for part in self.parts]
        each = zip(self.parts, split(x, sizes), strict=True)
        return jnp.sum(jnp.stack([part.log_prob(x) for part, x in each]))

    def sample(self, key: PRNGKeyArray) -> Event:
        """Draw one event."""
        keys = jax.random.split(key, len(self.parts))
        return jnp.concatenate([part.sample(k) for part, k in zip(self.parts, keys, strict=True)])
