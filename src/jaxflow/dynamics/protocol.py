"""The interface of a field, and its optional methods."""

from typing import Any, Protocol, runtime_checkable

import jax
from jaxtyping import Array

from jaxflow.runtime.shapes import Event, Scalar


@runtime_checkable
class Field(Protocol):
    """The right-hand side of the ODE: `f(t, x, cond=None) -> dx/dt`.

    A field takes one event and a scalar time; the library vectorises it over rows. Any function
    or module with this signature is a field; the arrays that jax sees in it can be trained, so
    weights of a function are given as `jax.tree_util.Partial(function, weights)`. `cond` is
    passed only if there is a condition, so a field without conditions may be `f(t, x)`.

    Optional methods:
        `with_trace(t, x, cond=None) -> (dx/dt, tr(df/dx))`: the exact trace in closed form. An
            attribute `with_trace` that is None means that there is no closed form.
        `prepare() -> Field`: an equivalent field that holds the products of weights that its
            trace needs. The library calls it once before each solve.

    Example:
        ```python
        import jax.numpy as jnp
        from jaxflow import CNF, StandardNormal
        from jaxflow.dynamics import Field


        def rotate(t, x, cond=None):
            return jnp.stack([-x[1], x[0]])


        assert isinstance(rotate, Field)
        flow = CNF(rotate, StandardNormal(2))
        ```
    """

    def __call__(
        self,
        t: Scalar,
        x: Event,
        /,
        *args: Any,
        **kwargs: Any,
    ) -> Event:
        """`dx/dt` at one point.

        Args:
            t: time; the base is at `t = 0` and the data at `t = 1`.
            x: one event.
            *args: the condition `cond`, if there is one.
            **kwargs: likewise, by name.

        Returns:
            The derivative, of the same shape as `x`.
        """
        ...


def evaluate(field: Field, t: Array, x: Array, cond: Array | None = None) -> Array:
    """`f(t, x)` without a condition, `f(t, x, cond)` with one."""
    return field(t, x) if cond is None else field(t, x, cond)


def evaluate_with_trace(
    field: Any, t: Array, x: Array, cond: Array | None = None
) -> tuple[Array, Array]:
    """Value and trace of a field with a closed form (see `has_closed_form`)."""
    return field.with_trace(t, x) if cond is None else field.with_trace(t, x, cond)


def has_closed_form(field: Any) -> bool:
    """Whether the field has an exact trace in closed form: a callable `with_trace`."""
    return callable(getattr(field, "with_trace", None))


def prepare(field: Any) -> Any:
    """`field.prepare()` if the field has that method, otherwise the field itself."""
    prepared = getattr(field, "prepare", None)
    return prepared() if callable(prepared) else field


def check_field(field: Any, name: str) -> None:
    """Raise TypeError unless `field` is callable, by jax too; `name` is the argument's name."""
    if not isinstance(field, Field):
        raise TypeError(f"{name}={field!r} must be a field or a function f(t, x, cond=None)")
    for leaf in jax.tree.leaves(field):
        if not _is_array_or_hashable(leaf):
            raise TypeError(
                f"{name} is or holds a {type(leaf).__name__}, neither an array nor hashable, so "
                "jax cannot compile it. If it is a bound flax.linen module, write "
                "jax.tree_util.Partial(module.apply, variables)"
            )


def _is_array_or_hashable(leaf: Any) -> bool:
    if hasattr(leaf, "dtype"):
        return True
    try:
        hash(leaf)
    except TypeError:
        return False
    return True
