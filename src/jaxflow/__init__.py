"""Continuous-time normalizing flows in JAX, with likelihoods you can trust."""

from jaxflow import dynamics, transforms
from jaxflow.bases import DiagonalNormal, StandardNormal
from jaxflow.continuity import augmented_dynamics
from jaxflow.flow import CNF
from jaxflow.ode import ODE, SolveError, Stats, Status, odeint, odeint_adjoint, odeint_checkpointed
from jaxflow.trace import Hutchinson, exact_trace, hutchinson_trace

__version__ = "0.1.0"

__all__ = [
    "CNF",
    "ODE",
    "DiagonalNormal",
    "Hutchinson",
    "SolveError",
    "StandardNormal",
    "Stats",
    "Status",
    "augmented_dynamics",
    "dynamics",
    "exact_trace",
    "hutchinson_trace",
    "odeint",
    "odeint_adjoint",
    "odeint_checkpointed",
    "transforms",
]
