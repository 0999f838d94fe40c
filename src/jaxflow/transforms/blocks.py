"""Transforms side by side, each of its own columns."""

from collections.abc import Sequence
from typing import Any, final

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from jaxflow.runtime.checks import check_event
from jaxflow.runtime.shapes import ArrayInput, Event, Scalar
from jaxflow.transforms.protocol import image_shape, inside
from jaxflow.transforms.samples import checked_rows


@final
class Blocks(eqx.Module):
    """The first transform takes the first columns, the second one the next, ...

    The log-determinants add up.

    ```python
    import jax
    from jaxflow.transforms import Angles, Blocks, LatLon, Standardise

    # Latitude, longitude, hour of the day, magnitude.
    magnitudes = jax.random.gamma(jax.random.key(0), 4.0, (100, 1))
    transform = Blocks((LatLon(), Angles(1, period=24.0), Standardise.fit(magnitudes)))
    ```

    Attributes:
        blocks: transforms of vectors, in the order of the columns.
    """

    blocks: tuple[Any, ...]

    def __init__(self, blocks: Sequence[Any]) -> None:
        """Put transforms side by side.

        Args:
            blocks: one or more transforms whose events are vectors.

        Raises:
            ValueError: `blocks` is empty, or the events of one are not vectors.
        """
        self.blocks = tuple(blocks)
        shapes = [tuple(part.event_shape) for part in self.blocks]
        if not shapes or any(len(shape) != 1 for shape in shapes):
            raise ValueError(
                f"blocks={blocks!r} must be transforms of vectors; they have {shapes}"
            )

    @property
    def event_shape(self) -> tuple[int, ...]:
        """Shape of one sample."""
        return (sum(part.event_shape[0] for part in self.blocks),)

    @property
    def image_shape(self) -> tuple[int, ...]:
        """Shape of one point of flow space."""
        return (sum(image_shape(part)[0] for part in self.blocks),)

    @property
    def strict(self) -> bool:
        """Whether rows outside are mistakes."""
        return any(getattr(part, "strict", False) for part in self.blocks)

    def check(self, x: ArrayInput) -> None:
        """Raise ValueError unless every part accepts its columns of the rows `x`."""
        columns = np.split(checked_rows(x, self.event_shape), self._ends(), axis=1)
        first = 0
        for part, rows in zip(self.blocks, columns, strict=True):
            try:
                part.check(rows)
            except ValueError as error:
                last = first + rows.shape[1] - 1
                raise ValueError(f"of columns {first} to {last}: {error}") from error
            first += rows.shape[1]

    def inside(self, x: Event) -> Bool[Array, ""]:
        """Whether each part's columns lie in its support."""
        each = zip(self.blocks, jnp.split(x, self._ends()), strict=True)
        return jnp.all(jnp.stack([inside(part, x) for part, x in each]))

    def forward(self, x: Event) -> tuple[Float[Array, " _"], Scalar]:
        """Map one sample to flow space, and the sum of the log-determinants."""
        check_event("x", x, self.event_shape, "transform.forward")
        each = zip(self.blocks, jnp.split(x, self._ends()), strict=True)
        return _joined([part.forward(x) for part, x in each])

    def inverse(self, u: Event) -> tuple[Float[Array, " _"], Scalar]:
        """Map one point of flow space to data space, and the sum of the log-determinants."""
        check_event("u", u, self.image_shape, "transform.inverse")
        ends = np.cumsum([image_shape(part)[0] for part in self.blocks])[:-1].tolist()
        return _joined(
            [p.inverse(u) for p, u in zip(self.blocks, jnp.split(u, ends), strict=True)]
        )

    def _ends(self) -> list[int]:
        return np.cumsum([part.event_shape[0] for part in self.blocks])[:-1].tolist()


def _joined(results: list[tuple[Array, Array]]) -> tuple[Array, Array]:
    vectors, log_dets = zip(*results, strict=True)
    return jnp.concatenate(vectors), jnp.sum(jnp.stack(log_dets))
