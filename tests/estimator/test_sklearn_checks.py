"""scikit-learn's own checks of an estimator, all but the updates of weights."""

import pytest
from sklearn.utils.estimator_checks import parametrize_with_checks

from jaxflow.estimator import FlowDensity

TINY = {"width": 4, "depth": 1, "steps": 2}
HELD_OUT = "expects the share of the training rows, and the threshold comes from rows held out"
OUTLIERS = {"check_outliers_fit_predict": HELD_OUT, "check_outliers_train": HELD_OUT}


@parametrize_with_checks(
    [FlowDensity(**TINY, objective="matching", scaling=None)],
    expected_failed_checks=lambda estimator: OUTLIERS,
)
@pytest.mark.usefixtures("two_steps", "no_updates")
def test_density(estimator, check):
    check(estimator)
