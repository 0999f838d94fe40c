"""Adaptive solves of many rows in lanes, each row with its own steps.

In these functions `field(t, y, (args, row.args))` takes states with a leading axis of 1, since the
error norm treats each entry of the leading axis as a row.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from jaxtyping import Array

from jaxflow.ode.integrate import Loop, VectorField, attempt, begin, counts, right_side, unfinished
from jaxflow.ode.lanes import drain
from jaxflow.ode.settings import ODE
from jaxflow.ode.status import Stats
from jaxflow.ode.step import RightSide, State
from jaxflow.runtime.lanes import map_groups
from jaxflow.runtime.precision import full_precision


class Row(NamedTuple):
    """The times of one row's solve and the row's own arguments; of many along leading axes."""

    t0: Array
    t1: Array
    args: Any


class Work(NamedTuple):
    """The solve of one row, and the row."""

    loop: Loop
    row: Row


def bind_row(f: Callable[..., State], row_args: Any) -> VectorField:
    """The field of one row, `f(t, y, args[, row_args])`, as a function of `(t, y, both)`."""
    if jax.tree.leaves(row_args):
        return lambda t, y, both: f(t, y, both[0], both[1])
    return lambda t, y, both: f(t, y, both[0])


def one_row_field(f: Callable[..., State], row_args: Any) -> VectorField:
    """`bind_row(f, row_args)` in full precision, on states with a leading axis of 1."""
    f = full_precision(bind_row(f, row_args))

    def field(t: Array, y: State, args: Any) -> State:
        y = jax.tree.map(lambda leaf: leaf[0], y)
        return jax.tree.map(lambda leaf: leaf[None], f(t, y, args))

    return field


def row_right_side(field: VectorField, row: Row, args: Any) -> RightSide:
    """The right side of one row in normalised time."""
    return right_side(field, row.t0, row.t1, (args, row.args))


def begin_rows(field: VectorField, y0: State, rows: Row, args: Any, ode: ODE, lanes: int) -> Work:
    """Each row's solve before its first attempt.

    In groups of `lanes` rows, since a row's first step must not depend on the number of rows.
    """

    def start(y0: State, row: Row) -> Work:
        return Work(begin(row_right_side(field, row, args), y0, None, ode), row)

    return map_groups(start, (y0, rows), lanes)


def solve_in_lanes(
    field: VectorField,
    queue: Work,
    args: Any,
    ode: ODE,
    lanes: int,
    *,
    record: Callable[[Loop], Any] | None = None,
    write: Callable[[Any, RightSide, Loop, Loop], Any] = lambda record, g, before, after: record,
) -> tuple[State, Stats, Any]:
    """Adaptive solves of all rows of the queue, `lanes` at once; counts in normalised time.

    With `record` also a record of each row: it begins as `record(loop)`, and each attempt makes it
    `write(record, g, before, after)`, with the row's right side and its loop before and after.
    """

    def load(work: Work) -> Work:
        if record is None:
            return work
        return work._replace(loop=work.loop._replace(record=record(work.loop)))

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
