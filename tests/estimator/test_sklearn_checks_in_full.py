"""scikit-learn's own checks of the estimators, trained as for users."""

import pytest
from sklearn.utils.estimator_checks import parametrize_with_checks
from tests.estimator.test_sklearn_checks import OUTLIERS

from jaxflow.estimator import ConditionalFlowDensity, FlowDensity

TINY = {"width": 4, "depth": 1, "steps": 2}
NEEDS_Y = "calls score_samples(X), and a conditional density has no value without y"
EXPECTED = {
    "check_methods_sample_order_invariance": NEEDS_Y,
    "check_methods_subset_invariance": NEEDS_Y,
}

pytestmark = pytest.mark.slow


@parametrize_with_checks([FlowDensity(**TINY)], expected_failed_checks=lambda estimator: OUTLIERS)
def test_density(estimator, check):
    check(estimator)


@parametrize_with_checks(
    [ConditionalFlowDensity(**TINY, objective="matching", scaling="standardise")],
    expected_failed_checks=lambda estimator: EXPECTED,
)
def test_conditional_density(estimator, check):
    check(estimator)
