"""Solve each row twice, the second time on a finer grid, to measure the error of the first solve.

Solves at two tolerances do not measure it: both may take the same steps, and then differ by 0.
Here the second solve takes 1.75 times as many fixed steps as the first one accepted, placed on the
first one's grid, so it is finer wherever the first one had to be fine. The result holds both
solves and the embedded errors of the second one; the caller turns them into an error bound.
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

from jaxflow.ode.integrate import lerp
from jaxflow.ode.lanes import drain
from jaxflow.ode.many import row_size
from jaxflow.ode.rows import Row, begin_rows, one_row_field, row_right_side, solve_in_lanes
from jaxflow.ode.settings import ODE
from jaxflow.ode.status import Stats, Status, poison
from jaxflow.ode.step import State, rk_step
from jaxflow.runtime.lanes import lanes_for
from jaxflow.runtime.mesh import shard_map_rows

# Accepted steps stored of a row's first solve; the error of a row that takes more is not measured.
MAX_NODES = 512
# The second solve takes 7/4 as many steps, and none longer than about 0.3 of the interval.
NUMERATOR, DENOMINATOR = 7, 4
LEAST_STEPS = 4


class Twice(NamedTuple):
    """Two solves of each row; all but `y` is NaN if the error was not measured.

    Attributes:
        y: the first, adaptive solve.
        refined: the second solve, on the finer grid.
        local: sum over the second solve's steps of their absolute embedded errors, like `y`.
        path: sum over the second solve's steps of the absolute changes of the state, like `y`.
    """

    y: State
    refined: State
    local: State
    path: State


class Grid(NamedTuple):
    """The nodes of a row's first solve, in normalised time, and the number of its steps."""

    nodes: Float[Array, "... nodes"]
    num: Int[Array, "..."]


class Walk(NamedTuple):
    """A second solve under way: its state, the row, the steps taken and the sums of `Twice`."""

    y: State
    first: Any
    row: Row
    grid: Grid
    taken: Int[Array, "..."]
    local: State
    path: State


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
    """Solve each row adaptively, then by 1.75 times as many steps; arguments as `odeint_many`.

    The counts include both solves. There is no reverse mode.
    """
    rows = Row(t0, t1, row_args)
    return shard_map_rows(partial(_solve_part, f, ode=ode), (y0, rows), args)


def _solve_part(
    f: Callable[..., State], inputs: tuple[State, Row], args: Any, *, ode: ODE
) -> tuple[Twice, Stats]:
    """The solves of one device's rows."""
    y0, rows = inputs
    lanes, tableau = lanes_for(row_size(y0)), ode.tableau
    field = one_row_field(f, rows.args)
    y0 = jax.tree.map(lambda leaf: leaf[:, None], y0)
    queue = begin_rows(field, y0, rows, args, ode, lanes)
    y, stats, nodes = solve_in_lanes(field, queue, args, ode, lanes, num_nodes=MAX_NODES)
    measured = (stats.status == Status.SUCCESS) & (stats.num_accepted <= MAX_NODES)
    grid = Grid(nodes, jnp.where(measured, stats.num_accepted, 1))

    def step(walk: Walk) -> Walk:
        num = fine(walk.grid.num)
        here, there = (node(walk.grid, walk.taken + i, num) for i in (0, 1))
        g = row_right_side(field, walk.row, args)
        step = rk_step(tableau, g, here, there - here, walk.y, walk.first, with_error=True)
        change = jax.tree.map(lambda new, old: new - old, step.y, walk.y)
        return walk._replace(
            y=step.y,
            first=step.last if tableau.fsal else None,
            taken=walk.taken + 1,
            local=_add_size(walk.local, step.error),
            path=_add_size(walk.path, change),
        )

    zeros = jax.tree.map(jnp.zeros_like, y0)
    start = queue.loop.y, queue.loop.first, queue.row, grid, jnp.zeros(len(rows.t0), int)
    refined, local, path = drain(
        Walk(*start, zeros, zeros),
        step,
        unfinished=lambda walk: walk.taken < fine(walk.grid.num),
        result=lambda walk: (walk.y, walk.local, walk.path),
        lanes=lanes,
    )
    stats = replace(
        stats,
        num_evals=stats.num_evals + tableau.evals_per_step * fine(grid.num),
        t=jax.vmap(lerp)(rows.t0, rows.t1, lax.stop_gradient(stats.t)),
    )
    twice = jax.tree.map(lambda leaf: leaf[:, 0], Twice(y, refined, local, path))
    twice = jax.vmap(poison)(twice, stats.status)
    unknown = jnp.where(measured, 0.0, jnp.nan)

    def blank(leaf: Array) -> Array:
        return leaf + unknown.reshape(-1, *[1] * (leaf.ndim - 1)).astype(leaf.dtype)

    return Twice(twice.y, *jax.tree.map(blank, twice[1:])), stats


def _add_size(total: State, part: State | None) -> State:
    return jax.tree.map(lambda total, part: total + jnp.abs(part), total, part)


def fine(num: Array) -> Array:
    """Steps of the second solve, for `num` steps of the first."""
    return jnp.maximum(-(-NUMERATOR * num // DENOMINATOR), LEAST_STEPS)


def node(grid: Grid, i: Array, num: Array) -> Float[Array, ""]:
    """Node i of `num` steps, interpolated linearly in the index of the first solve's nodes."""
    at = (i * grid.num).astype(grid.nodes.dtype) / num.astype(grid.nodes.dtype)
    low = jnp.minimum(jnp.floor(at).astype(int), grid.num - 1)
    share = at - low.astype(at.dtype)
    between = (1 - share) * grid.nodes[low] + share * grid.nodes[low + 1]
    return jnp.where(i == num, jnp.ones_like(between), between)
