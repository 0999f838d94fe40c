"""The solver's front: checks its arguments, solves, and raises what failed."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import Tracer
from jaxtyping import Array, PyTree

from jaxflow.ode.bridge import solve_diffrax
from jaxflow.ode.checkpointed import solve_checkpointed
from jaxflow.ode.checks import (
    Time,
    as_time,
    check_field,
    check_save_at,
    check_state,
    check_tolerances,
)
from jaxflow.ode.direct import solve_direct
from jaxflow.ode.integrate import VectorField, lerp
from jaxflow.ode.pontryagin import solve_pontryagin
from jaxflow.ode.settings import ODE
from jaxflow.ode.status import Stats, poison, raise_if_failed
from jaxflow.ode.step import State
from jaxflow.runtime.precision import full_precision, widest_dtype

STRATEGIES: dict[str, Callable[..., tuple[State, Stats]]] = {
    "checkpointed": solve_checkpointed,
    "adjoint": solve_pontryagin,
    "direct": solve_direct,
}


def strategy(ode: ODE) -> Callable[..., tuple[State, Stats]]:
    """How to solve so that gradients are what the settings say."""
    return solve_diffrax if ode.by_diffrax else STRATEGIES[ode.gradient]


def odeint(
    f: VectorField,
    y0: PyTree,
    t0: Time,
    t1: Time,
    args: Any = None,
    *,
    ode: ODE = ODE(),
    save_at: Any = None,
) -> tuple[State, Stats]:
    """Solve `dy/dt = f(t, y, args)` from `y(t0) = y0` to `t1`, forwards or backwards in time.

    ```python
    y1, stats = odeint(lambda t, y, rate: -rate * y, jnp.ones(3), 0.0, 2.0, 0.5)
    ```

    By Picard and Lindelof the solution is unique where `f` is Lipschitz in `y`, so solving
    from `t1` back to `t0` inverts the map `y0 -> y1`.

    Args:
        f: the field: takes a scalar time, the state and `args`; returns the state's shape.
        y0: initial state, any pytree of floating-point arrays. With adaptive steps an entry of
            a leaf's leading axis is a row, and the worst row decides.
        t0: initial time.
        t1: final time; before `t0` to solve backwards.
        args: any pytree, handed to `f`; parameters belong here.
        ode: settings: the method, its steps, how gradients are computed.
        save_at: times between `t0` and `t1`, in the direction of the solve, at which to return
            the state. They are hit exactly. Fixed steps are `num_steps` between any two.

    Returns:
        The state at `t1`, or with `save_at` at each of its times along a new leading axis; and
        the counts of the solve.

    Raises:
        SolveError: the solve failed, and `ode.throw` is set; under jit jax's runtime error
            with the same words.
        ValueError: a bad argument, before anything is computed.
        TypeError: a state that is not floating-point, or `f` whose result does not match it.
    """
    y0 = jax.tree.map(jnp.asarray, y0)
    check_state(y0)
    dtype = widest_dtype(y0)
    start, end = as_time(t0, "t0", dtype), as_time(t1, "t1", dtype)
    check_field(f, start, y0, args)
    check_tolerances(ode, dtype)
    times = None if save_at is None else check_save_at(save_at, start, end, dtype)
    if times is not None and ode.partial:
        raise ValueError(
            "save_at needs whole solves and ode.partial=True allows half ones: leave either out"
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
    save_at: Any = None,
) -> tuple[State, Stats]:
    """`odeint` whose gradients come from Pontryagin's backward equations, in O(1) memory.

    The same call as `odeint`; `ode.backward` holds the settings of the backward solve.
    Parameters must be in `args`: a traced value that `f` closes over raises.
    See `jaxflow.ode.pontryagin` for the equations.
    """
    ode = replace(ode, gradient="adjoint")
    return odeint(f, y0, t0, t1, args, ode=ode, save_at=save_at)


def odeint_checkpointed(
    f: VectorField,
    y0: PyTree,
    t0: Time,
    t1: Time,
    args: Any = None,
    *,
    ode: ODE = ODE(),
    save_at: Any = None,
) -> tuple[State, Stats]:
    """`odeint` whose gradients are exactly those of the discrete solve.

    The same call as `odeint`. See `jaxflow.ode.checkpointed`.
    """
    ode = replace(ode, gradient="checkpointed", backward=None, checkpoints=0)
    return odeint(f, y0, t0, t1, args, ode=ode, save_at=save_at)


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
    solve = strategy(ode)
    # Steps are chosen by small differences, which rounded products would drown.
    f = full_precision(f) if ode.adaptive else f

    def between(y: State, ta: Array, tb: Array) -> tuple[State, Stats]:
        y, stats = solve(f, y, ta, tb, args, ode)
        reached = lerp(ta, tb, lax.stop_gradient(stats.t))
        stats = eqx.tree_at(lambda stats: stats.t, stats, reached)
        return poison(y, stats.status, partial=ode.partial), stats

    if times is None:
        return between(y0, t0, t1)

    def segment(carry: tuple[State, Array], tb: Array) -> tuple[Any, Any]:
        y, ta = carry
        y, stats = between(y, ta, tb)
        return (y, tb), (y, stats)

    _, (ys, each) = lax.scan(segment, (y0, t0), times)
    return ys, each.in_turn()


def with_num_steps(ode: ODE, t0: Any, t1: Any, times: Any) -> ODE:
    """Settings whose `dt` is turned into a number of steps."""
    backward = None if ode.backward is None else with_num_steps(ode.backward, t0, t1, times)
    if ode.dt is None:
        return replace(ode, backward=backward)
    nodes = (t0, t1) if times is None else (t0, times)
    if any(isinstance(t, Tracer) for t in nodes):
        raise ValueError(
            f"dt={ode.dt} needs times that are known before tracing, to count its steps: write "
            "ODE(num_steps=...) instead"
        )
    span = float(np.max(np.abs(np.diff(np.concatenate([np.atleast_1d(t) for t in nodes])))))
    # A hair off, so that 0.3 / 0.1 counts as 3 in any precision.
    num_steps = max(1, math.ceil(span / ode.dt * (1 - 1e-6)))
    num_steps = -(-num_steps // (ode.checkpoints + 1)) * (ode.checkpoints + 1)
    return replace(ode, dt=None, num_steps=num_steps, backward=backward)
