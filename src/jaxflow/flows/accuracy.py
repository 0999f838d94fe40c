"""Log-densities of a `CNF` with their error, and to a tolerance in nats.

Rows that the precision of the flow cannot bring to the tolerance are answered in float64.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, PRNGKeyArray

from jaxflow.bases import log_prob_rows
from jaxflow.density.continuity import density_change
from jaxflow.density.error import (
    POSSIBLE,
    ROUNDS,
    USUAL,
    LogDensity,
    mark_inaccurate,
    mark_no_density,
    ode_for_tolerance,
    solve_to_tolerance,
    solve_with_error,
)
from jaxflow.flows.data_space import check_arguments, into_flow_space, mark_outside
from jaxflow.flows.flow import map_rows
from jaxflow.ode import ODE, Stats, Status, odeint_many
from jaxflow.runtime.lanes import per_row
from jaxflow.runtime.precision import cast_floats, full_precision, is_single
from jaxflow.trace import XTrace


def log_prob_to(
    flow: Any,
    x: Any,
    cond: Any,
    key: PRNGKeyArray | None,
    atol_nats: float,
    *,
    progress: bool | None = False,
) -> tuple[Array, Stats, tuple[int, ...]]:
    """Log-densities of rows by one solve to `atol_nats`, its counts, and the batch shape.

    Rows that one solve may not bring there are verified. The arguments are those of
    `CNF.log_prob`.
    """
    given, (flow, rows, cond, batch) = flow, check_arguments(flow, x, cond, "x", keep_float64=True)
    flow = flow.choose_probes(rows, cond, key)
    inputs = *into_flow_space(flow, rows), cond
    dtype = inputs[0].dtype
    flow = replace(
        flow, ode_eval=ode_for_tolerance(atol_nats, flow.ode_eval, dtype, checked=False)
    )
    again = flow.states_error() and not isinstance(inputs[0], Tracer)
    limits = (jnp.asarray(each, dtype) for each in (atol_nats, POSSIBLE if again else USUAL))
    log_p, stats = map_rows(flow, partial(_log_prob_to, flow, *limits), inputs, key, progress)
    if again:

        def solve(flow: Any, rows: Any, cond: Any) -> tuple[Any, Stats]:
            answer, stats, _ = with_error(flow, rows, cond, key, atol_nats, progress=progress)
            return answer.value, stats

        log_p, stats = _in_float64(solve, given, rows, cond, (log_p, stats), atol_nats)
    return log_p, stats, batch


def with_error(
    flow: Any,
    x: Any,
    cond: Any,
    key: PRNGKeyArray | None,
    atol_nats: float | None = None,
    *,
    progress: bool | None = False,
) -> tuple[LogDensity, Stats, tuple[int, ...]]:
    """Log-densities of rows with their error, the counts of their solves, and the batch shape.

    The arguments are those of `CNF.log_prob_with_error`.
    """
    flow, rows, cond, batch = check_arguments(flow, x, cond, "x", keep_float64=True)
    flow = flow.choose_probes(rows, cond, key)
    inputs = *into_flow_space(flow, rows), cond
    dtype = inputs[0].dtype

    def solve(ode: ODE, inputs: tuple[Any, ...]) -> tuple[LogDensity, Stats]:
        score = partial(_log_prob_with_error, replace(flow, ode_eval=ode))
        return map_rows(flow, score, inputs, key, progress)

    if atol_nats is None:
        return *solve(flow.ode_eval, inputs), batch
    ode = ode_for_tolerance(atol_nats, flow.ode_eval, dtype, checked=True)
    if not flow.states_error():
        raise ValueError(
            f"trace={flow.trace} with ode_eval={ode} states no error of its steps to compare "
            f"with atol_nats={atol_nats}: write log_prob(x, atol_nats=...) without verify, or "
            "choose another trace or one of jaxflow's own solvers"
        )
    rounds = 0 if is_single(dtype) else ROUNDS
    answer, stats = solve_to_tolerance(solve, inputs, atol_nats=atol_nats, ode=ode, rounds=rounds)

    def again(flow: Any, rows: Any, cond: Any) -> tuple[Any, Stats]:
        return with_error(flow, rows, cond, key, atol_nats, progress=progress)[:2]

    if is_single(dtype):
        answer, stats = _in_float64(again, flow, rows, cond, (answer, stats), atol_nats)
    return answer, stats, batch


def _in_float64(
    solve: Callable[[Any, Any, Any], Any],
    flow: Any,
    rows: Any,
    cond: Any,
    answer: Any,
    atol_nats: float,
) -> Any:
    """The answer and its counts, with the rows that are `INACCURATE` solved again in float64.

    They stay `INACCURATE` where the result's own rounding exceeds `atol_nats`.
    """
    missed = np.flatnonzero(np.asarray(answer[1].status) == Status.INACCURATE)
    if not len(missed):
        return answer
    with jax.enable_x64(True):
        wide, cond = cast_floats((flow, cond), jnp.float64)
        rows = np.asarray(rows).astype(np.float64)[missed]
        found, stats = solve(wide, rows, None if cond is None else cond[missed])
        value = found.value if isinstance(found, LogDensity) else found
        rounded = jnp.abs(value) * float(jnp.finfo(answer[1].t.dtype).eps) / 2
        status = jnp.where(rounded > atol_nats, int(Status.INACCURATE), stats.status)
        stats = replace(stats, status=status)
        if isinstance(found, LogDensity):
            assert found.ode_error is not None
            found = found._replace(ode_error=found.ode_error + rounded, status=status)
    return jax.tree.map(
        lambda old, new: old.at[missed].set(np.asarray(new).astype(old.dtype)),
        answer,
        (found, stats),
    )


@eqx.filter_jit
@full_precision
def _log_prob_to(
    flow: Any,
    atol_nats: Array,
    share: Array,
    u: Array,
    log_det: Array,
    cond: Array | None,
    key: PRNGKeyArray | None,
) -> tuple[Array, Stats]:
    """Log-density of rows, `INACCURATE` where it may miss `atol_nats`."""
    trace, ode = flow.trace_for(training=False), replace(flow.ode_eval, throw=False)
    solver = partial(odeint_many, measure_rounding=True)
    z, change, _, stats = density_change(
        trace, flow.field, u, 1.0, 0.0, cond, key, ode=ode, solver=solver
    )
    value = log_prob_rows(flow.base, z) - change
    stats = mark_inaccurate(
        mark_no_density(stats, value),
        flow.base,
        (u, z),
        change,
        value,
        ode=ode,
        share=share,
        atol_nats=atol_nats,
    )
    stats = replace(stats, rounding=None)
    return value + log_det.astype(value.dtype), mark_outside(stats, log_det)


@eqx.filter_jit
@full_precision
def _log_prob_with_error(
    flow: Any, u: Array, log_det: Array, cond: Array | None, key: PRNGKeyArray | None
) -> tuple[LogDensity, Stats]:
    trace, ode = flow.trace_for(training=False), replace(flow.ode_eval, throw=False)
    if isinstance(trace, XTrace) or not flow.states_error():
        z, change, trace_se, stats = flow.change_rows(u, 1.0, 0.0, cond, key, training=False)
        value = log_prob_rows(flow.base, z) - change
        stats = mark_no_density(stats, value)
        answer = LogDensity(value, trace_se, None, None, stats.status, stats.num_evals)
    else:
        answer, stats = solve_with_error(trace, flow.field, flow.base, u, cond, key, ode=ode)
    log_det = log_det.astype(answer.value.dtype)
    stats = mark_outside(stats, log_det)

    def known(error: Array | None) -> Array | None:
        """Nothing is uncertain about a density of 0."""
        return None if error is None else jnp.where(stats.status == Status.OUTSIDE, 0.0, error)

    def with_rounding(error: Array, log_det: Array) -> Array:
        return error + jnp.finfo(log_det.dtype).eps * jnp.abs(log_det)

    error = answer.ode_error
    error = None if error is None else per_row(with_rounding, error, log_det)

    answer = LogDensity(
        answer.value + log_det,
        known(answer.trace_se),
        known(error),
        None if answer.refined is None else answer.refined + log_det,
        stats.status,
        stats.num_evals,
    )
    return answer, stats
