"""An embedding of time and condition, by which networks scale and shift their blocks."""

import math

import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from jaxflow.dynamics.activations import Activation
from jaxflow.dynamics.layers import ContextLinear, plain_linear
from jaxflow.runtime.shapes import Scalar

# Frequencies of the Fourier features of time, in turns: 1/8 to 2, equal ratios.
FREQUENCIES = tuple(2.0 ** (-3 + 4 * i / 7) for i in range(8))


def time_embedding(
    cond_dim: int, width: int, first: PRNGKeyArray, second: PRNGKeyArray
) -> tuple[ContextLinear, ContextLinear]:
    """The two random layers of an embedding of `width` entries."""
    features = 2 * len(FREQUENCIES) + cond_dim
    return plain_linear(features, width, first), plain_linear(width, width, second)


def embed_time(
    layers: tuple[ContextLinear, ContextLinear], t: Scalar, cond: Array | None, s: Activation
) -> Float[Array, " width"]:
    """Two layers with activation `s`, on sines and cosines of time and on the condition."""
    turns = 2 * math.pi * jnp.asarray(FREQUENCIES, t.dtype) * t
    waves = [jnp.sin(turns), jnp.cos(turns)]
    first, second = layers
    return s(second(s(first(jnp.concatenate(waves if cond is None else [*waves, cond])))))
