"""The exact trace of networks with one or two hidden layers, for one extra matrix product.

For `f(x) = s(s(x W1 + b1) W2 + b2) W3 + b3` with slopes `u = s'(a1)`, `v = s'(a2)` the Jacobian
is `W1 diag(u) W2 diag(v) W3`, and

```
tr(df/dx) = u^T M v,    M = W2 * (W3 W1)^T    (* elementwise; h x h)
```

`M` depends on the weights only. With one hidden layer `tr = u . m`, `m_j = (W2 W1)_jj`. Gates
that depend on time or a condition scale the slopes (hidden layers) or the outputs (last layer).
"""

from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxflow.runtime.precision import accumulation_dtype
from jaxflow.runtime.shapes import Event, Scalar


def has_trace_weights(layers: Sequence[Any]) -> bool:
    """Whether a network of these layers, the last included, has a closed-form trace."""
    return len(layers) <= 3


def trace_weights(
    weights: tuple[Float[Array, "_ _"], ...], gate: Float[Array, " dim"] | None = None
) -> Float[Array, "..."]:
    """`m`, (h,), for weights `(W1, W2)`; `M`, (h, h), for `(W1, W2, W3)`.

    The matrices multiply from the right, (inputs, outputs). `gate` scales each output of the
    network.
    """
    first, *middle, last = weights
    if gate is not None:
        last = last * gate[None, :]
    if not middle:
        return jnp.sum(first.T * last, axis=1)
    return middle[0] * (last @ first).T


def contract(weights: Float[Array, "..."], slopes: tuple[Float[Array, " width"], ...]) -> Scalar:
    """The trace: `u . m` or `u^T M v`."""
    u, *rest = slopes
    wide = accumulation_dtype(u.dtype)
    left = jnp.dot(u, weights, preferred_element_type=wide)
    return left if not rest else jnp.dot(left, rest[0].astype(wide))


class Prepared(eqx.Module):
    """A field together with the weights of its trace, computed once before a solve."""

    field: Any
    weights: Float[Array, "..."]

    def __call__(self, t: Scalar, x: Event, cond: Array | None = None) -> Event:
        """The field's value."""
        return self.field(t, x, cond)

    def with_trace(self, t: Scalar, x: Event, cond: Array | None = None) -> tuple[Event, Scalar]:
        """The field's value and `tr(df/dx)`."""
        out, slopes = self.field.value_and_slopes(t, x, cond)
        return out, contract(self.weights, slopes)
