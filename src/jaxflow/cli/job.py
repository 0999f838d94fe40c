"""The devices and the processes of a command."""

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Annotated

import typer

Devices = Annotated[
    int | None,
    typer.Option(
        help="Devices among which rows are split, of all processes together; one by default, "
        "with --coordinator all."
    ),
]
Coordinator = Annotated[
    str | None,
    typer.Option(
        help="For a fit by several processes: address host:port of the first one, or auto where "
        "SLURM, Open MPI or Kubernetes say it. Start the same command in each."
    ),
]
Processes = Annotated[
    int | None, typer.Option(help="How many processes there are, with --coordinator.")
]
ProcessIndex = Annotated[
    int | None, typer.Option(help="Which of them this is, from 0, with --coordinator.")
]

_joined, _first = False, True


def is_first() -> bool:
    """Whether this process writes and tells; the others of a job compute alone."""
    return _first


@contextmanager
def job(coordinator: str | None, processes: int | None, index: int | None) -> Iterator[None]:
    """One of several processes, where so many are asked for.

    Raises:
        ValueError, ConnectionError: see `jaxflow.join_processes`.
    """
    global _joined, _first
    if coordinator is None:
        if processes is not None or index is not None:
            raise ValueError("--processes and --process-index need --coordinator host:port")
        yield
        return
    import jax

    from jaxflow.runtime.processes import join_processes

    join_processes(None if coordinator == "auto" else coordinator, processes, index)
    _joined, _first = True, jax.process_index() == 0
    try:
        yield
    except (typer.Exit, KeyboardInterrupt):
        raise
    except Exception as error:
        typer.echo(f"error: {error}", err=True)
        # At its usual end jax would wait for processes that are gone, or wait for this one.
        os._exit(2 if isinstance(error, ValueError | OSError) else 1)


def check_float64(wanted: bool) -> None:
    """Refuse float64 on a device that has none.

    Raises:
        ValueError: the device cannot add two such numbers.
    """
    if not wanted:
        return
    import jax
    import jax.numpy as jnp

    try:
        found = (jnp.ones((), jnp.float64) + 1).block_until_ready().dtype
    except (jax.errors.JaxRuntimeError, NotImplementedError):
        found = None
    if found != jnp.float64:
        kind = jax.devices()[0].device_kind
        raise ValueError(
            f"--float64: the device {kind} has no float64; leave it out, or set JAX_PLATFORMS=cpu"
        )


def spread_over(devices: int | None) -> AbstractContextManager[None]:
    """The context in which rows are scored and drawn on so many devices."""
    if devices is None:
        return nullcontext()
    import jaxflow

    return jaxflow.use_devices(devices)


def agreed_path(choose: Callable[[], Path]) -> Path:
    """The path that the first process chose."""
    if not _joined:
        return choose()
    import numpy as np
    from jax.experimental.multihost_utils import broadcast_one_to_all

    letters = np.zeros(4096, np.uint8)
    refusal: Exception | None = None
    if _first:
        try:
            path = os.fsencode(choose())
            letters[: len(path)] = list(path)
        except Exception as error:
            refusal = error
    found = bytes(np.asarray(broadcast_one_to_all(letters))).rstrip(b"\0")
    if refusal is not None:
        raise refusal
    if not found:
        raise ValueError("the first process refused its arguments; see what it says")
    return Path(os.fsdecode(found))
