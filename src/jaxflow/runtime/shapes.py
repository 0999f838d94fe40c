"""Array types that annotations throughout the library share, and parts of vectors."""

from collections.abc import Sequence
from typing import Any

from jax.typing import ArrayLike
from jaxtyping import Array, Float

# A number: a time, a log-density, a trace or a log-determinant.
Scalar = Float[Array, ""]
# One event (sample), of any shape.
Event = Float[Array, "*event"]
# A batch of events.
Rows = Float[Array, "rows *event"]
# An array, a number, or nested lists of numbers.
ArrayInput = ArrayLike | Sequence[Any]
# A number of rows: an integer, or an unknown one of `jax.export`.
Count = Any


def split(v: Float[Array, " _"], sizes: Sequence[int]) -> list[Float[Array, " _"]]:
    """A vector in parts of these sizes."""
    if v.shape != (sum(sizes),):
        raise ValueError(f"a vector of shape {v.shape} does not split into parts of {sizes}")
    ends = [sum(sizes[: i + 1]) for i in range(len(sizes))]
    return [v[end - size : end] for end, size in zip(ends, sizes, strict=True)]
