"""Posteriors whose densities are known: limits, mass, weights, several observations."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from numpy.testing import assert_allclose
from scipy import stats
from tests.flows.conditional_normal import STEPS

from jaxflow import CNF, StandardNormal
from jaxflow.diagnostics import Calibration, sbc
from jaxflow.dynamics import EncodedCondition, LocationScale
from jaxflow.inference import (
    Likelihood,
    Posterior,
    Prior,
    as_prior,
    compose,
    importance_sample,
    truncated_prior,
)
from jaxflow.inference.rounds import posterior_proposal, proposal_weights
from jaxflow.transforms import Bounded, Dequantise

NOISE = 0.5
KEY = jax.random.key(0)


@pytest.fixture(autouse=True)
def as_for_users():
    """NumPyro promotes ranks and dtypes."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


class Line(eqx.Module):
    """`x -> (factor x, log spread)`: a normal density about a multiple of the condition."""

    factor: float = eqx.field(static=True)
    spread: float = eqx.field(static=True)
    shape: tuple[int, ...] = eqx.field(static=True, default=(2,))

    def __call__(self, x):
        return jnp.concatenate([self.factor * x, jnp.full_like(x, np.log(self.spread))])


def normal_flow(factor, spread, transform=None, **settings):
    field = LocationScale(lambda t, y, cond=None: 0.0 * y)
    flow = CNF(field, StandardNormal(2), transform=transform, **settings)
    return eqx.tree_at(lambda f: f.field, flow, EncodedCondition(field, Line(factor, spread)))


# theta ~ N(0, 1), x ~ N(theta, NOISE^2), so theta given x is N(x / (1 + NOISE^2), ...).
SHRINK = 1 / (1 + NOISE**2)
SPREAD = float(np.sqrt(NOISE**2 * SHRINK))
NORMAL = dist.Normal(jnp.zeros(2), jnp.ones(2)).to_event(1)
X = jnp.asarray([0.7, -0.4])
LIMITS = Bounded(jnp.asarray([-1.0, 0.0]), jnp.asarray([1.0, 3.0]))


def log_likelihood(theta, x):
    return jnp.sum(jax.scipy.stats.norm.logpdf(x, theta, NOISE))


@pytest.fixture(scope="module")
def gaussian():
    return Posterior(normal_flow(SHRINK, SPREAD, ode_eval=STEPS), as_prior(NORMAL, 2))


@pytest.fixture(scope="module")
def boxed():
    flow = normal_flow(1.0, 0.8, LIMITS, ode_eval=STEPS)
    return Posterior(flow, as_prior(([-1.0, 0.0], [1.0, 3.0]), 2))


def test_an_exact_posterior_has_constant_weights_and_the_evidence(gaussian):
    result = importance_sample(gaussian, log_likelihood, X, key=KEY, num=500)
    evidence = stats.norm.logpdf(X, 0, np.sqrt(1 + NOISE**2)).sum()
    assert_allclose(result.sample.effective, 500, rtol=1e-4)
    assert_allclose(result.sample.log_z, evidence, atol=1e-3)
    assert result.pilot == 0
    assert result.correction == 0


@pytest.mark.slow
def test_the_number_of_draws_follows_from_the_target():
    wide = Posterior(normal_flow(SHRINK, 2 * SPREAD), as_prior(NORMAL, 2))
    result = importance_sample(wide, log_likelihood, X, key=KEY, num=400, target_ess=800)
    assert result.sample.effective >= 800
    assert result.pilot == 400
    evidence = stats.norm.logpdf(X, 0, np.sqrt(1 + NOISE**2)).sum()
    assert abs(result.sample.log_z - evidence) < 3 * result.sample.log_z_se
    rows = np.asarray(result.resample(KEY, 4000))
    assert_allclose(rows.std(axis=0), SPREAD, rtol=0.1)
    with pytest.raises(ValueError, match="more than most=100"):
        importance_sample(wide, log_likelihood, X, key=KEY, target_ess=800, most=100)


def test_no_draw_lies_outside_a_box(boxed):
    draws = np.asarray(boxed.sample(KEY, 20_000, X))
    assert ((draws > boxed.prior.lower) & (draws < boxed.prior.upper)).all()


@pytest.mark.slow
def test_no_draw_of_a_million_lies_outside_a_box(boxed):
    draws = np.asarray(boxed.sample(KEY, 1_000_000, X))
    assert ((draws > boxed.prior.lower) & (draws < boxed.prior.upper)).all()


