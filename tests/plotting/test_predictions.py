"""The pictures of predictions show the numbers that were passed."""

import numpy as np
import pytest
from matplotlib import pyplot as plt
from scipy.stats import norm

from jaxflow import plotting

LEVELS = np.array([0.95, 0.05, 0.5, 0.25, 0.75])


@pytest.fixture
def ax():
    yield plt.subplots()[1]
    plt.close("all")


def test_reliability_draws_the_shares_by_level(ax):
    observed = np.array([0.97, 0.02, 0.5, 0.2, 0.8])
    assert plotting.reliability(LEVELS, observed, ax, num_rows=np.int64(100), label="new") is ax
    x, y = ax.lines[1].get_data()
    np.testing.assert_array_equal(x, [0.05, 0.25, 0.5, 0.75, 0.95])
    np.testing.assert_array_equal(y, [0.02, 0.2, 0.5, 0.8, 0.97])
    (band,) = ax.collections
    ends = band.get_paths()[0].vertices
    middle = ends[np.isclose(ends[:, 0], 0.5), 1]
    half = norm.ppf(0.975) * 0.05
    np.testing.assert_allclose(sorted(middle), [0.5 - half, 0.5 + half], atol=1e-5)
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["new"]


def test_a_fan_has_a_band_for_each_pair_of_levels_and_counts_what_is_inside(ax):
    x = np.array([2.0, 0.0, 1.0])
    quantiles = 10 * x[:, None] + norm.ppf(LEVELS)
    observed = 10 * x + np.array([0.0, 1.6, -1.7])
    assert plotting.fan(x, quantiles, LEVELS, ax, observed=observed) is ax
    outer, inner, points = ax.collections
    for band, q in ((outer, 0.95), (inner, 0.75)):
        ends = band.get_paths()[0].vertices
        at_one = ends[ends[:, 0] == 1.0, 1]
        np.testing.assert_allclose([at_one.min(), at_one.max()], 10 + norm.ppf([1 - q, q]))
    np.testing.assert_array_equal(points.get_offsets(), np.column_stack([x, observed]))
    (median,) = ax.lines
    np.testing.assert_allclose(median.get_data(), [[0, 1, 2], [0, 10, 20]], atol=1e-12)
    assert ax.get_title() == "66.7 % within 90 % intervals"
    labels = [text.get_text() for text in ax.get_legend().get_texts()]
    assert labels == ["90 %", "50 %", "quantile 0.5", "observed"]


def test_predictions_that_do_not_fit_are_refused(ax):
    for wrong, message in (
        (([0.5], [0.5, 0.6]), r"levels has shape \(1,\) and observed has shape \(2,\)"),
        (([], []), r"levels has shape \(0,\); give \(k\), none of them 0"),
        (([0.5], [1.5]), "observed holds 1.5 to 1.5; give shares of 1"),
        (([np.nan], [0.5]), "levels has NaN"),
    ):
        with pytest.raises(ValueError, match=message):
            plotting.reliability(*wrong, ax)
    with pytest.raises(ValueError, match="num_rows=0 must be an integer >= 1"):
        plotting.reliability([0.5], [0.5], ax, num_rows=0)
    x, quantiles = np.zeros(3), np.zeros((3, 2))
    for wrong, message in (
        ((x, quantiles, [0.5]), r"quantiles \(3, 2\) and levels \(1,\)"),
        ((x, quantiles.T, [0.1, 0.9]), r"quantiles \(2, 3\)"),
        ((x, quantiles + np.inf, [0.1, 0.9]), "quantiles has NaN or infinity in 3 of 3 rows"),
    ):
        with pytest.raises(ValueError, match=message):
            plotting.fan(*wrong, ax)
    with pytest.raises(ValueError, match=r"observed has shape \(2,\); give one a row, \(3,\)"):
        plotting.fan(x, quantiles, [0.1, 0.9], ax, observed=[0.0, 1.0])
