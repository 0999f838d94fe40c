"""Accuracy of the log-densities of a `CNF`: their error, a tolerance in nats, enough probes.

Rows that miss the tolerance in the precision of the flow are solved again in float64.
"""

from dataclasses import replace
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Int, PRNGKeyArray

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
from jaxflow.density.probes import choose_num_probes
from jaxflow.flows.data_space import add_log_det, check_arguments, transform_rows
from jaxflow.flows.flow import map_rows
from jaxflow.ode import ODE, Stats, Status
from jaxflow.runtime.lanes import per_row
from jaxflow.runtime.precision import cast_floats, full_precision, is_single
from jaxflow.trace import Exact, Hutchinson

# Log-densities, the counts of their solves, and the batch shape.
Answer = tuple[LogDensity, Stats, tuple[int, ...]]


def log_prob_to(
    flow: Any,
    x: Any,
    cond: Any,
    key: PRNGKeyArray | None,
    atol_nats: float,
    *,
    progress: bool | None = False,
) -> Answer:
    """Log-densities by one solve to `atol_nats`, their counts, and the batch shape.

    Rows that may miss `atol_nats` by one solve are verified in float64. The arguments are those of
    `CNF.log_prob`; the answer holds values, statuses and evaluations only.
    """
    original = flow
    flow, rows, cond, batch = check_arguments(flow, x, cond, "x", keep_float64=True)
    flow = flow.choose_probes(rows, cond, key)
    inputs = *transform_rows(flow, rows), cond
    dtype = inputs[0].dtype
    flow = replace(
        flow, ode_eval=ode_for_tolerance(atol_nats, flow.ode_eval, dtype, checked=False)
    )

    def solve(share: float) -> tuple[Array, Stats]:
        limits = jnp.asarray(atol_nats, dtype), jnp.asarray(share, dtype)
        return map_rows(flow, partial(_log_prob_to, flow, *limits), inputs, key, progress)

    again = flow.states_error() and not isinstance(inputs[0], Tracer)
    log_p, stats = solve(POSSIBLE if again else USUAL)
    if again and isinstance(stats.status, Tracer):
        # Known rows of a flow whose arrays, or whose field's closure, are not.
        again, (log_p, stats) = False, solve(USUAL)
    if again and len(missed := _inaccurate(stats)):
        answer, counts = _in_float64(
            original, rows, cond, key, missed, atol_nats, dtype, progress=progress
        )
        log_p, stats = _put_rows((log_p, stats), missed, (answer.value, counts))
    return LogDensity(log_p, None, None, None, stats.status, stats.num_evals), stats, batch


def with_error(
    flow: Any,
    x: Any,
    cond: Any,
    key: PRNGKeyArray | None,
    atol_nats: float | None = None,
    *,
    progress: bool | None = False,
) -> Answer:
    """Log-densities with their error, the counts of their solves, and the batch shape.

    With `atol_nats` every row whose error is larger is solved again. The arguments are those of
    `CNF.log_prob_with_error`.
    """
    flow, rows, cond, batch = check_arguments(flow, x, cond, "x", keep_float64=True)
    flow = flow.choose_probes(rows, cond, key)
    inputs = *transform_rows(flow, rows), cond
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
    single = is_single(dtype)
    rounds = 0 if single else ROUNDS
    answer, stats = solve_to_tolerance(solve, inputs, atol_nats=atol_nats, ode=ode, rounds=rounds)
    if single and len(missed := _inaccurate(stats)):
        wide = _in_float64(flow, rows, cond, key, missed, atol_nats, dtype, progress=progress)
        answer, stats = _put_rows((answer, stats), missed, wide)
    return answer, stats, batch


def _inaccurate(stats: Stats) -> Int[np.ndarray, " missed"]:
    return np.flatnonzero(np.asarray(stats.status) == Status.INACCURATE)


