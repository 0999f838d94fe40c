"""Solve each row twice, the second time on a finer grid, to measure the error of the first solve.

Solves at two tolerances do not measure it: both may take the same steps, and then differ by 0.
Here the second solve takes fixed steps: 1.75 for each step that the first one accepted, and more
where that step was long, so that its nodes lie between the first one's and no further apart than
`1 / LEAST_STEPS` of the interval. So it is finer wherever the first one had to be fine, and meets
a short change of the field that the first one stepped over. The result holds both solves and the
embedded errors of the second one; the caller turns them into an error bound.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from jaxflow.ode.controller import error_norm
from jaxflow.ode.integrate import Loop, lerp
from jaxflow.ode.lanes import (
    Row,
    begin_rows,
    drain,
    lanes_of,
    one_row_field,
    row_right_side,
    solve_in_lanes,
)
from jaxflow.ode.rounding import Rounding, begin_rounding, carry_rounding, spread
from jaxflow.ode.settings import ODE
from jaxflow.ode.status import Stats, Status, poison
from jaxflow.ode.step import RightSide, State, rk_step
from jaxflow.runtime.joined import join_vmaps
from jaxflow.runtime.lanes import map_groups
from jaxflow.runtime.mesh import shard_map_rows

# Accepted steps stored of a row's first solve; the error of a row that takes more is not measured.
MAX_NODES = 256
# Steps of the second solve for each step of the first, and for an interval of length 1.
FINER, LEAST_STEPS = 1.75, 12
# The first solve saw the field if no step of the second is off by more tolerances than these.
MOST_TOLERANCES = 100.0
# Where the field is smooth, steps so much shorter are off by less than this share of a tolerance,
# or of their rounding. Where it is not, their errors count so many times.
SMOOTH, ROUNDINGS, ROUGH = 0.1, 8.0, 75.0


class Twice(NamedTuple):
    """Two solves of each row; all but `y` is NaN if the error was not measured.

    Attributes:
        y: the first, adaptive solve.
        refined: the second solve, on the finer grid.
        local: sum over the second solve's steps of their absolute embedded errors, like `y`.
            Steps at a kink of the field, or at a jump in time, fall short of their order: where
            one is off by more than `SMOOTH` tolerances, the sum counts `ROUGH` times. It is the
            largest number where one is off by more than `MOST_TOLERANCES`, since the first
            solve, which met them, then stepped over a change of the field.
        path: sum over the second solve's steps of the absolute changes of the state, like `y`.
        rounding: estimated rounding error of the first solve, like `y` (`jaxflow.ode.rounding`).
    """

    y: State
    refined: State
    local: State
    path: State
    rounding: State


class Grid(NamedTuple):
    """The nodes of a row's first solve, in normalised time, and where the second solve's lie.

    `index` is how many steps of the second solve, a fraction, lie before each node; `num` is their
    number.
    """

    nodes: Float[Array, "... nodes"]
    index: Float[Array, "... nodes"]
    num: Int[Array, "..."]


class Walk(NamedTuple):
    """A second solve under way: its state, the row, the steps taken and the sums of `Twice`.

    `passed` is the last node of the first solve at or before it; `worst` is the largest error
    norm of its steps.
    """

    y: State
    first: Any
    row: Row
    grid: Grid
    passed: Int[Array, "..."]
    taken: Int[Array, "..."]
    local: State
    path: State
    worst: Float[Array, "..."]


@eqx.filter_jit
def solve_twice(
    f: Callable[..., State],
    y0: State,
    t0: Float[Array, " rows"],
    t1: Float[Array, " rows"],
    args: Any,
    row_args: Any,
    *,
    ode: ODE,
) -> tuple[Twice, Stats]:
    """Solve each row adaptively, then on a finer grid; arguments as `odeint_many`.

    The counts include both solves. There is no reverse mode.
    """
    rows = Row(t0, t1, row_args)
    part = partial(join_vmaps, partial(_solve_part, f, ode=ode))
    return shard_map_rows(part, (y0, rows), args)


def _solve_part(
    f: Callable[..., State], inputs: tuple[State, Row], args: Any, *, ode: ODE
) -> tuple[Twice, Stats]:
    """The solves of one device's rows."""
    y0, rows = inputs
    if not len(rows.t0):
        none = jnp.zeros(0, int)
        return Twice(y0, y0, y0, y0, y0), Stats(none, none, none, none, rows.t0)
    lanes, tableau = lanes_of(y0), ode.tableau
    field = one_row_field(f, rows.args)
    y0 = jax.tree.map(lambda leaf: leaf[:, None], y0)
    queue = begin_rows(field, y0, rows, args, ode, lanes)
    y, stats, (nodes, rounding) = solve_in_lanes(
        field, queue, args, ode, lanes, record=_record, write=_write
    )
    measured = (stats.status == Status.SUCCESS) & (stats.num_accepted <= MAX_NODES)
    grid = jax.vmap(finer)(nodes, jnp.where(measured, stats.num_accepted, 1))

    def step(walk: Walk) -> Walk:
        here, passed = node(walk.grid, walk.taken, walk.passed)
        there, passed = node(walk.grid, walk.taken + 1, passed)
        g = row_right_side(field, walk.row, args)
        step = rk_step(tableau, g, here, there - here, walk.y, walk.first, with_error=True)
        change = jax.tree.map(lambda new, old: new - old, step.y, walk.y)
        return walk._replace(
            y=step.y,
            first=step.last if tableau.fsal else None,
            passed=passed,
            taken=walk.taken + 1,
            local=_add_size(walk.local, step.error),
            path=_add_size(walk.path, change),
            worst=jnp.maximum(walk.worst, error_norm(step.error, walk.y, step.y, ode)),
        )

    def result(walk: Walk) -> tuple[State, State, State]:
        missed = ~(walk.worst <= MOST_TOLERANCES)
        rounding = ROUNDINGS * float(jnp.finfo(walk.worst.dtype).eps) / max(ode.rtol, ode.atol)
        factor = jnp.where(walk.worst > max(SMOOTH, rounding), ROUGH, 1.0)
        local = jax.tree.map(
            lambda leaf: jnp.where(
                missed, jnp.finfo(leaf.dtype).max, leaf * factor.astype(leaf.dtype)
            ),
            walk.local,
        )
        return walk.y, local, walk.path

    def begin(y: State, first: Any, row: Row, grid: Grid) -> Walk:
        zeros, none = jax.tree.map(jnp.zeros_like, y), jnp.zeros((), int)
        return Walk(y, first, row, grid, none, none, zeros, zeros, jnp.zeros_like(row.t0))

    refined, local, path = drain(
        (queue.y, queue.first, queue.row, grid),
        step,
        unfinished=lambda walk: walk.taken < walk.grid.num,
        result=result,
        lanes=lanes,
        load=lambda waiting: begin(*waiting),
    )
    stats = replace(
        stats,
        num_evals=stats.num_evals + tableau.evals_per_step * grid.num,
        t=jax.vmap(lerp)(rows.t0, rows.t1, lax.stop_gradient(stats.t)),
    )
    rounded = map_groups(spread, (rounding,), lanes)
    twice = jax.tree.map(lambda leaf: leaf[:, 0], Twice(y, refined, local, path, rounded))
    twice = jax.vmap(poison)(twice, stats.status)
    unknown = jnp.where(measured, 0.0, jnp.nan)

    def blank(leaf: Array) -> Array:
        return leaf + unknown.reshape(-1, *[1] * (leaf.ndim - 1)).astype(leaf.dtype)

    return Twice(twice.y, *jax.tree.map(blank, twice[1:])), stats


