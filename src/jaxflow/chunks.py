"""Many rows in chunks: bounded memory, few compilations, the same bits in any batch."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, PRNGKeyArray

from jaxflow.ode.many import lanes_for
from jaxflow.progress import Progress

# Rows solved at once when many are scored or drawn, and entries of their events: bound memory.
# An accelerator, whose lanes are many, takes 64 times as much.
CHUNK_ROWS, CHUNK_ENTRIES = 8192, 2**19


def by_chunks(
    count: int,
    event_shape: tuple[int, ...],
    key: PRNGKeyArray | None,
    compute: Callable[[Array | slice, PRNGKeyArray | None], Any],
    *,
    progress: bool | None = False,
) -> Any:
    """`compute(rows, key)` for chunks of many rows, joined: arrays by row.

    A chunk has a whole number of lanes, the last one filled up with repetitions of its
    last row. So batches of like size share one compilation, and no row is left to the scalar
    end of a vectorised loop, whose rounding may differ: a row keeps its bits in any batch.

    Args:
        count: number of rows.
        event_shape: shape of one.
        key: of which each chunk gets its own, where there are several.
        compute: the work on the rows of such numbers.
        progress: whether to show a bar; None shows one on a terminal only.
    """
    entries = max(1, math.prod(event_shape))
    lanes, much = lanes_for(entries), 1 if jax.default_backend() == "cpu" else 64
    size = min(much * CHUNK_ROWS, max(lanes, much * CHUNK_ENTRIES // entries // lanes * lanes))
    if count == 0:
        return compute(slice(None), key)
    parts = []
    with Progress(count, task="rows", show=progress) as shown:
        for number, start in enumerate(range(0, count, size)):
            keep = min(size, count - start)
            filled = -(-keep // lanes) * lanes if count <= size else size
            rows = jnp.minimum(start + jnp.arange(filled), count - 1)
            part_key = key if key is None or count <= size else jax.random.fold_in(key, number)
            found = compute(rows, part_key)
            parts.append(jax.tree.map(lambda leaf, keep=keep: leaf[:keep], found))
            if shown.visible:
                jax.block_until_ready(found)
                shown.update(start + keep)
    return jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *parts)


def take(part: Array | slice, rows: Array, cond: Array | None) -> tuple[Array, Array | None]:
    """Rows and conditions of such numbers."""
    return rows[part], None if cond is None else cond[part]
