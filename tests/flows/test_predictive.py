"""CRPS and calibration compared with closed forms and sums."""

import math

import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, stats
from tests.flows.conditional_normal import conditional_normal

from jaxflow import CNF, ODE, StandardNormal, calibration_curve, crps
from jaxflow.bases import GaussianMixture, StudentT
from jaxflow.transforms import Bounded, Chain, Dequantise, Standardise

RNG = np.random.default_rng(0)


def of_normal(z):
    """CRPS of N(0, 1), Gneiting and Raftery (2007), eq. 21 and below."""
    return z * (2 * stats.norm.cdf(z) - 1) + 2 * stats.norm.pdf(z) - math.pi**-0.5


def rounded(step, scale):
    """A flow of `step round(x / step)` with `x ~ N(0.3 scale, scale^2)`, and its distribution."""
    shift = Standardise(jnp.asarray([0.3 * scale]), jnp.asarray([2 * scale]))
    transform = Chain([Dequantise([step]), shift])
    return conditional_normal(slope=0.0, transform=transform), stats.norm(0.3 * scale, scale)


@pytest.mark.slow
def test_crps_of_a_normal_is_right_to_1e_5_standard_deviations():
    flow, y = conditional_normal(), np.linspace(-1.0, 1.0, 49)[:, None]
    z = np.linspace(-6.0, 6.0, 49)
    score = crps(flow, 2 * y + 0.5 * z[:, None], y)
    error = np.abs(score / 0.5 - of_normal(z))
    assert error.max() < 1e-5
    # Ten standard deviations away, and where the cdf is 1 in float64.
    far = crps(flow, [[5.0], [-50.0]], [[0.0], [0.0]])
    np.testing.assert_allclose(far / 0.5, of_normal(np.array([10.0, -100.0])), rtol=1e-4)


def test_crps_is_the_integral_over_the_distribution_function():
    positive = Bounded(jnp.asarray([0.0]), jnp.asarray([jnp.inf]))
    flow, law = conditional_normal(slope=0.0, transform=positive), stats.lognorm(0.5)
    x = np.array([0.2, 1.3, 6.0])
    low = [integrate.quad(lambda s: law.cdf(s) ** 2, 0.0, each)[0] for each in x]
    high = [integrate.quad(lambda s: law.sf(s) ** 2, each, np.inf)[0] for each in x]
    np.testing.assert_allclose(crps(flow, x[:, None], [0.0]), np.add(low, high), rtol=2e-4)


def still(base):
    return CNF(lambda t, x: 0 * x, base, ode_eval=ODE(solver="euler", num_steps=1))


def test_crps_of_modes_far_apart():
    scales = np.full((2, 1, 1), 0.05)
    flow = still(GaussianMixture([0.5, 0.5], [[-5.0], [5.0]], scales))
    x = np.array([0.0, 5.0, -4.9, 2.0])

    def mean(mu, sd):  # of the distance of two normals
        return mu * (2 * stats.norm.cdf(mu / sd) - 1) + 2 * sd * stats.norm.pdf(mu / sd)

    to_x = (mean(x + 5, 0.05) + mean(x - 5, 0.05)) / 2
    between = (mean(0.0, 0.05 * 2**0.5) + mean(10.0, 0.05 * 2**0.5)) / 2
    np.testing.assert_allclose(crps(flow, x[:, None]), to_x - between / 2, rtol=1e-5)


@pytest.mark.slow
def test_crps_of_heavy_tails_is_finite_only_where_its_integral_is():
    law = stats.t(1.0)
    each = [integrate.quad(lambda s: law.cdf(s) ** 2, -np.inf, end)[0] for end in (3.0, -3.0)]
    np.testing.assert_allclose(crps(still(StudentT(1.0, 1)), [[3.0]]), sum(each), rtol=2e-4)
    for freedom in (0.4, 0.5):
        assert crps(still(StudentT(freedom, 1)), [[0.0]]) == np.inf


@pytest.mark.slow
@pytest.mark.parametrize("scale", [0.1, 0.3, 2.0])
def test_crps_on_a_grid_is_the_sum_over_its_points(scale):
    flow, law = rounded(1.0, scale)
    x = np.array([-7.0, -1.0, 0.0, 1.0, 3.0])
    k = np.arange(-60, 61)
    exact = np.sum((law.cdf(k + 0.5) - (k >= x[:, None])) ** 2, axis=1)
    score = crps(flow, x[:, None], [0.0])
    np.testing.assert_allclose(score, exact, atol=1e-7)


def test_crps_on_a_fine_grid_is_that_of_the_density():
    flow, law = rounded(0.01, 1.0)
    x = np.array([-2.5, 0.0, 0.31])
    k = 0.01 * np.arange(-900, 901)
    exact = 0.01 * np.sum((law.cdf(k + 0.005) - (k >= x[:, None] - 0.005)) ** 2, axis=1)
    np.testing.assert_allclose(crps(flow, x[:, None], [0.0]), exact, atol=1e-4)


def test_observed_shares_are_the_levels_of_calibrated_predictions():
    flow = conditional_normal()
    y = RNG.normal(size=(1000, 1))
    x = 2 * y + 0.5 * RNG.normal(size=(1000, 1))
    levels, observed = calibration_curve(flow, x, y)
    np.testing.assert_allclose(levels, np.arange(1, 20) / 20)
    z = (x - 2 * y) / 0.5
    np.testing.assert_array_equal(observed, np.mean(z <= stats.norm.ppf(levels), axis=0))
    # Too wide by a factor of two, the share below a quantile is that of twice its score.
    _, wide = calibration_curve(flow, y * 2 + (x - 2 * y) / 2, y, levels=[0.25, 0.9])
    expected = stats.norm.cdf(2 * stats.norm.ppf([0.25, 0.9]))
    np.testing.assert_allclose(wide, expected, atol=4 * 0.5 / 1000**0.5)


def test_a_point_of_a_grid_counts_by_the_part_below_the_level():
    flow, law = rounded(1.0, 0.6)
    k = np.arange(-4, 6)
    share = np.diff(law.cdf(np.append(k, 6) - 0.5))
    counts = np.round(2_000 * share).astype(int)
    x = np.repeat(k, counts).astype(float)[:, None]
    levels = np.array([0.01, 0.3, 0.5, 0.99])
    _, observed = calibration_curve(flow, x, [0.0], levels)
    np.testing.assert_allclose(observed, levels, atol=1e-3)


def test_what_cannot_be_scored_is_refused_by_name():
    flow, _ = rounded(1.0, 1.0)
    with pytest.raises(ValueError, match="1 values off the grid of step 1"):
        crps(flow, [[0.0], [0.5]], [0.0])
    with pytest.raises(ValueError, match="x has no rows"):
        calibration_curve(flow, np.zeros((0, 1)), np.zeros((0, 1)))
    with pytest.raises(ValueError, match="levels holds 1; a level must lie strictly"):
        calibration_curve(flow, [[0.0]], [0.0], levels=[0.5, 1.0])
    plane = CNF(lambda t, x: -x, StandardNormal(2))
    with pytest.raises(ValueError, match=r"events of shape \(2,\)"):
        crps(plane, [[0.0, 0.0]])
    assert crps(flow, np.zeros((0, 1)), np.zeros((0, 1))).shape == (0,)
