"""Devices, and the processes of a fit that runs on several machines."""

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import typer
from jax.experimental.multihost_utils import broadcast_one_to_all

from jaxflow import join_processes, use_devices

_joined, _first = False, True


def is_first() -> bool:
    """Whether this process writes files and prints; in a job of several only the first does."""
    return _first


@contextmanager
def join_job(coordinator: str | None, processes: int | None, index: int | None) -> Iterator[None]:
    """Join a job of several processes, if `--coordinator` names one."""
    global _joined, _first
    if coordinator is None:
        if processes is not None or index is not None:
            raise ValueError("--processes and --process-index require --coordinator host:port")
        yield
        return
    join_processes(None if coordinator == "auto" else coordinator, processes, index)
    _joined, _first = True, jax.process_index() == 0
    try:
        yield
    except (typer.Exit, KeyboardInterrupt):
        raise
    except Exception as error:
        typer.echo(f"error: {error}", err=True)
        # A normal exit would wait for the other processes, which may be gone or wait for this one.
        os._exit(2 if isinstance(error, ValueError | OSError) else 1)


def choose_together(choose: Callable[[], Path]) -> Path:
    """Return the path that the first process chooses, in all processes."""
    if not _joined:
        return choose()
    letters = np.zeros(4096, np.uint8)
    failure: Exception | None = None
    if _first:
        try:
            path = os.fsencode(choose())
            letters[: len(path)] = list(path)
        except Exception as error:
            failure = error
    sent = bytes(np.asarray(broadcast_one_to_all(letters))).rstrip(b"\0")
    if failure is not None:
        raise failure
    if not sent:
        raise ValueError("the first process stopped; see its error")
    return Path(os.fsdecode(sent))


def check_float64() -> None:
    """Raise ValueError unless the device can compute in float64."""
    try:
        dtype = (jnp.ones((), jnp.float64) + 1).block_until_ready().dtype
    except (jax.errors.JaxRuntimeError, NotImplementedError):
        dtype = None
    if dtype != jnp.float64:
        kind = jax.devices()[0].device_kind
        raise ValueError(
            f"--float64: the device {kind} has no float64; leave it out, or set JAX_PLATFORMS=cpu"
        )


def on_devices(devices: int | None) -> AbstractContextManager[None]:
    """Context in which rows are split over this number of devices; None for one device."""
    return nullcontext() if devices is None else use_devices(devices)
