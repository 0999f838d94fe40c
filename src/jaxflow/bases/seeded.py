"""Distributions of distrax and TensorFlow Probability as bases."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PRNGKeyArray

from jaxflow.runtime.shapes import Event, Scalar


class SeededBase(eqx.Module):
    """A distribution whose `sample` takes the key as `seed=`, as those of distrax and TFP do.

    Holds the arrays of the distribution, and makes it from them at each call: these
    distributions are pytrees that allow nothing but arrays as leaves, and a flow's leaves may
    also be booleans (`jaxflow.trainable`) or None (`equinox.partition`). `fit` trains none of
    them, since some are computed from others.

    Attributes:
        arrays: parameters, and what the distribution keeps that is computed from them.
        rest: the other leaves, such as Python numbers.
        structure: how both make the distribution.
    """

    arrays: tuple[Array, ...]
    rest: tuple[Any, ...] = eqx.field(static=True)
    structure: Any = eqx.field(static=True)

    def __init__(self, distribution: Any) -> None:
        """Take a distribution apart.

        Args:
            distribution: has `event_shape`, `log_prob(x)` and `sample(seed=key)`.
        """
        leaves, self.structure = jax.tree.flatten(distribution)
        leaves = [jnp.asarray(x) if isinstance(x, np.ndarray) else x for x in leaves]
        self.arrays = tuple(x for x in leaves if eqx.is_array(x))
        self.rest = tuple(None if eqx.is_array(x) else x for x in leaves)

    @property
    def distribution(self) -> Any:
        """The distribution, with these arrays."""
        arrays = iter(self.arrays)
        leaves = [next(arrays) if x is None else x for x in self.rest]
        return jax.tree.unflatten(self.structure, leaves)

    @property
    def event_shape(self) -> tuple[int, ...]:
        """Shape of one event."""
        return tuple(map(int, self.distribution.event_shape))

    def log_prob(self, x: Event) -> Scalar:
        """Log-density of one event, in nats."""
        return self.distribution.log_prob(x)

    def sample(self, key: PRNGKeyArray) -> Event:
        """Draw one event."""
        return self.distribution.sample(seed=key)
