"""Fields made of fields: their sum, and a gate of time. Traces add and scale along."""

import functools
import operator
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from jaxflow.dynamics.layers import ContextLinear, context_linear
from jaxflow.dynamics.protocol import (
    check_field,
    evaluate,
    evaluate_with_trace,
    has_closed_form,
    prepare,
)
from jaxflow.runtime.precision import accumulation_dtype


class Sum(eqx.Module):
    """`f = sum_i f_i` with `tr(df/dx) = sum_i tr(df_i/dx)`.

    A sum of gated fields with few layers each is as expressive as a deep field, and its exact
    trace stays as cheap as theirs; a linear field is the skip term:

    ```python
    Sum((Gated(MLP(8, key=k1), key=k2), Gated(MLP(8, key=k3), key=k4), Linear(8, key=k5)))
    ```

    With a condition, every part takes it.

    Attributes:
        fields: the parts, fields or functions `f(t, x, cond=None)`.
    """

    fields: tuple[Any, ...]

    def __init__(self, fields: Sequence[Any]) -> None:
        """Make a sum of one or more fields.

        Raises:
            TypeError: not a sequence, or a part that is not callable.
            ValueError: no fields.
        """
        if not isinstance(fields, Sequence):
            raise TypeError(f"fields={fields!r} must be a sequence: write Sum((first, second))")
        if not fields:
            raise ValueError("fields=() is empty: a sum needs at least one field")
        for i, part in enumerate(fields):
            check_field(part, f"fields[{i}]")
        self.fields = tuple(fields)

    def __call__(
        self, t: Float[Array, ""], x: Float[Array, "*event"], cond: Array | None = None
    ) -> Float[Array, "*event"]:
        """`dx/dt` at one point."""
        return add(evaluate(part, t, x, cond) for part in self.fields)

    def prepare(self) -> "Sum":
        """The sum of the prepared parts; itself where the trace has no closed form."""
        return self if self.with_trace is None else Sum([prepare(part) for part in self.fields])

    @property
    def with_trace(self) -> Callable[..., tuple[Array, Array]] | None:
        """`(t, x, cond=None) -> (f, tr(df/dx))`; None if a part has no closed form."""
        return self._with_trace if all(map(has_closed_form, self.fields)) else None

    def _with_trace(
        self, t: Float[Array, ""], x: Float[Array, "*event"], cond: Array | None = None
    ) -> tuple[Array, Array]:
        pairs = [evaluate_with_trace(part, t, x, cond) for part in self.fields]
        values, traces = zip(*pairs, strict=True)
        # Some parts sum their traces in more bits than their values have.
        return add(values), add(trace.astype(accumulation_dtype(trace.dtype)) for trace in traces)


class Gated(eqx.Module):
    """`g(t) f(t, x)` with trace `g(t) tr(df/dx)`, for a gate `g(t) = 2 sigmoid(w t + b)`.

    The gate lies in (0, 2); it is 1 at `t = 0` and near 1 elsewhere before training.

    Attributes:
        field: a field or a function `f(t, x, cond=None)`.
        gate: `w` and `b`, a layer without inputs.
    """

    field: Any
    gate: ContextLinear

    def __init__(self, field: Any, *, key: PRNGKeyArray) -> None:
        """Gate a field.

        Raises:
            TypeError: a field that is not callable.
        """
        check_field(field, "field")
        self.field = field
        self.gate = context_linear(0, 1, 0, key, scale=0.1)

    def __call__(
        self, t: Float[Array, ""], x: Float[Array, "*event"], cond: Array | None = None
    ) -> Float[Array, "*event"]:
        """`dx/dt` at one point."""
        return self._open(t, x) * evaluate(self.field, t, x, cond)

    def prepare(self) -> "Gated":
        """The gate with its field prepared; itself where the trace has no closed form."""
        if self.with_trace is None:
            return self
        return eqx.tree_at(lambda gated: gated.field, self, prepare(self.field))

    @property
    def with_trace(self) -> Callable[..., tuple[Array, Array]] | None:
        """`(t, x, cond=None) -> (f, tr(df/dx))`; None if the field has no closed form."""
        return self._with_trace if has_closed_form(self.field) else None

    def _with_trace(
        self, t: Float[Array, ""], x: Float[Array, "*event"], cond: Array | None = None
    ) -> tuple[Array, Array]:
        gate = self._open(t, x)
        value, trace = evaluate_with_trace(self.field, t, x, cond)
        return gate * value, gate.astype(trace.dtype) * trace

    def _open(self, t: Array, x: Array) -> Array:
        return 2 * jax.nn.sigmoid(self.gate.context(jnp.asarray(t, x.dtype), None)[0])


def add(terms: Iterable[Array]) -> Array:
    """The sum of one or more arrays."""
    return functools.reduce(operator.add, terms)
