"""Adaptive solves of many rows in lanes: a queue of rows, and a fixed number solved at once.

Serving engines call it continuous batching. All lanes take a turn at once, as one batch; a lane
whose row is finished takes the next row from the queue, so no lane waits for the slowest row.
Every operation has the shape of the lanes, so a row's result does not depend on the other rows.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Int

from jaxflow.ode.integrate import (
    Loop,
    VectorField,
    at_start,
    attempt,
    begin,
    counts,
    right_side,
    unfinished,
)
from jaxflow.ode.settings import ODE
from jaxflow.ode.status import Stats
from jaxflow.ode.step import RightSide, State
from jaxflow.runtime.lanes import lanes_for, map_groups, spare_lanes
from jaxflow.runtime.precision import full_precision


class Row(NamedTuple):
    """The times of one row's solve and the row's own arguments; of many along leading axes."""

    t0: Array
    t1: Array
    args: Any


class Waiting(NamedTuple):
    """A row in the queue: what its solve begins with, and the row."""

    h: Array
    y: State
    first: tuple[State, State] | None
    row: Row


class Work(NamedTuple):
    """The solve of one row, and the row."""

    loop: Loop
    row: Row


def lanes_of(y0: State) -> int:
    """The number of lanes for rows with the leaves `y0`."""
    return lanes_for(sum(leaf[:1].size for leaf in jax.tree.leaves(y0)))


def bind_row(f: Callable[..., State], row_args: Any) -> VectorField:
    """The field of one row, `f(t, y, args[, row_args])`, as a function of `(t, y, both)`."""
    if jax.tree.leaves(row_args):
        return lambda t, y, both: f(t, y, both[0], both[1])
    return lambda t, y, both: f(t, y, both[0])


def one_row_field(f: Callable[..., State], row_args: Any) -> VectorField:
    """`bind_row(f, row_args)` in full precision, on states with a leading axis of 1.

    The error norm treats each entry of the leading axis as a row.
    """
    f = full_precision(bind_row(f, row_args))

    def field(t: Array, y: State, args: Any) -> State:
        y = jax.tree.map(lambda leaf: leaf[0], y)
        return jax.tree.map(lambda leaf: leaf[None], f(t, y, args))

    return field


def row_right_side(field: VectorField, row: Row, args: Any) -> RightSide:
    """The right side of one row in normalised time."""
    return right_side(field, row.t0, row.t1, (args, row.args))


def begin_rows(
    field: VectorField, y0: State, rows: Row, args: Any, ode: ODE, lanes: int
) -> Waiting:
    """Make the queue of all rows, with the first step of each.

    In groups of `lanes` rows, since a row's first step must not depend on the number of rows.
    """

    def start(y0: State, row: Row) -> Waiting:
        loop = begin(row_right_side(field, row, args), y0, None, ode)
        return Waiting(loop.h, y0, loop.first, row)

    return map_groups(start, (y0, rows), lanes)


def solve_in_lanes(
    field: VectorField,
    queue: Waiting,
    args: Any,
    ode: ODE,
    lanes: int,
    *,
    record: Callable[[Loop], Any] = lambda loop: None,
    write: Callable[[Any, RightSide, Loop, Loop], Any] = lambda record, g, before, after: record,
) -> tuple[State, Stats, Any]:
    """Adaptive solves of all rows of the queue, `lanes` at once; counts in normalised time.

    Returns the states at the end, the counts, and a record of each row: it begins as
    `record(loop)`, and each attempt makes it `write(record, g, before, after)`, with the row's
    right side and its loop before and after.
    """

    def load(waiting: Waiting) -> Work:
        loop = at_start(waiting.h, waiting.y, None, waiting.first)
        return Work(loop._replace(record=record(loop)), waiting.row)

    def turn(work: Work) -> Work:
        g = row_right_side(field, work.row, args)
        loop = attempt(g, work.loop, ode)
        return work._replace(loop=loop._replace(record=write(loop.record, g, work.loop, loop)))

    return drain(
        queue,
        turn,
        unfinished=lambda work: unfinished(work.loop, ode),
        result=lambda work: (work.loop.y, counts(work.loop, ode), work.loop.record),
        lanes=lanes,
        load=load,
    )


class Engine(NamedTuple):
    """The state of the lanes.

    Attributes:
        work: the work in each lane.
        row: the number of its row; the number of rows for an idle lane.
        upcoming: the next row of the queue.
        results: of all rows, 0 until known.
    """

    work: Any
    row: Int[Array, " lanes"]
    upcoming: Int[Array, ""]
    results: Any


def drain(
    queue: Any,
    turn: Callable[[Any], Any],
    *,
    unfinished: Callable[[Any], Array],
    result: Callable[[Any], Any],
    lanes: int,
    load: Callable[[Any], Any] = lambda waiting: waiting,
) -> Any:
    """Results of all rows of the queue, in its order.

    `queue` is the initial work of each row, at least one. `turn` takes one turn of one row's work
    while `unfinished`, `lanes` rows at once; initial work needs at least one. `load` turns a row
    of the queue into work: the less a waiting row holds, the faster are the turns.
    """
    num = jax.tree.leaves(queue)[0].shape[0]

    def take_turn(engine: Engine) -> Engine:
        work = jax.vmap(turn)(engine.work)
        done = ~jax.vmap(unfinished)(work) & (engine.row < num)
        engine = engine._replace(work=work)
        return lax.cond(jnp.any(done), refill, lambda engine, done: engine, engine, done)

    def refill(engine: Engine, done: Array) -> Engine:
        """Store the results of lanes that are done, and refill these lanes."""
        # An index past the last row is dropped.
        at = jnp.where(done, engine.row, num)
        results = jax.tree.map(
            lambda old, new: old.at[at].set(new, mode="drop"),
            engine.results,
            jax.vmap(result)(engine.work),
        )
        fresh = jnp.minimum(engine.upcoming + jnp.cumsum(done) - 1, num)
        has_next = done & (fresh < num)

        def select(new: Array, old: Array) -> Array:
            return jnp.where(has_next.reshape(-1, *[1] * (new.ndim - 1)), new, old)

        return Engine(
            jax.tree.map(select, load_rows(jnp.where(has_next, fresh, 0)), engine.work),
            jnp.where(done, fresh, engine.row),
            jnp.minimum(engine.upcoming + jnp.sum(done), num),
            results,
        )

    def load_rows(rows: Array) -> Any:
        return jax.vmap(load)(jax.tree.map(lambda leaf: leaf[rows], queue))

    at = jnp.arange(lanes + spare_lanes())
    work = load_rows(jnp.minimum(at, num - 1))
    one = jax.eval_shape(result, jax.tree.map(lambda leaf: leaf[0], work))
    results = jax.tree.map(lambda leaf: jnp.zeros((num, *leaf.shape), leaf.dtype), one)
    row = jnp.where(at < lanes, jnp.minimum(at, num), num)
    engine = Engine(work, row, jnp.asarray(min(lanes, num)), results)
    return lax.while_loop(lambda engine: jnp.any(engine.row < num), take_turn, engine).results