def _in_float64(
    flow: Any,
    rows: Any,
    cond: Array | None,
    key: PRNGKeyArray | None,
    missed: Int[np.ndarray, " missed"],
    atol_nats: float,
    dtype: Any,
    *,
    progress: bool | None,
) -> tuple[LogDensity, Stats]:
    """The rows `missed` with their error in float64, and their counts.

    They are `INACCURATE` where rounding the value to `dtype` exceeds `atol_nats`.
    """
    with jax.enable_x64(True):
        flow, cond = cast_floats((flow, cond), jnp.float64)
        rows = np.asarray(rows).astype(np.float64)[missed]
        cond = None if cond is None else cond[missed]
        answer, stats, _ = with_error(flow, rows, cond, key, atol_nats, progress=progress)
        assert answer.ode_error is not None
        rounded = jnp.abs(answer.value) * float(jnp.finfo(dtype).eps) / 2
        status = jnp.where(rounded > atol_nats, int(Status.INACCURATE), stats.status)
        answer = answer._replace(ode_error=answer.ode_error + rounded, status=status)
        return answer, replace(stats, status=status)


def _put_rows(tree: Any, at: Int[np.ndarray, " missed"], rows: Any) -> Any:
    """The tree with other rows, of any precision, at the places `at`."""
    return jax.tree.map(
        lambda old, new: old.at[at].set(np.asarray(new).astype(old.dtype)), tree, rows
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
    z, change, _, stats = flow.change_rows(
        u, 1.0, 0.0, cond, key, training=False, measure_rounding=True
    )
    value = log_prob_rows(flow.base, z) - change
    stats = mark_inaccurate(
        mark_no_density(stats, value),
        flow.base,
        (u, z),
        change,
        value,
        ode=flow.ode_eval,
        share=share,
        atol_nats=atol_nats,
    )
    return add_log_det(value, replace(stats, rounding=None), log_det)


@eqx.filter_jit
@full_precision
def _log_prob_with_error(
    flow: Any, u: Array, log_det: Array, cond: Array | None, key: PRNGKeyArray | None
) -> tuple[LogDensity, Stats]:
    error = refined = None
    if flow.states_error():
        trace, ode = flow.trace_for(training=False), replace(flow.ode_eval, throw=False)
        answer, stats = solve_with_error(trace, flow.field, flow.base, u, cond, key, ode=ode)
        value, trace_se, error, refined, *_ = answer
    else:
        value, trace_se, stats = flow.score_rows_at(1.0, u, cond, key, training=False)
    log_det = log_det.astype(value.dtype)
    value, stats = add_log_det(value, stats, log_det)

    def add_rounding(error: Array, log_det: Array) -> Array:
        return error + jnp.finfo(log_det.dtype).eps * jnp.abs(log_det)

    def zero_outside(error: Array) -> Array:
        """Nothing is uncertain about a density of 0."""
        return jnp.where(stats.status == Status.OUTSIDE, 0.0, error)

    if error is not None and refined is not None:
        error = per_row(add_rounding, error, log_det)
        refined = refined + log_det
    trace_se, error = jax.tree.map(zero_outside, (trace_se, error))
    return LogDensity(value, trace_se, error, refined, stats.status, stats.num_evals), stats


def trace_for_rows(flow: Any, x: Any, cond: Any, key: PRNGKeyArray | None) -> Exact | Hutchinson:
    """The trace with as many probes as its `target_se` takes on rows like these.

    The arguments are those of `CNF.choose_probes`.
    """
    trace, quiet = flow.trace, replace(flow.ode_eval, throw=False)
    flow, rows, cond, _ = check_arguments(flow, x, cond, "x", keep_float64=True)
    if isinstance(rows, Tracer):
        raise unknown_rows(trace)
    if not len(rows):
        return replace(trace, target_se=None)
    rows, _ = transform_rows(flow, rows)
    return choose_num_probes(trace, rows, cond, key, partial(_trace_se, flow.field, quiet))


def unknown_rows(trace: Hutchinson) -> ValueError:
    """The error for a number of probes that cannot be chosen, since rows are unknown."""
    return ValueError(
        f"target_se={trace.target_se} chooses the number of probes from the values of rows, "
        "unknown under jit: write flow = flow.choose_probes(x, key=key) before"
    )


@eqx.filter_jit
@full_precision
def _trace_se(
    field: Any,
    ode: ODE,
    trace: Hutchinson,
    x: Array,
    cond: Array | None,
    key: PRNGKeyArray | None,
) -> Any:
    """Standard error of the change of log-density of each row in flow space."""
    return density_change(trace, field, x, 1.0, 0.0, cond, key, ode=ode)[2]
