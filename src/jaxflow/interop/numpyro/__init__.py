"""Flows in NumPyro: as a prior, as a likelihood, and as the posterior of a model."""

from jaxflow.runtime.extras import import_extra

import_extra("numpyro", "numpyro", "jaxflow.interop.numpyro needs NumPyro")

from jaxflow.interop.numpyro.distribution import FlowDistribution  # noqa: E402
from jaxflow.interop.numpyro.target import Target, target_of  # noqa: E402

__all__ = ["FlowDistribution", "Target", "target_of"]
