"""Many rows in chunks: bounded memory, few compilations, the same bits in any batch."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, PRNGKeyArray

from jaxflow.runtime.devices import Device, active_devices, gather_rows, is_local, running_on
from jaxflow.runtime.lanes import fill_up, take_rows
from jaxflow.runtime.progress import Progress
from jaxflow.runtime.threads import in_threads, may_wait, num_threads

# Most rows of a chunk, and most entries of their events: these bound the memory of a solve.
# An accelerator, which runs many lanes, takes 64 times as much.
CHUNK_ROWS, CHUNK_ENTRIES = 8192, 2**19
# Least groups of lanes in a chunk that is made smaller for the cores to share the rows.
LEAST_GROUPS = 4
# Signatures of calls that were made, and whether their programs, compiled now, may run at once.
_called: dict[int, bool] = {}


def map_chunks(
    f: Callable[..., Any],
    rows: tuple[Any, ...],
    key: PRNGKeyArray | None = None,
    *,
    row_size: int,
    lanes: int,
    progress: bool | None = False,
) -> Any:
    """`f(*rows, key)`, computed chunk by chunk and joined along the rows.

    A chunk has a multiple of `lanes` rows (`fill_up`); its last row is repeated to fill it up.
    Batches of similar size therefore share one compilation, and no row falls into the scalar
    remainder of a vectorised loop, which may round differently: a row has the same bits in any
    batch.

    Inside `jaxflow.use_devices` the devices take chunks in turn. Otherwise the cores of a CPU do,
    at the first call after the first chunk, for which the program is compiled. Programs that call
    LAPACK (`may_wait`) run one at a time.

    `rows` are trees of arrays, `row_size` is the number of entries of one event. Where there are
    several chunks, each folds its number into the key. `progress` shows a bar; None on a terminal
    only.
    """
    count = len(jax.tree.leaves(rows)[0])
    if count == 0:
        return f(*rows, key)
    size = chunk_size(row_size, lanes)
    devices = active_devices()
    traced = _traced(rows)
    few = count <= min(size, LEAST_GROUPS * lanes)
    cores = 1 if few or devices or traced or _traced(_parts(f)) else num_threads()
    # Give each device or core as much; with a key, random numbers depend on the size of a chunk.
    if devices and key is None:
        size = min(size, -(-count // (len(devices) * lanes)) * lanes)
    elif cores > 1 and key is None and count >= cores * LEAST_GROUPS * lanes:
        chunks = cores * -(-count // (cores * size))
        size = min(size, fill_up(-(-count // chunks), lanes))
    if -(-count // size) < len(devices):
        # Too few chunks for all processes: each computes all of them.
        devices = [device for device in devices if is_local(device)]
    # vmap joins the rows of many calls, which must not bring fill-ups along.
    alone = count if traced else min(size, fill_up(count, lanes))
    padded = alone if count <= size else size
    run_chunk = partial(_run_chunk, f, rows, key, size, padded)
    parts: list[Any] = []
    several = cores > 1 and count > size
    signature = _signature(f, rows, key, padded) if several else None
    at_once = None if signature is None else _called.get(signature)
    in_turn = () if at_once else range(0, count, size)
    with Progress(count, task="rows", show=progress) as bar:
        for number, start in enumerate(in_turn):
            device = devices[number % len(devices)] if devices else None
            if device is not None and not is_local(device):
                parts.append(None)
                continue
            with running_on(device):
                parts.append(run_chunk(number))
            traced = traced or _traced(parts[-1])
            if traced:
                # Derivatives are taken on one device.
                devices = []
            if bar.visible:
                # Keep as many chunks running as there are devices.
                jax.block_until_ready(parts[max(0, number + 1 - max(1, len(devices)))])
                bar.update(min(start + size, count))
            if several and not traced and at_once is None:
                chunk = jax.tree.map(
                    lambda leaf: jax.ShapeDtypeStruct((padded, *leaf.shape[1:]), leaf.dtype), rows
                )
                at_once = not may_wait(f, *chunk, key)
                if signature is not None:
                    _called[signature] = at_once
            if at_once and not traced:
                break
        rest = [partial(run_chunk, number) for number in range(len(parts), -(-count // size))]
        for part in in_threads(rest, cores) if rest else ():
            parts.append(part)
            bar.update(min(len(parts) * size, count))
    if devices:
        return _join_devices(parts, devices, size, count)
    return jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *parts)


def _parts(f: Callable[..., Any]) -> tuple[Any, ...]:
    """A function and the arguments that it holds."""
    return (f.func, f.args, f.keywords) if isinstance(f, partial) else (f,)


def _signature(f: Callable[..., Any], rows: Any, key: Any, padded: int) -> int | None:
    """What tells the programs of calls apart; None if that is not known."""
    parts = _parts(f)
    some = jax.tree.map(lambda leaf: leaf[:1], rows)
    leaves, structure = jax.tree.flatten((parts, some, key))
    each = [(leaf.shape, str(leaf.dtype)) if hasattr(leaf, "dtype") else leaf for leaf in leaves]
    try:
        return hash((structure, padded, *each))
    except TypeError:  # an array or a list in a static field
        return None


def _run_chunk(
    f: Callable[..., Any],
    rows: tuple[Any, ...],
    key: PRNGKeyArray | None,
    size: int,
    padded: int,
    number: int,
) -> Any:
    """`f(*rows, key)` of chunk `number`: `size` rows, filled up to `padded`."""
    count, start = len(jax.tree.leaves(rows)[0]), number * size
    keep = min(size, count - start)
    if key is not None and count > size:
        key = jax.random.fold_in(key, number)
    chunk = rows if padded == count else _take_rows(rows, padded, start)
    out = f(*chunk, key)
    return out if padded == keep else _first(out, keep)


_take_rows = jax.jit(take_rows, static_argnames="num", inline=True)


@partial(jax.jit, static_argnames="num", inline=True)
def _first(rows: Any, num: int) -> Any:
    return jax.tree.map(lambda leaf: leaf[:num], rows)


def _traced(tree: Any) -> bool:
    return any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(tree))


def chunk_size(row_size: int, lanes: int) -> int:
    """Most rows of a chunk, a multiple of `lanes`, for events of `row_size` entries."""
    entries, scale = max(1, row_size), 1 if jax.default_backend() == "cpu" else 64
    by_entries = scale * CHUNK_ENTRIES // entries // lanes * lanes
    return min(scale * CHUNK_ROWS, max(lanes, by_entries))


def _join_devices(parts: list[Any], devices: list[Device], size: int, count: int) -> Any:
    """The chunks of several devices and processes, joined on the host."""
    first = next(part for part in parts if part is not None)
    keeps = [min(size, count - start) for start in range(0, count, size)]

    def join(like: Array, *leaves: Array | None) -> np.ndarray:
        blocks = [
            np.zeros((keep, *like.shape[1:]), like.dtype) if leaf is None else np.asarray(leaf)
            for keep, leaf in zip(keeps, leaves, strict=True)
        ]
        return np.concatenate(blocks)

    absent = jax.tree.map(lambda leaf: None, first)
    mine = jax.tree.map(join, first, *(absent if part is None else part for part in parts))
    owners = [devices[i % len(devices)].process_index for i in range(len(parts))]
    return gather_rows(mine, np.repeat(owners, keeps))
