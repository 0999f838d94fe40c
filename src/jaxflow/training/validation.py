"""The validation value of a flow, and a training solver that agrees with it."""

import copy
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import numpy as np
from jaxtyping import PRNGKeyArray

from jaxflow.flows.flow import score_rows
from jaxflow.objectives.protocol import Objective
from jaxflow.ode import ODE
from jaxflow.runtime.processes import broadcast_from_first
from jaxflow.training.prepare import Problem

# Largest number of refinements of the training solver before its first step.
MAX_REFINEMENTS = 5


def validation_value(
    flow: Any, problem: Problem, objective: Objective, key: PRNGKeyArray
) -> tuple[float, float]:
    """Mean negative log-density of the validation rows, or the objective's `held_out` value.

    In nats and data units; and the mean number of field evaluations of a row.
    """
    rows = problem.validation
    weights = () if rows.weights is None else (rows.weights,)
    # The same probes at every validation, so that values are comparable.
    key = jax.random.fold_in(key, 1 << 31)
    held_out = getattr(objective, "held_out", None)
    if held_out is not None:
        return broadcast_from_first(held_out(flow, rows.cond, key, *weights)[0]), 0.0
    flow = flow.choose_probes(rows.x, rows.cond, key)
    log_p, stats = score_rows(flow, rows.x, rows.cond, key)
    mean = np.average(np.asarray(log_p, float), weights=weights[0] if weights else None)
    value = problem.offsets[1] - float(mean)
    num_evals = 0.0 if stats is None else float(np.mean(np.asarray(stats.num_evals)))
    return broadcast_from_first(value), num_evals


def refine(ode: ODE) -> tuple[ODE, str]:
    """A training solver with finer steps, and a text that names the changed setting."""
    if ode.num_steps is not None:
        changes: dict[str, Any] = {"num_steps": 2 * ode.num_steps}
    elif ode.dt is not None:
        changes = {"dt": ode.dt / 2}
    else:
        changes = {"rtol": ode.rtol / 10, "atol": ode.atol / 10}
    return replace(ode, **changes), ", ".join(f"{name}={value}" for name, value in changes.items())


def step_settings(flow: Any) -> dict[str, Any]:
    """The settings of the training solver that `refine` changes."""
    ode = getattr(flow, "ode", None)
    return {n: getattr(ode, n) for n in ("num_steps", "dt", "rtol", "atol")} if ode else {}


def with_ode(flow: Any, ode: ODE) -> Any:
    """The flow with another training solver; not checked, since `Slot`s may replace arrays."""
    flow = copy.copy(flow)
    object.__setattr__(flow, "ode", ode)
    return flow


def accurate_ode(
    ode: ODE, value_by: Callable[[ODE | None], tuple[float, float]], tolerance: float
) -> ODE:
    """Refine a training solver until its value is within `tolerance` of the evaluation solver's.

    `value_by(ode)` is `validation_value` by a solver, None being the evaluation solver.
    """
    target, _ = value_by(None)
    for _ in range(MAX_REFINEMENTS if math.isfinite(target) else 0):
        if abs(value_by(ode)[0] - target) <= tolerance:
            break
        ode, _ = refine(ode)
    return ode
