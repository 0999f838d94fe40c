"""Distribution function and quantiles of a base in one dimension, row by row."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from jaxflow.runtime.shapes import Rows

# Doublings that pass the largest float64; halvings that leave 2^-127 of a bracket.
DOUBLINGS, HALVINGS = 1023, 128


def cdf_rows(base: Any, z: Rows) -> Float[Array, " rows"]:
    """Distribution function of each row, for a base whose events are one number.

    Raises ValueError if the base has none.
    """
    if hasattr(base, "cdf"):
        try:
            return _cdf_rows(base, z)
        except NotImplementedError:
            # Some of NumPyro's distributions.
            pass
    raise ValueError(
        f"base={base!r} has no distribution function, which quantiles need: give "
        "jaxflow.StandardNormal, DiagonalNormal, StudentT or GaussianMixture, or a base of one "
        "number with a method cdf(z)"
    )


def icdf_rows(base: Any, q: Float[Array, " rows"]) -> Rows:
    """Quantile of a base of one number at each level in (0, 1): `z` with `base.cdf(z) = q`.

    By `base.icdf` if it exists, else by bisection of `base.cdf`, to the rounding of that. Raises
    ValueError if the base has neither.
    """
    if hasattr(base, "icdf"):
        try:
            return _icdf_rows(base, q)
        except NotImplementedError:
            pass
    cdf_rows(base, jnp.zeros((1, *base.event_shape), q.dtype))
    return _bisect(base, q)


@eqx.filter_jit
def _cdf_rows(base: Any, z: Rows) -> Array:
    return jax.vmap(base.cdf)(z).reshape(len(z))


@eqx.filter_jit
def _icdf_rows(base: Any, q: Array) -> Array:
    return jax.vmap(base.icdf)(q.reshape(-1, *base.event_shape))


@eqx.filter_jit
def _bisect(base: Any, q: Array) -> Array:
    shape = base.event_shape

    def one(q: Array) -> Array:
        def cdf(z: Array) -> Array:
            return base.cdf(z.reshape(shape)).reshape(())

        def reach(sign: float) -> Array:
            """The first of `sign 2^k` beyond the quantile."""

            def short(end: tuple[Array, Array]) -> Array:
                z, doublings = end
                return (doublings < DOUBLINGS) & (sign * (q - cdf(z)) > 0)

            start = jnp.asarray(sign, q.dtype), jnp.asarray(0)
            return lax.while_loop(short, lambda end: (2 * end[0], end[1] + 1), start)[0]

        def halve(_: Any, ends: tuple[Array, Array]) -> tuple[Array, Array]:
            low, high = ends
            middle = low / 2 + high / 2
            above = cdf(middle) < q
            return jnp.where(above, middle, low), jnp.where(above, high, middle)

        low, high = lax.fori_loop(0, HALVINGS, halve, (reach(-1.0), reach(1.0)))
        return (low / 2 + high / 2).reshape(shape)

    return jax.vmap(one)(q)
