"""Evaluation on many devices, with the same bits as on one.

XLA optimises a program that is sharded over devices differently from the program of one device,
so the last bits differ. Here each device runs the program of one device instead, on chunks of
rows in turn; only the results are exchanged.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from jaxflow.runtime.mesh import check_covers_processes, rows_mesh

# jax has no public name for the class of its devices.
Device = Any
_devices: ContextVar[tuple[Device, ...]] = ContextVar("devices", default=())


@contextmanager
def use_devices(devices: int | Mesh | None = None) -> Iterator[None]:
    """Evaluate flows on many devices, inside this context.

    `log_prob`, `sample` and the other methods of a flow deal chunks of rows out to the devices.
    Every row has the same bits as on one device. The program is compiled once for each device.
    With several processes, all of them make the same calls, each computes its share, and all
    receive every result. Code under `jit` stays on one device.

    ```python
    import jax
    import jaxflow

    key = jax.random.key(0)
    flow = jaxflow.CouplingFlow(2, width=8, key=key)
    with jaxflow.use_devices():  # all devices
        x = flow.sample(key, 100)
        log_p = flow.log_prob(x)
    ```

    Args:
        devices: number of devices, of all processes together, or a mesh; None for all devices.

    Raises:
        ValueError: `devices` exceeds the number of devices, or leaves a process without one.
    """
    mesh = rows_mesh(devices)
    if mesh.size > 1:
        check_covers_processes(mesh)
    token = _devices.set(tuple(mesh.devices.flat))
    try:
        yield
    finally:
        _devices.reset(token)


def active_devices() -> list[Device]:
    """The devices that share the chunks of rows; empty unless there are at least two."""
    devices = _devices.get()
    return list(devices) if len(devices) > 1 else []


def is_local(device: Device) -> bool:
    """Whether the device belongs to this process."""
    return device.process_index == jax.process_index()


def running_on(device: Device | None) -> AbstractContextManager[Any]:
    """Context in which uncommitted arrays run on `device`; None leaves jax's default."""
    return nullcontext() if device is None else jax.default_device(device)


def gather_rows(local: Any, owners: np.ndarray) -> Any:
    """Merge rows that several processes have computed: each row from its owner, in all processes.

    `owners` are process indices. Rows of `local` that other processes own may hold anything.
    """
    if np.all(owners == jax.process_index()):
        return jax.tree.map(jnp.asarray, local)
    from jax.experimental.multihost_utils import process_allgather

    gathered = process_allgather(local)
    return jax.tree.map(lambda leaf: jnp.asarray(leaf[owners, np.arange(len(owners))]), gathered)
