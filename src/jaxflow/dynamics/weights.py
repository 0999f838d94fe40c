"""Random weights of layers, drawn without a compilation for each shape."""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, PRNGKeyArray

# Numbers of entries for which a program is compiled: 2^12, 2^15, 2^18, ...
SMALLEST, GROWTH = 2**12, 8


def normal_weights(key: PRNGKeyArray, shape: tuple[int, ...], std: float = 1.0) -> Array:
    """`std * jax.random.normal(key, shape)`, the same bits, by few compiled programs.

    jax compiles a draw for each shape, which makes a deep network wait for many seconds. Its
    counter-based generator gives entry `i` the same bits for any number of entries, so the first
    entries of a longer draw are taken. Other generators, and traced keys, draw as jax does.
    """
    num, size = math.prod(shape), SMALLEST
    while size < num:
        size *= GROWTH
    counts = jax.config.jax_threefry_partitionable  # pyright: ignore[reportAttributeAccessIssue]
    if counts and str(jax.random.key_impl(key)) == "threefry2x32":
        draw = _normal(key, size, jnp.result_type(float))
        # Under jit it is traced, whether the key is or not.
        if not isinstance(draw, Tracer):
            weights = np.asarray(draw)[:num].reshape(shape)
            return jnp.asarray(weights * weights.dtype.type(std))
    return std * jax.random.normal(key, shape)


@partial(jax.jit, static_argnames=("size", "dtype"))
def _normal(key: PRNGKeyArray, size: int, dtype: np.dtype) -> Array:
    return jax.random.normal(key, (size,), dtype)
