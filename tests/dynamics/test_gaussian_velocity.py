"""The velocity of flow matching for Gaussian data."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import multivariate_normal
from sklearn.covariance import LedoitWolf

from jaxflow import CNF, StandardNormal, trainable
from jaxflow.dynamics import MLP, GaussianVelocity, Sum

RNG = np.random.default_rng(0)
X = RNG.normal(size=(40, 3)) @ RNG.normal(size=(3, 3)) + np.array([1.0, -2.0, 0.5])


def covariance(field):
    vectors, variances = np.asarray(field.vectors), np.asarray(field.variances)
    return vectors * variances @ vectors.T


@pytest.mark.parametrize("rows", [X, X[:3], RNG.normal(size=(30, 50))])
def test_the_covariance_is_that_of_ledoit_and_wolf(rows):
    np.testing.assert_allclose(
        covariance(GaussianVelocity.fit(rows)), LedoitWolf().fit(rows).covariance_, atol=1e-12
    )


def test_the_flow_has_the_density_and_the_samples_of_the_gaussian():
    field = GaussianVelocity.fit(X)
    flow = CNF(field, StandardNormal((3,)))
    moments: tuple[Any, ...] = np.asarray(field.mean), covariance(field)
    log_p = multivariate_normal.logpdf(X, *moments)
    np.testing.assert_allclose(flow.log_prob(X, atol_nats=1e-6), log_p, rtol=0, atol=1e-6)
    z = jax.random.normal(jax.random.key(0), (5, 3))
    ends = flow.transport(z, 0.0, 1.0)
    back = (np.asarray(ends) - np.asarray(field.mean)) @ np.asarray(field.vectors)
    np.testing.assert_allclose(
        back, (z @ field.vectors) * np.sqrt(field.variances)[None], rtol=1e-3, atol=1e-3
    )


def test_the_trace_is_that_of_the_jacobian_on_images():
    field = GaussianVelocity.fit(RNG.normal(size=(20, 2, 2, 1)) * 3)
    x = jnp.asarray(RNG.normal(size=(2, 2, 1)))
    for t in jnp.asarray([0.0, 0.3, 1.0]):
        value, trace = field.with_trace(t, x)
        dense = jax.jacfwd(lambda x, t=t: field(t, x))(x).reshape(4, 4)
        np.testing.assert_allclose(trace, jnp.trace(dense), rtol=1e-12)
        assert value.shape == x.shape


def test_float32_rows_make_a_float32_field():
    with jax.enable_x64(False):
        field = GaussianVelocity.fit(np.ones((9, 2), np.float32) * np.arange(9)[:, None])
        assert {leaf.dtype for leaf in jax.tree.leaves(field)} == {np.dtype(np.float32)}
        value, trace = field.with_trace(jnp.float32(1.0), jnp.ones(2, jnp.float32))
        assert np.isfinite(value).all()
        assert np.isfinite(trace)


def test_it_is_not_trained():
    start = GaussianVelocity.fit(X)
    flow = CNF(Sum((MLP(3, width=4, key=jax.random.key(0)), start)), StandardNormal((3,)))
    marks = trainable(flow).field.fields
    assert any(jax.tree.leaves(marks[0]))
    assert not any(jax.tree.leaves(marks[1]))


@pytest.mark.parametrize("rows", [X[:1], np.ones((5, 2)), np.full((5, 2), np.nan)])
def test_rows_without_a_covariance_are_refused(rows):
    with pytest.raises(ValueError, match="covariance"):
        GaussianVelocity.fit(rows)
