"""Flows in NumPyro: the distribution's laws, sampling through it, and a model as a target."""

import importlib.util
import math
import sys
from dataclasses import replace

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.contrib.control_flow import scan
from numpyro.diagnostics import effective_sample_size
from numpyro.distributions.transforms import biject_to
from numpyro.infer import HMC, MCMC
from numpyro.infer.util import log_density
from scipy.linalg import expm
from scipy.stats import multivariate_normal

import jaxflow
import jaxflow.interop.numpyro as module
from jaxflow import (
    CNF,
    ODE,
    CouplingFlow,
    Ensemble,
    FlowMap,
    Hutchinson,
    StandardNormal,
    TrainConfig,
)
from jaxflow.dynamics import Linear
from jaxflow.interop.numpyro import FlowDistribution, target_of
from jaxflow.objectives import ReverseKL
from jaxflow.transforms import Bounded, Chain, Dequantise, Standardise, without_noise

# Fixed steps: quick, and exact to about 1e-8 for these linear fields.
STEPS = ODE(solver="rk4", num_steps=40, gradient="direct", throw=False)
A = jnp.asarray([[0.3, -0.8], [0.4, 0.2]])
FLOW = CNF(Linear(matrix=A), StandardNormal(2), ode_eval=STEPS)
CONDITIONED = CNF(Linear(2, cond_dim=3, key=jax.random.key(2)), StandardNormal(2), ode_eval=STEPS)
X = jax.random.normal(jax.random.key(4), (5, 2))
COND = jax.random.normal(jax.random.key(5), (5, 3))
# One column between two limits, one above a limit.
LIMITS = Bounded(jnp.asarray([0.0, 2.0]), jnp.asarray([1.0, jnp.inf]))
SCALE = Standardise(jnp.asarray([0.3, 0.2]), jnp.asarray([2.0, 0.5]))
LIMITED = replace(FLOW, transform=Chain((LIMITS, SCALE)))
# Nothing to adapt, so short runs will do.
FIXED = {
    "step_size": 0.3,
    "trajectory_length": 1.2,
    "adapt_step_size": False,
    "adapt_mass_matrix": False,
}


