"""Continuous-time normalizing flows in JAX, with likelihoods you can trust."""

from jaxflow import bases, diagnostics, diffusion, dynamics, objectives, transforms
from jaxflow.bases import DiagonalNormal, FlowBase, GaussianMixture, StandardNormal, StudentT
from jaxflow.cells import log_mass
from jaxflow.checkpoint import load, save
from jaxflow.continuity import augmented_dynamics
from jaxflow.devices import use_devices
from jaxflow.discrete import CouplingFlow
from jaxflow.flow import CNF
from jaxflow.flow_map import FlowMap
from jaxflow.importance import ImportanceSample, importance_sample
from jaxflow.ode import (
    ODE,
    SolveError,
    Stats,
    Status,
    odeint,
    odeint_adjoint,
    odeint_checkpointed,
    odeint_many,
)
from jaxflow.placement import rows_mesh
from jaxflow.processes import ProcessLostError, join_processes
from jaxflow.trace import Hutchinson, HutchPlusPlus, XTrace, exact_trace, hutchinson_trace
from jaxflow.training import TrainConfig, TrainingError, distil, fit, fit_classifier, fit_noise

__version__ = "0.1.0"

__all__ = [
    "CNF",
    "ODE",
    "CouplingFlow",
    "DiagonalNormal",
    "FlowBase",
    "FlowMap",
    "GaussianMixture",
    "HutchPlusPlus",
    "Hutchinson",
    "ImportanceSample",
    "ProcessLostError",
    "SolveError",
    "StandardNormal",
    "Stats",
    "Status",
    "StudentT",
    "TrainConfig",
    "TrainingError",
    "XTrace",
    "augmented_dynamics",
    "bases",
    "diagnostics",
    "diffusion",
    "distil",
    "dynamics",
    "exact_trace",
    "fit",
    "fit_classifier",
    "fit_noise",
    "hutchinson_trace",
    "importance_sample",
    "join_processes",
    "load",
    "log_mass",
    "objectives",
    "odeint",
    "odeint_adjoint",
    "odeint_checkpointed",
    "odeint_many",
    "rows_mesh",
    "save",
    "transforms",
    "use_devices",
]
