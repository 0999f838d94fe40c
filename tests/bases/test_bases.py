"""Base densities against their formulas and their own samples."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.scipy import stats

from jaxflow import (
    CNF,
    ODE,
    DiagonalNormal,
    FlowBase,
    GaussianMixture,
    SolveError,
    StandardNormal,
    Status,
    StudentT,
)
from jaxflow.dynamics import Linear
from jaxflow.training.trainable import partition_trainable
from jaxflow.transforms import Standardise

MEAN, SCALE = jnp.asarray([[1.0, -2.0], [0.5, 30.0]]), jnp.asarray([[0.1, 3.0], [1.0, 20.0]])
BASES = {
    "scalar": (StandardNormal(()), 0.0, 1.0),
    "vector": (StandardNormal(3), 0.0, 1.0),
    "matrix": (StandardNormal((3, 4)), 0.0, 1.0),
    "diagonal": (DiagonalNormal(MEAN, SCALE), MEAN, SCALE),
}


@pytest.mark.parametrize(("base", "mean", "scale"), BASES.values(), ids=BASES)
def test_log_prob_is_the_formula(base, mean, scale, key):
    x = 2.0 + jax.random.normal(key, base.event_shape)
    expected = jnp.sum(stats.norm.logpdf(x, mean, scale))
    assert float(base.log_prob(x)) == pytest.approx(float(expected), rel=1e-13)


@pytest.mark.parametrize(("base", "mean", "scale"), BASES.values(), ids=BASES)
def test_samples_have_the_moments(base, mean, scale, key):
    n = 20_000
    x = jax.vmap(base.sample)(jax.random.split(key, n))
    assert x.shape == (n, *base.event_shape)
    z = (np.asarray(x) - np.asarray(mean)) / np.asarray(scale)
    np.testing.assert_allclose(z.mean(axis=0), 0, atol=5 / n**0.5)
    np.testing.assert_allclose(z.var(axis=0), 1, atol=5 * (2 / n) ** 0.5)
    flat = z.reshape(n, -1)
    correlations = flat.T @ flat / n - np.eye(flat.shape[1])
    np.testing.assert_allclose(correlations, 0, atol=7 / n**0.5)


def test_a_base_is_not_trained():
    def log_prob(base):
        return base.log_prob(jnp.ones((2, 2)))

    gradient = jax.grad(log_prob)(DiagonalNormal(MEAN, SCALE))
    np.testing.assert_array_equal(gradient.mean, jnp.zeros((2, 2)))
    np.testing.assert_array_equal(gradient.scale, jnp.zeros((2, 2)))


def test_float32_stays_float32(key):
    base = DiagonalNormal(jnp.zeros(2, jnp.float32), jnp.ones(2, jnp.float32))
    assert base.sample(key).dtype == jnp.float32
    assert base.log_prob(jnp.ones(2, jnp.float32)).dtype == jnp.float32
    assert StandardNormal(2).log_prob(jnp.ones(2, jnp.float32)).dtype == jnp.float32


def test_what_is_refused():
    with pytest.raises(ValueError, match=r"event_shape=\(2, 0\) must hold sizes of at least 1"):
        StandardNormal((2, 0))
    with pytest.raises(ValueError, match=r"scale=.*must be positive"):
        DiagonalNormal(jnp.zeros(2), jnp.asarray([1.0, 0.0]))
    with pytest.raises(ValueError, match=r"scale=.*must be positive"):
        DiagonalNormal(jnp.zeros(2), jnp.asarray([1.0, jnp.nan]))
    with pytest.raises((ValueError, TypeError), match=r"(?s)mean.*scale"):
        DiagonalNormal(jnp.zeros(2), jnp.ones(3))


def test_a_mixture_is_the_sum_of_its_parts(key):
    means = jnp.asarray([[0.0, 1.0], [3.0, -2.0]])
    covs = np.array([[[1.0, 0.3], [0.3, 0.5]], [[0.2, 0.0], [0.0, 2.0]]])
    base = GaussianMixture([0.25, 0.75], means, np.linalg.cholesky(covs))
    x = jax.random.normal(key, (2,))
    parts = [stats.multivariate_normal.pdf(x, m, c) for m, c in zip(means, covs, strict=True)]
    assert float(base.log_prob(x)) == pytest.approx(
        float(jnp.log(0.25 * parts[0] + 0.75 * parts[1])), rel=1e-12
    )
    drawn = np.asarray(jax.vmap(base.sample)(jax.random.split(key, 20_000)))
    np.testing.assert_allclose(drawn.mean(0), [2.25, -1.25], atol=0.06)
    again = GaussianMixture.fit(drawn, 2)
    order = np.argsort(again.means[:, 0])
    np.testing.assert_allclose(np.asarray(again.means)[order], means, atol=0.1)
    np.testing.assert_allclose(np.asarray(again.weights)[order], [0.25, 0.75], atol=0.02)


def test_student_t_is_the_formula_and_its_samples_have_its_quantiles(key):
    base = StudentT([3.0, 30.0])
    x = jnp.asarray([0.7, -2.5])
    expected = jnp.sum(stats.t.logpdf(x, jnp.asarray([3.0, 30.0])))
    assert float(base.log_prob(x)) == pytest.approx(float(expected), rel=1e-12)
    drawn = jax.vmap(base.sample)(jax.random.split(key, 20_000))
    # The 90 % points of t with 3 and 30 degrees of freedom (any table).
    np.testing.assert_allclose(np.quantile(drawn, 0.9, axis=0), [1.638, 1.310], atol=0.06)
    assert StudentT(4.0, 3).event_shape == (3,)


def linear(scale, base, **settings):
    """`x(1) = exp(scale) x(0)`."""
    field = Linear(matrix=scale * jnp.eye(2))
    return CNF(field, base, ode_eval=ODE(rtol=1e-9, atol=1e-9), **settings)


@pytest.mark.slow
def test_a_fitted_flow_is_a_base(key):
    # N(0, e^2) under a flow that doubles its scale again: N(0, e^4).
    first = linear(1.0, StandardNormal(2), transform=Standardise(jnp.ones(2), jnp.ones(2)))
    flow = linear(1.0, FlowBase(first))
    x = jax.random.normal(key, (5, 2))
    expected = stats.norm.logpdf(x, np.e, np.e**2).sum(axis=1)
    np.testing.assert_allclose(flow.log_prob(x), expected, atol=1e-6)
    drawn, log_p = flow.sample_and_log_prob(key, 2000)
    np.testing.assert_allclose(log_p[:5], flow.log_prob(drawn[:5]), atol=1e-6)
    assert drawn.std() == pytest.approx(np.e**2, rel=0.1)
    assert partition_trainable(flow)[0].keys() == {".field.matrix", ".field.bias"}


def test_a_base_without_a_density_is_told(key):
    class Broken(StandardNormal):
        def log_prob(self, x):
            return jnp.where(x[0] > 0, jnp.nan, 0.0)

    flow = linear(0.5, Broken((2,)))
    with pytest.raises(SolveError, match="the base's log_prob is NaN"):
        flow.log_prob(jnp.asarray([[1.0, 0.0], [-1.0, 0.0]]))
    quiet = linear(0.5, Broken((2,)))
    answer = replace(quiet, ode_eval=replace(quiet.ode_eval, throw=False)).log_prob_with_error(
        jnp.asarray([[1.0, 0.0], [-1.0, 0.0]])
    )
    assert answer.status.tolist() == [Status.NO_DENSITY, Status.SUCCESS]


def test_what_richer_bases_refuse():
    eye = jnp.eye(2)[None]
    with pytest.raises(ValueError, match="must be positive and of sum 1"):
        GaussianMixture([0.5, 0.6], jnp.zeros((2, 2)), jnp.tile(eye, (2, 1, 1)))
    with pytest.raises(ValueError, match="lower triangular"):
        GaussianMixture([1.0], jnp.zeros((1, 2)), -eye)
    with pytest.raises(ValueError, match=r"factors have shape"):
        GaussianMixture([1.0], jnp.zeros((1, 2)), jnp.ones((1, 3, 3)))
    with pytest.raises(ValueError, match=r"df=.* must be positive"):
        StudentT([1.0, 0.0])
    with pytest.raises(TypeError, match="is no flow of jaxflow"):
        FlowBase(StandardNormal(2))
    with pytest.raises(ValueError, match="draws the log-density"):
        FlowBase(linear(1.0, StandardNormal(2), trace="hutchinson"))