@pytest.fixture(autouse=True)
def _lenient():
    """NumPyro promotes dtypes and ranks."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


def gaussian(flow=FLOW):
    """Covariance of a flow with a linear field."""
    e = expm(np.asarray(flow.field.matrix))
    return e @ e.T


def agrees(draws, mean, variance):
    """Whether draws of one chain, (n,), have this mean and variance, within four errors."""
    draws = np.asarray(draws, np.float64)
    for values, expected in ((draws, mean), ((draws - mean) ** 2, variance)):
        size = effective_sample_size(values[None])
        assert size > 200
        assert values.mean() == pytest.approx(expected, abs=4 * values.std() / math.sqrt(size))


# --- the distribution ---


def test_shapes_and_support():
    d = FlowDistribution(CONDITIONED, COND)
    assert (d.batch_shape, d.event_shape, d.has_rsample) == ((5,), (2,), True)
    assert d.support == dist.constraints.real_vector
    single = FlowDistribution(CNF(Linear(matrix=jnp.eye(1)), StandardNormal(()), ode_eval=STEPS))
    assert (single.event_shape, single.support.event_dim) == ((), 0)
    assert single.log_prob(jnp.ones(4)).shape == (4,)


def test_the_density_is_the_flows():
    expected = FLOW.log_prob(X)
    exact = multivariate_normal.logpdf(X, np.zeros(2), gaussian())  # pyright: ignore
    d = FlowDistribution(FLOW)
    np.testing.assert_allclose(d.log_prob(X), expected, rtol=1e-12)
    np.testing.assert_allclose(d.log_prob(X), exact, atol=1e-7)
    many = np.tile(X, (40, 1)).reshape(20, 10, 2)
    found = np.reshape(d.log_prob(many), (40, 5))
    np.testing.assert_allclose(found, np.tile(exact, (40, 1)), atol=1e-7)
    score = -np.linalg.solve(gaussian(), X[0])
    np.testing.assert_allclose(jax.jit(jax.grad(d.log_prob))(X[0]), score, atol=1e-6)


def test_adaptive_steps_are_each_rows_own():
    flow = replace(FLOW, ode_eval=ODE(rtol=1e-8, atol=1e-8))
    np.testing.assert_allclose(FlowDistribution(flow).log_prob(X), FLOW.log_prob(X), atol=1e-6)


def test_conditions_broadcast():
    d = FlowDistribution(CONDITIONED, COND)
    rows = np.broadcast_to(np.asarray(X)[:, None], (5, 5, 2))
    table = np.stack([CONDITIONED.log_prob(x, COND) for x in rows])
    np.testing.assert_allclose(d.log_prob(X[:, None]), table, rtol=1e-10)
    np.testing.assert_allclose(d.log_prob(X), np.diagonal(table), rtol=1e-10)
    np.testing.assert_allclose(d.log_prob(X[0]), table[0], rtol=1e-10)
    one = FlowDistribution(CONDITIONED, COND[1])
    np.testing.assert_allclose(one.log_prob(X), table[:, 1], rtol=1e-10)


def test_it_passes_through_transformations_of_jax():
    d = FlowDistribution(CONDITIONED, COND)
    expected = CONDITIONED.log_prob(X, COND)
    score = jax.jit(lambda d, x: d.log_prob(x))
    np.testing.assert_allclose(score(d, X), expected, rtol=1e-12)
    other = FlowDistribution(CONDITIONED, 2 * COND)
    assert jax.tree.structure(other) == jax.tree.structure(d)
    assert hash(jax.tree.structure(other)) == hash(jax.tree.structure(d))
    made = jax.vmap(lambda cond: FlowDistribution(CONDITIONED, cond))(COND)
    assert made.batch_shape == (5,)
    np.testing.assert_allclose(made.log_prob(X), expected, rtol=1e-10)
    assert made.sample(jax.random.key(0), (4,)).shape == (4, 5, 2)
    _, scanned = jax.lax.scan(
        lambda _, at: (_, FlowDistribution(CONDITIONED, at[1]).log_prob(at[0])), 0, (X, COND)
    )
    np.testing.assert_allclose(scanned, expected, rtol=1e-10)


def test_samples_are_those_of_the_flow(key):
    d = FlowDistribution(FLOW)
    drawn = d.sample(key, (3, 2))
    np.testing.assert_allclose(drawn, FLOW.sample(key, (3, 2)), atol=1e-10)
    assert d.sample(key, (100,)).shape == (100, 2)
    assert d.expand((3, 2)).sample(key).shape == (3, 2, 2)


def test_samples_are_reparametrised(key):
    # x(1) = expm(A) z + A^-1 (expm(A) - 1) C c
    matrix, weights = (np.asarray(w) for w in (CONDITIONED.field.matrix, CONDITIONED.field.cond))
    expected = np.linalg.solve(matrix, expm(matrix) - np.eye(2)) @ weights.T
    sample = lambda cond: FlowDistribution(CONDITIONED, cond).sample(key)  # noqa: E731
    moved = jax.jit(jax.jacobian(sample))(COND[0])
    np.testing.assert_allclose(moved, expected, atol=1e-7)


# --- in models ---


def test_as_likelihood_in_plates_and_scans():
    def plate(x):
        theta = numpyro.sample("theta", dist.Normal(0, 1).expand([3]).to_event(1))
        with numpyro.plate("rows", len(x)):
            numpyro.sample("x", FlowDistribution(CONDITIONED, theta), obs=x)

    value, _ = log_density(plate, (X,), {}, {"theta": COND[0]})
    expected = jnp.sum(dist.Normal(0, 1).log_prob(COND[0]))
    expected = expected + jnp.sum(CONDITIONED.log_prob(X, COND[0]))
    assert float(value) == pytest.approx(float(expected), rel=1e-10)

    def chain(x):
        def step(before, x):
            now = numpyro.sample("x", FlowDistribution(CONDITIONED, before), obs=x)
            return jnp.append(now, 0.0), None

        scan(step, jnp.zeros(3), x)

    value, _ = log_density(chain, (X,), {}, {})
    before = np.zeros((5, 3))
    before[1:, :2] = X[:-1]
    assert float(value) == pytest.approx(float(CONDITIONED.log_prob(X, before).sum()), rel=1e-10)


@pytest.mark.slow
def test_a_flow_as_prior_gives_the_posterior_in_closed_form(key):
    x, scale = jnp.asarray([1.0, -1.0]), 0.7

    def model(x):
        theta = numpyro.sample("theta", FlowDistribution(FLOW))
        numpyro.sample("x", dist.Normal(theta, scale).to_event(1), obs=x)

    kernel = HMC(model, **FIXED)
    mcmc = MCMC(kernel, num_warmup=50, num_samples=800, progress_bar=False)
    mcmc.run(key, x)
    covariance = np.linalg.inv(np.linalg.inv(gaussian()) + np.eye(2) / scale**2)
    mean = covariance @ np.asarray(x) / scale**2
    draws = mcmc.get_samples()["theta"]
    for i in range(2):
        agrees(draws[:, i], float(mean[i]), float(covariance[i, i]))
    assert not mcmc.get_extra_fields()["diverging"].any()


class Broken(eqx.Module):
    """The field 0, which is NaN beyond `x[0] = 1`: the base's density, cut off there."""

    def __call__(self, t, x):
        return jnp.where(x[0] > 1, jnp.nan, 0.0) * x


