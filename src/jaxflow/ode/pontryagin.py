"""Gradients by Pontryagin's adjoint equations, solved backwards in time.

For a loss `L(y(t1))` and `dy/dt = f(t, y, theta)`, the adjoint `a(t) = dL/dy(t)` obeys

```
da/dt       = -a^T df/dy,                        a(t1) = dL/dy(t1)
dL/dtheta   = -int_t1^t0 a^T df/dtheta dt        (a quadrature: nothing depends on it)
dL/dt1      =  a(t1)^T f(t1, y(t1)),   dL/dt0 = -a(t0)^T f(t0, y(t0))
```

Only `(y, a)` are integrated, from `t1` back to `t0`, so memory does not grow with the number
of steps. The error norm ignores the quadrature for `theta` (Kidger, Chen and Lyons 2021, "Hey,
that's not an ODE", arXiv 2009.09457).

If `f` contracts, the backward solve expands: its `y` drifts away from the forward solution, and
the gradient is then that of another trajectory. So the two are compared at `t0`, and a drift is a
failure. `Adjoint(checkpoints=...)` splits the interval into pieces and stores the state at the
start of each; the backward solve of a piece starts from the stored state.

Pontryagin et al. (1962), "The Mathematical Theory of Optimal Processes"; Chen et al. (2018),
"Neural Ordinary Differential Equations", arXiv 1806.07366.
"""

from dataclasses import replace
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool

from jaxflow.ode.controller import worst_row
from jaxflow.ode.derivatives import once
from jaxflow.ode.direct import solve_direct
from jaxflow.ode.integrate import VectorField, integrate, lerp, normalise
from jaxflow.ode.parameters import Inputs, lift_closure, split_args
from jaxflow.ode.settings import ODE, Adjoint, Direct
from jaxflow.ode.status import Stats, Status, poison, raise_if_failed
from jaxflow.ode.step import State
from jaxflow.runtime.precision import widest_dtype

# The backward solve may miss the initial state by this share of its largest row.
DRIFT = 0.1


def solve_pontryagin(
    f: VectorField, y0: State, t0: Array, t1: Array, args: Any, ode: ODE
) -> tuple[State, Stats]:
    """Solve from `t0` to `t1`; reverse-mode gradients come from the adjoint equations."""
    f, args = lift_closure(f, t0, y0, args)
    theta, constants, static = split_args(args)
    return _solve(f, static, ode, Inputs(y0, t0, t1, theta, constants))


@partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def _solve(f: VectorField, static: Any, ode: ODE, inputs: Inputs) -> tuple[State, Stats]:
    return _forward(f, static, ode, inputs)[0]


def _forward(
    f: VectorField, static: Any, ode: ODE, inputs: Inputs
) -> tuple[tuple[State, Stats], Any]:
    """The solve, and the state at the start of each piece for the backward one."""
    y0, t0, t1, theta, constants = inputs
    args = eqx.combine(theta, constants, static)
    num = adjoint_of(ode).checkpoints + 1
    settings = piece_settings(ode, num)

    def solve_piece(y: State, i: Array) -> tuple[State, tuple[State, Stats]]:
        start, stop = piece_ends(i, num, t0, t1)
        y1, stats = solve_direct(f, y, start, stop, args, settings)
        stats = replace(stats, t=(i + stats.t) / num)
        return poison(y1, stats.status, partial=ode.partial), (y, stats)

    y1, (starts, each) = lax.scan(solve_piece, y0, jnp.arange(num, dtype=t0.dtype))
    return once((y1, each.in_turn())), (starts, y1, inputs)


def _backward(
    f: VectorField, static: Any, ode: ODE, residuals: Any, cotangents: Any
) -> tuple[Inputs]:
    starts, y1, (_, t0, t1, theta, constants) = residuals
    a1, gradient = cotangents[0], adjoint_of(ode)
    num, backward = gradient.checkpoints + 1, gradient.backward
    settings = ode if backward is None else replace(backward, throw=ode.throw)
    settings = piece_settings(settings, num)

    def field(t: Array, y: State, theta: Any) -> State:
        return f(t, y, eqx.combine(theta, constants, static))

    def adjoint(t: Array, state: State) -> tuple[State, State]:
        """Right side of `(y, a)`, and of the quadrature for theta."""
        y, a = state
        dy, vjp = jax.vjp(partial(field, t), y, theta)
        a_df_dy, a_df_dtheta = jax.tree.map(jnp.negative, vjp(a))
        return (dy, a_df_dy), a_df_dtheta

    def solve_piece(carry: tuple[State, State, Any], piece: Any) -> tuple[Any, Stats]:
        (y, a, a_theta), (i, y0) = carry, piece
        start, stop = piece_ends(i, num, t0, t1)
        g = normalise(adjoint, stop, start)
        (y, a), a_theta, stats = integrate(g, (y, a), a_theta, settings, remember=True)
        far = drifted(y, y0, settings) & (stats.status == Status.SUCCESS)
        status = jnp.where(far, int(Status.DRIFTED), stats.status)
        return (y0, a, a_theta), replace(stats, status=status)

    carry = y1, a1, jax.tree.map(jnp.zeros_like, theta)
    pieces = jnp.arange(num, dtype=t0.dtype), starts
    (y0, a0, a_theta), each = lax.scan(solve_piece, carry, pieces, reverse=True)
    stats = each.in_turn()
    a_t1 = inner(a1, field(t1, y1, theta)).astype(t1.dtype)
    a_t0 = -inner(a0, field(t0, y0, theta)).astype(t0.dtype)
    gradients = poison((a0, a_t0, a_t1, a_theta), stats.status)
    if ode.throw:
        gradients = raise_if_failed(gradients, stats, "the backward solve of odeint_adjoint")
    return (Inputs(*once(gradients), constants=None),)


_solve.defvjp(_forward, _backward)


def drifted(y: State, y0: State, ode: ODE) -> Bool[Array, ""]:
    """Whether a backward solve ended at a `y` too far from the initial state `y0`.

    The limit is a thousand relative tolerances of the largest row of `y0`, at most a tenth of
    that row, plus a hundred absolute tolerances, at most a tenth or one tolerance. It is relative
    to `y0`, since rows that grow in the forward solve would hide a drift.
    """
    off = worst_row(jax.tree.map(lambda y, y0: y - y0, y, y0))
    share = min(DRIFT, 1000 * ode.rtol) if ode.adaptive else DRIFT
    return off > share * worst_row(y0) + max(ode.atol, min(DRIFT, 100 * ode.atol))


def adjoint_of(ode: ODE) -> Adjoint:
    """The settings of the gradient; the interval has one piece more than checkpoints."""
    assert isinstance(ode.gradient, Adjoint)
    return ode.gradient


def piece_ends(i: Array, num: int, t0: Array, t1: Array) -> tuple[Array, Array]:
    """Start and end time of piece i of `num`."""
    return lerp(t0, t1, i / num), lerp(t0, t1, (i + 1) / num)


def piece_settings(ode: ODE, num: int) -> ODE:
    """Settings of the solve of one piece: its share of the fixed steps."""
    num_steps = None if ode.num_steps is None else -(-ode.num_steps // num)
    return replace(ode, num_steps=num_steps, gradient=Direct())


def inner(a: State, b: State) -> Array:
    """Sum of the products of all entries of two states of one structure."""
    products = jax.tree.leaves(jax.tree.map(lambda a, b: jnp.sum(a * b), a, b))
    dtype = widest_dtype(products)
    return jnp.sum(jnp.stack([product.astype(dtype) for product in products]))
