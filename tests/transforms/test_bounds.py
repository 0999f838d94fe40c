"""Particulars of limits, rotations and chains."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats
from tests.transforms.test_laws import INSIDE, LIMITS, MIXED, RNG, U, as_dtype, forward, inverse

from jaxflow.transforms import Bounded, Chain, Standardise, Whiten, inside


def test_a_factor_has_a_positive_diagonal():
    for entry in (-1.0, 0.0, jnp.nan):
        with pytest.raises(ValueError, match=r"factor must have a positive diagonal: write"):
            Whiten(jnp.zeros(1), jnp.full((1, 1), entry))


def test_whitened_data_have_the_identity_as_covariance():
    u = np.asarray(forward(Whiten.fit(MIXED), MIXED)[0])
    np.testing.assert_allclose(np.cov(u, rowvar=False, ddof=0), np.eye(4), atol=1e-12)
    np.testing.assert_allclose(u.mean(axis=0), 0.0, atol=1e-12)


def test_a_uniform_density_on_the_unit_box_scores_zero():
    box = Bounded(jnp.zeros(3), jnp.ones(3))
    u, log_det = map(np.asarray, forward(box, RNG.uniform(size=(50, 3))))
    # A uniform variable has a logistic density in flow space.
    logistic = np.sum(stats.logistic.logpdf(u), axis=1)
    np.testing.assert_allclose(logistic + log_det, 0.0, atol=1e-12)


def test_samples_keep_the_limits_in_every_precision():
    far = np.linspace(-60, 60, 241, dtype=np.float32)[:, None] * np.ones((1, 4), np.float32)
    limits = as_dtype(LIMITS, np.float32)
    x, log_det = inverse(limits, far)
    assert x.dtype == log_det.dtype == jnp.float32
    x, lower, upper = map(np.asarray, (x, limits.lower, limits.upper))
    assert np.all((x > lower) & (x < upper))
    assert np.isfinite(log_det).all()


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_no_sample_lies_on_a_limit_of_any_size(dtype):
    inf = np.inf
    ends = [(0, 1), (-180, 180), (1e3, 1e3 + 1), (-0.5, 255.5), (0, 1e-30), (-1e30, 1e30)]
    ends += [(0, inf), (3, inf), (-1e9, inf), (-inf, 0), (-inf, -3), (-inf, inf)]
    limits = Bounded(*(jnp.asarray(part, dtype) for part in zip(*ends, strict=True)))
    u = np.linspace(-800, 800, 801, dtype=dtype)[:, None] * np.ones((1, len(ends)), dtype)
    x, _ = inverse(limits, u)
    assert x.dtype == dtype
    assert np.all(jax.jit(jax.vmap(limits.inside))(x))
    again, log_det = forward(limits, x)
    assert np.isfinite(x).all()
    assert np.isfinite(again).all()
    assert np.isfinite(log_det).all()
    assert np.all(np.diff(x, axis=0) >= 0)


def test_gradients_are_finite_where_a_column_has_no_limit():
    slope = jax.jit(jax.jacrev(lambda x: LIMITS.forward(x)[1]))(INSIDE[0])
    assert np.isfinite(slope).all()
    slope = jax.jit(jax.jacrev(lambda u: LIMITS.inverse(u)[0]))(U[0])
    assert np.isfinite(slope).all()


def test_a_sample_is_inside_where_forward_is_finite():
    # On each limit, just within and just beyond it; NaN is a failure and not outside.
    edges = {0: (0.0, 1.0), 1: (-2.0, 5.0), 2: (-2.0, 5.0), 3: (-9.0, 9.0)}
    rows, expected = [], []
    for column, (lower, upper) in edges.items():
        bounds = (column < 2, column in (0, 2))
        for limit, is_limit, out in ((lower, bounds[0], -1), (upper, bounds[1], 1)):
            for step in (-1, 0, 1):
                row = INSIDE[0].copy()
                row[column] = np.nextafter(limit, step * np.inf) if step else limit
                row[column] = 1e-300 * step if step and limit == 0 else row[column]
                rows.append(row)
                expected.append(not is_limit or step * out < 0)
    rows = jnp.asarray(rows)
    np.testing.assert_array_equal(jax.jit(jax.vmap(LIMITS.inside))(rows), expected)
    u, log_det = forward(LIMITS, rows)
    np.testing.assert_array_equal(np.isfinite(u).all(axis=1) & np.isfinite(log_det), expected)
    for gradient in (jax.jacrev(LIMITS.forward), jax.jacfwd(LIMITS.forward)):
        assert all(np.isfinite(part).all() for part in jax.jit(jax.vmap(gradient))(rows))
    assert LIMITS.inside(jnp.full(4, jnp.nan))


def test_a_chain_is_inside_where_each_part_is():
    chain = Chain(
        (
            Bounded([-jnp.inf], [4.0]),
            Standardise(jnp.asarray([0.0]), jnp.asarray([2.0])),
            Bounded([-1.0], [jnp.inf]),
        )
    )
    x = jnp.asarray([[5.0], [4.0], [3.9], [-3.3], [-3.5]])
    # u1 = -log(4 - x) / 2 > -1 where x > 4 - e^2 = -3.389.
    np.testing.assert_array_equal(
        jax.jit(jax.vmap(lambda x: inside(chain, x)))(x), [False, False, True, True, False]
    )
    assert inside(None, x[0])
    assert inside(Whiten.fit(MIXED), jnp.zeros(4))


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


def test_limits_too_close_for_float32_are_refused():
    with jax.enable_x64(False):
        with pytest.raises(ValueError, match=r"limits at .*too close for float32: subtract"):
            Bounded(np.asarray([1000.0]), np.asarray([1000.001]))
        Bounded(np.asarray([0.1]), np.asarray([0.7]))
        Bounded([0.0], [jnp.inf])
    Bounded(np.asarray([1000.0]), np.asarray([1000.001]))
