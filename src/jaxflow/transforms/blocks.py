"""Transforms side by side, each with columns of its own."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, final

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from jaxflow.runtime.checks import check_event
from jaxflow.runtime.shapes import ArrayInput, Event, Scalar, split
from jaxflow.transforms.protocol import check_strict, image_shape, inside, is_strict
from jaxflow.transforms.samples import checked_rows


@final
class Blocks(eqx.Module):
    """The first transform takes the first columns, the second one the next, ...

    The log-determinants add up. `columns` gives another order of the columns.

    ```python
    import jax
    from jaxflow.transforms import Angles, Blocks, LatLon, Standardise

    # Latitude, longitude, hour of the day, magnitude.
    magnitudes = jax.random.gamma(jax.random.key(0), 4.0, (100, 1))
    transform = Blocks((LatLon(), Angles(1, period=24.0), Standardise.fit(magnitudes)))
    ```

    Attributes:
        blocks: one or more transforms of vectors, in the order of `columns`.
        columns: numbers of the columns that the first block takes, then those of the second, ...;
            None for `0, 1, ...`.

    Raises:
        ValueError: `blocks` is empty, the events of one are not vectors, or `columns` does not
            name every column once.
    """

    blocks: tuple[Any, ...]
    columns: tuple[int, ...] = eqx.field(static=True)

    def __init__(self, blocks: Sequence[Any], columns: Sequence[int] | None = None) -> None:
        self.blocks = tuple(blocks)
        shapes = [tuple(part.event_shape) for part in self.blocks]
        if not shapes or any(len(shape) != 1 for shape in shapes):
            raise ValueError(
                f"blocks={blocks!r} must be transforms of vectors; they have {shapes}"
            )
        (size,) = self.event_shape
        self.columns = tuple(range(size) if columns is None else map(int, columns))
        if sorted(self.columns) != list(range(size)):
            raise ValueError(f"columns={columns} must name each column from 0 to {size - 1} once")

    @property
    def event_shape(self) -> tuple[int, ...]:
        """Shape of one sample."""
        return (sum(self._sizes),)

    @property
    def image_shape(self) -> tuple[int, ...]:
        """Shape of one point of flow space."""
        return (sum(self._image_sizes),)

    @property
    def strict(self) -> bool:
        """Whether rows outside the support of a part are mistakes."""
        return any(map(is_strict, self.blocks))

    def check(self, x: ArrayInput) -> None:
        """Raise ValueError unless every part accepts its columns of the rows `x`."""
        self._check(x, lambda part, rows: part.check(rows))

    def check_strict(self, x: ArrayInput) -> None:
        """Raise ValueError if a `strict` part refuses its columns of the rows `x`."""
        self._check(x, check_strict)

    def _check(self, x: ArrayInput, check: Callable[[Any, np.ndarray], None]) -> None:
        rows, ends = checked_rows(x, self.event_shape), np.cumsum(self._sizes)[:-1]
        for part, columns in zip(self.blocks, np.split(self.columns, ends), strict=True):
            try:
                check(part, rows[:, columns])
            except ValueError as error:
                raise ValueError(f"of columns {_range_of(columns)}: {error}") from error

    def inside(self, x: Event) -> Bool[Array, ""]:
        """Whether each part's columns lie in its support."""
        return jnp.all(jnp.stack([inside(part, own) for part, own in self._with_columns(x)]))

    def forward(self, x: Event) -> tuple[Float[Array, " _"], Scalar]:
        """Map one sample to flow space, and the sum of the log-determinants."""
        check_event("x", x, self.event_shape, "transform.forward")
        return _joined([part.forward(own) for part, own in self._with_columns(x)])

    def inverse(self, u: Event) -> tuple[Float[Array, " _"], Scalar]:
        """Map one point of flow space to data space, and the sum of the log-determinants."""
        check_event("u", u, self.image_shape, "transform.inverse")
        each = zip(self.blocks, split(u, self._image_sizes), strict=True)
        x, log_det = _joined([part.inverse(own) for part, own in each])
        return _in_order(x, np.argsort(self.columns).tolist()), log_det

    def _with_columns(self, x: Event) -> Iterator[tuple[Any, Array]]:
        """Each part with its columns of one sample."""
        return zip(self.blocks, split(_in_order(x, self.columns), self._sizes), strict=True)

    @property
    def _sizes(self) -> list[int]:
        return [part.event_shape[0] for part in self.blocks]

    @property
    def _image_sizes(self) -> list[int]:
        return [image_shape(part)[0] for part in self.blocks]


def _in_order(x: Event, columns: Sequence[int]) -> Event:
    """The entries in another order, without an array of indices in the program."""
    return jnp.stack([x[i] for i in columns])


def _range_of(columns: np.ndarray) -> str:
    """The columns in words: `2 to 4`, or `2, 0` if they are not adjacent."""
    adjacent = len(columns) > 1 and bool((np.diff(columns) == 1).all())
    return f"{columns[0]} to {columns[-1]}" if adjacent else ", ".join(map(str, columns))


def _joined(results: list[tuple[Array, Array]]) -> tuple[Array, Array]:
    vectors, log_dets = zip(*results, strict=True)
    return jnp.concatenate(vectors), jnp.sum(jnp.stack(log_dets))
