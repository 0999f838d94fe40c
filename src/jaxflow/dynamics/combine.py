"""The sum of fields, and a field with a time-dependent gate."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, PRNGKeyArray

from jaxflow.dynamics.layers import ContextLinear, context_linear
from jaxflow.dynamics.protocol import Field, evaluate
from jaxflow.dynamics.wrapper import AbstractWrapper, Run
from jaxflow.runtime.precision import accumulation_dtype


class Sum(AbstractWrapper):
    """`f = sum_i f_i`, with trace `tr(df/dx) = sum_i tr(df_i/dx)`.

    A sum of shallow gated fields is as expressive as a deep field, and its exact trace stays as
    cheap as theirs. A linear field serves as the skip connection. Every part sees the condition.

    ```python
    import jax
    from jaxflow.dynamics import MLP, Gated, Linear, Sum

    a, b, c, d, e = jax.random.split(jax.random.key(0), 5)
    field = Sum((Gated(MLP(8, key=a), key=b), Gated(MLP(8, key=c), key=d), Linear(8, key=e)))
    ```
    """

    fields: tuple[Field, ...]

    inner = "fields"

    def __init__(self, fields: Sequence[Any]) -> None:
        """Make the sum.

        Args:
            fields: one or more fields or functions `f(t, x, cond=None)`.

        Raises:
            TypeError: `fields` is not a sequence, or a part is not callable.
            ValueError: `fields` is empty.
        """
        if not isinstance(fields, Sequence):
            raise TypeError(f"fields={fields!r} must be a sequence: write Sum((first, second))")
        if not fields:
            raise ValueError("fields=() is empty: a sum needs at least one field")
        self.fields = tuple(fields)

    def apply(self, run: Run, t: Array, x: Array, cond: Array | None = None) -> Any:
        """`sum_i f_i(t, x, cond)`, and the sum of the traces."""
        results = [run(part, t, x, cond) for part in self.fields]
        if run is evaluate:
            return _add(results)
        values, traces = zip(*results, strict=True)
        # Some closed forms return a trace of higher precision than the value.
        return _add(values), _add([tr.astype(accumulation_dtype(tr.dtype)) for tr in traces])


class Gated(AbstractWrapper):
    """`g(t) f(t, x)` with trace `g(t) tr(df/dx)`, for a learned gate `g(t) = 2 sigmoid(w t + b)`.

    The gate lies in (0, 2). Before training it is 1 at `t = 0` and near 1 elsewhere.

    ```python
    import jax
    from jaxflow.dynamics import MLP, Gated

    key, gate_key = jax.random.split(jax.random.key(0))
    field = Gated(MLP(2, key=key), key=gate_key)
    ```
    """

    field: Field
    gate: ContextLinear

    def __init__(self, field: Any, *, key: PRNGKeyArray) -> None:
        """Gate a field.

        Args:
            field: a field or function `f(t, x, cond=None)`.
            key: for the gate's weights.

        Raises:
            TypeError: `field` is not callable.
        """
        self.field = field
        self.gate = context_linear(0, 1, 0, key, scale=0.1)

    def apply(self, run: Run, t: Array, x: Array, cond: Array | None = None) -> Any:
        """`g(t) f(t, x, cond)`, and `g(t)` times the trace."""
        gate = 2 * jax.nn.sigmoid(self.gate.context(jnp.asarray(t, x.dtype), None)[0])
        return jax.tree.map(lambda a: gate.astype(a.dtype) * a, run(self.field, t, x, cond))


def _add(terms: Sequence[Array]) -> Array:
    return sum(terms[1:], start=terms[0])
