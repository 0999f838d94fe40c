"""Objectives: what `fit` minimises, as pure functions `(flow, x, cond, key) -> (loss, metrics)`.

`jaxflow.objectives.protocol` describes the call, for objectives and training loops of your own.
"""

from jaxflow.objectives.couplings import OptimalTransport, Sinkhorn, Swaps, independent
from jaxflow.objectives.denoising import Denoising, balanced, likelihood_weight, simple
from jaxflow.objectives.likelihood import MaximumLikelihood, maximum_likelihood
from jaxflow.objectives.matching import FlowMatching
from jaxflow.objectives.reflow import Reflow
from jaxflow.objectives.reverse_kl import ReverseKL
from jaxflow.objectives.staged import Stage, Staged
from jaxflow.objectives.times import LogitNormal, Power, uniform

__all__ = [
    "Denoising",
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
    "balanced",
    "independent",
    "likelihood_weight",
    "maximum_likelihood",
    "simple",
    "uniform",
]
