"""Distribution function and quantiles of a base in one dimension, row by row."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from jaxflow.runtime.shapes import Rows

# 1023 doublings reach the largest float64; 128 halvings leave 2^-127 of a bracket.
DOUBLINGS, HALVINGS = 1023, 128


def cdf_rows(base: Any, z: Rows) -> Float[Array, " rows"]:
    """Distribution function of each row, for a base whose events are one number.

    Raises ValueError if the base has none.
    """
    values = _call_rows(base, "cdf", z)
    if values is not None:
        return values.reshape(len(z))
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
    z = _call_rows(base, "icdf", q)
    if z is not None:
        return z
    cdf_rows(base, jnp.zeros((1, *base.event_shape), q.dtype))  # raises if there is none
    return _bisect(base, q)


def _call_rows(base: Any, method: str, rows: Array) -> Array | None:
    """A method of the base for each row; None if the base lacks it."""
    if not hasattr(base, method):
        return None
    try:
        return _jitted(base, method, rows)
    except NotImplementedError:  # some of NumPyro's distributions
        return None


@eqx.filter_jit
def _jitted(base: Any, method: str, rows: Array) -> Array:
    return jax.vmap(getattr(base, method))(rows.reshape(-1, *base.event_shape))


@eqx.filter_jit
def _bisect(base: Any, q: Array) -> Array:
    shape = base.event_shape

    def one(q: Array) -> Array:
        def cdf(z: Array) -> Array:
            return base.cdf(z.reshape(shape)).reshape(())

        def reach(sign: float) -> Array:
            """The first of `sign 2^k` beyond the quantile."""

            def is_short(end: tuple[Array, Array]) -> Array:
                z, doublings = end
                return (doublings < DOUBLINGS) & (sign * (q - cdf(z)) > 0)

            start = jnp.asarray(sign, q.dtype), jnp.asarray(0)
            return lax.while_loop(is_short, lambda end: (2 * end[0], end[1] + 1), start)[0]

        def halve(_: Any, ends: tuple[Array, Array]) -> tuple[Array, Array]:
            low, high = ends
            middle = low / 2 + high / 2
            above = cdf(middle) < q
            return jnp.where(above, middle, low), jnp.where(above, high, middle)

        low, high = lax.fori_loop(0, HALVINGS, halve, (reach(-1.0), reach(1.0)))
        return (low / 2 + high / 2).reshape(shape)

    return jax.vmap(one)(q)
