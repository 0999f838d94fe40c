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

Pontryagin et al. (1962), "The Mathematical Theory of Optimal Processes"; Chen et al. (2018),
"Neural Ordinary Differential Equations", arXiv 1806.07366.
"""

from dataclasses import replace
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array

from jaxflow.ode.closure import refuse_closed_over_tracers
from jaxflow.ode.direct import solve_direct, steps
from jaxflow.ode.integrate import VectorField, adaptive, fixed, normalise
from jaxflow.ode.settings import ODE
from jaxflow.ode.status import Stats, poison, raise_if_failed
from jaxflow.ode.step import State
from jaxflow.precision import widest


def solve_pontryagin(
    f: VectorField, y0: State, t0: Array, t1: Array, args: Any, ode: ODE
) -> tuple[State, Stats]:
    """Solve from `t0` to `t1`; reverse-mode gradients come from the adjoint equations."""
    refuse_closed_over_tracers(f, t0, y0, args)
    # theta is what has a gradient; integers, keys and functions in args ride along.
    theta, rest = eqx.partition(args, eqx.is_inexact_array)
    constants, static = eqx.partition(rest, eqx.is_array)
    backwards = backward_settings(ode)

    def f_of(t: Array, y: State, theta: Any, constants: Any) -> State:
        return f(t, y, eqx.combine(theta, constants, static))

    @jax.custom_vjp
    def solve(y0: State, t0: Array, t1: Array, theta: Any, constants: Any) -> tuple[State, Stats]:
        return solve_direct(f, y0, t0, t1, eqx.combine(theta, constants, static), ode)

    def forward(y0: State, t0: Array, t1: Array, theta: Any, constants: Any) -> Any:
        y1, stats = solve(y0, t0, t1, theta, constants)
        return (y1, stats), (y0, y1, t0, t1, theta, constants)

    def backward(residuals: Any, cotangents: Any) -> Any:
        y0, y1, t0, t1, theta, constants = residuals
        a1, _ = cotangents

        def adjoint(t: Array, state: State) -> tuple[State, State]:
            y, a = state
            dy, vjp = jax.vjp(lambda y, theta: f_of(t, y, theta, constants), y, theta)
            a_df_dy, a_df_dtheta = vjp(a)
            return (dy, negative(a_df_dy)), negative(a_df_dtheta)

        g = normalise(adjoint, t1, t0)
        zeros = jax.tree.map(jnp.zeros_like, theta)
        if backwards.adaptive:
            (_, a0), a_theta, stats, _ = adaptive(g, (y1, a1), zeros, backwards)
        else:
            (_, a0), a_theta, stats = fixed(
                g, (y1, a1), zeros, steps(backwards), backwards, remember=True
            )
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


def backward_settings(ode: ODE) -> ODE:
    """Settings of the backward solve."""
    return ode if ode.backward is None else replace(ode.backward, throw=ode.throw)


def negative(tree: State) -> State:
    """Minus every leaf."""
    return jax.tree.map(jnp.negative, tree)


def inner(a: State, b: State) -> Array:
    """Sum of the products of all entries of two states of one structure."""
    products = jax.tree.leaves(jax.tree.map(lambda a, b: jnp.sum(a * b), a, b))
    dtype = widest(products)
    return jnp.sum(jnp.stack([product.astype(dtype) for product in products]))
