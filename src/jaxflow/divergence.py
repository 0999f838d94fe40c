"""The change of a log-density along trajectories, by any trace, with its standard error."""

import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, PRNGKeyArray

from jaxflow.continuity import transport_density, transport_products
from jaxflow.ode import ODE, Stats
from jaxflow.precision import accumulator
from jaxflow.trace import Estimator, Exact, XTrace

Change = tuple[Float[Array, "batch *event"], Float[Array, " batch"], Any, Stats]


def density_change(
    trace: Exact | Estimator,
    field: Any,
    x: Float[Array, "batch *event"],
    t0: Any,
    t1: Any,
    cond: Float[Array, "batch ..."] | None,
    key: PRNGKeyArray | None,
    *,
    ode: ODE,
) -> Change:
    """Points at `t1`, `log p(t1) - log p(t0)` along their way, its standard error, the counts.

    With k probes each one's divergence is integrated on its own along the one trajectory, so
    the standard error costs no second solve. It is 0 for an exact trace, None for one probe.

    Raises:
        ValueError: a stochastic trace without a key.
    """
    dtype = accumulator(x.dtype)
    if isinstance(trace, Exact):
        zero = jnp.zeros(len(x), dtype)
        (x, change), stats = transport_density(field, x, zero, t0, t1, cond, ode=ode)
        return x, change, jnp.zeros_like(change), stats
    probes = draw_rows(trace, key, x)
    if isinstance(trace, XTrace):
        (end, images), first = transport_products(field, x, t0, t1, cond, probes, ode=ode)
        basis = jax.vmap(trace.basis)(images)
        (_, basis_images), second = transport_products(field, x, t0, t1, cond, basis, ode=ode)
        value, error = jax.vmap(trace.estimate)(probes, images, basis, basis_images)
        return end, -value, error, first.then(second)
    zero = jnp.zeros(probes.shape[:2], dtype)
    (x, change), stats = transport_density(field, x, zero, t0, t1, cond, probes, ode=ode)
    span = jnp.asarray(t1, dtype) - jnp.asarray(t0, dtype)
    value, error = jax.vmap(trace.estimate, in_axes=(0, 0, None))(-change, probes, span)
    return x, -value, error, stats


@eqx.filter_jit
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

    def columns(start: Array) -> tuple[Array, Stats]:
        basis = jax.nn.one_hot(start + jnp.arange(chunk), size, dtype=x.dtype)
        basis = jnp.broadcast_to(basis.reshape(chunk, *shape), (len(x), chunk, *shape))
        (_, images), stats = transport_products(field, x, 1.0, 0.0, cond, basis, ode=ode)
        return -images, stats

    images, each = lax.map(columns, jnp.arange(0, size, chunk))
    # (chunks, batch, chunk, *event): the index of the column is made of the first and third.
    images = jnp.moveaxis(images, 0, 1).reshape(len(x), -1, *shape)[:, :size]
    images = jnp.moveaxis(images, 1, -1)
    failed = each.status != 0
    at = jnp.where(jnp.any(failed), jnp.argmax(failed), 0)
    return images.reshape(len(x), *shape, *shape), jax.tree.map(lambda leaf: leaf[at], each)


def draw_rows(
    trace: Estimator, key: PRNGKeyArray | None, x: Float[Array, "batch *event"]
) -> Float[Array, "batch k *event"]:
    """Probes for each row, drawn once for a whole solve.

    Raises:
        ValueError: no key.
    """
    if key is None:
        raise ValueError(
            f"trace={trace} needs random probes: pass key=jax.random.key(0), or evaluate "
            "exactly with dataclasses.replace(flow, trace='exact')"
        )
    keys = jax.random.split(key, len(x))
    return jax.vmap(lambda key: trace.draw(key, x.shape[1:], x.dtype))(keys)
