"""The Gaussian that the flow starts from, against closed forms."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from scipy import stats

from jaxflow.tables.gaussian import Conditions, LinearGaussian, fit_gaussian

RNG = np.random.default_rng(0)
FACTOR = np.array([[1.0, 0.0, 0.0], [0.6, 0.8, 0.0], [-0.3, 0.5, 0.7]])
COVARIANCE = FACTOR @ FACTOR.T
SLOPES = np.array([[1.0, -2.0], [0.5, 0.0], [0.0, 3.0]])
START = LinearGaussian(
    jnp.asarray(np.column_stack([[1.0, 2.0, 3.0], SLOPES])), jnp.asarray(COVARIANCE[None])
)
INPUTS = jnp.asarray([0.3, -0.7])
MEAN = np.array([1.0, 2.0, 3.0]) + SLOPES @ np.array([0.3, -0.7])


def given(*seen):
    return Conditions(jnp.asarray(seen), INPUTS, jnp.asarray(0))


# Compiled whole: one program for each.
FORWARD, INVERSE = eqx.filter_jit(START.forward), eqx.filter_jit(START.inverse)
REST = eqx.filter_jit(START.rest)


def log_density(z, log_det, count):
    return log_det - 0.5 * np.sum(np.asarray(z) ** 2) - 0.5 * count * np.log(2 * np.pi)


def test_the_density_of_any_columns_is_the_marginal():
    u = np.array([0.5, 1.0, -2.0])
    for seen in ((True, True, True), (True, False, True), (False, True, False)):
        z, log_det = FORWARD(jnp.asarray(u), given(*seen))
        here = np.array(seen)
        cov: Any = COVARIANCE[np.ix_(here, here)]
        expected = stats.multivariate_normal(MEAN[here], cov).logpdf(u[here])
        np.testing.assert_allclose(log_density(z, log_det, here.sum()), expected, rtol=1e-12)
        np.testing.assert_array_equal(np.asarray(z)[~here], 0.0)
        back = np.asarray(INVERSE(z, given(*seen)))
        np.testing.assert_allclose(back[here], u[here], rtol=1e-12)


def test_no_column_has_density_one():
    z, log_det = FORWARD(jnp.ones(3), given(False, False, False))
    assert log_density(z, log_det, 0) == 0


def test_columns_given_others_have_the_conditional_mean_and_covariance():
    u, known = np.array([0.5, np.nan, -2.0]), np.array([True, False, True])
    found = REST(jnp.asarray(u), jnp.asarray(known), given(True, True, True))
    mean, factor = map(np.asarray, found)
    gain = COVARIANCE[1, known] @ np.linalg.inv(COVARIANCE[np.ix_(known, known)])
    np.testing.assert_allclose(mean[1], MEAN[1] + gain @ (u - MEAN)[known], rtol=1e-12)
    variance = COVARIANCE[1, 1] - gain @ COVARIANCE[known, 1]
    np.testing.assert_allclose(factor[1, 1], np.sqrt(variance), rtol=1e-12)
    np.testing.assert_allclose(mean[known], u[known])


def test_fit_finds_slopes_and_covariances_where_cells_are_absent():
    n = 20_000
    inputs, labels = RNG.normal(size=(n, 2)), RNG.integers(0, 2, n)
    u = np.array([1.0, 2.0, 3.0]) + inputs @ SLOPES.T
    u += np.where(labels, 2.0, 1.0)[:, None] * RNG.normal(size=(n, 3)) @ FACTOR.T
    u[:, 1:][RNG.random((n, 2)) < 0.3] = np.nan
    fitted = fit_gaussian(u, inputs, labels, 2, decay=1.0, ridge=1e-6)
    np.testing.assert_allclose(fitted.coefficients, START.coefficients, atol=0.08)
    whole = fit_gaussian(
        u[labels == 0], inputs[labels == 0], 0 * labels[labels == 0], 1, decay=1.0, ridge=1e-6
    )
    np.testing.assert_allclose(whole.covariances[0], COVARIANCE, atol=0.05)


def test_labels_choose_the_covariance():
    n = 4000
    labels = RNG.integers(0, 2, n)
    u = np.where(labels, 3.0, 1.0)[:, None] * RNG.normal(size=(n, 2))
    fitted = fit_gaussian(u, np.zeros((n, 0)), labels, 2, decay=1.0, ridge=1e-6)
    stds = np.sqrt(np.diagonal(np.asarray(fitted.covariances), axis1=1, axis2=2))
    np.testing.assert_allclose(stds, [[1.0, 1.0], [3.0, 3.0]], rtol=0.06)


def test_gradients_are_finite_where_cells_are_absent():
    def total(u):
        z, log_det = START.forward(u, given(True, False, True))
        return jnp.sum(z**2) + log_det

    slope = jax.jit(jax.grad(total))(jnp.ones(3))
    assert np.isfinite(slope).all()
    assert slope[1] == 0