@pytest.mark.parametrize(
    "seed", [*range(3), *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(3, 10))]
)
def test_the_mass_in_a_box_is_one(boxed, seed):
    x = np.random.default_rng(seed).normal(size=2)
    nodes, weights = np.polynomial.legendre.leggauss(80)
    # Denser at the edges, where the density falls off.
    u, du = 0.5 - 0.5 * np.cos(0.5 * np.pi * (nodes + 1)), np.sin(0.5 * np.pi * (nodes + 1))
    sides = [-1 + 2 * u, 3 * u]
    grid = np.stack(np.meshgrid(*sides, indexing="ij"), axis=-1).reshape(-1, 2)
    inner = weights * du * np.pi / 4
    density = np.exp(np.asarray(boxed.log_prob(grid, x))).reshape(80, 80)
    assert_allclose(inner @ density @ inner * 6, 1.0, atol=1e-3)


def test_the_density_is_zero_outside(boxed):
    rows = np.array([[0.0, 1.0], [2.0, 1.0], [0.0, -1.0]])
    value = np.asarray(boxed.log_prob(rows, X))
    assert np.isfinite(value[0])
    assert np.isneginf(value[1:]).all()
    adaptive = Posterior(normal_flow(1.0, 0.8, LIMITS), boxed.prior)
    answer = adaptive.log_prob_with_error(rows, X)
    assert_allclose(answer.value[0], value[0], atol=1e-4)
    assert np.isneginf(np.asarray(answer.value[1:])).all()


@pytest.mark.slow
def test_leaked_mass_is_stated_and_corrected():
    flow = normal_flow(0.0, 1.0)
    disc = Prior(
        np.full(2, -np.inf),
        np.full(2, np.inf),
        lambda t: np.where((t**2).sum(axis=1) < 1, -np.log(np.pi), -np.inf),
        fills_box=False,
    )
    posterior = Posterior(flow, disc)
    share, se = posterior.inside(X)
    exact = 1 - np.exp(-0.5)
    assert abs(share - exact) < 4 * se
    draws = np.asarray(posterior.sample(KEY, 500, X))
    assert ((draws**2).sum(axis=1) < 1).all()
    value = posterior.log_prob(np.array([[0.1, 0.2], [1.0, 1.0]]), X)
    inside = stats.norm.logpdf([0.1, 0.2]).sum() - np.log(share)
    assert_allclose(np.asarray(value), [inside, -np.inf], atol=1e-4)
    answer = posterior.log_prob_with_error(np.array([[0.1, 0.2]]), X)
    assert answer.ode_error is not None
    assert float(answer.ode_error[0]) >= 2 * se / share


@pytest.mark.slow
def test_the_maximum_and_regions_of_a_normal_density(gaussian):
    assert_allclose(np.asarray(gaussian.map(X)), np.asarray(X) * SHRINK, atol=2e-3)
    mean = np.asarray(X)[None] * SHRINK
    rows = mean + SPREAD * np.array([[0.0, 0.0], [np.sqrt(2 * np.log(2)), 0.0], [9.0, 0.0]])
    level = gaussian.credible_level(rows, X, key=KEY, num=4000)
    assert_allclose(level, [0.0, 0.5, 1.0], atol=0.03)


@pytest.mark.slow
def test_levels_of_true_parameters_are_uniform(gaussian):
    rng = np.random.default_rng(0)
    theta = rng.normal(size=(400, 2))
    x = theta + NOISE * rng.normal(size=theta.shape)
    level = gaussian.credible_level(theta, x, key=KEY, num=99)
    assert stats.kstest(level, "uniform").pvalue > 1e-3


@pytest.mark.slow
def test_p_values_of_calibration_are_uniform_over_repetitions(gaussian):
    found = []
    for seed in range(50):
        rng, key = np.random.default_rng(seed), jax.random.key(seed)
        theta = rng.normal(size=(100, 2))
        x = theta + NOISE * rng.normal(size=theta.shape)
        draws = gaussian.flow.sample(key, (100, 49), np.broadcast_to(x[:, None], (100, 49, 2)))
        tests = sbc(theta, draws, key=key).tests
        found.append([Calibration((test,), 0.05).p[0] for test in tests])
    for p in np.asarray(found).T:
        assert stats.kstest(p, "uniform").pvalue > 1e-2


