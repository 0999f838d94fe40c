"""Quantiles of bases compared with scipy's, in closed form and by bisection."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from jaxflow import DiagonalNormal, GaussianMixture, StandardNormal, StudentT
from jaxflow.bases import cdf_rows, icdf_rows

Q = np.array([1e-300, 1e-12, 1e-3, 0.2, 0.5, 0.7, 0.999, 1 - 1e-6])
CASES = {
    "normal": (StandardNormal(()), stats.norm(), Q),
    "diagonal": (DiagonalNormal(jnp.asarray([5.0]), jnp.asarray([0.01])), stats.norm(5, 0.01), Q),
    "student": (StudentT(0.7, event_shape=()), stats.t(0.7), Q[1:]),
    "far": (GaussianMixture([1.0], [[-1e6]], [[[1e-3]]]), stats.norm(-1e6, 1e-3), Q[2:]),
}


@pytest.mark.parametrize("name", CASES)
def test_quantiles_are_those_of_scipy(name):
    base, law, q = CASES[name]
    z = icdf_rows(base, jnp.asarray(q))
    assert z.shape == (len(q), *base.event_shape)
    np.testing.assert_allclose(z.reshape(-1), law.ppf(q), rtol=1e-8, atol=1e-7)
    np.testing.assert_allclose(cdf_rows(base, z), q, rtol=1e-6)


def test_float32_stays_float32():
    parts = (jnp.asarray(part, "float32") for part in ([1.0], [[2.0]], [[[3.0]]]))
    z = icdf_rows(GaussianMixture(*parts), jnp.asarray([0.1, 0.9], "float32"))
    assert z.dtype == jnp.float32
    np.testing.assert_allclose(z[:, 0], stats.norm(2, 3).ppf([0.1, 0.9]), rtol=1e-5)


def test_a_base_without_a_distribution_function_is_refused():
    pair = GaussianMixture([1.0], [[0.0, 0.0]], [jnp.eye(2)])
    for call in (lambda: cdf_rows(pair, jnp.zeros((1, 2))), lambda: icdf_rows(pair, jnp.ones(1))):
        with pytest.raises(ValueError, match="has no distribution function"):
            call()


def test_a_base_whose_icdf_is_not_implemented_is_bisected():
    class Logistic(StandardNormal):
        def cdf(self, x):
            return jax.nn.sigmoid(x)

        def icdf(self, q):
            raise NotImplementedError

    z = icdf_rows(Logistic(()), jnp.asarray([0.1, 0.6]))
    np.testing.assert_allclose(z, stats.logistic.ppf([0.1, 0.6]), rtol=1e-12)
