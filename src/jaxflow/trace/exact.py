"""The exact trace of a field's Jacobian."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from jaxflow.dynamics.protocol import evaluate, evaluate_with_trace, has_closed_form
from jaxflow.trace.products import inner

# Jacobian-vector products held in memory at once; more gain no speed on the processors tried.
CHUNK = 32


def exact_trace(
    field: Any, t: Float[Array, ""], x: Float[Array, "*event"], cond: Array | None = None
) -> tuple[Float[Array, "*event"], Float[Array, ""]]:
    """`f(t, x)` and `tr(df/dx)` at one point, from one pass.

    The field's closed form where it has one (`with_trace`), else `jacobian_trace`.
    """
    if has_closed_form(field):
        return evaluate_with_trace(field, t, x, cond)
    return jacobian_trace(field, t, x, cond)


def jacobian_trace(
    field: Any,
    t: Float[Array, ""],
    x: Float[Array, "*event"],
    cond: Array | None = None,
    *,
    chunk: int = CHUNK,
) -> tuple[Float[Array, "*event"], Float[Array, ""]]:
    """`f(t, x)` and `tr(df/dx) = sum_i e_i^T (df/dx) e_i` by d Jacobian-vector products.

    The field is evaluated once; the products run `chunk` at a time, so memory does not grow
    with the dimension d.

    Args:
        field: the field.
        t: time.
        x: one event of any shape.
        cond: condition of the event.
        chunk: products held in memory at once.
    """
    f, jvp = jax.linearize(lambda x: evaluate(field, t, x, cond), x)
    size = x.size
    chunk = min(chunk, size)

    def partial_sum(start: Array) -> Array:
        # Beyond the last entry one_hot gives the zero vector, which adds nothing.
        basis = jax.nn.one_hot(start + jnp.arange(chunk), size, dtype=x.dtype)
        basis = basis.reshape(chunk, *x.shape)
        return jnp.sum(inner(basis, jax.vmap(jvp)(basis)))

    starts = jnp.arange(0, size, chunk)
    if len(starts) == 1:
        return f, partial_sum(jnp.asarray(0))
    return f, jnp.sum(lax.map(partial_sum, starts))
