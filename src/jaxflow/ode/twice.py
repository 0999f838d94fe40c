"""Many solves with a measure of their error: each row again, on its own grid made finer.

Two tolerances are no measure: both may take the same steps, and then their difference is 0. Here
the accepted nodes of the first solve are kept, and the second one takes 1.75 times as many
fixed steps on that same grid: wherever the first solve found it hard, the second is finer. What
the two differ by, and what the embedded method says of the second one, is returned; what
follows for the quantity of interest is the caller's to say.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from jaxflow.ode.integrate import counts, lerp, unfinished
from jaxflow.ode.lanes import drain
from jaxflow.ode.many import (
    Work,
    advance,
    as_one,
    entries,
    lanes_for,
    right_side,
    waiting,
)
from jaxflow.ode.settings import ODE
from jaxflow.ode.status import Stats, Status, poison
from jaxflow.ode.step import State, rk_step
from jaxflow.runtime.mesh import shard_map_rows

# Nodes that are kept of a row's first solve; a row that takes more has no measure of its error.
MAX_NODES = 512
# The second solve takes 7/4 as many steps.
NUMERATOR, DENOMINATOR = 7, 4
# The second solve takes no step longer than 0.3 of the interval.
LEAST_STEPS = 4


class Twice(NamedTuple):
    """Two solves of each row.

    Attributes:
        y: the first, adaptive solve.
        refined: the second, on the finer grid.
        local: sums of the absolute embedded errors of the second solve's steps, like `y`.
        path: sums of the absolute changes of the second solve's steps, like `y`.
    """

    y: State
    refined: State
    local: State
    path: State


class Grid(NamedTuple):
    """The nodes of a row's first solve, in normalised time, and how many steps they bound."""

    nodes: Float[Array, "... nodes"]
    num: Int[Array, "..."]


class Walk(NamedTuple):
    """A second solve on its way: the steps taken, and what they add up to."""

    work: Work
    grid: Grid
    taken: Int[Array, ""]
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
    """Solve each row adaptively, then on 1.75 times as many steps; arguments as `odeint_many`.

    The counts are those of both solves. Not differentiable in reverse mode.
    """
    return shard_map_rows(partial(_solve_part, f, ode=ode), (y0, t0, t1, row_args), args)


def _solve_part(f: Callable[..., State], rows: Any, args: Any, *, ode: ODE) -> tuple[Twice, Stats]:
    """The rows `(y0, t0, t1, row_args)` of one device."""
    y0, t0, t1, row_args = rows
    lanes = lanes_for(entries(y0))
    field, y0 = as_one(f, y0, row_args)
    fsal = ode.tableau.fsal

    def load(work: Work) -> Work:
        nodes = jnp.ones(MAX_NODES + 1, work.loop.s.dtype)
        return work._replace(loop=work.loop._replace(record=nodes))

    def turn(work: Work) -> Work:
        loop = work.loop
        loop = loop._replace(record=loop.record.at[loop.accepted].set(loop.s, mode="drop"))
        return advance(field, work._replace(loop=loop), args, ode)

    queue = waiting(field, y0, t0, t1, args, row_args, ode, lanes)
    y, stats, nodes = drain(
        queue,
        turn,
        unfinished=lambda work: unfinished(work.loop, ode),
        answer=lambda work: (work.loop.y, counts(work.loop, ode), work.loop.record),
        lanes=lanes,
        load=load,
    )
    measured = (stats.status == Status.SUCCESS) & (stats.num_accepted <= MAX_NODES)
    grid = Grid(nodes, jnp.where(measured, stats.num_accepted, 1))

    def walk(walk: Walk) -> Walk:
        work, num = walk.work, fine(walk.grid.num)
        here, there = (node(walk.grid, walk.taken + i, num) for i in (0, 1))
        g = right_side(field, work.t0, work.t1, args, work.row_args)
        y, first = work.loop.y, work.loop.first
        step = rk_step(ode.tableau, g, here, there - here, y, first, with_error=True)
        add = lambda total, part: total + jnp.abs(part)  # noqa: E731
        change = jax.tree.map(lambda new, old: new - old, step.y, y)
        loop = work.loop._replace(y=step.y, first=step.last if fsal else None)
        return Walk(
            work._replace(loop=loop),
            walk.grid,
            walk.taken + 1,
            jax.tree.map(add, walk.local, step.error),
            jax.tree.map(add, walk.path, change),
        )

    zeros = jax.tree.map(jnp.zeros_like, y0)
    refined, local, path = drain(
        Walk(queue, grid, jnp.zeros(len(t0), int), zeros, zeros),
        walk,
        unfinished=lambda walk: walk.taken < fine(walk.grid.num),
        answer=lambda walk: (walk.work.loop.y, walk.local, walk.path),
        lanes=lanes,
    )
    stats = eqx.tree_at(
        lambda stats: (stats.num_evals, stats.t),
        stats,
        (
            stats.num_evals + (len(ode.tableau.b) - fsal) * fine(grid.num),
            jax.vmap(lerp)(t0, t1, lax.stop_gradient(stats.t)),
        ),
    )
    twice = jax.tree.map(lambda leaf: leaf[:, 0], Twice(y, refined, local, path))
    twice = jax.vmap(poison)(twice, stats.status)
    unknown = jnp.where(measured, 0.0, jnp.nan)

    def blank(leaf: Array) -> Array:
        return leaf + unknown.reshape(-1, *[1] * (leaf.ndim - 1)).astype(leaf.dtype)

    return Twice(twice.y, *jax.tree.map(blank, twice[1:])), stats


def fine(num: Array) -> Array:
    """Steps of the second solve."""
    return jnp.maximum(-(-NUMERATOR * num // DENOMINATOR), LEAST_STEPS)


def node(grid: Grid, i: Array, num: Array) -> Float[Array, ""]:
    """Node i of the finer grid: placed linearly in the index of the first one's nodes."""
    at = (i * grid.num).astype(grid.nodes.dtype) / num.astype(grid.nodes.dtype)
    low = jnp.minimum(jnp.floor(at).astype(int), grid.num - 1)
    share = at - low.astype(at.dtype)
    between = (1 - share) * grid.nodes[low] + share * grid.nodes[low + 1]
    return jnp.where(i == num, jnp.ones_like(between), between)