@pytest.mark.slow
def test_observations_compose(gaussian):
    x = jnp.asarray(np.random.default_rng(0).normal(0.5, 0.7, (5, 2)))
    chains = compose(gaussian, x, key=KEY, num=500, chains=2, warmup=200)
    precision = 1 + 5 / NOISE**2
    assert (chains.r_hat < 1.05).all()
    mean = np.asarray(x).sum(axis=0) / NOISE**2 / precision
    assert_allclose(chains.draws.mean(axis=0), mean, atol=4 / np.sqrt(precision * 300))
    assert_allclose(chains.draws.std(axis=0), precision**-0.5, rtol=0.12)


@pytest.mark.slow
def test_a_likelihood_of_several_observations():
    likelihood = Likelihood(normal_flow(1.0, NOISE))
    rng = np.random.default_rng(0)
    x = rng.normal(0.5, NOISE, (5, 2))
    theta = np.array([[0.1, 0.2], [0.4, 0.5]])
    exact = stats.norm.logpdf(x[None], theta[:, None], NOISE).sum(axis=(1, 2))
    assert_allclose(np.asarray(likelihood.log_prob(x, theta)), exact, atol=1e-3)
    assert likelihood.log_prob(x, theta[0]).shape == ()
    chains = likelihood.sample_posterior(KEY, 500, x, prior=(-3.0, 3.0), chains=2, warmup=200)
    assert chains.divergences == 0
    assert_allclose(chains.draws.mean(axis=0), x.mean(axis=0), atol=0.06)
    assert_allclose(chains.draws.std(axis=0), NOISE / np.sqrt(5), rtol=0.15)
    with pytest.raises(ValueError, match="NumPyro in place of scipy"):
        likelihood.sample_posterior(KEY, 5, x, prior=[stats.norm()] * 2)


@pytest.mark.slow
def test_a_likelihood_of_whole_numbers_is_a_probability():
    # x = round(theta + NOISE z): the middle of a cell is 0.1 nats too likely.
    likelihood = Likelihood(normal_flow(1.0, NOISE, Dequantise(jnp.ones(2)), ode_eval=STEPS))
    theta = np.array([0.3, -0.2])
    values = np.arange(-4.0, 5.0)
    each = stats.norm.cdf(values + 0.5, theta[:, None], NOISE)
    each = each - stats.norm.cdf(values - 0.5, theta[:, None], NOISE)
    for x in (values, jnp.asarray(values), values.astype(int), jnp.asarray(values, int)):
        found = [float(likelihood.log_prob(np.stack([x[j], x[3]]), theta)) for j in range(9)]
        assert_allclose(found, np.log(each[0]) + np.log(each[1, 3]), atol=2e-2)
    x = np.round(np.random.default_rng(0).normal(0.3, NOISE, (12, 2)))
    chains = likelihood.sample_posterior(KEY, 400, x, prior=(-3.0, 3.0), chains=2, warmup=200)
    grid = np.linspace(-3, 3, 2001)
    for j in range(2):
        edges = [stats.norm.cdf(x[:, j, None] + e, grid, NOISE) for e in (0.5, -0.5)]
        log_p = np.log(edges[0] - edges[1]).sum(axis=0)
        p = np.exp(log_p - log_p.max())
        mean = np.average(grid, weights=p)
        assert_allclose(chains.draws[:, j].mean(), mean, atol=0.04)
        spread = np.average((grid - mean) ** 2, weights=p) ** 0.5
        assert_allclose(chains.draws[:, j].std(), spread, rtol=0.15)
    with pytest.raises(ValueError, match="off the grid"):
        likelihood.sample_posterior(KEY, 5, x + 0.3, prior=(-3.0, 3.0))


@pytest.mark.slow
def test_a_truncated_prior_holds_the_posterior():
    limits = Bounded(jnp.full(2, -4.0), jnp.full(2, 4.0))
    posterior = Posterior(normal_flow(0.1, 0.1, limits), as_prior((-4.0, 4.0), 2))
    prior = truncated_prior(posterior, X, key=KEY, mass=1e-3)
    draws = prior.sample(KEY, 300)
    assert np.isfinite(prior.log_prob(draws)).all()
    again = np.asarray(posterior.sample(jax.random.key(1), 1000, X))
    assert np.isfinite(prior.log_prob(again)).mean() > 0.99
    # The region is filled evenly: its edge has as many draws as a uniform density.
    area = 16 * np.pi * (0.1**2) * 2 * np.log(1e3) / 16
    assert np.ptp(draws[:, 0]) < 4 * np.sqrt(area)


