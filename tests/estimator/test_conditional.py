"""Conditional densities with scikit-learn's interface."""

import pickle

import jax
import numpy as np
import pandas as pd
import polars as pl
import pytest

from jaxflow.estimator import ConditionalFlowDensity

TINY = {"width": 8, "depth": 1, "steps": 4, "objective": "matching", "scaling": "standardise"}
RNG = np.random.default_rng(0)
Y = RNG.normal(size=60)
X = np.column_stack([2.0 * Y, -Y]) + 0.1 * RNG.normal(size=(60, 2))


@pytest.fixture(scope="module")
def fitted(two_steps, no_updates):
    return ConditionalFlowDensity(**TINY, random_state=0).fit(X, Y)


def test_scores_are_the_flows_given_the_conditions(fitted):
    cond = Y[:, None].astype(np.float32)
    with jax.enable_x64(False):
        expected = fitted.flow_.log_prob(X, cond)
    np.testing.assert_array_equal(fitted.score_samples(X, Y), expected)
    np.testing.assert_array_equal(fitted.score_samples(X, cond), fitted.score_samples(X, Y))
    assert fitted.score(X, Y) == pytest.approx(fitted.score_samples(X, Y).mean())
    assert fitted.n_conditions_in_ == 1


def test_scores_of_counts_are_densities_per_unit(two_steps, no_updates, tmp_path):
    counts = 10.0 * np.random.default_rng(1).poisson(np.exp(0.5 * Y))[:, None]
    density = ConditionalFlowDensity(**TINY | {"scaling": "auto"}, random_state=0).fit(counts, Y)
    assert density.grid_ == [10.0]
    per_unit = density.score_samples(counts, Y)
    mass = density.set_params(discrete="mass").score_samples(counts, Y)
    np.testing.assert_allclose(mass - per_unit, np.log(10), rtol=1e-5)
    # Probabilities, whatever the field: the mean density of each cell, not that in its middle.
    grid = np.arange(-100.0, 400.0, 10.0)[:, None]
    for condition in (-1.0, 0.3, 2.0):
        log_p = density.score_samples(grid, np.full(len(grid), condition))
        # Two steps of the solver.
        assert np.exp(log_p).sum() == pytest.approx(1.0, abs=5e-3)
    density.save(tmp_path / "counts")
    assert ConditionalFlowDensity.load(tmp_path / "counts").grid_ == [10.0]


def test_a_sample_for_each_condition(fitted, tmp_path):
    drawn = fitted.sample(Y[:7], random_state=1)
    assert drawn.shape == (7, 2)
    again = pickle.loads(pickle.dumps(fitted))
    np.testing.assert_array_equal(again.sample(Y[:7], random_state=1), drawn)
    fitted.save(tmp_path / "flow")
    loaded = ConditionalFlowDensity.load(tmp_path / "flow")
    np.testing.assert_array_equal(loaded.score_samples(X, Y), fitted.score_samples(X, Y))


@pytest.mark.parametrize(
    ("y", "match"),
    [
        (None, "requires y to be passed"),
        (Y[:59], "y has 59 rows and X has 60"),
        (np.where(np.arange(60) == 8, np.nan, Y), "y has NaN or infinity in 1 of 60 rows: rows 8"),
        (["red"] * 60, "could not convert string to float"),
    ],
)
def test_conditions_that_do_not_fit_are_refused(y, match):
    with pytest.raises(ValueError, match=match):
        ConditionalFlowDensity(**TINY).fit(X, y)


@pytest.mark.parametrize("frame", [pd.DataFrame, pl.DataFrame])
def test_conditions_are_compared_by_name(two_steps, no_updates, tmp_path, frame):
    cond = {"a": Y, "b": Y**2}
    density = ConditionalFlowDensity(**TINY, random_state=0).fit(X[:, :1], frame(cond))
    density.save(tmp_path / "flow")
    swapped = frame({"b": cond["b"], "a": cond["a"]})
    for each in (
        density,
        pickle.loads(pickle.dumps(density)),
        ConditionalFlowDensity.load(tmp_path / "flow"),
    ):
        assert each.condition_names_in_ == ["a", "b"]
        expected = each.score_samples(X[:, :1], np.column_stack([*cond.values()]))
        np.testing.assert_array_equal(each.score_samples(X[:, :1], frame(cond)), expected)
        for call in (
            lambda y, each=each: each.score_samples(X[:, :1], y),
            lambda y, each=each: each.score(X[:, :1], y),
            lambda y, each=each: each.sample(y),
            lambda y, each=each: each.predict_quantile(y, 0.5),
            lambda y, each=each: each.predict_interval(y),
            lambda y, each=each: each.cdf(X[:, :1], y),
            lambda y, each=each: each.crps(X[:, :1], y),
            lambda y, each=each: each.calibration_curve(X[:, :1], y),
        ):
            for wrong in (swapped, frame({"a": Y, "c": Y})):
                with pytest.raises(
                    ValueError, match=r"y has the columns .* in this order: y\[\['a', 'b'\]\]"
                ):
                    call(wrong)
    density.fit(X[:, :1], Y)
    assert density.condition_names_in_ is None


def test_other_conditions_than_fitted_are_refused(fitted):
    with pytest.raises(ValueError, match=r"y has 2 columns; .* was fitted with 1"):
        fitted.sample(np.ones((3, 2)))
