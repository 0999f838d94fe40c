"""Base densities: the distribution of a flow at `t = 0`.

A base (`Base`) has `event_shape`, `log_prob(x)` of one event and `sample(key)` of one event.
NumPyro's distributions are bases too.
"""

from jaxflow.bases.fitted import FlowBase
from jaxflow.bases.mixture import GaussianMixture
from jaxflow.bases.normal import DiagonalNormal, StandardNormal
from jaxflow.bases.protocol import (
    Base,
    SeededBase,
    as_base,
    check_base,
    log_prob_rows,
    sample_rows,
)
from jaxflow.bases.student import StudentT

__all__ = [
    "Base",
    "DiagonalNormal",
    "FlowBase",
    "GaussianMixture",
    "SeededBase",
    "StandardNormal",
    "StudentT",
    "as_base",
    "check_base",
    "log_prob_rows",
    "sample_rows",
]
