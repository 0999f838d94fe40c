"""Array types that annotations throughout the library share."""

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
