"""scikit-learn's own checks of an estimator, all but the updates of weights."""

import pytest
from sklearn.utils.estimator_checks import parametrize_with_checks

from jaxflow.estimator import FlowDensity

TINY = {"width": 4, "depth": 1, "steps": 2}


@parametrize_with_checks([FlowDensity(**TINY, objective="matching", scaling=None)])
@pytest.mark.usefixtures("two_steps", "no_updates")
def test_density(estimator, check):
    check(estimator)
