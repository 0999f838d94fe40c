"""Checks of posteriors pass the right one and find wrong ones, in closed form.

`python benchmarks/calibration.py` prints how often, over 50 seeds.
"""

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import pytest
from scipy import stats
from sklearn.linear_model import LogisticRegression
from tests.diagnostics.posteriors import LOCAL, OBSERVED, RIGHT, WRONG, Gaussian, simulate
from tests.flows.conditional_normal import conditional_normal

from jaxflow import diagnostics, plotting
from jaxflow.diagnostics import (
    Calibration,
    calibration,
    expected_coverage,
    lc2st,
    local_calibration,
    observation_check,
    predictive_check,
    rarity,
    sbc,
    tarp,
)
from jaxflow.dynamics import EncodedCondition, LocationScale, ObservationEncoder, RobustScaling
from jaxflow.runtime.keys import numpy_rng

KEY = jax.random.key(0)


def check(case, seed=0, n=300, num_draws=49, **settings):
    theta, x = simulate(case.model, n, seed)
    key = jax.random.key(seed)
    return calibration(case.posterior, theta, x, key=key, num_draws=num_draws, **settings)


def check_at(case, seed=0, n=3000, **settings):
    theta, x = simulate(case.model, n, seed)
    at = OBSERVED[case.model]
    return local_calibration(
        case.posterior, theta, x, at, key=jax.random.key(seed), num_draws=200, **settings
    )


@pytest.mark.parametrize("name", RIGHT)
def test_the_right_posterior_passes(name):
    assert check(RIGHT[name]).problems == ()
    assert check_at(RIGHT[name], n=1500).problems == ()


@pytest.mark.parametrize("name", WRONG)
def test_wrong_posteriors_are_found_and_named(name):
    case = WRONG[name]
    assert any(case.word in problem for problem in check(case).problems)


@pytest.mark.parametrize("name", ["the prior", "blurred near the observation"])
def test_what_is_wrong_at_the_observation_is_found_there(name):
    (problem,) = check_at((WRONG | LOCAL)[name]).problems
    assert "the posterior there is wrong" in problem


def test_two_moons_blurred_near_the_observation_pass_all_tests_that_average():
    case = LOCAL["blurred near the observation"]
    assert check(case).problems == ()
    found = check_at(case)
    assert found.p[0] < 0.01
    # The blur puts draws where no truth is: there the classifier sees too many.
    log_p = RIGHT["two moons"].posterior.log_prob(found.draws[0], np.zeros((200, 2)))
    assert found.excess[0][np.isneginf(log_p)].mean() > found.excess[0][log_p > 0].mean() + 0.05


def test_the_prior_passes_ranks_and_coverage_and_not_references_that_depend_on_x():
    found = check(WRONG["the prior"])
    assert [test.name for test in found.tests[2:]] == ["highest density", "random balls (TARP)"]
    np.testing.assert_array_less(0.05, found.p[:3])
    assert found.p[3] < 1e-6
    theta, _ = simulate("gaussian", 300, 0)
    draws = np.random.default_rng(99).normal(size=(300, 49, 2))
    assert tarp(theta, draws, key=KEY).problems == ()


def test_a_statistic_of_parameters_and_data_finds_the_prior():
    def log_likelihood(theta, x):
        return -jnp.sum((x - theta) ** 2) / 2

    found = check(WRONG["the prior"], statistics={"log p(x | theta)": log_likelihood})
    assert found.tests[2].name == "log p(x | theta)"
    assert found.p[2] < 1e-6
    right = check(RIGHT["gaussian"], statistics={"log p(x | theta)": log_likelihood})
    assert right.problems == ()
    for wrong in (lambda theta, x: theta, lambda theta, x: jnp.nan * theta[0]):
        with pytest.raises(ValueError, match=r"statistics\['f'\] must return one number"):
            check(RIGHT["gaussian"], n=20, num_draws=3, statistics={"f": wrong})


@pytest.mark.slow
@pytest.mark.parametrize("name", RIGHT)
def test_p_values_of_the_right_posterior_are_uniform(name):
    found = [check(RIGHT[name], seed, n=200) for seed in range(50)]
    p = np.asarray([[Calibration((t,), 0.05).p[0] for t in each.tests] for each in found])
    local = [check_at(RIGHT[name], seed, n=1000).p[0] for seed in range(50)]
    for values in (*p.T, np.asarray(local)):
        assert stats.kstest(values, "uniform").pvalue > 1e-3
        assert np.sum(values < 0.05) <= stats.binom.ppf(0.999, 50, 0.05)
    assert sum(bool(each.problems) for each in found) <= stats.binom.ppf(0.999, 50, 0.01)


