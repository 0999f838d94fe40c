"""Flows as scikit-learn estimators, with `fit`, `score_samples`, `sample` and `predict`."""

from jaxflow.runtime.extras import import_extra

import_extra("sklearn", "sklearn", "jaxflow.estimator needs scikit-learn")

from jaxflow.estimator.conditional import ConditionalFlowDensity  # noqa: E402
from jaxflow.estimator.density import FlowDensity  # noqa: E402

__all__ = ["ConditionalFlowDensity", "FlowDensity"]
