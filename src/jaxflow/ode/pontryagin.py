"""Gradients by Pontryagin's adjoint equations, solved backwards in time.

For a loss `L(y(t1))` and `dy/dt = f(t, y, theta)`, the adjoint `a(t) = dL/dy(t)` obeys

```
da/dt       = -a^T df/dy,                        a(t1) = dL/dy(t1)
dL/dtheta   = -int_t1^t0 a^T df/dtheta dt        (a quadrature: it feeds nothing back)
dL/dt1      =  a(t1)^T f(t1, y(t1)),   dL/dt0 = -a(t0)^T f(t0, y(t0))
```

Only `(y, a)` are integrated, from `t1` back to `t0`, so memory does not grow with the number
of steps. The quadrature for `theta` takes no part in the error norm (Kidger, Chen and Lyons
2021, "Hey, that's not an ODE", arXiv 2009.09457).

Where `f` contracts, going back expands: the `y` found on the way back drifts off the one of the
way there, and the gradient is then that of another trajectory. So the two are compared at `t0`,
and a drift is a failure; states kept on the way (`ode.checkpoints`) put `y` right again.

Pontryagin et al. (1962), "The Mathematical Theory of Optimal Processes"; Chen et al. (2018),
"Neural Ordinary Differential Equations", arXiv 1806.07366.
"""

from dataclasses import replace
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool

from jaxflow.ode.closure import refuse_closed_over_tracers
from jaxflow.ode.controller import worst_row
from jaxflow.ode.direct import solve_direct, steps
from jaxflow.ode.integrate import VectorField, adaptive, fixed, lerp, normalise
from jaxflow.ode.settings import ODE
from jaxflow.ode.status import Stats, Status, poison, raise_if_failed
from jaxflow.ode.step import State
from jaxflow.runtime.precision import widest_dtype

# The share of a row by which the way back may miss the way there.
DRIFT = 0.1


def solve_pontryagin(
    f: VectorField, y0: State, t0: Array, t1: Array, args: Any, ode: ODE
) -> tuple[State, Stats]:
    """Solve from `t0` to `t1`; reverse-mode gradients come from the adjoint equations."""
    refuse_closed_over_tracers(f, t0, y0, args)
    # theta is what has a gradient; integers, keys and functions in args ride along.
    theta, rest = eqx.partition(args, eqx.is_inexact_array)
    constants, static = eqx.partition(rest, eqx.is_array)

    def f_of(t: Array, y: State, theta: Any, constants: Any) -> State:
        return f(t, y, eqx.combine(theta, constants, static))

    pieces = ode.checkpoints + 1
    piece, back = in_pieces(ode, pieces), in_pieces(backward_settings(ode), pieces)

    def ends(i: Array, t0: Array, t1: Array) -> tuple[Array, Array]:
        return lerp(t0, t1, i / pieces), lerp(t0, t1, (i + 1) / pieces)

    def on_its_way(y0: State, t0: Array, t1: Array, theta: Any, constants: Any) -> Any:
        """The state at `t1`, the counts, and the state at the start of each piece."""
        args = eqx.combine(theta, constants, static)

        def go(y: State, i: Array) -> tuple[State, tuple[State, Stats]]:
            start, stop = ends(i, t0, t1)
            y1, stats = solve_direct(f, y, start, stop, args, piece)
            stats = eqx.tree_at(lambda stats: stats.t, stats, (i + stats.t) / pieces)
            return poison(y1, stats.status, partial=ode.partial), (y, stats)

        y1, (starts, each) = lax.scan(go, y0, jnp.arange(pieces, dtype=t0.dtype))
        return y1, each.in_turn(), starts

    @jax.custom_vjp
    def solve(y0: State, t0: Array, t1: Array, theta: Any, constants: Any) -> tuple[State, Stats]:
        return on_its_way(y0, t0, t1, theta, constants)[:2]

    def forward(y0: State, t0: Array, t1: Array, theta: Any, constants: Any) -> Any:
        y1, stats, starts = on_its_way(y0, t0, t1, theta, constants)
        return (y1, stats), (starts, y1, t0, t1, theta, constants)

    def backward(residuals: Any, cotangents: Any) -> Any:
        starts, y1, t0, t1, theta, constants = residuals
        a1, _ = cotangents

        def adjoint(t: Array, state: State) -> tuple[State, State]:
            y, a = state
            dy, vjp = jax.vjp(lambda y, theta: f_of(t, y, theta, constants), y, theta)
            a_df_dy, a_df_dtheta = vjp(a)
            return (dy, negative(a_df_dy)), negative(a_df_dtheta)

        def go_back(carry: Any, piece: Any) -> tuple[Any, Stats]:
            y1, a, a_theta = carry
            i, y0 = piece
            start, stop = ends(i, t0, t1)
            g = normalise(adjoint, stop, start)
            if back.adaptive:
                (y, a), a_theta, stats, _ = adaptive(g, (y1, a), a_theta, back)
            else:
                (y, a), a_theta, stats = fixed(
                    g, (y1, a), a_theta, steps(back), back, remember=True
                )
            far = drifted(y, y0, back) & (stats.status == Status.SUCCESS)
            status = jnp.where(far, int(Status.DRIFTED), stats.status)
            return (y0, a, a_theta), eqx.tree_at(lambda stats: stats.status, stats, status)

        start = y1, a1, jax.tree.map(jnp.zeros_like, theta)
        way_back = jnp.arange(pieces, dtype=t0.dtype), starts
        (y0, a0, a_theta), each = lax.scan(go_back, start, way_back, reverse=True)
        stats = each.in_turn()
        a_t1 = inner(a1, f_of(t1, y1, theta, constants))
        a_t0 = -inner(a0, f_of(t0, y0, theta, constants))
        gradients = poison(
            (a0, a_t0.astype(t0.dtype), a_t1.astype(t1.dtype), a_theta), stats.status
        )
        if ode.throw:
            gradients = raise_if_failed(gradients, stats, "the backward solve of odeint_adjoint")
        return (*gradients, None)

    solve.defvjp(forward, backward)
    return solve(y0, t0, t1, theta, constants)


def drifted(y: State, y0: State, ode: ODE) -> Bool[Array, ""]:
    """Whether a backward solve arrived at a `y` that is not the `y0` it should be.

    By a thousand relative tolerances of the largest row and at most a tenth of it, or by a
    hundred absolute ones where rows are small. The size is that of `y0`: where rows grow on
    their way, a share of what they grew to would hide any drift.
    """
    off = worst_row(jax.tree.map(lambda y, y0: y - y0, y, y0))
    share = min(DRIFT, 1000 * ode.rtol) if ode.adaptive else DRIFT
    return off > share * worst_row(y0) + 100 * ode.atol


def in_pieces(ode: ODE, pieces: int) -> ODE:
    """Settings of each of so many pieces of a solve; fixed steps are shared out."""
    num_steps = None if ode.num_steps is None else -(-ode.num_steps // pieces)
    return replace(ode, num_steps=num_steps, checkpoints=0)


def backward_settings(ode: ODE) -> ODE:
    """Settings of the backward solve."""
    return ode if ode.backward is None else replace(ode.backward, throw=ode.throw)


def negative(tree: State) -> State:
    """Minus every leaf."""
    return jax.tree.map(jnp.negative, tree)


def inner(a: State, b: State) -> Array:
    """Sum of the products of all entries of two states of one structure."""
    products = jax.tree.leaves(jax.tree.map(lambda a, b: jnp.sum(a * b), a, b))
    dtype = widest_dtype(products)
    return jnp.sum(jnp.stack([product.astype(dtype) for product in products]))
