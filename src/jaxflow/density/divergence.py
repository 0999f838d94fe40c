"""The change of a log-density along trajectories, by any trace, with its standard error."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, PRNGKeyArray

from jaxflow.density.continuity import (
    transport_density,
    transport_density_twice,
    transport_products,
)
from jaxflow.ode import ODE, Stats
from jaxflow.ode.twice import Twice
from jaxflow.runtime.precision import accumulation_dtype, full_precision
from jaxflow.trace import Estimator, Exact, Hutchinson, XTrace
from jaxflow.trace.hutchinson import PILOT_PROBES

# Rows whose trace is measured to choose a number of probes.
PILOT_ROWS = 64

Rule = Callable[[Array], tuple[Array, Array | None]]
Change = tuple[Float[Array, "batch *event"], Float[Array, " batch"], Any, Stats]


def density_change(
    trace: Exact | Estimator | XTrace,
    field: Any,
    x: Float[Array, "batch *event"],
    t0: Any,
    t1: Any,
    cond: Float[Array, "batch ..."] | None,
    key: PRNGKeyArray | None,
    *,
    ode: ODE,
    each: bool,
) -> Change:
    """Points at `t1`, `log p(t1) - log p(t0)` along their way, its standard error, the counts.

    With k probes each one's divergence is integrated on its own along the one trajectory, so
    the standard error costs no second solve. It is 0 for an exact trace, None for one probe.
    With `each` a row has steps of its own, else all rows share one solve.

    Raises:
        ValueError: a stochastic trace without a key.
    """
    if isinstance(trace, XTrace):
        probes = draw_rows(trace, key, x)
        multiply = partial(transport_products, field, x, t0, t1, cond, ode=ode, each=each)
        (end, images), first = multiply(probes)
        basis = jax.vmap(trace.basis)(images)
        (_, basis_images), second = multiply(basis)
        value, error = jax.vmap(trace.estimate)(probes, images, basis, basis_images)
        return end, -value, error, first.then(second)
    start, probes, rule = plan(trace, key, x, t0, t1)
    (x, change), stats = transport_density(
        field, x, start, t0, t1, cond, probes, ode=ode, each=each
    )
    return x, *rule(change), stats


def density_change_twice(
    trace: Exact | Estimator,
    field: Any,
    x: Float[Array, "batch *event"],
    t0: Any,
    t1: Any,
    cond: Float[Array, "batch ..."] | None,
    key: PRNGKeyArray | None,
    *,
    ode: ODE,
) -> tuple[Twice, Rule, Stats]:
    """`density_change` by two solves a row, which tell the error of the steps.

    Returns:
        The solves of `(x, log p)`, the rule that makes a change and its standard error of the
        log p of either, and the counts.
    """
    start, probes, rule = plan(trace, key, x, t0, t1)
    twice, stats = transport_density_twice(field, x, start, t0, t1, cond, probes, ode=ode)
    return twice, rule, stats


def plan(
    trace: Exact | Estimator, key: PRNGKeyArray | None, x: Array, t0: Any, t1: Any
) -> tuple[Array, Array | None, Rule]:
    """The log p to start from, probes, and what to make of the log p that come out."""
    dtype = accumulation_dtype(x.dtype)
    if isinstance(trace, Exact):
        return jnp.zeros(len(x), dtype), None, lambda change: (change, jnp.zeros_like(change))
    probes = draw_rows(trace, key, x)
    span = jnp.asarray(t1, dtype) - jnp.asarray(t0, dtype)

    def rule(change: Array) -> tuple[Array, Array | None]:
        value, error = jax.vmap(trace.estimate, in_axes=(0, 0, None))(-change, probes, span)
        return -value, error

    return jnp.zeros(probes.shape[:2], dtype), probes, rule


@eqx.filter_jit
@full_precision
def integrated_jacobian(
    field: Any,
    x: Float[Array, "batch *event"],
    cond: Float[Array, "batch ..."] | None,
    *,
    ode: ODE,
    chunk: int = 64,
) -> tuple[Float[Array, "..."], Stats]:
    """`int_0^1 df/dx dt` along the trajectories that end in `x` at `t = 1`.

    Shape (batch, *event, *event): the derivative of the first event axes in the last ones.
    """
    shape = x.shape[1:]
    size = math.prod(shape)
    chunk = min(chunk, size)

    multiply = partial(transport_products, field, x, 1.0, 0.0, cond, ode=ode, each=True)

    def columns(start: Array) -> tuple[Array, Stats]:
        basis = jax.nn.one_hot(start + jnp.arange(chunk), size, dtype=x.dtype)
        basis = jnp.broadcast_to(basis.reshape(chunk, *shape), (len(x), chunk, *shape))
        (_, images), stats = multiply(basis)
        return -images, stats

    images, each = lax.map(columns, jnp.arange(0, size, chunk))
    # (chunks, batch, chunk, *event): the index of the column is made of the first and third.
    images = jnp.moveaxis(images, 0, 1).reshape(len(x), -1, *shape)[:, :size]
    images = jnp.moveaxis(images, 1, -1)
    return images.reshape(len(x), *shape, *shape), each.in_turn()


def draw_rows(
    trace: Estimator | XTrace, key: PRNGKeyArray | None, x: Float[Array, "batch *event"]
) -> Float[Array, "batch k *event"]:
    """Probes for each row, drawn once for a whole solve.

    Raises:
        ValueError: no key, or vectors that do not have the event's shape.
    """
    if key is None:
        raise ValueError(
            f"trace={trace} needs random probes: pass key=jax.random.key(0), or evaluate "
            "exactly with dataclasses.replace(flow, trace='exact')"
        )
    keys = jax.random.split(key, len(x))
    probes = jax.vmap(lambda key: trace.draw(key, x.shape[1:], x.dtype))(keys)
    if probes.ndim < 2 or probes.shape[2:] != x.shape[1:] or not probes.shape[1]:
        raise ValueError(
            f"trace={trace} draws vectors of shape {probes.shape[1:]}; for an event of shape "
            f"{x.shape[1:]} they have {('k', *x.shape[1:])}, whatever their number k"
        )
    return probes


def choose_probes(
    trace: Hutchinson,
    field: Any,
    x: Float[Array, "batch *event"],
    cond: Float[Array, "batch ..."] | None,
    key: PRNGKeyArray | None,
    *,
    ode: ODE,
) -> Exact | Hutchinson:
    """As many probes as `trace.target_se` takes, by a pilot solve of a few rows.

    Exact where the number would reach the size of an event.
    """
    size = math.prod(x.shape[1:])
    if size <= PILOT_PROBES:
        return Exact()
    few = jnp.unique(jnp.linspace(0, len(x) - 1, PILOT_ROWS).astype(int))
    cond = None if cond is None else cond[few]
    key = key if key is None else jax.random.fold_in(key, PILOT_ROWS)
    error = _change_error(trace.pilot(), field, x[few], cond, key, ode)
    number = trace.number_for(float(jnp.mean(error**2)), size)
    return Exact() if number >= size else Hutchinson(number, trace.law)


@eqx.filter_jit
@full_precision
def _change_error(
    trace: Hutchinson, field: Any, x: Array, cond: Array | None, key: PRNGKeyArray | None, ode: ODE
) -> Array:
    _, _, error, _ = density_change(trace, field, x, 1.0, 0.0, cond, key, ode=ode, each=True)
    return error
