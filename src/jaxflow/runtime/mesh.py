"""Rows sharded over the devices of a mesh.

The mesh is jax's ambient one (`jax.set_mesh`). Programs are written for one device; the compiler
shards the rows and inserts the reductions. The exception is `shard_map_rows`, for loops over rows
such as solves: each device loops over its own rows and waits for no other device.
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
from jaxflow.runtime.lanes import take_rows

ROWS = "rows"
# Arrays with fewer entries are replicated: sharding them does not pay.
LEAST_SPLIT = 1024


def rows_mesh(devices: int | Mesh | None = None) -> Mesh:
    """Make a mesh that shards rows over devices, for `jaxflow.fit(..., mesh=...)`.

    To evaluate a flow on many devices, see `jaxflow.use_devices`.

    ```python
    import jaxflow

    mesh = jaxflow.rows_mesh()  # all devices
    print(mesh.size)
    ```

    Args:
        devices: number of devices, of all processes together; None for all devices. An existing
            mesh keeps its devices and axes, and shards rows along all of them.

    Returns:
        A mesh with one axis, "rows"; or one like the mesh `devices`, with automatic axes.

    Raises:
        ValueError: `devices` is not a positive integer, or exceeds the number of devices.
    """
    if isinstance(devices, Mesh):
        return Mesh(devices.devices, devices.axis_names, axis_types=_auto(devices.axis_names))
    available = jax.devices()
    count = len(available) if devices is None else devices
    check_count("devices", count)
    if count > len(available):
        hint = (
            f"; to try on a CPU, set XLA_FLAGS=--xla_force_host_platform_device_count={count} "
            "before the program starts"
            if available[0].platform == "cpu"
            else ""
        )
        raise ValueError(
            f"devices={count} exceeds the {len(available)} available "
            f"({available[0].device_kind}){hint}"
        )
    return Mesh(np.asarray(available[:count]), (ROWS,), axis_types=_auto((ROWS,)))


def _auto(names: tuple[Any, ...]) -> tuple[AxisType, ...]:
    return (AxisType.Auto,) * len(names)


def check_covers_processes(mesh: Mesh) -> None:
    """Raise if a process of the job has no device in the mesh."""
    covered = {device.process_index for device in mesh.devices.flat}
    if len(covered) < jax.process_count():
        raise ValueError(
            f"the mesh of {mesh.size} devices has none of {jax.process_count() - len(covered)} of "
            f"the {jax.process_count()} processes: take all {jax.device_count()} devices"
        )


def num_mesh_devices() -> int:
    """Number of devices over which the ambient mesh shards rows; 1 without a mesh."""
    mesh = jax.sharding.get_abstract_mesh()
    # Explicit and manual axes belong to programs that place their arrays themselves, such as the
    # body of `shard_map_rows`.
    if mesh.empty or any(kind != AxisType.Auto for kind in mesh.axis_types):
        return 1
    return mesh.size


def shard_rows(tree: Any) -> Any:
    """Shard the leading axis of each array over the devices; any number of rows works."""
    return _constrain(tree, lambda leaf: _spec_along(0) if leaf.ndim else Spec())


def replicate(tree: Any) -> Any:
    """Copy each array in full to every device."""
    return _constrain(tree, lambda leaf: Spec())


def shard_largest_axis(tree: Any) -> Any:
    """Shard each array along its longest axis that the number of devices divides.

    So no device holds all weights and optimizer state (Rajbhandari et al. 2020, "ZeRO",
    arXiv 1910.02054, stage 3). Small arrays, and arrays without such an axis, are replicated.
    """

    def spec(leaf: Any) -> Spec:
        count = num_mesh_devices()
        axes = [i for i, size in enumerate(leaf.shape) if size % count == 0]
        if leaf.size < LEAST_SPLIT or not axes:
            return Spec()
        return _spec_along(max(axes, key=lambda i: leaf.shape[i]))

    return _constrain(tree, spec)


def _spec_along(axis: int) -> Spec:
    return Spec(*[None] * axis, tuple(jax.sharding.get_abstract_mesh().axis_names))


def _constrain(tree: Any, spec: Callable[[Any], Spec]) -> Any:
    if num_mesh_devices() == 1:
        return tree
    return _map_arrays(lambda leaf: jax.lax.with_sharding_constraint(leaf, spec(leaf)), tree)


def _map_arrays(f: Callable[[Any], Any], tree: Any) -> Any:
    return jax.tree.map(lambda leaf: f(leaf) if eqx.is_array(leaf) else leaf, tree)


def put_on_mesh(tree: Any, mesh: Mesh) -> Any:
    """Replicate arrays, equal in all processes, on every device of the mesh."""
    replicated = NamedSharding(mesh, Spec())
    return _map_arrays(lambda leaf: jax.device_put(leaf, replicated), tree)


def to_host(tree: Any, mesh: Mesh) -> Any:
    """Gather the arrays of a mesh in full, as ordinary arrays of this process."""
    with jax.set_mesh(mesh):
        tree = _replicate(tree)
    # By way of NumPy: an array committed to a device mixes with no array of another device.
    return _map_arrays(lambda leaf: jnp.asarray(np.asarray(leaf.addressable_data(0))), tree)


_replicate = eqx.filter_jit(replicate)


def shard_map_rows(
    f: Callable[[Any, Any], Any], rows: Any, shared: Any, *, gather: bool = True
) -> Any:
    """Compute `f(rows, shared)` with the rows sharded over the devices of the ambient mesh.

    Each device runs `f` on its part of the rows and waits for no other device. A row's result must
    not depend on other rows; the last row is repeated to fill the last device's part. With
    `gather` the rows are replicated before and after `f`, so the surrounding program has the bits
    of one device; without it less is sent between devices.
    """
    num_devices = num_mesh_devices()
    if num_devices == 1:
        return f(rows, shared)
    count = len(jax.tree.leaves(rows)[0])
    padded = -(-count // num_devices) * num_devices
    if padded != count:
        rows = take_rows(rows, padded)
    arrays, static = eqx.partition(shared, eqx.is_array)

    def part(rows: Any, arrays: Any) -> Any:
        return f(rows, eqx.combine(arrays, static))

    spec, place = _spec_along(0), replicate if gather else shard_rows
    out = jax.shard_map(part, in_specs=(spec, Spec()), out_specs=spec, check_vma=False)(
        place(rows), arrays
    )
    return jax.tree.map(lambda leaf: leaf[:count], place(out))
