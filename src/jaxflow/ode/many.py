"""Many independent solves at once: a row a lane, a finished lane takes the next row.

One adaptive solve of a batch ties its rows together: they share every step, so a row's answer
depends on its batch-mates, and a hard row makes all of them pay. Here each row has its own time,
step size, acceptance and status. The rows wait in a queue for a fixed number of lanes; all
lanes attempt a step at once, as one batch. When a row's solve ends its lane takes the next row,
so no lane waits for the slowest one, and since every operation has the shape of the lanes,
whatever the number of rows, a row's answer is the same alone, in any batch and in any order.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import Tracer
from jaxtyping import Array, PyTree

from jaxflow.ode.checks import check_field, check_state, check_tolerances
from jaxflow.ode.closure import refuse_closed_over_tracers
from jaxflow.ode.integrate import (
    Loop,
    attempt,
    begin,
    counts,
    lerp,
    normalise,
    unfinished,
)
from jaxflow.ode.lanes import drain, in_groups, scan_groups
from jaxflow.ode.odeint import strategy, with_num_steps
from jaxflow.ode.settings import ODE
from jaxflow.ode.status import Stats, poison, raise_if_failed
from jaxflow.ode.step import RightSide, State
from jaxflow.runtime.checks import check_count
from jaxflow.runtime.mesh import shard_map_rows
from jaxflow.runtime.precision import full_precision, widest_dtype

# Lanes on a CPU, whose vector units they fill; an accelerator wants thousands, so many that the
# states in them have about 2^18 entries.
LANES, MOST_LANES, LANE_ENTRIES = 256, 2**16, 2**18


def entries(y0: State) -> int:
    """Entries of a row."""
    return sum(leaf[:1].size for leaf in jax.tree.leaves(y0))


def lanes_for(size: int) -> int:
    """Lanes for rows of `size` entries: whatever the number of rows, so that bits are the same."""
    if jax.default_backend() == "cpu":
        return LANES
    most = LANE_ENTRIES // max(1, size)
    return min(MOST_LANES, max(LANES, 1 << max(0, most.bit_length() - 1)))


def odeint_many(
    f: Callable[..., State],
    y0: PyTree,
    t0: Any,
    t1: Any,
    args: Any = None,
    row_args: Any = None,
    *,
    ode: ODE = ODE(),
    lanes: int | None = None,
) -> tuple[State, Stats]:
    """Solve `dy/dt = f(t, y, args)` for many rows, each with steps of its own.

    ```python
    y1, stats = odeint_many(lambda t, y, rate: -rate * y, jnp.ones((1000, 3)), 0.0, 2.0, 0.5)
    ```
    A row's answer has the same bits alone, in any batch and in any order, also beside rows that
    fail. Gradients are those of each row's own solve, by `ode.gradient`. Under `jit` on a mesh of
    `jax.set_mesh` each device has lanes of its own for its part of the rows.

    Args:
        f: the field of one row: `f(t, y, args)`, or `f(t, y, args, row)` with `row_args`.
        y0: initial states, any pytree of arrays with rows along the leading axis.
        t0: initial time, one number or one a row.
        t1: final time, one number or one a row.
        args: shared by all rows: parameters belong here.
        row_args: one entry a row along the leading axis: conditions belong here.
        ode: settings of each row's solve.
        lanes: rows solved at once, by default what suits the platform and the size of a row.
            Bits are the same for the same number of lanes.

    Returns:
        The states at `t1`, and counts with one entry a row. With `ode.throw` unset a row that
        failed is NaN and has its status; the others are as if it were not there.

    Raises:
        SolveError: a row's solve failed, and `ode.throw` is set.
        ValueError: shapes that do not agree, fewer lanes than one, and as for `odeint`.
        TypeError: as for `odeint`.
    """
    y0, row_args = jax.tree.map(jnp.asarray, (y0, row_args))
    check_state(y0)
    num = _rows(y0, row_args)
    if lanes is None:
        lanes = lanes_for(entries(y0))
    check_count("lanes", lanes)
    dtype = widest_dtype(y0)
    start, end = (_times(t, name, num, dtype) for t, name in ((t0, "t0"), (t1, "t1")))
    if num == 0:
        none = jnp.zeros(0, int)
        return y0, Stats(none, none, none, none, jnp.zeros(0, dtype))
    first = jax.tree.map(lambda leaf: leaf[0], (start, y0, row_args))
    check_field(_call(f, first[2]), first[0], first[1], (args, first[2]))
    check_tolerances(ode, dtype)
    # Steps are counted here, where the times may still be known, for the longest row.
    known = not any(isinstance(t, Tracer) for t in (t0, t1))
    span = np.max(np.abs(np.asarray(t1) - np.asarray(t0))) if known else t1
    ode = with_num_steps(ode, 0.0, span, None)
    y1, stats = _solve(f, (y0, start, end, row_args), args, ode, lanes)
    if ode.throw:
        y1 = raise_if_failed(y1, stats, "odeint_many", partial=ode.partial)
    return y1, stats


def _rows(y0: PyTree, row_args: Any) -> int:
    """The number of rows.

    Raises:
        ValueError: leaves that differ in it.
    """
    leaves = jax.tree_util.tree_leaves_with_path((y0, row_args))
    names = {0: "y0", 1: "row_args"}
    sized = []
    for path, leaf in leaves:
        name = names[path[0].idx] + jax.tree_util.keystr(path[1:])
        if leaf.ndim == 0:
            raise ValueError(f"{name} is a single number; rows run along the leading axis")
        sized.append((name, leaf.shape))
    first, shape = sized[0]
    for name, other in sized[1:]:
        if other[0] != shape[0]:
            raise ValueError(
                f"{first} of shape {shape} has {shape[0]} rows and {name} of shape {other} has "
                f"{other[0]}; give one entry a row"
            )
    return shape[0]


def _times(time: Any, name: str, num: int, dtype: Any) -> Array:
    time = jnp.asarray(time)
    if time.shape not in ((), (num,)) or not jnp.issubdtype(time.dtype, jnp.number):
        raise ValueError(
            f"{name} has shape {time.shape} and y0 {num} rows; give one number or ({num},)"
        )
    return jnp.broadcast_to(time.astype(dtype), (num,))


def _call(f: Any, row: Any) -> Any:
    """The field as a function of `(t, y, (args, row))`."""
    if jax.tree.leaves(row):
        return lambda t, y, both: f(t, y, both[0], both[1])
    return lambda t, y, both: f(t, y, both[0])


def as_one(f: Any, y0: State, row_args: Any) -> tuple[Any, State]:
    """The field as `(t, y, (args, row))` on batches of one row, and the states as such.

    Error norms are taken row by row, so a row keeps a leading axis of 1.
    """
    f = full_precision(_call(f, row_args))

    def batch(t: Array, y: State, args: Any) -> State:
        one = jax.tree.map(lambda leaf: leaf[0], y)
        return jax.tree.map(lambda leaf: leaf[None], f(t, one, args))

    return batch, jax.tree.map(lambda leaf: leaf[:, None], y0)


@eqx.filter_jit
def _solve(
    f: Callable[..., State], rows: Any, args: Any, ode: ODE, lanes: int
) -> tuple[State, Stats]:
    return shard_map_rows(partial(_solve_part, f, ode=ode, lanes=lanes), rows, args)


def _solve_part(
    f: Callable[..., State], rows: Any, args: Any, *, ode: ODE, lanes: int
) -> tuple[State, Stats]:
    """The rows `(y0, t0, t1, row_args)` of one device."""
    y0, t0, t1, row_args = rows
    field, y0 = as_one(f, y0, row_args)
    solve_one = strategy(ode)

    def one(y0: State, t0: Array, t1: Array, args: Any, row: Any) -> tuple[State, Stats]:
        return solve_one(field, y0, t0, t1, (args, row), ode)

    if not ode.adaptive or ode.by_diffrax:
        solve = lambda y0, t0, t1, row: one(y0, t0, t1, args, row)  # noqa: E731
        y1, stats = in_groups(solve, (y0, t0, t1, row_args), lanes)
    elif ode.gradient == "direct":
        y1, stats = in_lanes(field, y0, t0, t1, args, row_args, ode, lanes)
    else:
        y1, stats = _with_gradient(field, one, y0, t0, t1, args, row_args, ode, lanes)
    reached = jax.vmap(lerp)(t0, t1, lax.stop_gradient(stats.t))
    y1 = jax.tree.map(lambda leaf: leaf[:, 0], y1)
    fail = partial(poison, partial=ode.partial)
    return jax.vmap(fail)(y1, stats.status), eqx.tree_at(lambda s: s.t, stats, reached)


def _with_gradient(
    field: Any,
    one: Any,
    y0: State,
    t0: Array,
    t1: Array,
    args: Any,
    row_args: Any,
    ode: ODE,
    lanes: int,
) -> tuple[State, Stats]:
    """The solve in lanes, whose reverse mode solves each row again, by its gradient strategy."""
    row = jax.tree.map(lambda leaf: leaf[0], (y0, t0, row_args))
    refuse_closed_over_tracers(field, row[1], row[0], (args, row[2]))
    theta, shared = eqx.partition(args, eqx.is_inexact_array)
    row_theta, row_rest = eqx.partition(row_args, eqx.is_inexact_array)
    constants, static = eqx.partition(shared, eqx.is_array)

    def both(theta: Any, constants: Any) -> Any:
        return eqx.combine(theta, constants, static)

    @jax.custom_vjp
    def solve(
        y0: State, t0: Array, t1: Array, theta: Any, row_theta: Any, constants: Any, row_rest: Any
    ) -> tuple[State, Stats]:
        rows = eqx.combine(row_theta, row_rest)
        return in_lanes(field, y0, t0, t1, both(theta, constants), rows, ode, lanes)

    def forward(*inputs: Any) -> Any:
        return solve(*inputs), inputs

    def backward(inputs: Any, cotangents: Any) -> Any:
        y0, t0, t1, theta, row_theta, constants, row_rest = inputs

        def group(total: Any, rows: Any, cotangent: State) -> Any:
            y0, t0, t1, row_theta, row_rest = rows

            def again(y0: State, t0: Array, t1: Array, row_theta: Any, theta: Any) -> State:
                args = both(theta, constants)
                rows = eqx.combine(row_theta, row_rest)
                return jax.vmap(one, in_axes=(0, 0, 0, None, 0))(y0, t0, t1, args, rows)[0]

            _, pull = jax.vjp(again, y0, t0, t1, row_theta, theta)
            *of_rows, of_theta = pull(cotangent)
            return jax.tree.map(jnp.add, total, of_theta), tuple(of_rows)

        zero = jax.tree.map(jnp.zeros_like, theta)
        rows = y0, t0, t1, row_theta, row_rest
        of_theta, (*of_rows, of_row_theta) = scan_groups(group, zero, rows, cotangents[0], lanes)
        return (*of_rows, of_theta, of_row_theta, None, None)

    solve.defvjp(forward, backward)
    return solve(y0, t0, t1, theta, row_theta, constants, row_rest)


class Work(NamedTuple):
    """A row's solve, and what its right side needs."""

    loop: Loop
    t0: Array
    t1: Array
    row_args: Any


