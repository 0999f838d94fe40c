"""Gradients by automatic differentiation of the solver's own operations."""

from typing import Any

from jaxtyping import Array

from jaxflow.ode.derivatives import forward_only
from jaxflow.ode.integrate import VectorField, integrate, right_side
from jaxflow.ode.settings import ODE
from jaxflow.ode.status import Stats
from jaxflow.ode.step import State


def solve_direct(
    f: VectorField, y0: State, t0: Array, t1: Array, args: Any, ode: ODE
) -> tuple[State, Stats]:
    """Solve from `t0` to `t1`; with adaptive steps jax offers forward mode only."""
    y1, _, stats = integrate(right_side(f, t0, t1, args), y0, None, ode, remember=True)
    return forward_only((y1, stats)) if ode.adaptive else (y1, stats)
