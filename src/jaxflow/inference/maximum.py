"""Gradient ascent on the log-density of a flow, within limits."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

STEPS, RATE = 200, 0.05
# Points stay this share of the spread away from the limits.
MARGIN = 1e-4


def ascend(
    flow: Any,
    start: Float[Array, "starts d"],
    conds: Array,
    spread: Float[Array, " d"],
    limits: tuple[Any, Any],
) -> Float[Array, "starts d"]:
    """The best points of ascents by Adam, in units of `spread`, within the limits."""
    low, high = (jnp.asarray(each, start.dtype) for each in limits)
    low, high = low + MARGIN * spread, high - MARGIN * spread

    @eqx.filter_jit
    def search(flow: Any, z: Array) -> Array:
        optimizer = optax.adam(optax.cosine_decay_schedule(RATE, STEPS))

        def loss(z: Array) -> tuple[Array, Array]:
            each = flow.train_log_prob(jnp.clip(start + spread * z, low, high), conds)
            return -jnp.sum(jnp.where(jnp.isfinite(each), each, 0.0)), each

        def step(carry: Any, _: None) -> tuple[Any, None]:
            z, state, best, value = carry
            slope, each = jax.grad(loss, has_aux=True)(z)
            better = each > value
            best, value = jnp.where(better[:, None], z, best), jnp.where(better, each, value)
            change, state = optimizer.update(jnp.nan_to_num(slope), state)
            return (z + change, state, best, value), None

        first = z, optimizer.init(z), z, jnp.full(len(z), -jnp.inf, z.dtype)
        best = jax.lax.scan(step, first, length=STEPS)[0][2]
        return jnp.clip(start + spread * best, low, high)

    return search(flow, jnp.zeros_like(start))
