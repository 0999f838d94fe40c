"""Means over rows that count more or less."""

import jax.numpy as jnp
from jaxtyping import Array, Float


def weighted_mean(
    values: Float[Array, " rows"], weights: Float[Array, " rows"] | None
) -> Float[Array, ""]:
    """`sum_i w_i v_i / sum_i w_i`; weights (2, 1, 0) are rows that occur twice, once and never."""
    if weights is None:
        return jnp.mean(values)
    weights = weights.astype(values.dtype)
    total = jnp.sum(weights)
    # A batch may hold none that counts: it then teaches nothing.
    return jnp.sum(weights * values) / jnp.where(total > 0, total, jnp.ones_like(total))
