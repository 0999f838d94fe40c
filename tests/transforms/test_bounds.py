"""Particulars of limits, rotations and chains."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tests.transforms.test_laws import INSIDE, LIMITS, MIXED, RNG, U

from jaxflow.transforms import Bounded, Chain, Whiten


def test_whitened_data_have_the_identity_as_covariance():
    u = jax.vmap(Whiten.fit(MIXED).forward)(jnp.asarray(MIXED))[0]
    np.testing.assert_allclose(np.cov(u, rowvar=False, ddof=0), np.eye(4), atol=1e-12)
    np.testing.assert_allclose(u.mean(axis=0), 0.0, atol=1e-12)


def test_a_uniform_density_on_the_unit_box_scores_zero():
    box = Bounded(jnp.zeros(3), jnp.ones(3))
    u, log_det = jax.vmap(box.forward)(jnp.asarray(RNG.uniform(size=(50, 3))))
    # A uniform variable has a logistic density in flow space.
    logistic = jnp.sum(jax.nn.log_sigmoid(u) + jax.nn.log_sigmoid(-u), axis=1)
    np.testing.assert_allclose(logistic + log_det, 0.0, atol=1e-12)


def test_samples_keep_the_limits_in_every_precision():
    far = jnp.linspace(-60, 60, 241, dtype=jnp.float32)[:, None] * jnp.ones((1, 4), jnp.float32)
    limits = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), LIMITS)
    x, log_det = jax.vmap(limits.inverse)(far)
    assert x.dtype == log_det.dtype == jnp.float32
    x, lower, upper = map(np.asarray, (x, limits.lower, limits.upper))
    assert np.all((x >= lower) & (x <= upper))
    assert np.isfinite(log_det).all()


def test_gradients_are_finite_where_a_column_has_no_limit():
    slope = jax.jacrev(lambda x: LIMITS.forward(x)[1])(jnp.asarray(INSIDE[0]))
    assert np.isfinite(slope).all()
    slope = jax.jacrev(lambda u: LIMITS.inverse(u)[0])(jnp.asarray(U[0]))
    assert np.isfinite(slope).all()


def test_values_at_a_limit_are_named_as_atoms():
    atoms, beyond = INSIDE.copy(), INSIDE.copy()
    atoms[[5, 9], 0] = 0.0
    beyond[7, 2] = 6.0
    words = r"column 0 has 2 values at or beyond lower=0, first in row 5; 2 lie on it, an atom"
    with pytest.raises(ValueError, match=words):
        LIMITS.check(atoms)
    with pytest.raises(ValueError, match=r"column 2 .* upper=5, first in row 7$"):
        LIMITS.check(beyond)


def test_bad_transforms_are_refused():
    with pytest.raises(ValueError, match="lower must be less than upper, but at"):
        Bounded([0.0, 1.0], [1.0, 1.0])
    with pytest.raises(ValueError, match="both must have the shape of one sample"):
        Bounded([0.0], [1.0, 1.0])
    with pytest.raises(ValueError, match="are linearly dependent"):
        Whiten.fit(np.stack([MIXED[:, 0], 2 * MIXED[:, 0]], axis=1))
    with pytest.raises(ValueError, match="give one or more transforms of one event shape"):
        Chain((LIMITS, Whiten.fit(MIXED[:, :2])))