@pytest.mark.slow
@pytest.mark.parametrize("name", [*WRONG, *LOCAL])
def test_wrong_posteriors_are_found_most_of_the_time(name):
    case, seeds = (WRONG | LOCAL)[name], range(1, 6)
    if name in WRONG:
        assert sum(bool(check(case, seed).problems) for seed in seeds) == 5
    found = [check_at(case, seed, n=4000, level=0.05).problems for seed in seeds]
    assert sum(map(bool, found)) >= 4


@pytest.mark.slow
@pytest.mark.parametrize("x64", [True, False])
def test_a_flow_of_the_library(x64):
    with jax.enable_x64(x64):
        rng = np.random.default_rng(0)
        theta = rng.normal(size=(200, 1))
        x = theta + rng.normal(size=(200, 1))
        right = conditional_normal(np.sqrt(0.5), 0.5)
        found = calibration(right, theta, x, key=KEY, num_draws=19)
        assert found.problems == (), found
        assert [test.name for test in found.tests] == [
            "theta 0",
            "highest density",
            "random balls (TARP)",
        ]
        narrow = conditional_normal(0.4, 0.5)
        assert "too narrow" in calibration(narrow, theta, x, key=KEY, num_draws=19).problems[0]
        local = local_calibration(right, theta, x, [[0.3], [-1.0]], key=KEY, num_draws=20)
        assert local.problems == ()
        assert local.draws.shape == (2, 20, 1)


class Mean(eqx.Module):
    """The mean of a set as its only feature."""

    features: int = eqx.field(static=True, default=1)

    def __call__(self, x):
        return x.mean(axis=0)


class OfSets(NamedTuple):
    """Normal posteriors of sets of 30, too wide at positive means and too narrow at others."""

    field: Any
    wide: float
    event_shape: tuple[int, ...] = (1,)

    def sample(self, key, shape, cond):
        mean = np.asarray(cond).mean(axis=1) * 30 / 31
        scale = np.exp(self.wide * np.sign(mean)) / np.sqrt(31)
        return mean + scale * numpy_rng(key).normal(size=mean.shape)


def test_the_encoder_of_a_posterior_summarises_sets():
    rng = np.random.default_rng(0)
    theta = rng.normal(size=(2000, 1))
    x = theta[:, None] + rng.normal(size=(2000, 30, 1))
    line = np.ones((1, 1)), np.zeros(1)
    scaling = RobustScaling.fit(x, rows=2)
    encoder = ObservationEncoder(1, scaling, (30, 1), Mean(), line=line, key=KEY)
    field = EncodedCondition(LocationScale(lambda t, y, cond=None: 0 * y), encoder)
    observed = 0.5 + np.linspace(-1.5, 1.5, 30)[:, None]

    def p(wide, **settings):
        flow = OfSets(field, wide)
        return local_calibration(flow, theta, x, observed, key=KEY, num_draws=200, **settings).p[0]

    assert p(0.3) < 0.01 < p(0.0)
    assert p(0.3, summary=lambda x: x.mean()) < 0.01
    # Of 30 entries the classifier sees too much to learn from 2,000 pairs.
    assert p(0.3, summary=lambda x: x) > 0.05


def test_truths_and_draws_meet_the_log_density_alike():
    calls = []

    class Counted(Gaussian):
        def sample(self, key, shape, cond):
            calls.append(("sample", shape))
            return super().sample(key, shape, cond)

        def log_prob(self, theta, cond):
            calls.append(("log_prob", theta.shape))
            return super().log_prob(theta, cond)

    theta, x = simulate("gaussian", 30, 0)
    calibration(Counted(), theta, x, key=KEY, num_draws=9)
    assert calls == [("sample", (30, 9)), ("log_prob", (30, 10, 2))]


def base_coordinates(wide, n, seed):
    """Truths at the base of a posterior that is too wide where x_0 > 0, and draws of the base."""
    rng = np.random.default_rng(seed + 99)
    theta, x = simulate("gaussian", n, seed)
    scale = np.exp(wide * (x[:, :1] > 0)) / np.sqrt(2)
    return (theta - x / 2) / scale, rng.normal(size=(n, 2)), x, rng.normal(size=(2, 100, 2))


