"""Random changes of rows in each minibatch, such as moved and mirrored images."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from jaxflow.flows.data_space import to_flow_space
from jaxflow.runtime.checks import check_count
from jaxflow.runtime.shapes import Rows
from jaxflow.transforms import spread_rows

Augment = Callable[[Array, PRNGKeyArray], Array]


@dataclass(frozen=True, kw_only=True)
class Moves:
    """Moves and mirrors one image at random; all outcomes are equally likely.

    Attributes:
        flips: mirror every other image, left and right.
        shifts: largest move in each direction, in pixels; a border repeats the pixels next to it.
        shape: shape of an image, (height, width, channels).

    Raises:
        TypeError, ValueError: `flips` is not a bool, or `shifts` not an integer from 0 to less
            than half of the sides.
    """

    flips: bool
    shifts: int
    shape: tuple[int, ...]

    def __post_init__(self) -> None:
        if not isinstance(self.flips, bool):
            raise TypeError(f"flips={self.flips!r} must be True or False")
        check_count("shifts", self.shifts, 0)
        if 2 * self.shifts >= min(self.shape[:2]):
            raise ValueError(
                f"shifts={self.shifts} must be less than half of the sides of the images, "
                f"{self.shape[0]} x {self.shape[1]}"
            )

    def __call__(self, x: Array, key: PRNGKeyArray) -> Array:
        """One image, (height, width, channels), moved and mirrored."""
        move_key, flip_key = jax.random.split(key)
        if self.shifts:
            edge = (self.shifts, self.shifts)
            start = jax.random.randint(move_key, (2,), 0, 2 * self.shifts + 1)
            padded = jnp.pad(x, (edge, edge, (0, 0)), mode="edge")
            x = jax.lax.dynamic_slice(padded, (*start, 0), x.shape)
        if self.flips:
            x = jnp.where(jax.random.bernoulli(flip_key), x[:, ::-1], x)
        return x


class BatchTransform(eqx.Module):
    """Maps the rows of a minibatch from data units to flow space, with fresh noise in each step.

    Attributes:
        transform: the transform, which may start with noise; None for none.
        augment: a random change of each row, applied first; None for none.
    """

    transform: Any
    augment: Augment | None = eqx.field(static=True, default=None)

    def __call__(self, x: Rows, key: PRNGKeyArray) -> Float[Array, "rows ..."]:
        """Rows in flow space."""
        if self.augment is not None:
            augment_key, key = jax.random.split(key)
            x = augment_rows(self.augment, x, augment_key)
        x = spread_rows(self.transform, x, key)
        return to_flow_space(self.transform, x, grouped=False)[0]


def augment_rows(augment: Augment, x: Rows, key: PRNGKeyArray) -> Rows:
    """Change each row by its own key."""
    return jax.vmap(augment)(x, jax.random.split(key, len(x)))