def right_side(field: Any, t0: Array, t1: Array, args: Any, row: Any) -> RightSide:
    """The right side of one row in normalised time."""
    return normalise(lambda t, y: (field(t, y, (args, row)), None), t0, t1)


def in_lanes(
    field: Any,
    y0: State,
    t0: Array,
    t1: Array,
    args: Any,
    row_args: Any,
    ode: ODE,
    lanes: int,
) -> tuple[State, Stats]:
    """Adaptive solves of all rows; the times in their counts are normalised."""
    return drain(
        waiting(field, y0, t0, t1, args, row_args, ode, lanes),
        lambda work: advance(field, work, args, ode),
        unfinished=lambda work: unfinished(work.loop, ode),
        answer=lambda work: (work.loop.y, counts(work.loop, ode)),
        lanes=lanes,
    )


def waiting(
    field: Any,
    y0: State,
    t0: Array,
    t1: Array,
    args: Any,
    row_args: Any,
    ode: ODE,
    lanes: int,
) -> Work:
    """Each row's solve before its first attempt.

    In groups of `lanes` rows too: a row's first step must not depend on the number of rows.
    """

    def start(y0: State, t0: Array, t1: Array, row: Any) -> Work:
        return Work(begin(right_side(field, t0, t1, args, row), y0, None, ode), t0, t1, row)

    return in_groups(start, (y0, t0, t1, row_args), lanes)


def advance(field: Any, work: Work, args: Any, ode: ODE) -> Work:
    """One more attempt of a row's solve."""
    g = right_side(field, work.t0, work.t1, args, work.row_args)
    return work._replace(loop=attempt(g, work.loop, ode))
