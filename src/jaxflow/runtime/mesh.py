"""Rows over many devices: what is split among them, and what each of them has whole.

The mesh is jax's own, ambient one, of `jax.set_mesh`. Programs stay those of one device; the
compiler splits the rows and sums what they share. Only where rows are solved in lanes does each
device run a loop of its own, which waits for no other.
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as Spec

from jaxflow.runtime.checks import check_count

ROWS = "rows"
# Arrays of fewer entries are not worth splitting: each device has them whole.
LEAST_SPLIT = 1024


def rows_mesh(devices: int | Mesh | None = None) -> Mesh:
    """A mesh over whose devices rows are split.

    ```python
    flow, history = jaxflow.fit(flow, x, key=key, mesh=jaxflow.rows_mesh(8))
    ```
    To evaluate on many devices, see `jaxflow.use_devices`.

    Args:
        devices: how many, of all processes together; None for all there are. A mesh of your own
            is taken as it is, rows along all of its axes.

    Raises:
        ValueError: more devices than there are.
    """
    if isinstance(devices, Mesh):
        return Mesh(devices.devices, devices.axis_names, axis_types=_auto(devices.axis_names))
    found = jax.devices()
    count = len(found) if devices is None else devices
    check_count("devices", count)
    if count > len(found):
        hint = (
            f"; to try on a CPU, set XLA_FLAGS=--xla_force_host_platform_device_count={count} "
            "before the program starts"
            if found[0].platform == "cpu"
            else ""
        )
        kind = f"{len(found)} ({found[0].device_kind})"
        raise ValueError(f"devices={count} is more than there are, {kind}{hint}")
    return Mesh(np.asarray(found[:count]), (ROWS,), axis_types=_auto((ROWS,)))


def _auto(names: tuple[Any, ...]) -> tuple[AxisType, ...]:
    return (AxisType.Auto,) * len(names)


def check_covers_processes(mesh: Mesh) -> None:
    """Refuse a mesh that leaves a process of the job without a device.

    Raises:
        ValueError: it does.
    """
    taking = {device.process_index for device in mesh.devices.flat}
    if len(taking) < jax.process_count():
        raise ValueError(
            f"a mesh of {mesh.size} devices leaves some of {jax.process_count()} processes "
            f"without any: take all {jax.device_count()}"
        )


def num_mesh_devices() -> int:
    """Over how many devices rows are split here."""
    mesh = jax.sharding.get_abstract_mesh()
    # Inside a loop of one device, and in programs that say themselves where arrays are: one.
    if mesh.empty or any(kind != AxisType.Auto for kind in mesh.axis_types):
        return 1
    return mesh.size


def shard_rows(tree: Any) -> Any:
    """The arrays with their leading axis split among the devices, evenly or not."""
    return _placed(tree, lambda leaf: _along(0) if leaf.ndim else Spec())


def replicate(tree: Any) -> Any:
    """The arrays whole on every device."""
    return _placed(tree, lambda leaf: Spec())


def shard_largest_axis(tree: Any) -> Any:
    """The arrays split along their longest axis that allows it, as fully sharded weights are.

    So that no device holds a model and its optimizer whole (Rajbhandari et al. 2020, "ZeRO",
    arXiv 1910.02054, stage 3).
    """

    def spec(leaf: Any) -> Spec:
        count = num_mesh_devices()
        axes = [i for i, size in enumerate(leaf.shape) if size % count == 0]
        if leaf.size < LEAST_SPLIT or not axes:
            return Spec()
        return _along(max(axes, key=lambda i: leaf.shape[i]))

    return _placed(tree, spec)


def _along(axis: int) -> Spec:
    return Spec(*[None] * axis, tuple(jax.sharding.get_abstract_mesh().axis_names))


def _placed(tree: Any, spec: Callable[[Any], Spec]) -> Any:
    if num_mesh_devices() == 1:
        return tree

    def place(leaf: Any) -> Any:
        return jax.lax.with_sharding_constraint(leaf, spec(leaf)) if eqx.is_array(leaf) else leaf

    return jax.tree.map(place, tree)


def put_on_mesh(tree: Any, mesh: Mesh) -> Any:
    """Arrays of this process, the same in all of them, whole on every device of the mesh."""
    whole = NamedSharding(mesh, Spec())

    def put(leaf: Any) -> Any:
        return jax.device_put(leaf, whole) if eqx.is_array(leaf) else leaf

    return jax.tree.map(put, tree)


def to_host(tree: Any, mesh: Mesh) -> Any:
    """Arrays of a mesh, whole, as ordinary ones of this process's first device."""
    with jax.set_mesh(mesh):
        tree = _whole(tree)

    def home(leaf: Any) -> Any:
        # By way of the host: an array that was put on a device can join no other one.
        return jnp.asarray(np.asarray(leaf.addressable_data(0))) if eqx.is_array(leaf) else leaf

    return jax.tree.map(home, tree)


@eqx.filter_jit
def _whole(tree: Any) -> Any:
    return replicate(tree)


def shard_map_rows(
    f: Callable[[Any, Any], Any], rows: Any, shared: Any, *, gather: bool = True
) -> Any:
    """`f(rows, shared)`, in which each device has its part of the rows and all that is shared.

    Devices do not wait for each other, and what `f` makes of a row must not depend on the others.

    Args:
        f: gives arrays with rows along the leading axis.
        rows: arrays, likewise; the last row fills up the last device's part.
        shared: a tree in which arrays are on every device.
        gather: whether every device has all rows before and after. What comes first and what
            follows are then the program of one device, to the bit; else less is sent.
    """
    count = num_mesh_devices()
    if count == 1:
        return f(rows, shared)
    num = len(jax.tree.leaves(rows)[0])
    filled = -(-num // count) * count
    if filled != num:
        at = jnp.minimum(jnp.arange(filled), num - 1)
        rows = jax.tree.map(lambda leaf: leaf[at], rows)
    arrays, static = eqx.partition(shared, eqx.is_array)

    def part(rows: Any, arrays: Any) -> Any:
        return f(rows, eqx.combine(arrays, static))

    split, place = _along(0), replicate if gather else shard_rows
    out = jax.shard_map(part, in_specs=(split, Spec()), out_specs=split, check_vma=False)(
        place(rows), arrays
    )
    return jax.tree.map(lambda leaf: leaf[:num], place(out))
