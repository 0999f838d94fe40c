"""Hutchinson's estimate: its mean, its variance, its probes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxflow.trace import Hutchinson, hutchinson_trace

T = jnp.asarray(0.2)
X = jnp.asarray([0.4, -1.0])
NUM = 20_000


def linear(matrix):
    return lambda t, x: (matrix @ x.reshape(-1)).reshape(x.shape)


def estimates(matrix, law, key, event_shape):
    """One estimate a probe, of the trace of a linear field."""
    probes = Hutchinson(NUM, law).draw(key, event_shape, float)
    x = jnp.zeros(event_shape)
    return jax.vmap(lambda v: hutchinson_trace(linear(matrix), T, x, v)[1])(probes)


def variance(matrix, law):
    """`sum_{i<j} S_ij^2` for Rademacher, `||S||_F^2 / 2` for Gaussian probes, `S = J + J^T`."""
    s = matrix + matrix.T
    if law == "gaussian":
        return float(jnp.sum(s**2) / 2)
    return float(jnp.sum(jnp.triu(s, k=1) ** 2))


@pytest.mark.parametrize("law", ["rademacher", "gaussian"])
@pytest.mark.parametrize("event_shape", [(5,), (3, 4)])
def test_mean_and_variance_follow_their_formulas(law, event_shape, key):
    size = int(np.prod(event_shape))
    matrix_key, probe_key = jax.random.split(key)
    matrix = jax.random.normal(matrix_key, (size, size))
    values = estimates(matrix, law, probe_key, event_shape)
    expected = variance(matrix, law)
    standard_error = np.sqrt(expected / NUM)
    assert float(jnp.mean(values)) == pytest.approx(
        float(jnp.trace(matrix)), abs=5 * standard_error
    )
    assert float(jnp.var(values)) == pytest.approx(expected, rel=0.05)


def test_a_diagonal_jacobian_needs_one_rademacher_probe(key):
    # v = (x1, 5 x2) has trace 6, and v_i^2 = 1.
    def field(t, x):
        return x * jnp.asarray([1.0, 5.0])

    for one in jax.random.split(key, 5):
        f, trace = hutchinson_trace(field, T, X, Hutchinson().draw(one, (2,), float))
        assert float(trace) == 6.0
        np.testing.assert_array_equal(f, field(T, X))


@pytest.mark.parametrize("law", ["rademacher", "gaussian"])
def test_a_skew_jacobian_has_no_estimate_but_zero(law, key):
    a = jax.random.normal(key, (5, 5))
    values = estimates(a - a.T, law, key, (5,))
    np.testing.assert_allclose(values, 0, atol=1e-12)


def test_many_probes_are_averaged(key):
    matrix = jax.random.normal(key, (2, 2))
    probes = Hutchinson(3, "gaussian").draw(key, (2,), float)
    _, together = hutchinson_trace(linear(matrix), T, X, probes)
    alone = [hutchinson_trace(linear(matrix), T, X, v)[1] for v in probes]
    assert float(together) == pytest.approx(float(np.mean(alone)), rel=1e-13)
    np.testing.assert_allclose(alone, [v @ matrix @ v for v in probes], rtol=1e-13)


def test_the_condition_reaches_the_field(key):
    def field(t, x, cond):
        return cond * x + t

    f, trace = hutchinson_trace(field, T, X, jnp.asarray([1.0, -1.0]), jnp.asarray([2.0, 3.0]))
    np.testing.assert_allclose(f, [2 * 0.4 + 0.2, -3 + 0.2])
    assert float(trace) == 5.0


def test_draws(key):
    signs = Hutchinson(7).draw(key, (3, 4), jnp.float32)
    assert signs.shape == (7, 3, 4)
    assert signs.dtype == jnp.float32
    assert set(np.unique(signs)) == {-1.0, 1.0}
    normal = Hutchinson(50, "gaussian").draw(key, (100,), float)
    assert float(jnp.std(normal)) == pytest.approx(1.0, abs=0.05)
    np.testing.assert_array_equal(Hutchinson(7).draw(key, (3, 4), jnp.float32), signs)


@pytest.mark.parametrize("shape", [(3,), (4, 3), (0, 2), (1, 1, 2), ()])
def test_probes_of_another_shape_are_refused(shape):
    words = r"probes have shape .*for an event of shape \(2,\) give \(2,\) or \('k', 2\)"
    with pytest.raises(ValueError, match=words):
        hutchinson_trace(linear(jnp.eye(2)), T, X, jnp.ones(shape))


def test_settings_that_are_refused():
    with pytest.raises(ValueError, match="num_probes=0 must be at least 1"):
        Hutchinson(num_probes=0)
    with pytest.raises((ValueError, TypeError), match=r"(?s)law.*'uniform'"):
        Hutchinson(law="uniform")  # pyright: ignore[reportArgumentType]
