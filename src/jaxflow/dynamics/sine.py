"""A sine that vectorises on CPUs, where XLA's own takes about fifteen times as long as tanh."""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

# pi as a sum of parts, the first with so few bits that their multiples are exact (Cody and
# Waite 1980, "Software Manual for the Elementary Functions").
PI_32 = (3.1414794921875, 0.00011315941810607910156, 1.9841872589410058936e-09)
PI_64 = (3.1415926218032836914, 3.1786509424591713469e-08, 1.2246467864107188502e-16)
# Degree of the Taylor series about 0; the remainder up to pi / 2 is below rounding.
DEGREE_32, DEGREE_64 = 11, 23
# A little more than pi / 2, so that no remainder is cut.
BEYOND = 1.6


@jax.custom_jvp
def sine(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """`sin(x)` to 2e-7 in float32 and 3e-16 in float64, for `|x| < 100`.

    In float32 the error is 5e-4 at 1e4; from 1e5 on, where arguments are 0.01 apart, values are
    only bounded by 1.
    """
    k = jnp.round(x / math.pi)
    return _alternating(k) * _series(x, k)


@jax.custom_jvp
def cosine(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """`cos(x)`, with the accuracy of `sine`."""
    k = jnp.round(x / math.pi - 0.5)
    return -_alternating(k) * _series(x, k + 0.5)


@sine.defjvp
def _sine_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    return sine(primals[0]), cosine(primals[0]) * tangents[0]


@cosine.defjvp
def _cosine_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    return cosine(primals[0]), -sine(primals[0]) * tangents[0]


def _alternating(k: Array) -> Array:
    """`(-1)^k`."""
    return 1 - 2 * (k - 2 * jnp.floor(k / 2))


def _series(x: Array, k: Array) -> Array:
    """`sin(x - k pi)`, accurate for `|x - k pi| <= pi / 2`."""
    wide = x.dtype == jnp.float64
    parts, degree = (PI_64, DEGREE_64) if wide else (PI_32, DEGREE_32)
    for part in parts:
        x = x - k * part
    # Beyond, where the parts of pi are too few, the series has no bound.
    x = jnp.clip(x, -BEYOND, BEYOND)
    square, total = x * x, jnp.zeros_like(x)
    for power in range(degree, 2, -2):
        sign = -1 if power % 4 == 3 else 1
        total = square * (sign / math.factorial(power) + total)
    return x + x * total
