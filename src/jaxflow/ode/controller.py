"""Adaptive step sizes: the error norm, the first step, the PI rule."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxflow.ode.settings import ODE
from jaxflow.ode.step import RightSide, State
from jaxflow.runtime.precision import widest_dtype

# Hairer, Norsett and Wanner (1993), "Solving Ordinary Differential Equations I", II.4: take 0.9
# of the step that the estimate allows, shrink at most fivefold, grow at most tenfold.
SAFETY, SHRINK, GROW = 0.9, 0.2, 10.0
# A step whose error is this share of the tolerance saw nothing of the field, which may lie idle or
# change between the nodes: the next step is at most twice as long, and a quarter of the interval.
IDLE, IDLE_GROW, IDLE_STEP = 1e-6, 2.0, 0.25
# Gustafsson's PI exponents in the form of Hairer and Wanner (1996), IV.2: 0.7/k and 0.4/k.
INTEGRAL, PROPORTIONAL = 0.7, 0.4


def error_norm(error: State, y0: State, y1: State, ode: ODE) -> Float[Array, ""]:
    """Largest scaled error of any row: `||error / (atol + rtol max(|y0|, |y1|))||_2`.

    A row is an entry of a leaf's leading axis. A norm of at most 1 means that every row is within
    tolerance, however many rows there are. Empty states have norm 0.
    """

    def leaf(error: Array, y0: Array, y1: Array) -> Array:
        scale = ode.atol + ode.rtol * jnp.maximum(jnp.abs(y0), jnp.abs(y1))
        # An error of 0 is within any tolerance, even a tolerance of 0.
        return jnp.where(error == 0, 0, error / jnp.where(error == 0, 1, scale))

    return worst_row(jax.tree.map(leaf, error, y0, y1))


def worst_row(scaled: State) -> Float[Array, ""]:
    """Largest Euclidean norm of any row of any leaf; 0 for empty states."""

    def leaf(scaled: Array) -> Array:
        squares = jnp.square(jnp.atleast_1d(scaled))
        rows = jnp.sum(squares, axis=tuple(range(1, squares.ndim)))
        return jnp.sqrt(jnp.max(rows, initial=0.0))

    norms = [leaf(each) for each in jax.tree.leaves(scaled)]
    dtype = widest_dtype(norms)
    return jnp.max(jnp.stack([norm.astype(dtype) for norm in norms]), initial=0.0)


def first_step(
    g: RightSide, s: Float[Array, ""], y: State, k: State, ode: ODE
) -> Float[Array, ""]:
    """First step size on [0, 1] by Hairer, Norsett and Wanner (1993), II.4; one evaluation.

    Two of their fallbacks to 1e-6, here a millionth of the interval, are replaced: a right side
    that moves the state by less than its tolerance is probed at 0.1, and a state of 0 is scaled by
    the slope.
    """
    exponent = 1.0 / (ode.tableau.error_order + 1)
    size, slope = error_norm(y, y, y, ode), error_norm(k, y, y, ode)
    size = jnp.where(size < 1e-5, slope, size)
    h = jnp.where(slope < 1e-5, 0.1, 0.01 * size / jnp.maximum(slope, 1e-5))
    h = jnp.minimum(h, 1.0).astype(s.dtype)
    trial = jax.tree.map(lambda y, k: y + h.astype(y.dtype) * k, y, k)
    change = jax.tree.map(lambda new, old: new - old, g(s + h, trial)[0], k)
    curvature = error_norm(change, y, y, ode) / h
    steepest = jnp.maximum(slope, curvature)
    h1 = jnp.where(steepest <= 1e-15, 1.0, (0.01 / steepest) ** exponent)
    h = jnp.minimum(100.0 * h, h1)
    # With a non-finite right side there is no estimate: the loop then shrinks 1e-3, or fails.
    h = jnp.clip(jnp.where(jnp.isfinite(h), h, 1e-3), 1e-6, 1.0)
    # Where nothing moves there is nothing to choose a step by.
    h = jnp.where(steepest < 1e-5, jnp.minimum(h, 0.1), h)
    return limited(h, ode).astype(s.dtype)


def limited(h: Float[Array, ""], ode: ODE) -> Float[Array, ""]:
    """The step size, at most `ode.max_step`."""
    return h if ode.max_step is None else jnp.minimum(h, ode.max_step)


def next_step(
    h: Float[Array, ""], error: Float[Array, ""], previous: Float[Array, ""], ode: ODE
) -> tuple[Float[Array, ""], Bool[Array, ""]]:
    """Size of the step after one of size `h` and norm `error`, and whether that is accepted.

    PI rule: `0.9 error^(-0.7/k) previous^(0.4/k) h`, with `k = error_order + 1` and `previous`
    the norm of the last accepted step.
    """
    k = ode.tableau.error_order + 1
    accepted = error <= 1.0
    # An error of 0 would give an infinite factor; the clip needs a finite one.
    small = jnp.maximum(error, 1e-10)
    pi = SAFETY * small ** (-INTEGRAL / k) * previous ** (PROPORTIONAL / k)
    retry = SAFETY * small ** (-1.0 / k)
    factor = jnp.where(accepted, jnp.clip(pi, SHRINK, GROW), jnp.clip(retry, SHRINK, 1.0))
    longer = h * jnp.where(jnp.isfinite(factor), factor, SHRINK).astype(h.dtype)
    cautious = jnp.minimum(longer, jnp.maximum(jnp.minimum(IDLE_GROW * h, IDLE_STEP), h))
    return limited(jnp.where(error < IDLE, cautious, longer), ode), accepted
