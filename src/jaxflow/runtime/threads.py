"""Work in threads beside the caller's, with the caller's settings of jax."""

import concurrent.futures
import contextlib
import contextvars
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import jax

# Settings of jax that hold for a thread, and the contexts that set them.
_SETTINGS: dict[str, Callable[[Any], Any]] = {
    "jax_enable_x64": jax.enable_x64,
    "jax_default_matmul_precision": jax.default_matmul_precision,
    "jax_numpy_dtype_promotion": jax.numpy_dtype_promotion,
    "jax_default_device": jax.default_device,
    "jax_default_prng_impl": jax.default_prng_impl,
    "jax_disable_jit": jax.disable_jit,
    "jax_debug_nans": jax.debug_nans,
}


def num_threads() -> int:
    """How many chunks a CPU computes at once; 1 for an accelerator, which needs no threads.

    The operations of a solve are too small for XLA to split among cores, and several solves are
    not.
    """
    if jax.default_backend() != "cpu":
        return 1
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def one_thread() -> contextlib.AbstractContextManager[Any]:
    """Small matrices gain nothing from the threads of BLAS and lose much where cores are busy."""
    if not find_spec("threadpoolctl"):
        return contextlib.nullcontext()
    return import_module("threadpoolctl").threadpool_limits(1)


def with_settings(call: Callable[[], Any]) -> Callable[[], Any]:
    """`call` for another thread, with the settings of this one; it returns when arrays are ready.

    jax keeps settings such as float64 for each thread.
    """
    settings = {name: getattr(jax.config, name) for name in _SETTINGS}
    context = contextvars.copy_context()

    def compute() -> Any:
        with contextlib.ExitStack() as stack:
            for name, value in settings.items():
                if value != getattr(jax.config, name):
                    stack.enter_context(_SETTINGS[name](value))
            return jax.block_until_ready(call())

    return lambda: context.run(compute)


def in_threads(calls: Sequence[Callable[[], Any]], threads: int) -> Iterator[Any]:
    """The results of calls in order; `threads` of them run at once, with the caller's settings.

    The first error is raised in its place, and calls that have not begun are then left out.
    """
    with ThreadPoolExecutor(threads, "jaxflow") as pool:
        # No more under way than threads: results are not kept before they are wanted.
        waiting: list[Future[Any]] = []
        try:
            for call in calls:
                waiting.append(pool.submit(with_settings(call)))
                if len(waiting) > threads:
                    yield waiting.pop(0).result()
            while waiting:
                yield waiting.pop(0).result()
        finally:
            for future in waiting:
                future.cancel()


class Ahead:
    """Calls made in a background thread so that jax compiles their programs early.

    Their results and errors are discarded: the caller makes the same calls again. Leaving the
    context cancels those that have not started.
    """

    def __init__(self, calls: Sequence[Callable[[], Any]] = ()) -> None:
        self._pool = ThreadPoolExecutor(1, "jaxflow-ahead")
        self._futures = [self._pool.submit(with_settings(call)) for call in calls]

    def __enter__(self) -> "Ahead":
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)

    def wait(self, count: int | None = None) -> None:
        """Wait for the first `count` calls, or for all."""
        concurrent.futures.wait(self._futures[:count])
