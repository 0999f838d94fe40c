"""Linear algebra of small matrices, without LAPACK.

A CPU's LAPACK call on a batch waits inside a thread of XLA for other threads of XLA. Two such
calls at once, in one program or in two, can therefore wait for each other forever. What runs on
each row of a flow is written here in elementary operations instead, one column at a time (Golub &
Van Loan, "Matrix Computations", 4th ed., sections 3.1, 4.2 and 5.2).
"""

from collections.abc import Callable

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

# Loops of at most so many columns are unrolled.
UNROLL = 4


def solve_lower(factor: Float[Array, "d d"], b: Float[Array, " d"]) -> Float[Array, " d"]:
    """Solve `L z = b` for the lower triangle `L` of `factor`, by forward substitution."""

    def step(rest: Array, column: tuple[Array, Array]) -> tuple[Array, Array]:
        number, entries = column
        z = rest[number] / entries[number]
        return rest - entries * z, z

    return _by_column(step, b, jnp.asarray(factor).T)[1]


def cholesky(a: Float[Array, "d d"]) -> Float[Array, "d d"]:
    """The lower triangle `L` with `L L^T = a`, for a positive definite matrix."""
    rows = jnp.arange(len(a))

    def step(rest: Array, column: tuple[Array, Array]) -> tuple[Array, Array]:
        number, _ = column
        entries = jnp.where(rows >= number, rest[:, number], 0) / jnp.sqrt(rest[number, number])
        return rest - jnp.outer(entries, entries), entries

    return _by_column(step, a, a)[1].T


def orthonormal(a: Float[Array, "d k"]) -> Float[Array, "d k"]:
    """The Q of `a = Q R` by Householder reflections, for k <= d columns of any rank."""
    rows, unit = jnp.arange(len(a)), jnp.eye(*a.shape, dtype=a.dtype)

    def reflect(v: Array, a: Array) -> Array:
        return a - 2 * jnp.outer(v, jnp.sum(v[:, None] * a, axis=0))

    def step(rest: Array, column: tuple[Array, Array]) -> tuple[Array, Array]:
        number, axis = column
        x = jnp.where(rows >= number, rest[:, number], 0)
        x = x + jnp.where(x[number] < 0, -1, 1) * _length(x) * axis
        size = _length(x)
        v = jnp.where(size > 0, x / jnp.where(size > 0, size, 1), 0)
        return reflect(v, rest), v

    _, reflections = _by_column(step, a, unit.T)
    return lax.scan(lambda q, v: (reflect(v, q), None), unit, reflections, reverse=True)[0]


def _by_column(
    step: Callable[[Array, tuple[Array, Array]], tuple[Array, Array]], carry: Array, columns: Array
) -> tuple[Array, Array]:
    """Scan over columns, given as rows, with their numbers."""
    count = len(columns)
    return lax.scan(step, carry, (jnp.arange(count), columns), unroll=count <= UNROLL)


def _length(x: Array) -> Array:
    """Euclidean length, with gradient 0 at 0."""
    square = jnp.sum(x**2)
    return jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1)), 0)
