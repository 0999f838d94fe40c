"""How far a log-density may be off because its ODE was solved in steps.

A row is solved twice (`jaxflow.ode.twice`): adaptively, and again on 1.75 times as many steps
placed on its own grid. With `d` the difference of the two log-densities, `e` the embedded errors
of the second solve's steps and `g` the gradient of the base's log-density where it ends,

```
E = sum |e_logp| + || |g_i| sum |e_xi| ||_2
F = 3 eps (sum |step of log p| + |x|^2 / 2)
stated = 1.5 d + kappa E + F,    kappa = clip(3 (tolerance / 1e-3)^(1/4), 0.5, 3)
```
The errors of a row's entries have signs of their own, so they add up as squares do. `d` alone
misses what both solves get wrong, `E` alone is too small where errors add up and too
large where they cancel; `F` is rounding. The constants are empirical and checked on fields that
did not choose them (`tests/density/test_accuracy.py`): an estimate on the safe side, no bound.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxflow.bases import log_prob_rows
from jaxflow.ode import ODE
from jaxflow.ode.twice import Twice
from jaxflow.runtime.precision import accumulation_dtype

# Weights of the difference of the two solves and of rounding.
DIFFERENCE, ROUNDING = 1.5, 3.0
# The weight of the embedded errors at a tolerance of 1e-3, and its range.
EMBEDDED, LEAST, MOST = 3.0, 0.5, 3.0


def base_density(base: Any, z: Float[Array, "rows *event"]) -> Float[Array, " rows"]:
    """The base's log-density of rows, in float32 at least."""
    return log_prob_rows(base, z.astype(accumulation_dtype(z.dtype)))


def stated_error(
    base: Any, twice: Twice, value: Float[Array, " rows"], refined: Float[Array, " rows"], ode: ODE
) -> Float[Array, " rows"]:
    """The error stated for the log-density `value` of each row, in nats.

    Args:
        base: density where the trajectories end.
        twice: the two solves of `(x, log p)`, log p of each row or of each probe.
        value: log-densities by the first solve.
        refined: log-densities by the second.
        ode: settings of the first solve.
    """
    (z, _), (local_x, local_p), (_, path_p) = twice.refined, twice.local, twice.path
    z, local_x = (leaf.astype(value.dtype) for leaf in (z, local_x))
    slope = jnp.abs(jax.vmap(jax.grad(base.log_prob))(z))
    rows = len(value)
    carried = jnp.linalg.norm((slope * local_x).reshape(rows, -1), axis=1)
    embedded = _mean(local_p) + carried
    rounding = rounding_error(z, _mean(path_p))
    tolerance = max(ode.rtol, ode.atol)
    kappa = min(MOST, max(LEAST, EMBEDDED * (tolerance / 1e-3) ** 0.25))
    difference = jnp.abs(refined - value)
    return DIFFERENCE * difference + kappa * embedded + rounding


def rounding_error(
    z: Float[Array, "rows *event"], path: Float[Array, " rows"]
) -> Float[Array, " rows"]:
    """What rounding leaves in a log-density, in nats: the term F above.

    Args:
        z: where the trajectories end.
        path: sum of the absolute changes of log p on the way.
    """
    z = z.astype(path.dtype)
    squares = jnp.sum(jnp.square(z).reshape(len(path), -1), axis=1)
    return ROUNDING * jnp.finfo(path.dtype).eps * (path + squares / 2)


def _mean(each: Float[Array, "rows ..."]) -> Float[Array, " rows"]:
    """The mean over probes, where there are any."""
    return each if each.ndim == 1 else jnp.mean(each, axis=1)