def test_a_solve_that_fails_is_a_divergence_and_no_number(key):
    d = FlowDistribution(CNF(Broken(), StandardNormal(2), ode_eval=STEPS))
    assert np.isnan(d.log_prob(jnp.asarray([2.0, 0.0])))
    assert np.isfinite(d.log_prob(jnp.asarray([0.5, 0.0])))
    failed = np.isnan(d.sample(key, (50,)))
    assert 0 < failed.all(axis=1).sum() == failed.any(axis=1).sum() < 50
    kernel = HMC(lambda: numpyro.sample("x", d), **FIXED)
    mcmc = MCMC(kernel, num_warmup=20, num_samples=2000, progress_bar=False)
    mcmc.run(key)
    draws = mcmc.get_samples()["x"]
    assert float(draws[:, 0].max()) <= 1
    assert mcmc.get_extra_fields()["diverging"].any()
    # Moments of a normal cut off at 1.
    ratio = math.exp(-0.5) / math.sqrt(2 * math.pi) / (0.5 + 0.5 * math.erf(math.sqrt(0.5)))
    agrees(draws[:, 0], -ratio, 1 - ratio - ratio**2)
    agrees(draws[:, 1], 0.0, 1.0)


@pytest.mark.slow
def test_a_row_whose_adaptive_solve_fails_is_nan():
    ode = ODE(solver="bosh3", rtol=1e-9, atol=1e-9, max_steps=2)
    d = FlowDistribution(replace(FLOW, ode_eval=ode))
    value, gradient = jax.jit(jax.value_and_grad(d.log_prob))(X[0])
    assert np.isnan(value)
    assert np.isnan(gradient).all()


# --- limits ---


@pytest.mark.slow
def test_the_support_has_the_transforms_limits(key):
    d = FlowDistribution(LIMITED)
    inside = d.sample(key, (4,))
    assert np.all(d.support(inside))
    np.testing.assert_allclose(d.log_prob(inside), LIMITED.log_prob(inside), rtol=1e-10)
    assert repr(d.support).startswith("DataSpace(Chain(")
    outside = jnp.asarray([[1.5, 3.0], [0.5, 1.0], [0.0, 3.0], [0.5, jnp.inf]])
    assert not np.any(d.support(outside))
    assert np.all(np.isneginf(d.log_prob(outside)))
    assert np.isnan(d.log_prob(jnp.asarray([0.5, jnp.nan])))
    np.testing.assert_array_equal(jax.grad(d.log_prob)(outside[0]), 0.0)


