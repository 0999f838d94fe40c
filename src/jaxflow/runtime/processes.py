"""Several processes, on one machine or many, that train one flow together."""

import contextlib
import hashlib
import socket
import time
from collections.abc import Iterator

import jax
import numpy as np

from jaxflow.runtime.checks import check_count

# How jax's errors begin when another process does not respond.
LOST = ("UNKNOWN:", "UNAVAILABLE:", "INTERNAL:", "ABORTED:", "DEADLINE_EXCEEDED:", "CANCELLED:")


class ProcessLostError(RuntimeError):
    """Another process of the job has ended, and this one cannot continue without it.

    Start all processes again and resume from the checkpoint.
    """


def join_processes(
    coordinator: str | None = None,
    num_processes: int | None = None,
    process_index: int | None = None,
    *,
    timeout: int = 60,
) -> None:
    """Make this process one of several that train together; call it before anything else of jax.

    All processes make the same calls with the same rows. Without arguments jax reads the
    environment of SLURM, Open MPI, Kubernetes or a Cloud TPU. The first of two processes runs

    ```
    jaxflow.join_processes("10.0.0.1:1234", num_processes=2, process_index=0)
    flow, history = jaxflow.fit(flow, x, key=key, mesh=jaxflow.rows_mesh())
    ```

    Args:
        coordinator: address host:port of the process with index 0; any free port.
        num_processes: number of processes.
        process_index: index of this process, from 0.
        timeout: seconds to wait for the other processes.

    Raises:
        ValueError: `coordinator`, `num_processes` and `process_index` are not given together, or
            one of them is out of range.
        ConnectionError: the coordinator does not answer in time.
    """
    address = coordinator, num_processes, process_index
    if all(each is None for each in address):
        jax.distributed.initialize(initialization_timeout=timeout)
        return
    if coordinator is None or num_processes is None or process_index is None:
        raise ValueError(
            f"coordinator={coordinator!r}, num_processes={num_processes} and "
            f"process_index={process_index} belong together: give all three, or none under a "
            "scheduler that jax knows"
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
    """Wait until the port answers: jax would end this process if it never did."""
    deadline = time.monotonic() + timeout
    while True:
        try:
            socket.create_connection((host, port), timeout=1.0).close()
            return
        except OSError as error:
            if time.monotonic() > deadline:
                raise ConnectionError(
                    f"coordinator={host}:{port} did not answer in {timeout} s ({error}): check "
                    "that the process with index 0 runs there, and that the port is open to this "
                    "machine"
                ) from error
        time.sleep(0.2)


@contextlib.contextmanager
def name_lost_processes() -> Iterator[None]:
    """Replace jax's error by `ProcessLostError` if another process has ended."""
    try:
        yield
    except (jax.errors.JaxRuntimeError, ValueError) as error:
        # jax raises either. Other statuses, such as out of memory, are this process's own errors.
        if jax.process_count() == 1 or not str(error).startswith(LOST):
            raise
        raise ProcessLostError(
            f"process {jax.process_index()} of {jax.process_count()} lost another process "
            f"({str(error).splitlines()[0]}): start all of them again and resume from the "
            "checkpoint; the number of devices may differ"
        ) from error


def broadcast_from_first(number: float) -> float:
    """The first process's number, for decisions that must be the same in all processes."""
    if jax.process_count() == 1:
        return number
    from jax.experimental.multihost_utils import broadcast_one_to_all

    # As bytes: jax would round it to float32.
    data = np.frombuffer(np.float64(number).tobytes(), np.uint8)
    return float(np.frombuffer(np.asarray(broadcast_one_to_all(data)).tobytes(), np.float64)[0])


def check_processes_agree(fingerprint: str) -> None:
    """Raise in all processes if their fingerprints, of data and checkpoint, differ."""
    if jax.process_count() == 1:
        return
    from jax.experimental.multihost_utils import process_allgather

    digest = np.frombuffer(hashlib.sha256(fingerprint.encode()).digest(), np.uint8)
    digests = np.asarray(process_allgather(digest))
    if (digests != digests[0]).any():
        raise ValueError(
            "processes differ in their rows, conditions, weights, validation rows or key, or in "
            "whether the checkpoint exists: give all of them the same, and a checkpoint on a disk "
            "that all can read"
        )
