"""Jacobian-vector products of a field at one point."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxflow.dynamics.protocol import Field, evaluate
from jaxflow.runtime.precision import accumulation_dtype


def products(
    field: Field,
    t: Float[Array, ""],
    x: Float[Array, "*event"],
    vectors: Float[Array, "..."],
    cond: Array | None = None,
) -> tuple[Float[Array, "*event"], Float[Array, "..."]]:
    """`f(t, x)`, and `(df/dx) v` for each vector of (k, *event), from one evaluation."""

    def jvp(v: Array) -> tuple[Array, Array]:
        return jax.jvp(lambda x: evaluate(field, t, x, cond), (x,), (v,))

    if vectors.shape[0] == 1:
        f, jv = jvp(vectors[0])
        return f, jv[None]
    return jax.vmap(jvp, out_axes=(None, 0))(vectors)


def inner(u: Float[Array, "k ..."], v: Float[Array, "k ..."]) -> Float[Array, " k"]:
    """`u_i . v_i` over events of any shape, summed in float32 or wider."""
    dtype = accumulation_dtype(u.dtype)
    return jnp.sum(u.astype(dtype) * v.astype(dtype), axis=tuple(range(1, u.ndim)))
