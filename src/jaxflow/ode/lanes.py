"""A queue of rows and a fixed number of lanes: the shape of the work never changes.

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


class Engine(NamedTuple):
    """The work and the row in each lane, the next row of the queue, and the results so far.

    An idle lane holds the number of rows as its row. Results are 0 until known.
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
    of the queue into work, if work needs more memory than a waiting row.
    """
    num = jax.tree.leaves(queue)[0].shape[0]

    def take_turn(engine: Engine) -> Engine:
        work = jax.vmap(turn)(engine.work)
        done = ~jax.vmap(unfinished)(work) & (engine.row < num)
        engine = engine._replace(work=work)
        return lax.cond(jnp.any(done), change, lambda engine, done: engine, engine, done)

    def change(engine: Engine, done: Array) -> Engine:
        """Store the results of lanes that are done, and refill these lanes."""
        # An index past the last row is dropped.
        at = jnp.where(done, engine.row, num)
        results = jax.tree.map(
            lambda old, new: old.at[at].set(new, mode="drop"),
            engine.results,
            jax.vmap(result)(engine.work),
        )
        fresh = jnp.minimum(engine.upcoming + jnp.cumsum(done) - 1, num)
        refill = done & (fresh < num)

        def select(new: Array, old: Array) -> Array:
            return jnp.where(refill.reshape(-1, *[1] * (new.ndim - 1)), new, old)

        return Engine(
            jax.tree.map(select, load_rows(jnp.where(refill, fresh, 0)), engine.work),
            jnp.where(done, fresh, engine.row),
            jnp.minimum(engine.upcoming + jnp.sum(done), num),
            results,
        )

    def load_rows(rows: Array) -> Any:
        return jax.vmap(load)(jax.tree.map(lambda leaf: leaf[rows], queue))

    at = jnp.arange(lanes)
    work = load_rows(jnp.minimum(at, num - 1))
    one = jax.eval_shape(result, jax.tree.map(lambda leaf: leaf[0], work))
    results = jax.tree.map(lambda leaf: jnp.zeros((num, *leaf.shape), leaf.dtype), one)
    engine = Engine(work, jnp.minimum(at, num), jnp.asarray(min(lanes, num)), results)
    return lax.while_loop(lambda engine: jnp.any(engine.row < num), take_turn, engine).results
