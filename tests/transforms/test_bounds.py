"""Limits, rotations and chains: exact log-determinants, limits kept, bad data named."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxflow import CNF, StandardNormal, load, save
from jaxflow.dynamics import MLP
from jaxflow.transforms import Bounded, Chain, Standardise, Whiten

INF = np.inf
LIMITS = Bounded([0.0, -2.0, -INF, -INF], [1.0, INF, 5.0, INF])
RNG = np.random.default_rng(3)
X = np.stack(
    [
        RNG.uniform(0, 1, 300),
        np.exp(2 * RNG.normal(size=300)) - 2,
        5 - RNG.gamma(2.0, size=300),
        RNG.normal(size=300),
    ],
    axis=1,
)
U = np.asarray(jax.vmap(LIMITS.forward)(jnp.asarray(X))[0])
MIXED = RNG.normal(size=(300, 4)) @ RNG.normal(size=(4, 4)) + 3
TRANSFORMS = {
    "bounded": (LIMITS, X),
    "whiten": (Whiten.fit(MIXED), MIXED),
    "chain": (Chain((LIMITS, Standardise.fit(U), Whiten.fit(2 * U))), X),
}


@pytest.fixture(params=TRANSFORMS, scope="module")
def case(request):
    transform, x = TRANSFORMS[request.param]
    return transform, jnp.asarray(x)


def test_log_det_is_that_of_the_jacobian(case):
    transform, x = case
    u = jax.vmap(transform.forward)(x)[0]
    for maps, values in ((transform.forward, x[:20]), (transform.inverse, u[:20])):
        jacobian, log_det = jax.vmap(jax.jacfwd(maps, has_aux=True))(values)
        np.testing.assert_allclose(log_det, jnp.linalg.slogdet(jacobian)[1], rtol=1e-9, atol=1e-9)


def test_there_and_back(case):
    transform, x = case
    u, log_det = jax.vmap(transform.forward)(x)
    back, back_log_det = jax.vmap(transform.inverse)(u)
    np.testing.assert_allclose(back, x, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(back_log_det, -log_det, rtol=1e-8, atol=1e-8)


def test_whitened_data_have_the_identity_as_covariance():
    u = jax.vmap(Whiten.fit(MIXED).forward)(jnp.asarray(MIXED))[0]
    np.testing.assert_allclose(np.cov(u, rowvar=False, ddof=0), np.eye(4), atol=1e-12)
    np.testing.assert_allclose(u.mean(axis=0), 0.0, atol=1e-12)


def test_a_uniform_density_on_the_unit_box_scores_zero():
    box = Bounded(jnp.zeros(3), jnp.ones(3))
    u, log_det = jax.vmap(box.forward)(jnp.asarray(RNG.uniform(size=(50, 3))))
    # The logistic density is what the uniform one becomes.
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
    slope = jax.jacrev(lambda x: LIMITS.forward(x)[1])(jnp.asarray(X[0]))
    assert np.isfinite(slope).all()
    slope = jax.jacrev(lambda u: LIMITS.inverse(u)[0])(jnp.asarray(U[0]))
    assert np.isfinite(slope).all()


def test_values_at_a_limit_are_named_as_atoms():
    atoms, beyond = X.copy(), X.copy()
    atoms[[5, 9], 0] = 0.0
    beyond[7, 2] = 6.0
    with pytest.raises(ValueError, match=r"column 0 has 2 values at or beyond lower=0, .*row 5"):
        LIMITS.check(atoms)
    with pytest.raises(ValueError, match=r"column 2 .* upper=5, first in row 7$"):
        LIMITS.check(beyond)
    LIMITS.check(X)


def test_bad_transforms_are_refused():
    with pytest.raises(ValueError, match="lower must be less than upper, but at"):
        Bounded([0.0, 1.0], [1.0, 1.0])
    with pytest.raises(ValueError, match="both must have the shape of one sample"):
        Bounded([0.0], [1.0, 1.0])
    with pytest.raises(ValueError, match="depend on each other linearly"):
        Whiten.fit(np.stack([MIXED[:, 0], 2 * MIXED[:, 0]], axis=1))
    with pytest.raises(ValueError, match=r"x is constant .* columns \[1\]"):
        Whiten.fit(np.stack([MIXED[:, 0], np.ones(300)], axis=1))
    with pytest.raises(ValueError, match="they need one"):
        Chain((LIMITS, Whiten.fit(MIXED[:, :2])))


def test_a_flow_with_them_is_saved_and_loaded(tmp_path):
    flow = CNF(
        MLP(4, width=4, key=jax.random.key(0)),
        StandardNormal(4),
        transform=TRANSFORMS["chain"][0],
    )
    save(tmp_path / "flow.safetensors", flow)
    again = load(tmp_path / "flow.safetensors")
    x = jnp.asarray(X[:3])
    np.testing.assert_array_equal(again.log_prob(x), flow.log_prob(x))