def test_base_coordinates_serve_as_parameters():
    at = [[1.0, 0.0], [-1.0, 0.0]]
    z, draws, x, drawn = base_coordinates(0.5, 4000, 0)
    found = lc2st(z, draws, x, drawn, at, key=KEY)
    assert found.p[0] < 0.01 < found.p[1]
    assert "draws at observation 0" in found.problems[0]
    z, draws, x, drawn = base_coordinates(0.0, 4000, 0)
    assert lc2st(z, draws, x, drawn, at, key=KEY).problems == ()


def test_a_classifier_of_scikit_learn_may_stand_in():
    theta, x = simulate("gaussian", 300, 0)
    rng = np.random.default_rng(99)
    draws, at = theta + 0.5 + rng.normal(size=(300, 2)), rng.normal(size=(1, 50, 2)) + 0.5
    settings = {"classifier": LogisticRegression(), "key": KEY, "level": 0.05}
    shifted = lc2st(theta, draws, x, at, [[0.0, 0.0]], **settings)
    assert shifted.p[0] == pytest.approx(1 / 21)
    # Data that say nothing, and draws of the prior: the right posterior.
    prior = rng.normal(size=(300, 2))
    assert lc2st(theta, prior, rng.normal(size=(300, 1)), at, [[0.0]], **settings).p[0] > 0.05


def test_readings_and_the_table():
    theta, _ = simulate("gaussian", 300, 0)
    draws = np.random.default_rng(99).normal([0.5, 0.0], 1.0, (300, 49, 2))
    found = sbc(theta, draws, key=KEY, names=["mass", "spin"])
    (problem,) = found.problems
    assert problem.startswith("mass: too high")
    lines = str(found).splitlines()
    assert lines[0].split() == ["pairs", "300,", "with", "49", "draws", "each"]
    assert "2 p-values, corrected for their number (Holm)" in lines[1]
    assert lines[-1] == f"!! {problem}"
    # Central intervals of the second column hold what they say.
    assert found.tests[1].inside(0.9) == pytest.approx(0.9, abs=0.06)


def test_the_picture_has_the_curves_and_their_bands():
    found = check(WRONG["too wide"], names=["a", "b"])
    figure = found.plot()
    ranks, coverage = figure.axes
    assert [text.get_text() for text in ranks.get_legend().get_texts()] == ["a", "b"]
    expected, observed, low, high = found.bands(found.tests[2])
    line = coverage.lines[1]
    np.testing.assert_allclose(line.get_ydata(), observed - expected)
    assert ((observed < low) | (observed > high)).any()
    # Too wide: regions hold more truths than they say.
    assert (observed - expected).mean() > 0.05
    with pytest.raises(ValueError, match="curves is empty"):
        plotting.rank_curves({})
    local = check_at(WRONG["shifted"], n=500)
    axes = local.plot()
    drawn = np.asarray(axes.collections[0].get_offsets())
    np.testing.assert_allclose(np.sort(drawn, axis=0), np.sort(local.draws[0], axis=0))
    plt.close("all")


def test_statistics_of_the_observation_among_simulations():
    rng = np.random.default_rng(0)
    simulated = rng.normal(size=(1000, 5))
    found = predictive_check(simulated, simulated[0])
    assert found.problems == ()
    far = predictive_check(simulated, 3 * np.ones(5), {"mean": np.mean, "spread": np.std})
    (problem,) = far.problems[:1]
    assert problem.startswith("mean is 3, that of 90 % of simulations -0.7")
    np.testing.assert_allclose(far.p, [4 / 1001, far.p[1]])
    assert "!! mean is 3" in str(far)
    # Uniform for an observation from the same density.
    p = [predictive_check(simulated, rng.normal(size=5), {"x": np.sum}).p[0] for _ in range(100)]
    assert stats.kstest(p, "uniform").pvalue > 1e-3


def test_observations_unlike_the_simulations_are_found():
    rng = np.random.default_rng(0)
    # On a ring, in units that differ: nothing is at its centre, where each column is usual.
    angle = rng.uniform(0, 2 * np.pi, 1000)
    x = np.stack([np.cos(angle), 1e3 * np.sin(angle)], 1) + rng.normal(size=(1000, 2)) * [0.1, 100]
    found = observation_check(x, [[0.0, 0.0], [1.0, 0.0], [0.0, -1e3]])
    np.testing.assert_array_equal(found.p < 0.01, [True, False, False])
    (problem,) = found.problems
    assert problem.startswith("0 % of simulations are less likely than observation 0")
    assert "!! 0 %" in str(found)
    # The summary loses what makes it strange.
    assert not observation_check(x, np.zeros(2), summary=lambda x: x[0]).problems


