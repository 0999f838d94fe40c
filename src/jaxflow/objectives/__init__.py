"""What training minimises: pure `(flow, x, cond, key) -> (loss, metrics)`, one a file."""

from jaxflow.objectives.couplings import OptimalTransport, Sinkhorn, Swaps, independent
from jaxflow.objectives.likelihood import MaximumLikelihood, maximum_likelihood
from jaxflow.objectives.matching import FlowMatching, LogitNormal, Power, uniform
from jaxflow.objectives.reflow import Reflow
from jaxflow.objectives.reverse_kl import ReverseKL
from jaxflow.objectives.staged import Stage, Staged

__all__ = [
    "FlowMatching",
    "LogitNormal",
    "MaximumLikelihood",
    "OptimalTransport",
    "Power",
    "Reflow",
    "ReverseKL",
    "Sinkhorn",
    "Stage",
    "Staged",
    "Swaps",
    "independent",
    "maximum_likelihood",
    "uniform",
]
