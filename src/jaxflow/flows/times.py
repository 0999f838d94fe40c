"""Points of a `CNF` and their log-density at any time, in data units at every time."""

from dataclasses import replace
from functools import partial
from typing import Any

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, PRNGKeyArray

from jaxflow.density.continuity import transport
from jaxflow.flows.data_space import (
    add_log_det,
    check_arguments,
    check_inside,
    nan_where,
    raise_on_failure,
    to_data_space,
    transform_rows,
)
from jaxflow.flows.flow import map_rows
from jaxflow.ode import Stats
from jaxflow.ode.checks import check_save_at
from jaxflow.ode.derivatives import explain_forward_mode
from jaxflow.ode.odeint import with_num_steps
from jaxflow.runtime.precision import full_precision


def log_prob_at(flow: Any, t: Any, x: Any, cond: Any, key: PRNGKeyArray | None) -> Array:
    """Log-densities at time `t`; arguments and results are those of `CNF.log_prob_at`."""
    flow, rows, cond, batch = check_arguments(flow, x, cond, "x", keep_float64=True)
    # Count fixed steps here, where the time is still known.
    flow = replace(flow, ode_eval=with_num_steps(flow.ode_eval, t, 0.0))
    flow = flow.choose_probes(rows, cond, key)
    u, log_det = transform_rows(flow, rows)
    log_p, stats = _log_prob_at(flow, jnp.asarray(t, u.dtype), u, log_det, cond, key)
    return raise_on_failure(flow, log_p, stats, "log_prob_at").reshape(batch)


@explain_forward_mode()
@eqx.filter_jit
@full_precision
def _log_prob_at(
    flow: Any, t: Array, u: Array, log_det: Array, cond: Array | None, key: PRNGKeyArray | None
) -> tuple[Array, Stats]:
    log_p, _, stats = flow.score_rows_at(t, u, cond, key, training=False)
    return add_log_det(log_p, stats, log_det)


def transport_rows(flow: Any, x: Any, t0: Any, t1: Any, cond: Any, save_at: Any) -> Array:
    """Points at `t1` or at the times `save_at`; as `CNF.transport`."""
    flow, rows, cond, batch = check_arguments(flow, x, cond, "x", keep_float64=True)
    u, log_det = transform_rows(flow, rows)
    check_inside(~jnp.isneginf(log_det))
    times = None if save_at is None else check_save_at(save_at, t0, t1, u.dtype)
    flow = replace(flow, ode_eval=with_num_steps(flow.ode_eval, t0, t1, times))
    start, end = (jnp.asarray(t, u.dtype) for t in (t0, t1))
    times = None if times is None else jnp.asarray(times)
    move = partial(_transport, flow, start, end, times)
    out, stats = map_rows(flow, move, (u, log_det, cond))
    out = raise_on_failure(flow, out, stats, "transport")
    if times is None:
        return out.reshape(*batch, *flow.event_shape)
    return jnp.moveaxis(out, 1, 0).reshape(len(times), *batch, *flow.event_shape)


@eqx.filter_jit
@full_precision
def _transport(
    flow: Any,
    t0: Array,
    t1: Array,
    times: Array | None,
    u: Array,
    log_det: Array,
    cond: Array | None,
    key: None,
) -> tuple[Array, Stats]:
    """Move rows from `t0` to `t1`: (rows, *event), or (rows, times, *event)."""
    ode = replace(flow.ode_eval, throw=False)
    out, stats = transport(flow.field, u, t0, t1, cond, ode=ode, save_at=times)
    if times is not None:
        out, stats = jnp.moveaxis(out, 0, 1), stats.in_turn()
    batch = out.shape[: out.ndim - u.ndim + 1]
    flat, _ = to_data_space(flow.transform, out.reshape(-1, *u.shape[1:]))
    out = flat.reshape(*batch, *flow.event_shape)
    return nan_where(jnp.isneginf(log_det), out), stats
