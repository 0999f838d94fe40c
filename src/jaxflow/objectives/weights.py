"""Rows with weights: their mean, and a batch drawn in proportion to them."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from jaxflow.objectives.protocol import Weights


def weighted_mean(values: Float[Array, " rows"], weights: Weights) -> Float[Array, ""]:
    """`sum_i w_i v_i / sum_i w_i`; 0 if all weights are 0. Weights of None count all rows once.

    A row of weight 0 does not count, whatever its value.
    """
    if weights is None:
        return jnp.mean(values)
    weights = weights.astype(values.dtype)
    total = jnp.sum(weights)
    values = jnp.where(weights > 0, values, jnp.zeros_like(values))  # 0 * inf is NaN
    return jnp.sum(weights * values) / jnp.where(total > 0, total, jnp.ones_like(total))


def resample(weights: Float[Array, " rows"], key: PRNGKeyArray) -> Int[Array, " rows"]:
    """Draw as many row indices as there are weights, by systematic resampling.

    Row `i` is drawn `rows * w_i / sum(w)` times, rounded up or down at random: weights (2, 1, 0)
    always give the rows 0, 0, 1.
    """
    total = jnp.cumsum(weights)
    offset = jax.random.uniform(key, (), weights.dtype)
    places = (offset + jnp.arange(len(weights), dtype=weights.dtype)) / len(weights)
    # Rounding must not reach the end, where rows of weight 0 may be.
    places = jnp.minimum(places, 1 - jnp.finfo(weights.dtype).eps)
    return jnp.searchsorted(total / total[-1], places, side="right")