def test_draws_of_a_posterior_weigh_as_draws_of_the_prior(gaussian):
    # Two rounds: the prior, then the posterior at X.
    found = gaussian.prior
    proposals = [found, posterior_proposal(gaussian, X)]
    rng = np.random.default_rng(0)
    theta = np.concatenate([rng.normal(size=(4000, 2)), proposals[1].sample(KEY, 4000)])
    weights = proposal_weights(theta, found, proposals)
    density = stats.norm.pdf(theta).prod(axis=1)
    narrow = stats.norm.pdf(theta, np.asarray(X) * SHRINK, SPREAD).prod(axis=1)
    assert_allclose(weights, 2 / (1 + narrow / density), rtol=1e-3)
    assert weights.max() <= 2
    mean, square = weights @ theta / len(theta), weights @ theta**2 / len(theta)
    assert_allclose(weights.mean(), 1, atol=0.05)
    assert_allclose(mean, 0, atol=0.06)
    assert_allclose(square, 1, atol=0.08)


@pytest.mark.parametrize(
    ("prior", "hole"),
    [
        ([stats.rv_histogram(([1.0, 0.0, 1.0], [0.0, 1.0, 2.0, 3.0])), stats.norm()], [1.5, 0.0]),
        (
            dist.TransformedDistribution(
                dist.Normal(jnp.zeros(2), 1).to_event(1), dist.transforms.OrderedTransform()
            ),
            None,
        ),
        (dist.Dirichlet(jnp.ones(2)), None),
    ],
)
def test_priors_that_do_not_fill_their_limits(prior, hole):
    # A posterior that takes them for boxes would have mass where they have none.
    found = as_prior(prior, 2)
    assert not found.fills_box
    if hole is not None:
        assert np.isneginf(found.log_prob(np.array([hole]))).all()


@pytest.mark.parametrize(
    ("prior", "row", "expected"),
    [
        (([0.0, -1.0], [1.0, 1.0]), [0.5, 0.0], -np.log(2)),
        ([stats.norm(0, 1), stats.gamma(2.0)], [0.0, 1.0], stats.norm.logpdf(0) - 1),
        (stats.norm(np.zeros(2), 1), [0.0, 0.0], 2 * stats.norm.logpdf(0)),
        (stats.multivariate_normal(np.zeros(2)), [0.0, 0.0], 2 * stats.norm.logpdf(0)),
        (
            dist.LogNormal(jnp.zeros(2), jnp.ones(2)).to_event(1),
            [1.0, 1.0],
            2 * stats.norm.logpdf(0),
        ),
    ],
)
def test_priors_of_all_kinds(prior, row, expected):
    found = as_prior(prior, 2)
    assert found.fills_box
    assert_allclose(found.log_prob(np.array([row])), [expected], rtol=1e-5)
    draws = found.sample(KEY, 50)
    assert draws.shape == (50, 2)
    assert np.isfinite(found.log_prob(draws)).all()
    low = found.lower if np.isfinite(found.lower).any() else None
    if low is not None:
        assert np.isneginf(found.log_prob(np.array([[-9.0, -9.0]]))).all()


def test_wrong_priors_are_named():
    with pytest.raises(TypeError, match="is no prior"):
        as_prior("uniform", 2)
    with pytest.raises(ValueError, match="to_event"):
        as_prior(dist.Normal(jnp.zeros(2), 1.0), 2)
    with pytest.raises(ValueError, match="low below high"):
        as_prior(([1.0, 0.0], [0.0, 1.0]), 2)
    with pytest.raises(ValueError, match="3 parameters"):
        as_prior([stats.norm()] * 3, 2)
    nothing = as_prior(None, 2)
    with pytest.raises(ValueError, match="has no density"):
        nothing.log_prob(np.zeros((1, 2)))


def test_bad_arguments_are_named(gaussian):
    with pytest.raises(ValueError, match=r"write theta\[None\]"):
        gaussian.log_prob(np.zeros(2), X)
    with pytest.raises(ValueError, match="x_obs has NaN"):
        gaussian.sample(KEY, 3, [np.nan, 0.0])
