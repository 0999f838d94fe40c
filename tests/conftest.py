"""Strict numerics for every test: float64 by default, no silent broadcasting or promotion."""

import atexit
import hashlib
import os
import shutil
import tempfile
import threading
from importlib.metadata import version
from pathlib import Path

# Set before jax starts: matplotlib must not look for a screen.
os.environ.setdefault("MPLBACKEND", "agg")
# Eight devices, for what runs on many; all else runs on the first. Most of the suite's time is
# XLA's, which compiles 40 % faster without its newer emitters of fused loops and without
# optimisation; `make test-slow` compiles as for users. Other versions of XLA may not know a flag,
# and stop at one that they do not know.
if "XLA_FLAGS" not in os.environ:
    os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"
    if version("jaxlib").startswith("0.10."):
        QUICK = " --xla_cpu_use_fusion_emitters=false --xla_backend_optimization_level=0"
        QUICK += " --xla_llvm_disable_expensive_passes=true"
        os.environ["XLA_FLAGS"] += QUICK

# Tests, and the programs that they start, share compiled programs for the length of a run. xdist's
# workers inherit the folder of the process that starts them.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    CACHE = tempfile.mkdtemp(prefix="jaxflow-tests-")
    atexit.register(shutil.rmtree, CACHE, ignore_errors=True)
    os.environ["JAX_COMPILATION_CACHE_DIR"] = CACHE
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.1"
    os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "0"

import jax
import pytest
from jax._src.interpreters import mlir

# jax makes a context of MLIR for each program, a quarter of what a small one costs. Here a thread
# uses one for as many.
REUSED = 200
contexts = threading.local()


def reuse(new_context):
    """`new_context` whose results a thread uses for `REUSED` programs each."""

    def used_context():
        if not getattr(contexts, "left", 0):
            contexts.left, contexts.last = REUSED, new_context()
        contexts.left -= 1
        return contexts.last

    return used_context


if hasattr(mlir, "make_ir_context"):
    mlir.make_ir_context = reuse(mlir.make_ir_context)

jax.config.update("jax_enable_x64", True)
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Mark the cases as slow that `@pytest.mark.quick(...)` does not name by their ids."""
    for item in items:
        quick = item.get_closest_marker("quick")
        if quick is not None and item.callspec.id not in quick.args:
            item.add_marker(pytest.mark.slow)


# Every compiled function holds memory maps, of which Linux allows a process 65,530 by default.
MOST_MAPS = 40_000


@pytest.fixture(autouse=True, scope="module")
def few_maps():
    """Forget what was compiled before a process has no room for more."""
    yield
    maps = Path("/proc/self/maps")
    if maps.exists() and maps.read_bytes().count(b"\n") > MOST_MAPS:
        jax.clear_caches()


@pytest.fixture
def key(request):
    """A random key that depends on the test's id alone."""
    digest = hashlib.sha256(request.node.nodeid.encode()).digest()
    return jax.random.key(int.from_bytes(digest[:4], "little"))
