"""Solves by diffrax, for its methods and its gradients.

Its implicit solvers serve stiff fields: `ODE(solver=diffrax.Kvaerno5())`. Tolerances apply as in
jaxflow's own solvers: the worst row decides.
"""

import sys
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from jaxflow.ode.controller import worst_row
from jaxflow.ode.integrate import VectorField, right_side
from jaxflow.ode.methods import as_diffrax
from jaxflow.ode.parameters import lift_closure
from jaxflow.ode.settings import ODE, Adjoint, Direct
from jaxflow.ode.status import Stats, Status, all_finite
from jaxflow.ode.step import State
from jaxflow.runtime.precision import widest_dtype


def solve_diffrax(
    f: VectorField, y0: State, t0: Array, t1: Array, args: Any, ode: ODE
) -> tuple[State, Stats]:
    """Solve from `t0` to `t1` by diffrax.

    `Adjoint` is its BacksolveAdjoint, `Direct` its DirectAdjoint, any other gradient its
    RecursiveCheckpointAdjoint.
    """
    solver = as_diffrax(ode.solver)
    import diffrax

    f, args = lift_closure(f, t0, y0, args)

    def field(s: Any, y: State, inputs: Any) -> State:
        return right_side(f, *inputs)(s, y)[0]

    dtype = widest_dtype(y0)
    controller: Any
    if ode.adaptive:
        max_steps = ode.max_steps
        controller = diffrax.PIDController(
            rtol=ode.rtol,
            atol=ode.atol,
            norm=worst_row,
            dtmin=4.0 * float(jnp.finfo(dtype).eps),
            dtmax=ode.max_step,
            force_dtmin=False,
        )
    else:
        assert ode.num_steps is not None  # `with_num_steps` has replaced `dt`
        max_steps = ode.num_steps
        controller = diffrax.StepTo(jnp.linspace(0.0, 1.0, max_steps + 1, dtype=dtype))
    adjoint: Any = {
        Adjoint: diffrax.BacksolveAdjoint,
        Direct: diffrax.DirectAdjoint,
    }.get(type(ode.gradient), diffrax.RecursiveCheckpointAdjoint)
    solution = diffrax.diffeqsolve(
        diffrax.ODETerm(field),
        solver,
        t0=jnp.zeros((), dtype),
        t1=jnp.ones((), dtype),
        dt0=None,
        y0=y0,
        args=(t0, t1, args),
        stepsize_controller=controller,
        adjoint=adjoint(),
        max_steps=max_steps,
        throw=False,
    )
    assert solution.ys is not None
    y1 = jax.tree.map(lambda leaf: leaf[-1], solution.ys)
    return y1, _counts(solution, y1, solver)


def _counts(solution: Any, y1: State, solver: Any) -> Stats:
    """Counts, in normalised time; without the iterations of implicit methods."""
    results = sys.modules["diffrax"].RESULTS
    statuses = {
        "successful": Status.SUCCESS,
        "max_steps_reached": Status.MAX_STEPS,
        "max_steps_rejected": Status.MAX_STEPS,
        "dt_min_reached": Status.STEP_TOO_SMALL,
    }
    status = jnp.asarray(int(Status.NON_FINITE))
    for name, value in statuses.items():
        status = jnp.where(solution.result == getattr(results, name), int(value), status)
    status = jnp.where(all_finite(y1), status, int(Status.NON_FINITE))
    # Diffrax's tableaus leave out the first stage, at node 0.
    nodes = getattr(getattr(solver, "tableau", None), "c", ())
    names = ("num_steps", "num_accepted_steps", "num_rejected_steps")
    steps, accepted, rejected = (jnp.asarray(solution.stats[name], int) for name in names)
    return Stats(steps * (len(nodes) + 1), accepted, rejected, status, solution.ts[-1])
