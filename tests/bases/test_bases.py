"""Particulars of each base: fits, flows as bases, refused parameters."""

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


def test_a_mixture_is_fitted_by_maximum_likelihood(key):
    means, covs = np.array([[0.0, 1.0], [3.0, -2.0]]), np.array([np.eye(2), 0.2 * np.eye(2)])
    base = GaussianMixture([0.25, 0.75], means, np.linalg.cholesky(covs))
    drawn = jax.vmap(base.sample)(jax.random.split(key, 20_000))
    again = GaussianMixture.fit(drawn, 2)
    order = np.argsort(again.means[:, 0])
    np.testing.assert_allclose(np.asarray(again.means)[order], means, atol=0.1)
    np.testing.assert_allclose(np.asarray(again.weights)[order], [0.25, 0.75], atol=0.02)


def test_the_degrees_of_freedom_are_those_of_every_entry():
    np.testing.assert_array_equal(StudentT(4.0, 3).df, [4.0, 4.0, 4.0])
    # The 90 % points of t with 3 and 30 degrees of freedom (any table).
    np.testing.assert_allclose(
        StudentT([3.0, 30.0]).cdf(jnp.asarray([1.638, 1.310])), 0.9, atol=1e-4
    )


def linear(scale, base, **settings):
    """`x(1) = exp(scale) x(0)`."""
    field = Linear(matrix=scale * jnp.eye(2))
    return CNF(field, base, ode_eval=ODE(rtol=1e-9, atol=1e-9), **settings)


@pytest.mark.slow
def test_a_fitted_flow_is_a_base(key):
    # N(0, e^2) under a flow that multiplies its scale by e again: N(0, e^4).
    first = linear(1.0, StandardNormal(2), transform=Standardise(jnp.ones(2), jnp.ones(2)))
    flow = linear(1.0, FlowBase(first))
    x = jax.random.normal(key, (5, 2))
    expected = stats.norm.logpdf(x, np.e, np.e**2).sum(axis=1)
    np.testing.assert_allclose(flow.log_prob(x), expected, atol=1e-6)
    drawn, log_p = flow.sample_and_log_prob(key, 2000)
    np.testing.assert_allclose(log_p[:5], flow.log_prob(drawn[:5]), atol=1e-6)
    assert drawn.std() == pytest.approx(np.e**2, rel=0.1)
    assert partition_trainable(flow)[0].keys() == {".field.matrix", ".field.bias"}


def test_a_row_without_a_density_is_reported(key):
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


def test_wrong_parameters_are_refused():
    with pytest.raises(ValueError, match=r"event_shape=\(2, 0\) must hold sizes of at least 1"):
        StandardNormal((2, 0))
    with pytest.raises(ValueError, match=r"scale=.*must be positive"):
        DiagonalNormal(jnp.zeros(2), jnp.asarray([1.0, 0.0]))
    with pytest.raises(ValueError, match=r"scale=.*must be positive"):
        DiagonalNormal(jnp.zeros(2), jnp.asarray([1.0, jnp.nan]))
    with pytest.raises((ValueError, TypeError), match=r"(?s)mean.*scale"):
        DiagonalNormal(jnp.zeros(2), jnp.ones(3))
    eye = jnp.eye(2)[None]
    with pytest.raises(ValueError, match="must be positive with sum 1"):
        GaussianMixture([0.5, 0.6], jnp.zeros((2, 2)), jnp.tile(eye, (2, 1, 1)))
    with pytest.raises(ValueError, match="lower triangular"):
        GaussianMixture([1.0], jnp.zeros((1, 2)), -eye)
    with pytest.raises(ValueError, match=r"factors have shape"):
        GaussianMixture([1.0], jnp.zeros((1, 2)), jnp.ones((1, 3, 3)))
    with pytest.raises(ValueError, match=r"df=.* must be positive"):
        StudentT([1.0, 0.0])
    with pytest.raises(TypeError, match="is not a flow: give a CNF"):
        FlowBase(StandardNormal(2))
    with pytest.raises(ValueError, match="gives a random log-density"):
        FlowBase(linear(1.0, StandardNormal(2), trace="hutchinson"))
