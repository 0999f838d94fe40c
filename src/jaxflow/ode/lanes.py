"""A queue of rows and a fixed number of lanes: the shape of the work never changes.

Serving engines call it continuous batching. All lanes take a turn at once, as one batch; when a
row is finished its lane takes the next one from the queue, so no lane waits for the slowest
row. Since every operation has the shape of the lanes, whatever the number of rows, what is
computed of a row does not depend on the others.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Int


class Engine(NamedTuple):
    """The work in the lanes, the row that each has, the next row, and the answers so far.

    A lane without a row has the number of rows in its place.
    """

    work: Any
    row: Int[Array, " lanes"]
    upcoming: Int[Array, ""]
    answers: Any


def drain(
    queue: Any,
    turn: Callable[[Any], Any],
    *,
    unfinished: Callable[[Any], Array],
    answer: Callable[[Any], Any],
    lanes: int,
    load: Callable[[Any], Any] = lambda waiting: waiting,
) -> Any:
    """The answers of all rows of the queue, in its order.

    Args:
        queue: the work that each row begins with; rows along the leading axis, at least one.
        turn: one turn of one row's work.
        unfinished: whether a row's work needs another turn; at first it does.
        answer: what is kept of finished work.
        lanes: rows that take a turn at once.
        load: makes a row of the queue into work, where the work is larger than what waits.
    """
    num = len(jax.tree.leaves(queue)[0])

    def take_turn(engine: Engine) -> Engine:
        work = jax.vmap(turn)(engine.work)
        done = ~jax.vmap(unfinished)(work) & (engine.row < num)
        engine = engine._replace(work=work)
        return lax.cond(jnp.any(done), change, lambda engine, done: engine, engine, done)

    def change(engine: Engine, done: Array) -> Engine:
        """Answers out of the lanes that are done, and the next rows into them."""
        # Beyond the last row: dropped.
        at = jnp.where(done, engine.row, num)
        answers = jax.tree.map(
            lambda kept, new: kept.at[at].set(new, mode="drop"),
            engine.answers,
            jax.vmap(answer)(engine.work),
        )
        fresh = jnp.minimum(engine.upcoming + jnp.cumsum(done) - 1, num)
        refill = done & (fresh < num)

        def take(new: Array, old: Array) -> Array:
            return jnp.where(refill.reshape(-1, *[1] * (new.ndim - 1)), new, old)

        return Engine(
            jax.tree.map(take, taken(jnp.where(refill, fresh, 0)), engine.work),
            jnp.where(done, fresh, engine.row),
            jnp.minimum(engine.upcoming + jnp.sum(done), num),
            answers,
        )

    def taken(rows: Array) -> Any:
        return jax.vmap(load)(jax.tree.map(lambda leaf: leaf[rows], queue))

    at = jnp.arange(lanes)
    work = taken(jnp.minimum(at, num - 1))
    one = jax.eval_shape(answer, jax.tree.map(lambda leaf: leaf[0], work))
    answers = jax.tree.map(lambda leaf: jnp.zeros((num, *leaf.shape), leaf.dtype), one)
    engine = Engine(work, jnp.minimum(at, num), jnp.asarray(min(lanes, num)), answers)
    return lax.while_loop(lambda engine: jnp.any(engine.row < num), take_turn, engine).answers


def in_groups(one: Callable[..., Any], inputs: tuple[Any, ...], lanes: int) -> Any:
    """`one(*inputs)` of each row, `lanes` rows at once."""
    num = len(jax.tree.leaves(inputs)[0])
    group = jax.vmap(one)
    out = lax.map(lambda rows: group(*rows), _fill(inputs, num, lanes))
    return _flatten(out, num)


def scan_groups(
    group: Callable[[Any, Any, Any], tuple[Any, Any]],
    total: Any,
    inputs: Any,
    cotangents: Any,
    lanes: int,
) -> tuple[Any, Any]:
    """`total, out = group(total, inputs, cotangents)` for `lanes` rows after the others.

    Rows that fill up the last group are copies of the last row with cotangents 0.
    """
    num = len(jax.tree.leaves(inputs)[0])
    real = (jnp.arange(-(-num // lanes) * lanes) < num).reshape(-1, lanes)

    def mask(leaf: Array) -> Array:
        shape = (*real.shape, *[1] * (leaf.ndim - 2))
        return jnp.where(real.reshape(shape), leaf, jnp.zeros((), leaf.dtype))

    filled = _fill((inputs, cotangents), num, lanes)
    rows = filled[0], jax.tree.map(mask, filled[1])
    total, out = lax.scan(lambda total, rows: group(total, *rows), total, rows)
    return total, _flatten(out, num)


def _fill(rows: Any, num: int, lanes: int) -> Any:
    """Groups of rows, (groups, lanes, ...); the last row fills up the last group."""
    at = jnp.minimum(jnp.arange(-(-num // lanes) * lanes), num - 1)
    return jax.tree.map(lambda leaf: leaf[at].reshape(-1, lanes, *leaf.shape[1:]), rows)


def _flatten(groups: Any, num: int) -> Any:
    return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:])[:num], groups)
