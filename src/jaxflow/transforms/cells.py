"""Probabilities of values on a grid, from a flow that was fitted to them with noise."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from jaxflow.transforms import Dequantise, noise_of


def log_mass(
    flow: Any, x: Any, key: PRNGKeyArray, cond: Any = None, *, num_draws: int = 64
) -> tuple[Float[np.ndarray, " rows"], Float[np.ndarray, " rows"]]:
    """`log P(x)` of rows on a grid: the density integrated over each row's cell, in nats.

    The integral is the mean over noise `v ~ q(v | x)`, even or learned (`jaxflow.fit_noise`), of
    `p(x + step v) step / q(v | x)`, where `log_prob` takes the middle of the cell for all of it.
    Entries that are on no grid stay densities.

    Args:
        flow: a flow whose transform begins with a `Dequantise`.
        x: rows, (rows, *event).
        key: for the noise.
        cond: conditions, (rows, *condition), or one vector for all.
        num_draws: points of each cell.

    Returns:
        `log P(x)`, and its standard error by the draws.

    Raises:
        ValueError: a flow without grids, values off them, `num_draws` under 2.
    """
    noise = noise_of(flow.transform)
    if noise is None:
        raise ValueError(
            f"transform={flow.transform} has no grid to integrate over: log_prob is a density; "
            "begin the transform with a Dequantise"
        )
    if num_draws < 2:
        raise ValueError(f"num_draws={num_draws} must be at least 2")
    noise.check(x)
    x = jnp.asarray(x)
    noise_key, trace_key = jax.random.split(key)
    each = []
    for draw in jax.random.split(noise_key, num_draws):
        inside, log_q = _spread(noise, x, jax.random.split(draw, len(x)))
        log_p = flow.log_prob(inside, cond, trace_key)
        each.append(np.asarray(log_p, float) - np.asarray(log_q, float))
    values = np.stack(each, axis=1)
    top = values.max(axis=1)
    share = np.exp(values - top[:, None])
    error = share.std(axis=1, ddof=1) / (share.mean(axis=1) * np.sqrt(num_draws))
    return top + np.log(share.mean(axis=1)), error


@eqx.filter_jit
def _spread(noise: Dequantise, x: Array, keys: Array) -> tuple[Array, Array]:
    return jax.vmap(noise.spread_with_log_prob)(x, keys)
