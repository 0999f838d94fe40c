"""Base densities: the distribution of a flow at `t = 0`.

A base (`Base`) has `event_shape`, `log_prob(x)` of one event and `sample(key)` of one event.
The distributions of NumPyro, distrax and TensorFlow Probability will do, and for evaluation
frozen ones of scipy.
"""

from jaxflow.bases.fitted import FlowBase
from jaxflow.bases.frozen import ScipyBase
from jaxflow.bases.independent import Independent
from jaxflow.bases.mixture import GaussianMixture
from jaxflow.bases.normal import DiagonalNormal, StandardNormal
from jaxflow.bases.on_manifold import UniformOn, WrappedNormal
from jaxflow.bases.protocol import (
    Base,
    as_base,
    check_base,
    log_prob_rows,
    sample_rows,
)
from jaxflow.bases.quantile import cdf_rows, icdf_rows
from jaxflow.bases.seeded import SeededBase
from jaxflow.bases.student import StudentT

__all__ = [
    "Base",
    "DiagonalNormal",
    "FlowBase",
    "GaussianMixture",
    "Independent",
    "ScipyBase",
    "SeededBase",
    "StandardNormal",
    "StudentT",
    "UniformOn",
    "WrappedNormal",
    "log_prob_rows",
    "sample_rows",
]
