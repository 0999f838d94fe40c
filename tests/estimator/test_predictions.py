"""Predictions of one column: quantiles, intervals and their scores, of a density that is known."""

import numpy as np
import pytest
from scipy import stats
from sklearn.exceptions import NotFittedError
from sklearn.metrics import mean_pinball_loss
from sklearn.model_selection import cross_val_score
from tests.flows.conditional_normal import conditional_normal

from jaxflow import calibration_curve, crps
from jaxflow.estimator import ConditionalFlowDensity
from jaxflow.runtime.precision import cast_floats

RNG = np.random.default_rng(0)
Y = RNG.uniform(-1.0, 1.0, 200)
TARGET = 2 * Y + 0.5 * RNG.normal(size=200)
X = TARGET[:, None]


class Known(ConditionalFlowDensity):
    """Its fit is `x | y ~ N(2 y, 0.5^2)`, in float32."""

    def fit(self, X, y, sample_weight=None):
        self.flow_ = cast_floats(conditional_normal(), "float32")
        self.n_features_in_ = X.shape[1]
        self.n_conditions_in_ = 1
        return self


@pytest.fixture(scope="module")
def density():
    return Known().fit(X, Y)


def test_quantiles_come_one_column_a_level_in_the_order_asked_for(density):
    levels = [0.9, 0.001, 0.5, 0.999]
    x = density.predict_quantile(Y, levels)
    assert x.shape == (200, 4)
    assert x.dtype == np.float64
    exact = 2 * Y[:, None] + 0.5 * stats.norm.ppf(levels)
    np.testing.assert_allclose(x, exact, atol=1e-5)
    np.testing.assert_array_equal(density.predict_quantile(Y[:, None], 0.5), x[:, 2])
    for column, level in zip(x.T, levels, strict=True):
        np.testing.assert_allclose(density.cdf(column[:, None], Y), level, atol=1e-5)


def test_quantiles_rise_with_levels_that_hardly_differ(density):
    levels = 0.3 + 1e-13 * RNG.permutation(20)
    x = density.predict_quantile(Y[:10], levels)
    assert (np.diff(x[:, np.argsort(levels)], axis=1) >= 0).all()


def test_intervals_are_central_and_right_to_one_percent(density):
    ends = density.predict_interval(Y, 0.8)
    half = 0.5 * stats.norm.ppf(0.9)
    np.testing.assert_allclose(ends.mean(axis=1), 2 * Y, atol=1e-5)
    np.testing.assert_allclose(ends[:, 1] - ends[:, 0], 2 * half, rtol=1e-2)
    wide = density.predict_interval(Y[:3])
    np.testing.assert_allclose(np.diff(wide), stats.norm.ppf(0.95), rtol=1e-5)


def test_scores_are_those_of_the_flow(density):
    np.testing.assert_array_equal(density.crps(X, Y), crps(density.flow_, X, Y[:, None]))
    # The mean score of a normal distribution about its own samples is sigma / sqrt(pi).
    assert density.crps(X, Y).mean() == pytest.approx(0.5 / np.pi**0.5, rel=0.1)
    levels, observed = density.calibration_curve(X, Y, [0.1, 0.6])
    np.testing.assert_array_equal(levels, [0.1, 0.6])
    shares = calibration_curve(density.flow_, X, Y[:, None], levels)[1]
    np.testing.assert_array_equal(observed, shares)
    assert len(density.calibration_curve(X, Y)[0]) == 19


def test_pinball_losses_of_scikit_learn_take_the_quantiles(density):
    loss = mean_pinball_loss(TARGET, density.predict_quantile(Y, 0.9), alpha=0.9)
    # At the true quantile the mean loss is sigma times the density of N(0, 1) there.
    assert loss == pytest.approx(0.5 * stats.norm.pdf(stats.norm.ppf(0.9)), rel=0.15)

    def scorer(estimator, X, y):
        return -mean_pinball_loss(X[:, 0], estimator.predict_quantile(y, 0.9), alpha=0.9)

    scores = cross_val_score(Known(), X, Y, scoring=scorer, cv=4)
    assert -scores.mean() == pytest.approx(loss)


def test_several_columns_have_no_quantiles():
    plane = Known().fit(np.zeros((5, 2)), np.zeros(5))
    for name, args in (
        ("predict_quantile", ([0.0], 0.5)),
        ("cdf", ([[0.0, 0.0]], [0.0])),
        ("crps", ([[0.0, 0.0]], [0.0])),
        ("calibration_curve", ([[0.0, 0.0]], [0.0])),
    ):
        message = rf"{name} predicts one number, .* X of 2 columns: write fit\(X\[:, \[0\]\], y\)"
        with pytest.raises(ValueError, match=message):
            getattr(plane, name)(*args)


def test_what_cannot_be_predicted_is_refused(density):
    with pytest.raises(NotFittedError):
        ConditionalFlowDensity().predict_quantile(Y, 0.5)
    for q, message in (
        (1.0, "q holds 1; a level must lie strictly between 0 and 1"),
        ([0.5, -0.1], "q holds -0.1"),
        ([[0.5]], r"q has shape \(1, 1\); give a number or a list"),
    ):
        with pytest.raises(ValueError, match=message):
            density.predict_quantile(Y, q)
    with pytest.raises(ValueError, match="level holds 90"):
        density.predict_interval(Y, 90)
    with pytest.raises(ValueError, match=r"level=\[0.5\] must be a number"):
        density.predict_interval(Y, [0.5])
    with pytest.raises(ValueError, match="y has 2 columns; Known was fitted with 1"):
        density.predict_quantile(np.zeros((3, 2)), 0.5)
    with pytest.raises(ValueError, match="y has 3 rows and X has 200"):
        density.cdf(X, Y[:3])
