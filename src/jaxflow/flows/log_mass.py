"""The probability of a value on a grid: the density integrated over its cell."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from jaxflow.flows.importance import log_means
from jaxflow.runtime.shapes import ArrayInput
from jaxflow.transforms.dequantise import Dequantise, noise_of


def log_mass(
    flow: Any,
    x: ArrayInput,
    key: PRNGKeyArray,
    cond: ArrayInput | None = None,
    *,
    num_draws: int = 64,
) -> tuple[Float[np.ndarray, " rows"], Float[np.ndarray, " rows"]]:
    """`log P(x)` of rows on a grid, in nats: the density integrated over each row's cell.

    The integral is the mean of `p(x + step v) step / q(v | x)` over noise `v ~ q(v | x)`, uniform
    or learned (`jaxflow.fit_noise`). `log_prob` evaluates the density at the centre of the cell
    only. For continuous entries (step 0) the result remains a density.

    ```python
    import jax, jax.numpy as jnp, jaxflow
    from jaxflow.dynamics import MLP
    from jaxflow.transforms import Dequantise

    field = MLP(1, width=8, key=jax.random.key(0))
    flow = jaxflow.CNF(field, jaxflow.StandardNormal(1), transform=Dequantise([1.0]))
    x = jnp.asarray([[0.0], [1.0]])
    log_p, standard_error = jaxflow.log_mass(flow, x, jax.random.key(1), num_draws=4)
    ```

    Args:
        flow: a flow whose transform starts with a `Dequantise`.
        x: rows on the grid, (rows, *event).
        key: for the noise, and for a stochastic trace.
        cond: conditions, (rows, *condition), or one for all rows.
        num_draws: points in each cell, at least 2.

    Returns:
        `log P(x)`, (rows,), and its standard error, (rows,); -inf and 0 where the density is 0.

    Raises:
        ValueError: the flow has no grid, a value is off the grid, or `num_draws` is less than 2.
    """
    noise = noise_of(flow.transform)
    if noise is None:
        raise ValueError(
            f"transform={flow.transform} has no grid to integrate over, and log_prob is a "
            "density: start the transform with a Dequantise"
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
    return log_means(np.stack(each, axis=1))[:2]


@eqx.filter_jit
def _spread(noise: Dequantise, x: Array, keys: Array) -> tuple[Array, Array]:
    return jax.vmap(noise.spread_with_log_prob)(x, keys)
