"""`fit_density` of a target given conditions, against densities that are known."""

import jax
import numpy as np
import pytest
from scipy import stats
from tests.diagnostics.posteriors import simulate

import jaxflow
from jaxflow.dynamics import EncodedCondition, ObservationEncoder
from jaxflow.training.folds import make_folds
from jaxflow.training.regression import predict

KEY = jax.random.key(0)
RNG = np.random.default_rng(0)


def rows(n, seed):
    rng = np.random.default_rng(seed)
    c = rng.uniform(-2, 2, size=(n, 2))
    mean, spread = 3 * c[:, 0] + 10, np.exp(0.6 * c[:, 1])
    x = mean + spread * rng.normal(size=n)
    return x[:, None], c, stats.norm.logpdf(x, mean, spread)


@pytest.fixture(scope="module")
def fitted():
    x, c, _ = rows(400, 1)
    return jaxflow.fit_density(x, c, key=KEY, columns=("y",), steps=50, width=16)


@pytest.mark.slow
def test_it_is_as_good_as_the_true_density(fitted):
    x, c, exact = rows(4000, 2)
    log_p = np.asarray(fitted.flow.log_prob(x, c))
    assert exact.mean() - log_p.mean() < 0.03
    held = fitted.comparison.mean()[0]
    assert abs(held - exact.mean()) < 0.15


def test_the_comparison_names_the_regressions(fitted):
    assert list(fitted.comparison.log_p)[:2] == ["flow", "linear regression, one spread"]
    # The spread depends on the conditions.
    gain, error = fitted.comparison.difference("linear regression, one spread")
    assert gain > 0.1 > 2 * error


def line(rows, seed):
    """A linear target with noise of one spread, and its three conditions."""
    rng = np.random.default_rng(seed)
    c = rng.normal(size=(rows, 3))
    return c @ np.array([[1.0], [-1.0], [0.5]]) + rng.normal(size=(rows, 1)), c


@pytest.mark.parametrize("seed", range(5))
def test_few_rows_of_a_line_show_nothing_but_a_line(seed):
    x, c = line(60, seed)
    folds = make_folds(np.arange(60), 5, seed, equal=False)
    seen = predict(x, c, folds, x.dtype, ("y",))
    assert seen.chosen is seen.linear


@pytest.mark.slow
def test_few_rows_of_a_line_are_left_to_the_line():
    x, c = line(60, 3)
    flow, _, comparison = jaxflow.fit_density(x, c, key=KEY, steps=25, width=8)
    assert list(comparison.log_p) == ["flow", "linear regression, one spread"]
    assert comparison.difference("linear regression, one spread")[0] > -1e-6
    assert float(flow.log_prob(*line(2000, 4)).mean()) > -1.46


@pytest.mark.slow
def test_intervals_of_new_rows_hold_their_share(fitted):
    x, c, _ = rows(2000, 3)
    ends = [jaxflow.quantile(fitted.flow, np.full(len(x), q), c) for q in (0.05, 0.95)]
    share = np.mean((ends[0] < x) & (x < ends[1]))
    assert share == pytest.approx(0.9, abs=0.025)


@pytest.mark.slow
@pytest.mark.parametrize("dim", [1, 2])
def test_a_curved_target_gets_trees_and_beats_the_line(dim):
    rng = np.random.default_rng(4)
    c = rng.uniform(-2, 2, size=(2000, 3))
    x = np.sin(3 * c[:, :dim]) * c[:, [2]] + 0.1 * rng.normal(size=(2000, dim))
    flow, _, comparison = jaxflow.fit_density(x[:1500], c[:1500], key=KEY)
    assert "regression by boosted trees" in comparison.log_p
    log_p = np.asarray(flow.log_prob(x[1500:], c[1500:]))
    line = np.linalg.lstsq(np.c_[c, np.ones(2000)], x, rcond=None)[0]
    gap = x - np.c_[c, np.ones(2000)] @ line
    linear = stats.norm.logpdf(gap[1500:], scale=gap[:1500].std(axis=0)).sum(axis=1)
    assert log_p.mean() > linear.mean() + 0.8 * dim


@pytest.mark.slow
def test_several_columns_with_two_modes_are_fitted_as_posteriors_are():
    # No regression tells on which of two moons a row is.
    theta, x = simulate("moons", 1000, 0)
    settings = {"steps": 200, "width": 32, "learning_rate": 5e-3}
    flow, history, comparison = jaxflow.fit_density(theta, x, key=KEY, **settings)
    assert isinstance(flow.field, EncodedCondition)
    assert isinstance(flow.field.encoder, ObservationEncoder)
    assert comparison.rows == "100 held-out rows, which also chose the best weights"
    assert max(history["stage"]) == 1
    assert {len(each) for each in comparison.log_p.values()} == {100}
    gain, error = comparison.difference(list(comparison.log_p)[-1])
    assert gain > 2 * error > 0


def test_a_target_that_follows_from_the_conditions_is_refused():
    c = RNG.normal(size=(50, 2))
    with pytest.raises(ValueError, match="column y of x follows from cond"):
        jaxflow.fit_density(c @ [[2.0], [1.0]], c, key=KEY, columns=("y",))


@pytest.mark.parametrize("count", [3, 8])
def test_a_few_rows_give_a_regression_with_a_ridge(count):
    x, c, _ = rows(count, 5)
    flow, history, comparison = jaxflow.fit_density(x, c[:, :1], key=KEY)
    assert np.isfinite(flow.log_prob(x, c[:, :1])).all()
    assert not history["step"]
    assert "too few to hold any out" in str(comparison)
