"""How much of a solve's result is rounding: errors of each step, carried along to its end.

A step rounds the state to about `eps |x|`, and the steps that follow amplify that: a field that
contracts by `exp(10)` forwards expands rounding by as much backwards. One error vector is followed
along the solve. Each step multiplies it by the flow of the linearised equation, which takes one
more evaluation of the field beside the trajectory, and adds the step's own rounding in a direction
that changes from step to step. Errors of different steps are independent and add as squares. Times
are rounded too, which changes the field by as large a share of its change over a step.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxflow.ode.integrate import Loop
from jaxflow.ode.step import RightSide

# Rounding of a number in units of its eps: a uniform error of half a unit in the last place.
UNIT = 0.25
# The field is probed beside the trajectory at this share of the step's length, and at least this
# many roundings away.
BESIDE, ROUNDINGS = 0.25, 64.0


class Rounding(NamedTuple):
    """Rounding of a row's state `(x, integrals)`, where no right side depends on the integrals.

    `error` is one likely error of `x`; `integrals` is the largest change of the integrals by the
    errors of `x` so far.
    """

    error: Float[Array, "..."]
    integrals: Float[Array, "..."]


def begin_rounding(y: Any) -> Rounding:
    """The rounding of a row's initial state."""
    x, integrals = y
    return Rounding(_roundings(x) * _signs(x, jnp.zeros((), int)), jnp.zeros_like(integrals))


def carry_rounding(rounding: Rounding, g: RightSide, before: Loop, after: Loop) -> Rounding:
    """The rounding after an attempt from `before` to `after`, by one evaluation of `g`."""
    x, integrals = before.y
    (k, slope), _ = g(before.s, before.y) if before.first is None else before.first
    h = (after.s - before.s).astype(x.dtype)
    # Replaces a divisor of 0. Its square is not 0 either: XLA may multiply two divisors.
    tiny = jnp.sqrt(jnp.finfo(x.dtype).tiny)
    size = jnp.maximum(_norm(rounding.error), tiny)
    direction = rounding.error / size
    away = jnp.maximum(BESIDE * h * _norm(k), ROUNDINGS * jnp.finfo(x.dtype).eps * _norm(x))
    away = jnp.maximum(away, tiny)
    (k_beside, slope_beside), _ = g(before.s, (x + away * direction, integrals))
    change = h * (k_beside - k) / away
    # Entries that grow at a rate of their own do so exactly, others to first order in the step.
    small = jnp.where(direction == 0, tiny, direction)
    rate = jnp.clip(change / small, -1.0, 1.0)
    old = size * (jnp.exp(rate) * direction + change - rate * direction)
    stages = jnp.abs(change) * _norm(_roundings(x))
    new = _roundings(after.y[0]) + stages + _roundings(h * k)
    integral = jnp.abs(slope_beside - slope) * (h * size / away).astype(integrals.dtype)
    if after.first is not None:
        (k_after, slope_after), _ = after.first
        new += _roundings(k_after - k)
        integral += _roundings(slope_after - slope)
    signs = _signs(x, after.accepted)
    error = jnp.hypot(old, new) * jnp.where(jnp.abs(old) > new, jnp.sign(old), signs)
    carried = Rounding(error, rounding.integrals + integral)
    accept = after.accepted > before.accepted
    return jax.tree.map(lambda new, old: jnp.where(accept, new, old), carried, rounding)


def spread(rounding: Rounding) -> tuple[Array, Array]:
    """The rounding errors of the entries of `(x, integrals)`.

    Half of the square as followed, half spread evenly over all entries: errors of the first steps
    may have grown in other directions than the one followed.
    """
    square = jnp.square(rounding.error)
    return jnp.sqrt((square + jnp.mean(square)) / 2), rounding.integrals


def _roundings(x: Array) -> Array:
    return UNIT * jnp.finfo(x.dtype).eps * jnp.abs(x)


def _norm(x: Array) -> Array:
    return jnp.sqrt(jnp.sum(jnp.square(x)))


def _signs(x: Array, count: Array) -> Array:
    """A sign for each entry of `x`, another one at each step."""
    entry = jnp.arange(x.size, dtype=jnp.uint32)
    bits = entry * jnp.uint32(2654435761) + count.astype(jnp.uint32) * jnp.uint32(2246822519)
    bits = (bits ^ (bits >> 15)) * jnp.uint32(2246822519)
    return jnp.where(bits >> 31, -1.0, 1.0).astype(x.dtype).reshape(x.shape)
