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

    It holds the arrays of the distribution, and makes the distribution from them at each call:
    these pytrees allow only arrays as leaves, but the leaves of a flow may also be booleans
    (`jaxflow.trainable`) or None (`equinox.partition`). `fit` does not train the arrays, since
    some are computed from others.

    Attributes:
        arrays: the arrays among the leaves of the distribution.
        rest: the other leaves, such as Python numbers; None in the place of an array.
        structure: the tree structure of the distribution.
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
