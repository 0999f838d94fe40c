"""Hutchinson's estimate: its mean, its variance, its probes."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxflow.trace import Hutchinson, hutchinson_trace, jacobian_trace
from jaxflow.trace.hutchinson import widening

T = jnp.asarray(0.2)
X = jnp.asarray([0.4, -1.0])
NUM = 20_000


def linear(matrix):
    return lambda t, x: (matrix @ x.reshape(-1)).reshape(x.shape)


def estimates(matrix, law, key, event_shape):
    """One estimate a probe, of the trace of a linear field."""
    x = jnp.zeros(event_shape)

    @jax.jit
    @jax.vmap
    def estimate(key):
        v = Hutchinson(1, law).draw(key, event_shape, float)
        return hutchinson_trace(linear(matrix), T, x, v)[1]

    return np.asarray(estimate(jax.random.split(key, NUM)))


def variance(matrix, law):
    """Of one probe, as `Hutchinson` states it, with `S = J + J^T`."""
    s, d = np.asarray(matrix) + np.asarray(matrix).T, len(matrix)
    if law == "gaussian":
        return np.sum(s**2) / 2
    if law == "orthogonal":
        return 2 * d / (d + 2) * (np.sum(s**2) / 4 - np.trace(matrix) ** 2 / d)
    return np.sum(np.triu(s, k=1) ** 2)


LAWS: list[Any] = ["rademacher", "gaussian", "orthogonal"]


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("event_shape", [(5,), (3, 4)])
def test_mean_and_variance_follow_their_formulas(law, event_shape, key):
    size = int(np.prod(event_shape))
    matrix_key, probe_key = jax.random.split(key)
    matrix = jax.random.normal(matrix_key, (size, size))
    values = estimates(matrix, law, probe_key, event_shape)
    expected = variance(matrix, law)
    standard_error = np.sqrt(expected / NUM)
    assert np.mean(values) == pytest.approx(np.trace(matrix), abs=5 * standard_error)
    assert np.var(values) == pytest.approx(expected, rel=0.05)


def test_a_diagonal_jacobian_needs_one_rademacher_probe(key):
    # v = (x1, 5 x2) has trace 6, and v_i^2 = 1.
    def field(t, x):
        return x * jnp.asarray([1.0, 5.0])

    @jax.jit
    def estimate(key):
        return hutchinson_trace(field, T, X, Hutchinson().draw(key, (2,), float))

    for one in jax.random.split(key, 5):
        f, trace = estimate(one)
        assert float(trace) == 6.0
        np.testing.assert_array_equal(f, field(T, X))


@pytest.mark.parametrize("law", LAWS)
def test_a_skew_jacobian_has_no_estimate_but_zero(law, key):
    a = np.asarray(jax.random.normal(key, (5, 5)))
    values = estimates(a - a.T, law, key, (5,))
    np.testing.assert_allclose(values, 0, atol=1e-12)


def test_many_probes_are_averaged(key):
    matrix = np.asarray(jax.random.normal(key, (2, 2)))
    probes = Hutchinson(3, "gaussian").draw(key, (2,), float)
    estimate = jax.jit(lambda v: hutchinson_trace(linear(matrix), T, X, v)[1])
    together, probes = estimate(probes), np.asarray(probes)
    alone = [estimate(v) for v in probes]
    assert float(together) == pytest.approx(float(np.mean(alone)), rel=1e-13)
    np.testing.assert_allclose(alone, [v @ matrix @ v for v in probes], rtol=1e-13)


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("num_probes", [2, 5, 8])
def test_the_variance_and_standard_error_of_several_probes(law, num_probes, key):
    if law == "orthogonal" and num_probes > 7:
        return
    matrix_key, probe_key = jax.random.split(key)
    matrix = jax.random.normal(matrix_key, (7, 7))
    trace = Hutchinson(num_probes, law)

    def one(key) -> Any:
        v = trace.draw(key, (7,), float)
        return trace.estimate(jnp.sum(v * (v @ matrix.T), axis=1), v, 1.0)

    values, errors = jax.jit(jax.vmap(one))(jax.random.split(probe_key, NUM))
    expected = variance(matrix, law) / num_probes
    if law == "orthogonal":
        # Draws without replacement.
        expected *= (7 - num_probes) / (7 - 1)
    assert np.var(np.asarray(values)) == pytest.approx(expected, rel=0.05)
    if errors is None:
        assert law == "rademacher"
        assert num_probes < 8
        return
    narrow = np.asarray(errors) / widening(num_probes, law)
    assert np.mean(narrow**2) == pytest.approx(expected, rel=0.05)


@pytest.mark.parametrize("shape", [(4,), (2, 3), ()])
def test_as_many_orthogonal_probes_as_entries_are_exact(shape, key):
    size = int(np.prod(shape))
    matrix = jax.random.normal(key, (size, size))
    trace = Hutchinson(size, "orthogonal")

    @jax.jit
    def answers(key) -> Any:
        v = trace.draw(key, shape, float)
        _, value = hutchinson_trace(linear(matrix), T, jnp.zeros(shape), v)
        return value, trace.estimate(jnp.sum(v, axis=tuple(range(1, v.ndim))), v, 1.0)[1]

    value, error = answers(key)
    assert float(value) == pytest.approx(np.trace(np.asarray(matrix)), rel=1e-12)
    assert float(error) == 0


def test_one_probe_has_no_standard_error():
    v = jnp.ones((1, 3))
    for law in LAWS:
        assert Hutchinson(1, law).estimate(jnp.ones(1), v, 1.0) == (1.0, None)


def test_the_gradient_of_an_estimate_is_an_estimate_of_the_gradient(key):
    # In training, d/dA_ij of v^T A v is v_i v_j: mean 1 on the diagonal and 0 off it, variance 0
    # and 1 for Rademacher, 2 and 1 for Gaussian probes.
    for law, diagonal in zip(LAWS, (0.0, 2.0), strict=False):
        v = Hutchinson(NUM, law).draw(key, (3,), float)
        x = jnp.zeros(3)
        gradient = jax.grad(lambda a, v, x=x: hutchinson_trace(linear(a), T, x, v)[1])
        each = np.asarray(jax.jit(jax.vmap(gradient, in_axes=(None, 0)))(jnp.ones((3, 3)), v))
        expected = np.where(np.eye(3) == 1, diagonal, 1.0)
        np.testing.assert_allclose(np.mean(each, axis=0), np.eye(3), atol=5 * (2 / NUM) ** 0.5)
        np.testing.assert_allclose(np.var(each, axis=0), expected, atol=0.08)


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


def test_events_and_probes_may_be_integers():
    f, trace = hutchinson_trace(lambda t, x: 2 * x, T, jnp.ones(3, int), jnp.asarray([1, -1, 1]))
    assert f.dtype == float
    assert trace == 6


def test_settings_that_are_refused():
    with pytest.raises(ValueError, match="num_probes=0 must be"):
        Hutchinson(num_probes=0)
    with pytest.raises((ValueError, TypeError), match=r"(?s)law.*'uniform'"):
        Hutchinson(law="uniform")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match=r"target_se=0.0 must be a positive number of nats"):
        Hutchinson(target_se=0.0)
    with pytest.raises(
        ValueError, match=r"num_probes=5 orthogonal.*shape \(2, 2\).*trace='exact'"
    ):
        Hutchinson(5, "orthogonal").draw(jax.random.key(0), (2, 2), float)


def test_settings_are_equal_hashable_and_hold_no_arrays():
    assert Hutchinson(2) == Hutchinson(2) != Hutchinson(3)
    assert hash(Hutchinson(2)) == hash(Hutchinson(2))
    assert jax.tree.leaves(Hutchinson(2)) == []


def test_bfloat16_fields_are_summed_in_float32(key):
    # 1 + 2^-9 * 512 terms: in bfloat16 each small term would be lost beside the first.
    matrix = jnp.diag(jnp.full(513, 2.0**-9).at[0].set(1.0)).astype(jnp.bfloat16)
    x = jnp.zeros(513, jnp.bfloat16)
    v = Hutchinson(2).draw(key, (513,), jnp.bfloat16)
    for trace in (
        jax.jit(lambda: hutchinson_trace(linear(matrix), T, x, v)[1])(),
        jax.jit(lambda: jacobian_trace(linear(matrix), T, x)[1])(),
    ):
        assert trace.dtype == jnp.float32
        assert float(trace) == 2.0


@pytest.mark.parametrize(
    ("law", "squared_error", "number"),
    [
        # A pilot's 8 probes leave v / 8, so v = 16, and k probes v / k = 0.25 at k = 64.
        ("rademacher", 2.0, 64),
        ("gaussian", 2.1, 128),
        # Of 40 directions they leave v (1/8 - 1/40); v (1/k - 1/40) = 0.25 at k = 24.6.
        ("orthogonal", 1.6, 32),
        ("rademacher", 0.0, 1),
    ],
)
def test_a_pilot_tells_how_many_probes_a_wanted_error_takes(law, squared_error, number):
    stated = squared_error * widening(8, law) ** 2
    assert Hutchinson(law=law, target_se=0.5).number_for(stated, 40) == number
