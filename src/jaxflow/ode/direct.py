"""Gradients by differentiating the solver's own operations."""

from typing import Any

from jaxflow.ode.integrate import VectorField, adaptive, fixed, normalise
from jaxflow.ode.settings import ODE
from jaxflow.ode.status import Stats
from jaxflow.ode.step import State


def solve_direct(
    f: VectorField, y0: State, t0: Any, t1: Any, args: Any, ode: ODE
) -> tuple[State, Stats]:
    """Solve from `t0` to `t1`; differentiable as any other jax code.

    With fixed steps that is forward and reverse mode, of any order; every stage is
    remembered. With adaptive steps the loop has no fixed length and jax offers forward mode.
    """
    g = normalise(lambda t, y: (f(t, y, args), None), t0, t1)
    if ode.adaptive:
        y1, _, stats, _ = adaptive(g, y0, None, ode)
    else:
        y1, _, stats = fixed(g, y0, None, steps(ode), ode, remember=True)
    return y1, stats


def steps(ode: ODE) -> int:
    """Number of fixed steps of settings in which it is known."""
    if ode.num_steps is None:
        raise ValueError(f"{ode} does not say how many steps; give num_steps")
    return ode.num_steps
