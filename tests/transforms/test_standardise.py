"""Standardise: closed forms, any event shape, and what its constructor refuses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxflow.transforms import Standardise


def test_known_values():
    transform = Standardise(jnp.array([1.0, -2.0]), jnp.array([4.0, 0.5]))
    u, log_det = transform.forward(jnp.array([3.0, -1.0]))
    np.testing.assert_allclose(u, [0.5, 2.0], rtol=1e-15)
    np.testing.assert_allclose(log_det, -np.log(2.0), rtol=1e-15)
    x, log_det = transform.inverse(u)
    np.testing.assert_allclose(x, [3.0, -1.0], rtol=1e-15)
    np.testing.assert_allclose(log_det, np.log(2.0), rtol=1e-15)


@pytest.mark.parametrize("event_shape", [(), (4,), (2, 3, 1)])
def test_fitted_samples_have_mean_zero_and_variance_one(event_shape):
    x = np.random.default_rng(0).normal(1e3, 1e-2, size=(50, *event_shape))
    transform = Standardise.fit(x)
    assert transform.event_shape == event_shape
    u, log_det = map(np.asarray, jax.jit(jax.vmap(transform.forward))(x))
    np.testing.assert_allclose(u.mean(axis=0), np.zeros(event_shape), atol=1e-10)
    np.testing.assert_allclose((u**2).mean(axis=0), np.ones(event_shape), rtol=1e-10)
    np.testing.assert_allclose(log_det[0], -np.log(x.std(axis=0)).sum(), rtol=1e-12)


def test_integers_are_stored_in_the_default_float():
    transform = Standardise.fit(np.array([[0, 1], [2, 5]], dtype=np.int16))
    assert transform.mean.dtype == jnp.zeros(()).dtype
    np.testing.assert_array_equal(transform.mean, [1.0, 3.0])
    np.testing.assert_array_equal(transform.scale, [1.0, 2.0])


def test_float32_means_do_not_lose_digits():
    x = np.full((100_000, 1), 16_777_216.0, np.float32)
    x[::2] += 64
    np.testing.assert_array_equal(Standardise.fit(x).mean, [16_777_248.0])
    np.testing.assert_array_equal(Standardise.fit(x).scale, [32.0])


def test_constant_pixels_are_named():
    x = np.random.default_rng(0).normal(size=(9, 2, 3))
    x[:, 0, 2] = x[:, 1, 1] = 7.0
    with pytest.raises(ValueError, match=r"columns \[\(0, 2\), \(1, 1\)\]"):
        Standardise.fit(x)


def test_constructor_refuses_wrong_parameters():
    with pytest.raises(ValueError, match=r"shape \(2,\) and scale has shape \(3,\)"):
        Standardise(jnp.zeros(2), jnp.ones(3))
    with pytest.raises(ValueError, match=r"at \[1\] mean is \[0.0\] and scale is \[-1.0\]"):
        Standardise(jnp.zeros(2), jnp.array([1.0, -1.0]))
