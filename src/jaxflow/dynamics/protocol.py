"""What makes a field: how it is called, and how it says that it brings its own trace."""

from collections.abc import Callable
from typing import Any

from jaxtyping import Array, Float

Field = Callable[..., Float[Array, "*event"]]


def evaluate(field: Any, t: Array, x: Array, cond: Array | None = None) -> Array:
    """`f(t, x)`, or `f(t, x, cond)` where there is a condition."""
    return field(t, x) if cond is None else field(t, x, cond)


def evaluate_with_trace(
    field: Any, t: Array, x: Array, cond: Array | None = None
) -> tuple[Array, Array]:
    """The field's value and its own exact trace."""
    return field.with_trace(t, x) if cond is None else field.with_trace(t, x, cond)


def has_closed_form(field: Any) -> bool:
    """Whether the field brings its own exact trace."""
    return callable(getattr(field, "with_trace", None))


def prepare(field: Any) -> Any:
    """The field with the products of weights that its trace needs, computed once a solve."""
    prepared = getattr(field, "prepare", None)
    return prepared() if callable(prepared) else field
