"""Base densities against their formulas and their own samples."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.scipy import stats

from jaxflow import DiagonalNormal, StandardNormal

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
