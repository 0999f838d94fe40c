"""Evaluation on many devices, to the same bits as on one.

A program that the compiler splits among devices is optimised in another way than that of one
device, and its last bits differ. So here each device runs the program of one device, on chunks of
rows that it takes in turn; nothing is exchanged but the answers.
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

# jax gives its class of devices no public name.
Device = Any
_devices: ContextVar[tuple[Device, ...]] = ContextVar("devices", default=())


@contextmanager
def use_devices(devices: int | Mesh | None = None) -> Iterator[None]:
    """Score and sample many rows on many devices, while the context lasts.

    ```python
    with jaxflow.use_devices(8):
        log_p = flow.log_prob(x)
        samples = flow.sample(key, 1_000_000)
    ```
    A row's answer has the same bits as on one device. With several processes all of them make
    the same calls, each computes its share, and all have the answers. The program is compiled
    once for each device. Under `jit` nothing changes.

    Args:
        devices: how many, of all processes together, or a mesh; None for all there are.

    Raises:
        ValueError: more devices than there are, or none of one of the processes.
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
    """The devices among which chunks of rows are dealt out; none where it is one."""
    devices = _devices.get()
    return list(devices) if len(devices) > 1 else []


def is_local(device: Device) -> bool:
    """Whether it is a device of this process."""
    return device.process_index == jax.process_index()


def running_on(device: Device | None) -> AbstractContextManager[Any]:
    """The context in which arrays that were put nowhere are computed with on this device."""
    return nullcontext() if device is None else jax.default_device(device)


def gather_rows(mine: Any, owners: np.ndarray) -> Any:
    """Rows that each process knows in part, known to all.

    Args:
        mine: arrays with rows along the leading axis, anything in the rows of other processes.
        owners: the process of each row.
    """
    if np.all(owners == jax.process_index()):
        return jax.tree.map(jnp.asarray, mine)
    from jax.experimental.multihost_utils import process_allgather

    every = process_allgather(mine)
    return jax.tree.map(lambda leaf: jnp.asarray(leaf[owners, np.arange(len(owners))]), every)