@pytest.mark.slow
def test_samplers_move_on_the_whole_line(key):
    to = biject_to(FlowDistribution(LIMITED).support)
    u = jax.random.normal(key, (4, 2))
    x = to(u)
    np.testing.assert_allclose(to.inv(x), u, atol=1e-10)
    log_det = jnp.linalg.slogdet(jax.jit(jax.vmap(jax.jacobian(to)))(u))[1]
    np.testing.assert_allclose(to.log_abs_det_jacobian(u, x), log_det, atol=1e-10)
    target = target_of(lambda: numpyro.sample("x", FlowDistribution(LIMITED)))
    # There the density is that of the flow behind its limits.
    expected = replace(FLOW, transform=SCALE).log_prob(u)
    np.testing.assert_allclose(jax.vmap(target.log_prob)(u), expected, atol=1e-9)
    np.testing.assert_allclose(target.unflatten(u)["x"], x, rtol=1e-12)


def test_stacked_limits_are_refused():
    made = jax.vmap(
        lambda scale: FlowDistribution(eqx.tree_at(lambda f: f.field.bias, LIMITED, scale))
    )(X)
    assert made.batch_shape == (5,)
    assert made.log_prob(jnp.asarray([0.5, 3.0])).shape == (5,)
    with pytest.raises(ValueError, match=r"sizes \(5,\) have limits each, and no common support"):
        _ = made.support


def test_values_on_a_grid_are_refused():
    flow = replace(FLOW, transform=Dequantise(jnp.asarray([1.0, 0.0])))
    with pytest.raises(ValueError, match=r"Dequantise.*transforms.without_noise"):
        FlowDistribution(flow)
    spread = replace(flow, transform=without_noise(flow.transform))
    np.testing.assert_allclose(FlowDistribution(spread).log_prob(X), FLOW.log_prob(X), rtol=1e-12)


# --- a model as a target ---


@pytest.mark.slow
def test_an_ensemble_is_a_distribution(key):
    other = replace(FLOW, field=Linear(matrix=-A))
    ensemble = Ensemble([FLOW, other], [1, 3])
    d = FlowDistribution(ensemble)
    # More rows than are solved singly, and few.
    x = jax.random.normal(key, (100, 2))
    each = [dist.MultivariateNormal(jnp.zeros(2), gaussian(flow)) for flow in ensemble.flows]
    mixture = dist.MixtureGeneral(dist.Categorical(probs=jnp.asarray([0.25, 0.75])), each)
    np.testing.assert_allclose(d.log_prob(x), mixture.log_prob(x), atol=1e-7)
    np.testing.assert_allclose(d.log_prob(x[:3]), mixture.log_prob(x[:3]), atol=1e-7)
    slopes = jax.grad(lambda x: d.log_prob(x).sum())(x[:3])
    np.testing.assert_allclose(
        slopes, jax.grad(lambda x: mixture.log_prob(x).sum())(x[:3]), atol=1e-6
    )
    np.testing.assert_allclose(d.sample(key, (100,)), ensemble.sample(key, 100), atol=1e-9)
    np.testing.assert_allclose(d.sample(key, (3,)), ensemble.sample(key, 3), atol=1e-7)


@pytest.mark.slow
def test_an_ensemble_has_the_limits_of_its_flows(key):
    other = replace(FLOW, field=Linear(matrix=-A), transform=LIMITS)
    d = FlowDistribution(Ensemble([LIMITED, other]))
    x = jnp.asarray([[0.5, 3.0], [1.5, 3.0], [0.2, 1.0]])
    assert list(map(bool, d.support(x))) == [True, False, False]
    assert list(np.isneginf(d.log_prob(x))) == [False, True, True]
    assert bool(d.support(d.sample(key, (5,))).all())
    with pytest.raises(ValueError, match="different limits"):
        FlowDistribution(Ensemble([LIMITED, FLOW]))
    random = replace(FLOW, trace=Hutchinson(4))
    with pytest.raises(ValueError, match="log-density random"):
        FlowDistribution(Ensemble([FLOW, Ensemble([random])]))
    with pytest.raises(TypeError, match="FlowMap"):
        FlowDistribution(Ensemble([FLOW, FlowMap(None, FLOW, 2)]))


