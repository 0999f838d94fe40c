"""Strict numerics for every test: float64 by default, no silent broadcasting or promotion."""

import hashlib
import os

# Set before jax starts: matplotlib must not look for a screen.
os.environ.setdefault("MPLBACKEND", "agg")

import jax
import pytest

jax.config.update("jax_enable_x64", True)
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")


@pytest.fixture
def key(request):
    """A random key that depends on the test's id alone."""
    digest = hashlib.sha256(request.node.nodeid.encode()).digest()
    return jax.random.key(int.from_bytes(digest[:4], "little"))
