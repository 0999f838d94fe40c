"""Flows: a base density carried to the data by an invertible map.

`CNF` solves an ODE, `Multiscale` one for each scale of an image, `CouplingFlow` applies layers,
`FlowMap` replaces the solve by a few network evaluations. All share the interface of `Flow`:
`log_prob`, `sample`, `sample_and_log_prob`, `encode` and `decode`. Of a `CNF` of one column,
`quantile` and `cdf` take no sampling. An `Ensemble` averages the densities of several flows,
without `encode` and `decode`.
"""

from jaxflow.flows.cnf import CNF
from jaxflow.flows.coupling import CouplingFlow
from jaxflow.flows.ensemble import Ensemble
from jaxflow.flows.export import export
from jaxflow.flows.flow import Flow
from jaxflow.flows.flow_map import FlowMap
from jaxflow.flows.importance import ImportanceSample, importance_sample
from jaxflow.flows.log_mass import MidpointWarning, log_mass
from jaxflow.flows.multiscale import Multiscale
from jaxflow.flows.predictive import calibration_curve, crps
from jaxflow.flows.quantiles import cdf, quantile

__all__ = [
    "CNF",
    "CouplingFlow",
    "Ensemble",
    "Flow",
    "FlowMap",
    "ImportanceSample",
    "MidpointWarning",
    "Multiscale",
    "calibration_curve",
    "cdf",
    "crps",
    "export",
    "importance_sample",
    "log_mass",
    "quantile",
]