@pytest.mark.slow
def test_a_fitted_posterior_with_the_evidence_in_closed_form(key):
    counts, y = jnp.asarray([0.3, 1.1, 0.2, 0.7, 0.4]), jnp.asarray([1.2, 0.4, 0.9])
    a, b = 2.0, 1.5

    def model(waits, y):
        rate = numpyro.sample("rate", dist.Gamma(a, b))
        mu = numpyro.sample("mu", dist.Normal(0.0, 1.0))
        numpyro.deterministic("mean_wait", 1 / rate)
        numpyro.sample("waits", dist.Exponential(rate), obs=waits)
        numpyro.sample("y", dist.Normal(mu, 1.0), obs=y)

    target = target_of(model, counts, y=y)
    assert target.dim == 2
    fit_key, draw_key, weights_key = jax.random.split(key, 3)
    flow = CouplingFlow(2, num_layers=4, width=16, depth=1, key=weights_key)
    config = TrainConfig(steps=300, eval_every=300, learning_rate=0.01, ema=0.9)
    objective = ReverseKL(target=target.log_prob, num_samples=128)
    flow, _ = jaxflow.fit(
        flow, None, key=fit_key, config=config, objective=objective, progress=False
    )
    drawn = jaxflow.importance_sample(flow, target.log_prob, 4000, key=draw_key)

    n, total = len(counts), float(counts.sum())
    log_z = a * math.log(b) - math.lgamma(a) + math.lgamma(a + n) - (a + n) * math.log(b + total)
    log_z += dist.MultivariateNormal(jnp.zeros(3), jnp.eye(3) + 1.0).log_prob(y)
    assert drawn.reliable
    assert drawn.log_z_se < 0.02
    assert drawn.log_z == pytest.approx(float(log_z), abs=4 * drawn.log_z_se + 1e-3)
    rows = drawn.x[:5]
    np.testing.assert_allclose(
        FlowDistribution(flow).log_prob(rows), flow.log_prob(rows), rtol=1e-10
    )
    sites = target.unflatten(drawn.x)
    assert sites.keys() == {"rate", "mu", "mean_wait"}
    np.testing.assert_allclose(sites["mean_wait"], 1 / sites["rate"], rtol=1e-10)
    w = np.exp(drawn.log_weights)
    assert np.sum(w * sites["rate"]) == pytest.approx((a + n) / (b + total), rel=0.05)
    assert np.sum(w * sites["mu"]) == pytest.approx(float(y.sum()) / 4, abs=0.04)


def test_a_model_without_latent_sites_is_no_target():
    with pytest.raises(ValueError, match="has no continuous latent site"):
        target_of(lambda: numpyro.sample("x", dist.Normal(0.0, 1.0), obs=1.0))


# --- errors ---


def test_what_is_no_density_is_refused(key):
    with pytest.raises(TypeError, match="flow=3 is not a flow"):
        FlowDistribution(3)
    with pytest.raises(TypeError, match=r"FlowDistribution\(flow.exact\)"):
        FlowDistribution(FlowMap(None, FLOW, 2))
    drawn = replace(FLOW, trace=Hutchinson(target_se=0.1))
    with pytest.raises(ValueError, match=r"replace\(flow, trace='exact'\)"):
        FlowDistribution(drawn)


def test_arguments_that_do_not_fit_are_refused():
    with pytest.raises(
        ValueError, match=r"write FlowDistribution\(flow, cond=cond\[..., None\]\)"
    ):
        FlowDistribution(CONDITIONED, 1.0)
    with pytest.raises(ValueError, match=r"value has shape \(3,\); this flow needs"):
        FlowDistribution(FLOW).log_prob(jnp.ones(3))
    with pytest.raises(ValueError, match="cond_dim=3: pass cond of shape"):
        FlowDistribution(CONDITIONED).log_prob(X)


def test_without_numpyro_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "numpyro", None)
    monkeypatch.setitem(sys.modules, "numpyro.distributions", None)
    spec = importlib.util.spec_from_file_location("without_numpyro", module.__file__)
    assert spec is not None
    assert spec.loader is not None
    with pytest.raises(ImportError, match=r"needs NumPyro: pip install '.\[numpyro\]'"):
        spec.loader.exec_module(importlib.util.module_from_spec(spec))
