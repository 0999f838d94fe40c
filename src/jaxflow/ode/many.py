"""Many independent solves at once, each row with its own steps.

One adaptive solve of a batch ties its rows together: they share every step, so a row's result
depends on the other rows, and one hard row slows down all. Here each row has its own time, step
size, acceptance and status. Rows wait in a queue for a fixed number of lanes, which attempt a step
at once, as one batch (see `jaxflow.ode.lanes`). So no lane waits for the slowest row, and a row's
result is the same alone, in any batch and in any order.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import Tracer
from jax.typing import ArrayLike
from jaxtyping import PyTree

from jaxflow.ode.checks import (
    as_times,
    check_field,
    check_span,
    check_state,
    check_tolerances,
    count_rows,
)
from jaxflow.ode.derivatives import explain_forward_mode, forward_only, once
from jaxflow.ode.integrate import VectorField, add, lerp
from jaxflow.ode.lanes import Row, begin_rows, bind_row, lanes_of, one_row_field, solve_in_lanes
from jaxflow.ode.odeint import solve, with_num_steps
from jaxflow.ode.parameters import lift_closure, split_args
from jaxflow.ode.rounding import begin_rounding, carry_rounding, spread
from jaxflow.ode.settings import ODE, Direct
from jaxflow.ode.status import Stats, poison, raise_if_failed
from jaxflow.ode.step import State
from jaxflow.runtime.checks import check_count
from jaxflow.runtime.joined import join_vmaps, join_with_totals
from jaxflow.runtime.lanes import map_groups, scan_groups
from jaxflow.runtime.mesh import shard_map_rows
from jaxflow.runtime.precision import full_precision, widest_dtype


def odeint_many(
    f: Callable[..., State],
    y0: PyTree,
    t0: ArrayLike,
    t1: ArrayLike,
    args: Any = None,
    row_args: Any = None,
    *,
    ode: ODE = ODE(),
    lanes: int | None = None,
    measure_rounding: bool = False,
) -> tuple[State, Stats]:
    """Solve `dy/dt = f(t, y, args)` for many rows, each with its own steps.

    A row's result has the same bits alone, in any batch and in any order, also beside rows that
    fail. Gradients are those of each row's own solve, by `ode.gradient`. Under `jit` on a mesh of
    `jax.set_mesh` each device solves its part of the rows.

    Args:
        f: the field of one row: `f(t, y, args)`, or `f(t, y, args, row)` with `row_args`.
        y0: initial states, any pytree of arrays with rows along the leading axis.
        t0: initial time, one number or one for each row.
        t1: final time, one number or one for each row.
        args: shared by all rows; as for `odeint`.
        row_args: one entry for each row along the leading axis, such as conditions.
        ode: settings of each row's solve.
        lanes: number of rows solved at once; the default fits the platform and the size of a
            row. Bits are the same for the same number of lanes.
        measure_rounding: estimate the rounding error of adaptive solves in `stats.rounding`, at
            one more evaluation a step (`jaxflow.ode.rounding`). `y0` must be a pair
            `(x, integrals)` of arrays, where `f` does not depend on the integrals.

    Returns:
        The states at `t1`, and counts with one entry for each row. Without `ode.throw` a row that
        failed is NaN and has its status; the other rows are unaffected.

    Raises:
        SolveError: a row's solve failed and `ode.throw` is set.
        ValueError: shapes that do not agree, `lanes` below 1, and as for `odeint`.
        TypeError: as for `odeint`.

    Example:
        ```python
        import jax.numpy as jnp
        from jaxflow import odeint_many

        rates = jnp.linspace(0.1, 1.0, 1000)
        y0 = jnp.ones((1000, 3))
        y1, stats = odeint_many(lambda t, y, args, rate: -rate * y, y0, 0.0, 2.0, None, rates)
        ```
    """
    y0, row_args = jax.tree.map(jnp.asarray, (y0, row_args))
    check_state(y0)
    num = count_rows(y0, row_args)
    if lanes is None:
        lanes = lanes_of(y0)
    check_count("lanes", lanes)
    dtype = widest_dtype(y0)
    start, end = as_times(t0, "t0", num, dtype), as_times(t1, "t1", num, dtype)
    check_span(t0, t1, dtype)
    if num == 0:
        none = jnp.zeros(0, int)
        return y0, Stats(none, none, none, none, jnp.zeros(0, dtype))
    t, y, row = jax.tree.map(lambda leaf: leaf[0], (start, y0, row_args))
    check_field(bind_row(f, row), t, y, (args, row))
    check_tolerances(ode, dtype)
    # Steps are counted here, where the times may still be known, for the longest row.
    known = not any(isinstance(t, Tracer) for t in (t0, t1))
    span = np.max(np.abs(np.asarray(t1) - np.asarray(t0))) if known else t1
    ode = with_num_steps(ode, 0.0, span)
    rows = Row(start, end, row_args)
    y1, stats = _solve(f, y0, rows, args, ode, lanes, measure_rounding)
    if ode.throw:
        y1 = raise_if_failed(y1, stats, "odeint_many", partial=ode.partial)
    return y1, stats


@explain_forward_mode()
@eqx.filter_jit
def _solve(
    f: Callable[..., State],
    y0: State,
    rows: Row,
    args: Any,
    ode: ODE,
    lanes: int,
    measure: bool,
) -> tuple[State, Stats]:
    solve_rows = partial(_solve_rows, f, ode=ode, lanes=lanes, measure=measure)
    return shard_map_rows(solve_rows, (y0, rows), args)


class Plan(NamedTuple):
    """How to solve rows: what does not depend on them, and no array."""

    field: VectorField
    ode: ODE
    lanes: int
    measure: bool


def _solve_rows(
    f: Callable[..., State],
    inputs: tuple[State, Row],
    args: Any,
    *,
    ode: ODE,
    lanes: int,
    measure: bool,
) -> tuple[State, Stats]:
    """Solve the rows of one device, `inputs = (y0, rows)`."""
    y0, rows = inputs
    y, row = jax.tree.map(lambda leaf: leaf[0], inputs)
    more = (row.args,) if jax.tree.leaves(row.args) else ()
    f, args = lift_closure(full_precision(f), row.t0, y, args, *more)
    plan = Plan(one_row_field(f, rows.args), ode, lanes, measure)
    y0 = jax.tree.map(lambda leaf: leaf[:, None], y0)
    if not ode.adaptive or ode.by_diffrax:
        y1, stats = _solve_groups(plan, y0, rows, args)
    elif isinstance(ode.gradient, Direct):
        y1, stats = forward_only(_solve_queue(plan, y0, rows, args))
    else:
        theta, constants, static = split_args(args)
        row_theta, row_constants = eqx.partition(rows, eqx.is_inexact_array)
        arrays = y0, row_theta, theta, row_constants, constants
        solved: Any = _solve_queue_with_vjp(plan, static, arrays)
        y1, stats = solved
    y1, rounding = jax.tree.map(lambda leaf: leaf[:, 0], (y1, stats.rounding))
    t = jax.vmap(lerp)(rows.t0, rows.t1, lax.stop_gradient(stats.t))
    y1 = jax.vmap(partial(poison, partial=ode.partial))(y1, stats.status)
    return y1, replace(stats, t=t, rounding=rounding)


def _solve_row(plan: Plan, y0: State, row: Row, args: Any) -> tuple[State, Stats]:
    return solve(plan.field, y0, row.t0, row.t1, (args, row.args), plan.ode)


def _solve_groups(plan: Plan, y0: State, rows: Row, args: Any) -> tuple[State, Stats]:
    """Solves without a queue: groups of rows, each by one `jax.vmap`."""

    def solve_all(inputs: tuple[State, Row], args: Any) -> tuple[State, Stats]:
        return map_groups(partial(_solve_row, plan, args=args), inputs, plan.lanes)

    return join_vmaps(solve_all, (y0, rows), args)


def _solve_queue(plan: Plan, y0: State, rows: Row, args: Any) -> tuple[State, Stats]:
    """Adaptive solves in lanes, each row with its own steps."""
    field, ode, lanes, measure = plan

    def solve_all(inputs: tuple[State, Row], args: Any) -> tuple[State, Stats]:
        queue = begin_rows(field, *inputs, args, ode, lanes)
        if not measure:
            return solve_in_lanes(field, queue, args, ode, lanes)[:2]
        y1, stats, rounding = solve_in_lanes(
            field,
            queue,
            args,
            ode,
            lanes,
            record=lambda loop: begin_rounding(loop.y),
            write=carry_rounding,
        )
        return y1, replace(stats, rounding=map_groups(spread, (rounding,), lanes))

    return join_vmaps(solve_all, (y0, rows), args)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _solve_queue_with_vjp(plan: Plan, static: Any, arrays: Any) -> tuple[State, Stats]:
    """`_solve_queue`, whose reverse mode solves each row again by `ode.gradient`."""
    return _forward(plan, static, arrays)[0]


def _forward(plan: Plan, static: Any, arrays: Any) -> tuple[tuple[State, Stats], Any]:
    y0, row_theta, theta, row_constants, constants = arrays
    rows, args = eqx.combine(row_theta, row_constants), eqx.combine(theta, constants, static)
    return once(_solve_queue(plan, y0, rows, args)), arrays


def _backward(plan: Plan, static: Any, arrays: Any, cotangents: Any) -> tuple[Any, ...]:
    y0, row_theta, theta, row_constants, constants = arrays

    def pull_back(inputs: Any, shared: Any) -> tuple[Any, Any]:
        *inputs, cotangents = inputs
        theta, constants = shared

        def pull_group(total: Any, inputs: Any, cotangent: State) -> Any:
            y0, row_theta, row_constants = inputs

            def solve_again(y0: State, row_theta: Row, theta: Any) -> State:
                args = eqx.combine(theta, constants, static)
                solve_row = partial(_solve_row, plan, args=args)
                return jax.vmap(solve_row)(y0, eqx.combine(row_theta, row_constants))[0]

            _, pull = jax.vjp(solve_again, y0, row_theta, theta)
            of_y0, of_rows, of_theta = pull(cotangent)
            return add(total, of_theta), (of_y0, of_rows)

        zero = jax.tree.map(jnp.zeros_like, theta)
        return scan_groups(pull_group, zero, tuple(inputs), cotangents, plan.lanes)

    inputs = y0, row_theta, row_constants, cotangents[0]
    of_theta, (of_y0, of_rows) = join_with_totals(pull_back, inputs, (theta, constants))
    return (once((of_y0, of_rows, of_theta, None, None)),)


_solve_queue_with_vjp.defvjp(_forward, _backward)
