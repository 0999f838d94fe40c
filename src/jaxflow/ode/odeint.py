"""Solve one ODE: check the arguments, solve, raise if the solve failed."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import Tracer
from jax.typing import ArrayLike
from jaxtyping import Array, PyTree

from jaxflow.ode.bridge import solve_diffrax
from jaxflow.ode.checkpointed import solve_checkpointed
from jaxflow.ode.checks import (
    Time,
    as_time,
    check_field,
    check_save_at,
    check_span,
    check_state,
    check_tolerances,
)
from jaxflow.ode.derivatives import explain_forward_mode
from jaxflow.ode.direct import solve_direct
from jaxflow.ode.integrate import VectorField, lerp
from jaxflow.ode.pontryagin import solve_pontryagin
from jaxflow.ode.settings import ODE, Adjoint, Checkpointed, Direct
from jaxflow.ode.status import Stats, poison, raise_if_failed
from jaxflow.ode.step import State
from jaxflow.runtime.precision import full_precision, widest_dtype

STRATEGIES: dict[type, Callable[..., tuple[State, Stats]]] = {
    Checkpointed: solve_checkpointed,
    Adjoint: solve_pontryagin,
    Direct: solve_direct,
}


def solve(
    f: VectorField, y0: State, t0: Array, t1: Array, args: Any, ode: ODE
) -> tuple[State, Stats]:
    """The state at `t1`, differentiable as `ode.gradient` says; counts in normalised time."""
    strategy = solve_diffrax if ode.by_diffrax else STRATEGIES[type(ode.gradient)]
    return strategy(f, y0, t0, t1, args, ode)


def odeint(
    f: VectorField,
    y0: PyTree,
    t0: Time,
    t1: Time,
    args: Any = None,
    *,
    ode: ODE = ODE(),
    save_at: ArrayLike | Sequence[Any] | None = None,
) -> tuple[State, Stats]:
    """Solve `dy/dt = f(t, y, args)` from `y(t0) = y0` to `t1`, forwards or backwards in time.

    By Picard and Lindelof the solution is unique if `f` is Lipschitz in `y`, so solving from `t1`
    back to `t0` inverts the map `y0 -> y1`.

    Args:
        f: the field; takes a scalar time, the state and `args`, and returns the state's shape.
        y0: initial state, any pytree of floating-point arrays. The leading axis of a leaf counts
            rows; adaptive steps are as small as the worst row needs.
        t0: initial time.
        t1: final time; before `t0` to solve backwards.
        args: any pytree, passed to `f`. Parameters that `f` closes over have the same gradients,
            but outside jit each new function compiles again.
        ode: the method, its steps, and how gradients are computed.
        save_at: times between `t0` and `t1`, in the direction of the solve, at which to return
            the state. The solver hits them exactly; `num_steps` counts between two of them.

    Returns:
        The state at `t1`, or with `save_at` the states along a new leading axis; and the counts
        of the solve.

    Raises:
        SolveError: the solve failed and `ode.throw` is set. Under jit it is jax's runtime error
            with the same words.
        ValueError: a bad argument, before anything is computed.
        TypeError: the state is not floating-point, or the result of `f` does not match it.

    Example:
        ```python
        import jax.numpy as jnp
        from jaxflow import odeint

        y1, stats = odeint(lambda t, y, rate: -rate * y, jnp.ones(3), 0.0, 2.0, 0.5)
        ```
    """
    y0 = jax.tree.map(jnp.asarray, y0)
    check_state(y0)
    dtype = widest_dtype(y0)
    start, end = as_time(t0, "t0", dtype), as_time(t1, "t1", dtype)
    check_span(t0, t1, dtype)
    check_field(f, start, y0, args)
    check_tolerances(ode, dtype)
    times = None if save_at is None else check_save_at(save_at, start, end, dtype)
    if times is not None and ode.partial:
        raise ValueError(
            "save_at needs every solve to finish and ode.partial=True lets it stop early: leave "
            "either out"
        )
    ode = with_num_steps(ode, start, end, times)
    start, end, times = jax.tree.map(jnp.asarray, (start, end, times))
    y1, stats = _solve(f, y0, start, end, args, ode, times)
    return (raise_if_failed(y1, stats, partial=ode.partial) if ode.throw else y1), stats


def odeint_adjoint(
    f: VectorField,
    y0: PyTree,
    t0: Time,
    t1: Time,
    args: Any = None,
    *,
    ode: ODE = ODE(),
    save_at: ArrayLike | Sequence[Any] | None = None,
) -> tuple[State, Stats]:
    """`odeint` with `gradient=Adjoint()`: gradients by Pontryagin's equations, in O(1) memory.

    Arguments, results and errors are those of `odeint`; an `Adjoint(...)` in `ode` keeps its
    settings.

    Example:
        ```python
        import jax
        from jaxflow import odeint_adjoint

        jax.grad(lambda rate: odeint_adjoint(lambda t, y, r: -r * y, 1.0, 0.0, 1.0, rate)[0])(0.5)
        ```
    """
    if not isinstance(ode.gradient, Adjoint):
        ode = replace(ode, gradient=Adjoint())
    return odeint(f, y0, t0, t1, args, ode=ode, save_at=save_at)


def odeint_checkpointed(
    f: VectorField,
    y0: PyTree,
    t0: Time,
    t1: Time,
    args: Any = None,
    *,
    ode: ODE = ODE(),
    save_at: ArrayLike | Sequence[Any] | None = None,
) -> tuple[State, Stats]:
    """`odeint` with `gradient=Checkpointed()`: the exact gradient of the discrete solve.

    Arguments, results and errors are those of `odeint`.

    Example:
        ```python
        import jax
        from jaxflow import odeint_checkpointed

        jax.grad(lambda y0: odeint_checkpointed(lambda t, y, args: -y, y0, 0.0, 1.0)[0])(2.0)
        ```
    """
    ode = replace(ode, gradient=Checkpointed())
    return odeint(f, y0, t0, t1, args, ode=ode, save_at=save_at)


@explain_forward_mode()
@eqx.filter_jit
def _solve(
    f: VectorField,
    y0: State,
    t0: Array,
    t1: Array,
    args: Any,
    ode: ODE,
    times: Array | None,
) -> tuple[State, Stats]:
    # Adaptive steps are chosen by small differences, which rounded products would hide.
    f = full_precision(f) if ode.adaptive else f

    def segment(carry: tuple[State, Array], tb: Array) -> tuple[Any, tuple[State, Stats]]:
        y, ta = carry
        y, stats = solve(f, y, ta, tb, args, ode)
        stats = replace(stats, t=lerp(ta, tb, lax.stop_gradient(stats.t)))
        y = poison(y, stats.status, partial=ode.partial)
        return (y, tb), (y, stats)

    if times is None:
        return segment((y0, t0), t1)[1]
    _, (ys, each) = lax.scan(segment, (y0, t0), times)
    return ys, each.in_turn()


def with_num_steps(ode: ODE, t0: Any, t1: Any, times: Any = None) -> ODE:
    """The settings with `dt` turned into `num_steps`, also in the backward solve's settings.

    Raises ValueError if `dt` is set and a time is traced.
    """
    pieces = 1
    if isinstance(ode.gradient, Adjoint):
        pieces, backward = ode.gradient.checkpoints + 1, ode.gradient.backward
        if backward is not None:
            backward = with_num_steps(backward, t0, t1, times)
            ode = replace(ode, gradient=replace(ode.gradient, backward=backward))
    if ode.dt is None:
        return ode
    nodes = (t0, t1) if times is None else (t0, times)
    if any(isinstance(t, Tracer) for t in nodes):
        raise ValueError(
            f"dt={ode.dt} needs times that are known before tracing, to count its steps: write "
            "ODE(num_steps=...) instead"
        )
    span = float(np.max(np.abs(np.diff(np.concatenate([np.atleast_1d(t) for t in nodes])))))
    # The factor makes 0.3 / 0.1 count as 3 in any precision.
    num_steps = max(1, math.ceil(span / ode.dt * (1 - 1e-6)))
    return replace(ode, dt=None, num_steps=-(-num_steps // pieces) * pieces)
