"""Many rows in chunks: bounded memory, few compilations, the same bits in any batch."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, PRNGKeyArray

from jaxflow.runtime.devices import Device, active_devices, gather_rows, is_local, running_on
from jaxflow.runtime.progress import Progress

# Rows solved at once when many are scored or drawn, and entries of their events: bound memory.
# An accelerator, whose lanes are many, takes 64 times as much.
CHUNK_ROWS, CHUNK_ENTRIES = 8192, 2**19


def map_chunks(
    count: int,
    event_shape: tuple[int, ...],
    key: PRNGKeyArray | None,
    compute: Callable[[Array | slice, PRNGKeyArray | None], Any],
    *,
    lanes: int,
    progress: bool | None = False,
) -> Any:
    """`compute(rows, key)` for chunks of many rows, joined: arrays by row.

    A chunk has a whole number of lanes, the last one filled up with repetitions of its
    last row. So batches of like size share one compilation, and no row is left to the scalar
    end of a vectorised loop, whose rounding may differ: a row keeps its bits in any batch.

    With `jaxflow.use_devices` the devices take chunks in turn.

    Args:
        count: number of rows.
        event_shape: shape of one.
        key: of which each chunk gets its own, where there are several.
        compute: the work on the rows of such numbers.
        lanes: a chunk has a multiple of this many rows.
        progress: whether to show a bar; None shows one on a terminal only.
    """
    entries = max(1, math.prod(event_shape))
    much = 1 if jax.default_backend() == "cpu" else 64
    size = min(much * CHUNK_ROWS, max(lanes, much * CHUNK_ENTRIES // entries // lanes * lanes))
    if count == 0:
        return compute(slice(None), key)
    devices = active_devices()
    if devices and key is None:
        # Something for each; with a key a chunk's random numbers depend on its size.
        size = min(size, -(-count // (len(devices) * lanes)) * lanes)
    if -(-count // size) < len(devices):
        # Too few chunks for all processes: each computes them all.
        devices = [device for device in devices if is_local(device)]
    parts: list[Any] = []
    with Progress(count, task="rows", show=progress) as shown:
        for number, start in enumerate(range(0, count, size)):
            keep = min(size, count - start)
            filled = -(-keep // lanes) * lanes if count <= size else size
            rows = jnp.minimum(start + jnp.arange(filled), count - 1)
            part_key = key if key is None or count <= size else jax.random.fold_in(key, number)
            device = devices[number % len(devices)] if devices else None
            if device is not None and not is_local(device):
                parts.append(None)
                continue
            with running_on(device):
                found = compute(rows, part_key)
            parts.append(jax.tree.map(lambda leaf, keep=keep: leaf[:keep], found))
            if any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(found)):
                # Derivatives are taken on one device.
                devices = []
            if shown.visible:
                # As many under way as there are devices.
                jax.block_until_ready(parts[max(0, number + 1 - max(1, len(devices)))])
                shown.update(start + keep)
    if devices:
        return _joined(parts, devices, size, count)
    return jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *parts)


def _joined(parts: list[Any], devices: list[Device], size: int, count: int) -> Any:
    """The chunks of many devices, and of other processes, by way of the host."""
    first = next(part for part in parts if part is not None)
    keeps = [min(size, count - start) for start in range(0, count, size)]

    def join(like: Array, *leaves: Array | None) -> np.ndarray:
        known = [
            np.zeros((keep, *like.shape[1:]), like.dtype) if leaf is None else np.asarray(leaf)
            for keep, leaf in zip(keeps, leaves, strict=True)
        ]
        return np.concatenate(known)

    absent = jax.tree.map(lambda leaf: None, first)
    mine = jax.tree.map(join, first, *(absent if part is None else part for part in parts))
    owners = [devices[i % len(devices)].process_index for i in range(len(parts))]
    return gather_rows(mine, np.repeat(owners, keeps))


def take_rows(part: Array | slice, rows: Array, cond: Array | None) -> tuple[Array, Array | None]:
    """Rows and conditions of such numbers."""
    return rows[part], None if cond is None else cond[part]
