"""Rows in groups of a fixed size, so that a row's bits do not depend on the number of rows.

XLA compiles a program for each shape, and programs of different shapes may round differently in
their last bits. Per-row computations therefore run on groups of a fixed number of rows.

Nor do all places in a group round alike on a CPU. Where a loop reads some columns of a matrix,
LLVM computes its last entries one by one, so as not to read past the matrix, and contracts their
products and sums differently from those in vectors. Hence a group ends in spare lanes.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import ClosedJaxpr, jaxpr_as_fun
from jaxtyping import Array

from jaxflow.runtime.joined import join_vmaps
from jaxflow.runtime.shapes import Count

# One row costs as much as all lanes. On a CPU 128 are as fast as more, and 64 from 33 entries on.
# An accelerator wants thousands: as many as hold about 2^18 entries of states.
CPU_LANES, CPU_ENTRIES = (64, 128), 2**12
LANES, LANE_ENTRIES = (256, 2**16), 2**18
# XLA's vectors have 256 bits at most: eight numbers in float32.
CPU_SPARE = 8


def lanes_for(size: int) -> int:
    """Number of lanes for rows of `size` entries, whatever the number of rows (same bits)."""
    on_cpu = jax.default_backend() == "cpu"
    (least, most), entries = (CPU_LANES, CPU_ENTRIES) if on_cpu else (LANES, LANE_ENTRIES)
    # A power of two with the spare lanes, which threads share out in whole vectors.
    return min(most, max(least, _power_of_2(entries // max(1, size)))) - spare_lanes()


def spare_lanes() -> int:
    """Number of lanes at the end of a group whose results nobody takes."""
    return CPU_SPARE if jax.default_backend() == "cpu" else 0


def fill_up(num: int, lanes: int) -> int:
    """`num` rounded up to few sizes: multiples of `lanes` up to 8, then four an octave."""
    groups = -(-num // lanes)
    step = max(1, _power_of_2(groups) // 4)
    return -(-groups // step) * step * lanes


def _power_of_2(number: int) -> int:
    """The largest power of two that is not above `number`, at least 1."""
    return 1 << max(0, number.bit_length() - 1)


def map_groups(one: Callable[..., Any], inputs: tuple[Any, ...], lanes: int) -> Any:
    """`one(*inputs)` of each row, `lanes` rows at once."""
    num = jax.tree.leaves(inputs)[0].shape[0]
    group = jax.vmap(one)
    out = lax.map(lambda rows: group(*rows), _fill(inputs, _groups(num, lanes), lanes))
    return _flatten(out, num, lanes)


def scan_groups(
    group: Callable[[Any, Any, Any], tuple[Any, Any]],
    total: Any,
    inputs: Any,
    cotangents: Any,
    lanes: int,
) -> tuple[Any, Any]:
    """Scan `total, out = group(total, inputs, cotangents)` over groups of `lanes` rows.

    Groups are filled up with copies of rows, whose cotangents are 0.
    """
    num = len(jax.tree.leaves(inputs)[0])
    groups = _groups(num, lanes)
    real = (jnp.arange(groups * lanes) < num).reshape(-1, lanes)
    real = jnp.pad(real, ((0, 0), (0, spare_lanes())))

    def mask(leaf: Array) -> Array:
        shape = (*real.shape, *[1] * (leaf.ndim - 2))
        return jnp.where(real.reshape(shape), leaf, jnp.zeros((), leaf.dtype))

    inputs, cotangents = _fill((inputs, cotangents), groups, lanes)
    rows = inputs, jax.tree.map(mask, cotangents)
    total, out = lax.scan(lambda total, rows: group(total, *rows), total, rows)
    return total, _flatten(out, num, lanes)


def _groups(num: Count, lanes: int) -> Count:
    """At least three groups: XLA unrolls shorter loops, whose rows then round differently."""
    groups = -(-num // lanes)
    # Not `max`, which a symbolic number of rows does not have.
    return groups + 2 // groups if num else 0


def take_rows(rows: Any, num: Count, start: Any = 0) -> Any:
    """`num` rows from the row `start` on; copies of the last row fill them up."""
    last = jax.tree.leaves(rows)[0].shape[0] - 1
    at = jnp.minimum(start + jnp.arange(num), last)
    return jax.tree.map(lambda leaf: leaf[at], rows)


def _fill(rows: Any, groups: Count, lanes: int) -> Any:
    """Groups of rows, (groups, lanes + spare, ...); copies of the last row fill them up."""
    filled = take_rows(rows, groups * lanes)
    at = jnp.minimum(jnp.arange(lanes + spare_lanes()), lanes - 1)
    return jax.tree.map(lambda leaf: leaf.reshape(-1, lanes, *leaf.shape[1:])[:, at], filled)


def _flatten(groups: Any, num: Count, lanes: int) -> Any:
    return jax.tree.map(lambda leaf: leaf[:, :lanes].reshape(-1, *leaf.shape[2:])[:num], groups)


def per_row(f: Callable[..., Any], *rows: Any, grouped: bool = True) -> Any:
    """`f(*row)` of each row.

    Evaluation is grouped, so that a row has the same bits in any batch. Training is not: its
    rows may be split among devices, and a gradient sums over them anyway.
    """
    if not grouped:
        return jax.vmap(f)(*rows)
    size = jax.tree.leaves(rows)[0][:1].size
    # Arrays that `f` closes over, such as parameters, have to be arguments.
    shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), rows)
    # A function of its own: jax compares `f`, and methods of other libraries' modules cannot be.
    closed, out = jax.make_jaxpr(lambda *row: f(*row), return_shape=True)(*shapes)

    def group(rows: Any, consts: Any) -> Any:
        one = jaxpr_as_fun(ClosedJaxpr(closed.jaxpr, consts))
        return map_groups(one, tuple(jax.tree.leaves(rows)), lanes_for(size))

    return jax.tree.unflatten(jax.tree.structure(out), join_vmaps(group, rows, closed.consts))
