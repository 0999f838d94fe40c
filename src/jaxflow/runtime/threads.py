"""Calls in other threads, with jax's settings of the calling thread."""

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
from jax import lax

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
# Operations that wait in a thread of XLA for its other threads: LAPACK's, FFTs, foreign code.
_WAITING = {name.removesuffix("_p") for name in dir(lax.linalg)} | {"geqrf", "fft", "ffi_call"}


def num_threads() -> int:
    """Number of chunks to compute at once: the cores of a CPU, 1 for an accelerator.

    XLA does not split the small operations of one solve among cores; several solves use them all.
    """
    if jax.default_backend() != "cpu":
        return 1
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def may_wait(f: Callable[..., Any], *args: Any) -> bool:
    """Whether the program of `f(*args)` calls LAPACK, an FFT or foreign code.

    On a CPU they wait inside a thread of XLA for its other threads, so two of them at once can
    wait for each other forever.
    """
    return _calls(jax.make_jaxpr(f)(*args))


def _calls(jaxpr: Any) -> bool:
    """Whether one of `_WAITING` is in the program or in a function that it calls."""
    for equation in jaxpr.eqns:
        params = jax.tree.leaves(list(equation.params.values()), is_leaf=_is_program)
        if equation.primitive.name in _WAITING or any(map(_calls, filter(_is_program, params))):
            return True
    return False


def _is_program(value: Any) -> bool:
    return hasattr(value, "eqns")


def one_thread() -> contextlib.AbstractContextManager[Any]:
    """A context with one BLAS thread: more slow down small matrices where cores are busy."""
    if not find_spec("threadpoolctl"):
        return contextlib.nullcontext()
    return import_module("threadpoolctl").threadpool_limits(1)


def with_settings(call: Callable[[], Any]) -> Callable[[], Any]:
    """`call` for another thread, with this thread's settings; returns when arrays are ready.

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
    """Yield the results of calls in order; `threads` run at once, with the caller's settings.

    The first error is raised in place of its result, and cancels the calls that have not begun.
    """
    with ThreadPoolExecutor(threads, "jaxflow") as pool:
        # At most one call more than threads: results do not pile up.
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
