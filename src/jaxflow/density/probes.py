"""Probes of a stochastic trace: drawn once a solve, and read from k integrals to one change."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from jaxflow.ode import Stats
from jaxflow.runtime.lanes import per_row
from jaxflow.runtime.precision import accumulation_dtype
from jaxflow.trace import Estimator, Exact, Hutchinson, XTrace
from jaxflow.trace.hutchinson import PILOT_PROBES

# The pilot solve that chooses the number of probes takes at most this many rows.
PILOT_ROWS = 64

# Points, change of log p, its standard error, counts.
Change = tuple[Float[Array, "batch *event"], Float[Array, " batch"], Any, Stats]
# From the integrals that a solve returns to the change and its standard error.
Reader = Callable[[Array], tuple[Array, Array | None]]


def as_integrals(
    trace: Exact | Estimator,
    key: PRNGKeyArray | None,
    x: Array,
    t0: Any,
    t1: Any,
    *,
    grouped: bool,
) -> tuple[Array, Array | None, Reader]:
    """The integrals of a trace: their start (zeros), the probes, and how to read the results."""
    dtype = accumulation_dtype(x.dtype)
    if isinstance(trace, Exact):
        return jnp.zeros(x.shape[:1], dtype), None, lambda change: (change, jnp.zeros_like(change))
    probes = draw_probes(trace, key, x, grouped=grouped)
    span = jnp.asarray(t1, dtype) - jnp.asarray(t0, dtype)

    def read(integrals: Array) -> tuple[Array, Array | None]:
        estimate = lambda integrals, probes: trace.estimate(integrals, probes, span)  # noqa: E731
        value, error = per_row(estimate, -integrals, probes, grouped=grouped)
        return -value, error

    return jnp.zeros(probes.shape[:2], dtype), probes, read


def draw_probes(
    trace: Estimator | XTrace,
    key: PRNGKeyArray | None,
    x: Float[Array, "batch *event"],
    *,
    grouped: bool,
) -> Float[Array, "batch k *event"]:
    """Draw the probes of each row, once for the entire solve; needs a key."""
    if key is None:
        raise ValueError(
            f"trace={trace} needs random probes: pass key=jax.random.key(0), or evaluate "
            "exactly with dataclasses.replace(flow, trace='exact')"
        )
    keys = jax.random.split(key, len(x))
    probes = per_row(lambda key: trace.draw(key, x.shape[1:], x.dtype), keys, grouped=grouped)
    if probes.ndim < 2 or probes.shape[2:] != x.shape[1:] or not probes.shape[1]:
        raise ValueError(
            f"trace={trace} draws vectors of shape {probes.shape[1:]} for an event of shape "
            f"{x.shape[1:]}; draw(key, shape, dtype) must return {('k', *x.shape[1:])} with k >= 1"
        )
    return probes


def choose_num_probes(
    trace: Hutchinson,
    x: Float[Array, "batch *event"],
    cond: Float[Array, "batch ..."] | None,
    key: PRNGKeyArray | None,
    standard_error: Callable[..., Array],
) -> Exact | Hutchinson:
    """As many probes as `trace.target_se` takes, by a pilot solve of at most 64 rows.

    Exact where the number would reach the size of an event. `standard_error` solves: `(trace, x,
    cond, key) -> (rows,)`.
    """
    size = math.prod(x.shape[1:])
    if size <= PILOT_PROBES:
        return Exact()
    few = jnp.unique(jnp.linspace(0, len(x) - 1, PILOT_ROWS).astype(int))
    cond = None if cond is None else cond[few]
    key = key if key is None else jax.random.fold_in(key, PILOT_ROWS)
    error = standard_error(trace.pilot(), x[few], cond, key)
    # Rademacher probes with equal outcomes, which state no finite error, show no variance.
    error = jnp.where(jnp.isfinite(error), error, 0.0)
    number = trace.number_for(float(jnp.mean(error**2)), size)
    return Exact() if number >= size else Hutchinson(number, trace.law)