def test_p_values_of_observations_are_uniform():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(400, 30, 1)) + rng.normal(size=(400, 1, 1))
    others = rng.normal(size=(100, 30, 1)) + rng.normal(size=(100, 1, 1))
    settings: dict[str, Any] = {"summary": lambda x: x.mean(), "components": 1, "level": 0.5}
    found = observation_check(x, others, **settings)
    p = rarity(found.log_prob, found.known)
    assert stats.kstest(p, "uniform").pvalue > 1e-2
    assert (found.p >= p).all()


def test_rarity_is_the_rank_of_a_log_density():
    np.testing.assert_allclose(
        rarity([-5.0, -1.5, 0.0, -np.inf], [-3, -2, -1]), [0.25, 0.75, 1, 0.25]
    )


THETA, X = simulate("gaussian", 30, 0)
DRAWS = np.zeros((30, 9, 2))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: sbc(THETA, DRAWS[:5], key=KEY),
            r"draws has shape \(5, 9, 2\).*give \(30, k, 2\)",
        ),
        (lambda: sbc(THETA[:, 0], DRAWS, key=KEY), r"theta has shape \(30,\); give \(n, d\)"),
        (lambda: sbc(np.nan * THETA, DRAWS, key=KEY), "theta has NaN or infinity in 30"),
        (lambda: sbc(THETA[:5], DRAWS[:5], key=KEY), "theta has 5 rows, too few"),
        (lambda: sbc(THETA, DRAWS, key=KEY, level=1.0), "level=1.0 must lie"),
        (lambda: sbc(THETA, DRAWS, key=KEY, names=["a"]), "1 names for 2 columns"),
        (lambda: tarp(THETA, DRAWS, X[:3], key=KEY), r"x has shape \(3, 2\); give 30 rows"),
        (
            lambda: tarp(THETA, DRAWS, key=KEY, references=X[:3]),
            r"references has shape \(3, 2\); give \(30, 2\)",
        ),
        (
            lambda: expected_coverage(np.full(30, np.nan), np.zeros((30, 9)), key=KEY),
            "log_prob has NaN in 30 rows, first row 0",
        ),
        (
            lambda: expected_coverage(np.zeros(30), np.zeros((3, 9)), key=KEY),
            r"log_prob_draws has shape \(3, 9\).*give \(30, k\)",
        ),
        (lambda: calibration(Gaussian(), THETA, X[:3], key=KEY), "theta has 30 rows and x has 3"),
        (lambda: calibration(Gaussian(), THETA, X[:, 0], key=KEY), r"x has shape \(30,\)"),
        (lambda: calibration(Gaussian(), THETA, X, key=KEY, num_draws=0), "num_draws=0"),
        (
            lambda: local_calibration(Gaussian(), THETA, X, [0.0], key=KEY),
            r"observed has shape \(1,\) and x has shape \(30, 2\)",
        ),
        (
            lambda: lc2st(THETA, THETA, X, DRAWS[:1], X[:1], key=KEY, exchanges=50),
            "exchanges=50 give no p-value below level=0.01 at 1 obs.*give 100",
        ),
        (
            lambda: lc2st(THETA, THETA[:4], X, DRAWS[:1], X[:1], key=KEY),
            r"draws has shape \(4, 2\).*give \(30, 2\)",
        ),
        (lambda: predictive_check(DRAWS[0], np.zeros(3)), "simulated has shape"),
        (lambda: predictive_check(DRAWS[0], np.zeros(2)), "9 data sets, too few.*give 400"),
        (
            lambda: observation_check(X, X[0]),
            "x has 30 simulations, too few for a p-value below level=0.01 of 1 obs.*give 200",
        ),
        (
            lambda: observation_check(X, np.zeros(3)),
            r"observed has shape \(3,\) and x has shape \(30, 2\)",
        ),
        (lambda: observation_check(X, X[0], components=0), "components=0"),
        (lambda: rarity(np.zeros((2, 2)), np.zeros(3)), r"log_prob has shape \(2, 2\)"),
    ],
)
def test_bad_arguments_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_the_public_names():
    assert {"calibration", "local_calibration", "sbc", "tarp", "lc2st"} <= set(diagnostics.__all__)
