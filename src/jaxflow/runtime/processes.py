"""Several processes, on one machine or many, that train one flow together."""

import contextlib
import hashlib
import socket
import time
from collections.abc import Iterator

import jax
import numpy as np

from jaxflow.runtime.checks import check_count

# How the runtime's word begins when another process does not answer.
LOST = ("UNKNOWN:", "UNAVAILABLE:", "INTERNAL:", "ABORTED:", "DEADLINE_EXCEEDED:", "CANCELLED:")


class ProcessLostError(RuntimeError):
    """Another process of the job has ended, and this one cannot go on without it."""


def join_processes(
    coordinator: str | None = None,
    num_processes: int | None = None,
    process_index: int | None = None,
    *,
    timeout: int = 60,
) -> None:
    """Make this process one of several; before anything else is done with jax.

    ```python
    jaxflow.join_processes("10.0.0.1:1234", num_processes=2, process_index=0)
    flow, history = jaxflow.fit(flow, x, key=key, mesh=jaxflow.rows_mesh())
    ```
    All processes make the same calls with the same rows. Without arguments jax asks the
    environment, which SLURM, Open MPI, Kubernetes and Cloud TPUs fill.

    Args:
        coordinator: address of the process with index 0, as host:port; any free port.
        num_processes: how many there are.
        process_index: which of them this is.
        timeout: seconds to wait for the others.

    Raises:
        ValueError: some of the three are missing, or out of range.
        ConnectionError: the coordinator does not answer in time.
    """
    given = coordinator, num_processes, process_index
    if all(each is None for each in given):
        jax.distributed.initialize(initialization_timeout=timeout)
        return
    if coordinator is None or num_processes is None or process_index is None:
        raise ValueError(
            f"coordinator={coordinator!r}, num_processes={num_processes} and "
            f"process_index={process_index} belong together: give all three, or none where a "
            "scheduler says them"
        )
    check_count("num_processes", num_processes)
    check_count("process_index", process_index, 0)
    if process_index >= num_processes:
        raise ValueError(
            f"process_index={process_index} must be below num_processes={num_processes}"
        )
    host, colon, port = coordinator.rpartition(":")
    if not colon or not port.isdigit():
        raise ValueError(f"coordinator={coordinator!r} must be an address host:port")
    if process_index:
        _wait_for(host, int(port), timeout)
    jax.distributed.initialize(
        coordinator, num_processes, process_index, initialization_timeout=timeout
    )


def _wait_for(host: str, port: int, timeout: int) -> None:
    """Return when something answers there; jax would end the process where nothing does."""
    end = time.monotonic() + timeout
    while True:
        try:
            socket.create_connection((host, port), timeout=1.0).close()
            return
        except OSError as error:
            if time.monotonic() > end:
                raise ConnectionError(
                    f"coordinator={host}:{port} did not answer in {timeout} s ({error}): check "
                    "that the process with index 0 runs there, and that the port is open to this "
                    "machine"
                ) from error
        time.sleep(0.2)


@contextlib.contextmanager
def name_lost_processes() -> Iterator[None]:
    """Say so where a computation failed because another process is gone.

    Raises:
        ProcessLostError: instead of the runtime's own error.
    """
    try:
        yield
    except (jax.errors.JaxRuntimeError, ValueError) as error:
        # jax raises either; other statuses, such as no memory, are this process's own trouble.
        if jax.process_count() == 1 or not str(error).startswith(LOST):
            raise
        raise ProcessLostError(
            f"process {jax.process_index()} of {jax.process_count()} lost another one "
            f"({str(error).splitlines()[0]}): start all of them again and resume from the "
            "checkpoint, on as many devices as there are then"
        ) from error


def broadcast_from_first(number: float) -> float:
    """The first process's number, for decisions that all processes must take alike."""
    if jax.process_count() == 1:
        return number
    from jax.experimental.multihost_utils import broadcast_one_to_all

    # As bytes: jax would round it to float32.
    letters = np.frombuffer(np.float64(number).tobytes(), np.uint8)
    return float(np.frombuffer(np.asarray(broadcast_one_to_all(letters)).tobytes(), np.float64)[0])


def check_processes_agree(word: str) -> None:
    """Refuse to go on where processes were given different data, or find different files.

    Raises:
        ValueError: their words differ, in each of them.
    """
    if jax.process_count() == 1:
        return
    from jax.experimental.multihost_utils import process_allgather

    letters = np.frombuffer(hashlib.sha256(word.encode()).digest(), np.uint8)
    every = np.asarray(process_allgather(letters))
    if (every != every[0]).any():
        raise ValueError(
            "processes differ in their rows, conditions, weights, validation rows or key, or in "
            "whether the checkpoint exists: give all of them the same, and a checkpoint on a disk "
            "that all see"
        )