def _record(loop: Loop) -> tuple[Array, Rounding]:
    """The start times of accepted steps, followed by 1, and the rounding so far."""
    return jnp.ones(MAX_NODES + 1, loop.s.dtype), begin_rounding(loop.y)


def _write(
    record: tuple[Array, Rounding], g: RightSide, before: Loop, after: Loop
) -> tuple[Array, Rounding]:
    nodes, rounding = record
    nodes = nodes.at[before.accepted].set(before.s, mode="drop")
    return nodes, carry_rounding(rounding, g, before, after)


def _add_size(total: State, part: State | None) -> State:
    return jax.tree.map(lambda total, part: total + jnp.abs(part), total, part)


def finer(nodes: Float[Array, " nodes"], num: Int[Array, ""]) -> Grid:
    """The second solve's grid, for the nodes of `num` steps of the first."""
    lengths = jnp.diff(nodes)
    steps = jnp.maximum(FINER, LEAST_STEPS * lengths)
    steps = jnp.where(jnp.arange(len(lengths)) < num, steps, 0)
    index = jnp.concatenate([jnp.zeros(1, nodes.dtype), jnp.cumsum(steps)])
    # Steps of equal share: at least as many as the sum, to the rounding of the sum.
    count = jnp.ceil(index[-1] * (1 - 1e-5))
    return Grid(nodes, index * (count / index[-1]), count.astype(int))


def node(grid: Grid, i: Array, passed: Int[Array, ""]) -> tuple[Float[Array, ""], Int[Array, ""]]:
    """Node i of the second solve, interpolated linearly in the index.

    `passed` is the last node of the first solve at or before node i - 1 (or node i). Returns the
    node's time, and the last node of the first solve at or before it.
    """
    at = i.astype(grid.nodes.dtype)
    # There is at least one node of the second solve between two of the first.
    low = jnp.clip(passed + (grid.index[passed + 1] <= at).astype(int), 0, len(grid.nodes) - 2)
    length = grid.index[low + 1] - grid.index[low]
    share = jnp.clip((at - grid.index[low]) / jnp.where(length > 0, length, 1), 0, 1)
    between = (1 - share) * grid.nodes[low] + share * grid.nodes[low + 1]
    return jnp.where(i >= grid.num, jnp.ones_like(between), between), low
