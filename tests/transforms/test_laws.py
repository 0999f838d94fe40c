"""What every transform must satisfy, over a table of fitted transforms."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxflow.transforms import Gaussianise, Standardise


def columns(n=2000):
    """Five kinds of column: bell, skewed, heavy-tailed, tied integers, two far modes."""
    rng = np.random.default_rng(7)
    modes = np.where(rng.random(n) < 0.3, -50.0, 50.0) + rng.normal(size=n)
    return np.stack(
        [
            rng.normal(3.0, 2.0, n),
            np.exp(1.5 * rng.normal(size=n)),
            rng.standard_t(1.5, n),
            rng.poisson(2.0, n).astype(float),
            modes,
        ],
        axis=1,
    )


X = columns()
SPREAD = np.subtract(*np.quantile(X, [0.9, 0.1], axis=0))
TRANSFORMS = {"standardise": Standardise.fit(X), "gaussianise": Gaussianise.fit(X)}


def places(transform):
    """Rows inside the data, on knots, between them and in both far tails: (m, 5)."""
    centre = np.median(X, axis=0)
    far = [centre + s * SPREAD for s in (-1e3, -30.0, 30.0, 1e3)]
    rows = [X[:20], far, X.min(axis=0)[None], X.max(axis=0)[None]]
    if isinstance(transform, Gaussianise):
        knots = np.asarray(transform.knots).T
        rows += [knots, (knots[1:] + knots[:-1]) / 2, knots[:1] - 1e-9, knots[-1:] + 1e-9]
    return jnp.asarray(np.concatenate(rows))


@pytest.fixture(params=TRANSFORMS, scope="module")
def transform(request):
    return TRANSFORMS[request.param]


def test_log_det_is_that_of_the_jacobian(transform):
    for maps, values in (
        (transform.forward, places(transform)),
        (transform.inverse, jax.vmap(transform.forward)(places(transform))[0]),
    ):
        jacobian, log_det = jax.vmap(jax.jacfwd(maps, has_aux=True))(values)
        sign, expected = jnp.linalg.slogdet(jacobian)
        assert (sign == 1).all()
        np.testing.assert_allclose(log_det, expected, rtol=1e-11, atol=1e-11)


def test_inverse_undoes_forward(transform):
    x = places(transform)
    u, log_det = jax.vmap(transform.forward)(x)
    back, back_log_det = jax.vmap(transform.inverse)(u)
    scale = np.maximum(np.abs(x), SPREAD)
    np.testing.assert_allclose(back / scale, x / scale, rtol=0, atol=1e-12)
    np.testing.assert_allclose(back_log_det, -log_det, rtol=1e-9, atol=1e-9)


def test_forward_undoes_inverse(transform):
    u = jnp.linspace(-40.0, 40.0, 801)[:, None] * jnp.ones((1, 5))
    x, log_det = jax.vmap(transform.inverse)(u)
    again, again_log_det = jax.vmap(transform.forward)(x)
    np.testing.assert_allclose(again, u, rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(again_log_det, -log_det, rtol=1e-8, atol=1e-8)


def test_each_column_increases_strictly(transform):
    x = jnp.sort(places(transform), axis=0)
    u = jax.vmap(transform.forward)(x)[0]
    apart = np.diff(x, axis=0) > 1e-12 * np.abs(x[1:])
    assert (np.diff(u, axis=0)[apart] > 0).all()


def test_jit_and_vmap_change_nothing(transform):
    x = places(transform)[:6]
    batch = eqx.filter_jit(lambda t, x: jax.vmap(t.forward)(x))(transform, x)
    for i, row in enumerate(x):
        u, log_det = transform.forward(row)
        assert log_det.shape == ()
        np.testing.assert_allclose(batch[0][i], u, rtol=1e-14, atol=1e-14)
        np.testing.assert_allclose(batch[1][i], log_det, rtol=1e-14, atol=1e-14)


def test_parameters_have_gradient_zero_but_samples_do_not(transform):
    def total(transform, x):
        u, log_det = transform.forward(x)
        back, back_log_det = transform.inverse(u + 0.1)
        return jnp.sum(u**2) + log_det + jnp.sum(back) + 2 * back_log_det

    row = jnp.asarray(X[0])
    gradient = eqx.filter_grad(total)(transform, row)
    leaves = jax.tree.leaves(gradient)
    assert len(leaves) >= 2
    assert all((leaf == 0).all() for leaf in leaves)
    slope = jax.grad(total, argnums=1)(transform, row)
    assert np.isfinite(slope).all()
    assert (slope != 0).all()


@pytest.mark.parametrize("kind", [Standardise, Gaussianise])
def test_units_only_shift_the_log_det(kind):
    units = np.array([1000.0, 0.01])
    original, scaled = kind.fit(X[:, :2]), kind.fit(X[:, :2] * units)
    rows = X[:50, :2]
    u, log_det = jax.vmap(original.forward)(jnp.asarray(rows))
    u_scaled, log_det_scaled = jax.vmap(scaled.forward)(jnp.asarray(rows * units))
    np.testing.assert_allclose(u_scaled, u, rtol=1e-11, atol=1e-11)
    np.testing.assert_allclose(log_det_scaled, log_det - np.log(10.0), rtol=0, atol=1e-11)


@pytest.mark.parametrize("kind", [Standardise, Gaussianise])
def test_float32_stays_float32(kind):
    x = X.astype(np.float32)
    transform = kind.fit(x)
    assert {leaf.dtype for leaf in jax.tree.leaves(transform)} == {jnp.dtype(jnp.float32)}
    far = places(TRANSFORMS["gaussianise"]).astype(jnp.float32)
    u, log_det = jax.vmap(transform.forward)(far)
    back, back_log_det = jax.vmap(transform.inverse)(u)
    assert {a.dtype for a in (u, log_det, back, back_log_det)} == {jnp.dtype(jnp.float32)}
    assert all(np.isfinite(a).all() for a in (u, log_det, back, back_log_det))
    scale = np.maximum(np.abs(far), SPREAD.astype(np.float32))
    np.testing.assert_allclose(back / scale, far / scale, rtol=0, atol=1e-4)


@pytest.mark.parametrize("kind", [Standardise, Gaussianise])
def test_bad_data_is_refused_by_name(kind):
    x = X[:100].copy()
    x[:, 1], x[:, 3] = 0.1, 1e8 + 1e-9 * x[:, 0]
    with pytest.raises(ValueError, match=r"x is constant .* columns \[1, 3\]"):
        kind.fit(x)
    x[2:4, 0] = np.nan
    with pytest.raises(ValueError, match="x has 2 rows with NaN"):
        kind.fit(x)
    with pytest.raises(ValueError, match="at least two samples"):
        kind.fit(X[:1])
    with pytest.raises(TypeError, match="x has dtype complex128"):
        kind.fit(X + 0j)


@pytest.mark.parametrize("direction", ["forward", "inverse"])
def test_a_batch_is_refused(transform, direction):
    with pytest.raises(ValueError, match=r"shape \(3, 5\); .* one sample of shape \(5,\)"):
        getattr(transform, direction)(jnp.zeros((3, 5)))


def test_parameters_can_be_replaced_and_shaped_without_values(transform):
    doubled = jax.tree.map(lambda leaf: leaf * 2, transform)
    assert doubled.event_shape == (5,)
    skeleton = eqx.filter_eval_shape(type(transform), *jax.tree.leaves(transform))
    assert jax.tree.structure(skeleton) == jax.tree.structure(transform)
