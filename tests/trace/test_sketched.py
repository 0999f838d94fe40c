"""Hutch++ and XTrace on matrices whose trace is known."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import t as student

from jaxflow.trace import HutchPlusPlus, XTrace
from jaxflow.trace.hutchinson import widening

NUM = 4000


def orthonormal(key, rank, size):
    return jnp.asarray(np.linalg.qr(jax.random.normal(key, (size, rank)))[0].T)


def hutch_estimates(trace, matrix, keys, shape, span=1.0) -> Any:
    """Values and standard errors of the trace of `span * matrix`, one a key."""

    def one(key):
        v = trace.draw(key, shape, float)
        flat = v.reshape(len(v), -1)
        return trace.estimate(span * jnp.sum(flat * (flat @ matrix.T), axis=1), v, span)

    return jax.tree.map(np.asarray, jax.jit(jax.vmap(one))(keys))


def x_estimates(trace, matrix, keys, shape) -> Any:
    def image(v):
        return (v.reshape(len(v), -1) @ matrix.T).reshape(v.shape)

    def one(key):
        v = trace.draw(key, shape, float)
        q = trace.basis(image(v))
        return trace.estimate(v, image(v), q, image(q))

    return jax.tree.map(np.asarray, jax.jit(jax.vmap(one))(keys))


@pytest.mark.parametrize("law", ["rademacher", "gaussian"])
@pytest.mark.parametrize("referenced", [False, True])
@pytest.mark.parametrize("shape", [(6,), (2, 3)])
def test_hutch_is_unbiased_and_its_standard_error_right(law, referenced, shape, key):
    keys = jax.random.split(key, 4)
    matrix = jax.random.normal(keys[0], (6, 6))
    # Any subspace and any reference will do.
    q = orthonormal(keys[1], 2, 6).reshape(2, *shape)
    m = jax.random.normal(keys[2], (*shape, *shape)) if referenced else None
    trace = HutchPlusPlus(q, m, num_probes=8, law=law)
    span = -0.7
    values, errors = hutch_estimates(trace, matrix, jax.random.split(keys[3], NUM), shape, span)
    expected = span * np.trace(matrix)
    spread = np.std(values)
    assert np.mean(values) == pytest.approx(expected, abs=4.5 * spread / NUM**0.5)
    narrow = errors / widening(8, law)
    assert np.mean(narrow**2) ** 0.5 == pytest.approx(spread, rel=0.05)
    assert spread > 0.1


def test_the_variance_is_that_of_the_complement(key):
    # Rademacher: with R = (I - QQ^T)(S/1)(I - QQ^T), one probe has variance sum_{i<j} R_ij^2.
    matrix = jax.random.normal(key, (6, 6))
    q = orthonormal(key, 3, 6)
    away, whole = np.eye(6) - np.asarray(q).T @ q, np.asarray(matrix)
    s = away @ (whole + whole.T) @ away
    trace = HutchPlusPlus(q, num_probes=1)
    values, error = hutch_estimates(trace, matrix, jax.random.split(key, 20_000), (6,))
    assert error is None
    expected = np.sum(np.triu(s, 1) ** 2)
    assert np.var(values) == pytest.approx(expected, rel=0.05)


@pytest.mark.parametrize("shape", [(6,), (2, 3)])
def test_what_hutch_knows_is_exact(shape, key):
    matrix = jax.random.normal(key, (6, 6))
    expected = np.trace(matrix)
    whole = HutchPlusPlus(jnp.eye(6).reshape(6, *shape), num_probes=1)
    values, errors = hutch_estimates(whole, matrix, jax.random.split(key, 5), shape)
    np.testing.assert_allclose(values, expected, rtol=1e-12)
    np.testing.assert_array_equal(errors, 0)
    none = jnp.zeros((0, *shape))
    known = HutchPlusPlus(none, matrix.reshape(*shape, *shape), num_probes=2, law="gaussian")
    values, errors = hutch_estimates(known, matrix, jax.random.split(key, 5), shape)
    np.testing.assert_allclose(values, expected, rtol=1e-12)
    np.testing.assert_allclose(errors, 0, atol=1e-12)


@pytest.mark.slow
def test_a_sketch_of_jacobians_takes_their_mean_and_leading_directions(key):
    # Rows differ from their mean in one direction of three dimensions only.
    keys = jax.random.split(key, 4)
    mean = jax.random.normal(keys[0], (2, 3, 2, 3))
    u = orthonormal(keys[1], 3, 6)
    cores = jax.random.normal(keys[2], (50, 3, 3))
    jacobians = mean[None] + jnp.einsum("ai,nab,bj->nij", u, cores, u).reshape(50, 2, 3, 2, 3)
    trace = HutchPlusPlus.from_jacobians(jacobians, rank=3, num_products=5)
    assert trace.reference is not None
    np.testing.assert_allclose(trace.reference, jnp.mean(jacobians, axis=0), rtol=1e-12)
    flat = trace.subspace.reshape(3, 6)
    np.testing.assert_allclose(flat.T @ flat, u.T @ u, atol=1e-10)
    for jacobian in jacobians[:3]:
        matrix = jacobian.reshape(6, 6)
        values, errors = hutch_estimates(trace, matrix, jax.random.split(key, 3), (2, 3))
        np.testing.assert_allclose(values, jnp.trace(matrix), rtol=1e-9)
        np.testing.assert_allclose(errors, 0, atol=1e-9)
    alone = HutchPlusPlus.from_jacobians(jacobians, rank=2, num_products=3, reference=False)
    assert alone.reference is None
    # The automatic rank is at least three: a lower one leaves variance to the probes.
    chosen = HutchPlusPlus.from_jacobians(jacobians, num_products=6)
    assert len(chosen.subspace) >= 3
    assert len(chosen.subspace) + chosen.num_probes == 6


def test_a_direction_is_paid_for_where_it_lowers_the_variance(key):
    noise = 0.1 * np.asarray(jax.random.normal(key, (60, 12, 12)))
    u = np.zeros(12)
    u[:2] = np.array([1.0, -1.0]) / 2**0.5
    for jacobians, rank in ((noise, 0), (noise + 3 * np.outer(u, u), 1)):
        chosen = HutchPlusPlus.from_jacobians(
            jnp.asarray(jacobians), num_products=4, reference=False
        )
        assert (len(chosen.subspace), chosen.num_probes) == (rank, 4 - rank)


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(6,), (2, 3)])
def test_xtrace_is_unbiased_and_its_standard_error_near(shape, key):
    keys = jax.random.split(key, 2)
    matrix = jax.random.normal(keys[0], (6, 6))
    values, errors = x_estimates(XTrace(3), matrix, jax.random.split(keys[1], NUM), shape)
    spread = np.std(values)
    expected = np.trace(matrix)
    assert np.mean(values) == pytest.approx(expected, abs=4.5 * spread / NUM**0.5)
    narrow = errors / widening(3, "gaussian")
    assert np.mean(narrow**2) ** 0.5 == pytest.approx(spread, rel=0.25)


def test_xtrace_is_exact_with_as_many_probes_as_entries(key):
    matrix = jax.random.normal(key, (5, 5))
    values, errors = x_estimates(XTrace(5), matrix, jax.random.split(key, 8), (5,))
    np.testing.assert_allclose(values, np.trace(matrix), rtol=1e-8)
    np.testing.assert_allclose(errors, 0, atol=1e-7)


@pytest.mark.parametrize("rank", [0, 1, 2])
def test_xtrace_is_exact_on_a_low_rank(rank, key):
    # With fewer directions than probes the others' images hold the whole range.
    u, w = np.asarray(jax.random.normal(key, (2, rank, 6)))
    matrix = u.T @ w
    values, errors = x_estimates(XTrace(4), matrix, jax.random.split(key, 8), (6,))
    np.testing.assert_allclose(values, np.trace(matrix), rtol=1e-7, atol=1e-12)
    np.testing.assert_allclose(errors, 0, atol=1e-7)


def test_settings_that_are_refused():
    with pytest.raises(ValueError, match=r"subspace must be orthonormal.*qr"):
        HutchPlusPlus(jnp.ones((2, 4)))
    with pytest.raises(ValueError, match=r"5 directions; events of shape \(4,\) have fewer"):
        HutchPlusPlus(jnp.ones((5, 4)))
    with pytest.raises(ValueError, match=r"reference has shape \(4,\).*give \(4, 4\)"):
        HutchPlusPlus(jnp.eye(4), jnp.ones(4))
    with pytest.raises(ValueError, match="num_probes=0 must be"):
        HutchPlusPlus(jnp.eye(4), num_probes=0)
    with pytest.raises(ValueError, match=r"subspace has shape \(4, 4\); for events of shape \(2"):
        HutchPlusPlus(jnp.eye(4)).draw(jax.random.key(0), (2, 2), float)
    assert (
        len(HutchPlusPlus.from_jacobians(jnp.ones((3, 4, 4)), rank=0, num_products=2).subspace)
        == 0
    )
    with pytest.raises(ValueError, match=r"rank=5 must be an integer from 0 to 4"):
        HutchPlusPlus.from_jacobians(jnp.ones((3, 4, 4)), rank=5, num_products=9)
    with pytest.raises(ValueError, match=r"rank=2 .*from 0 to 1: at least one of num_products=2"):
        HutchPlusPlus.from_jacobians(jnp.ones((3, 4, 4)), rank=2, num_products=2)
    with pytest.raises(ValueError, match=r"jacobians has shape \(4, 4\); give \(rows"):
        HutchPlusPlus.from_jacobians(jnp.ones((4, 4)), rank=1, num_products=2)
    with pytest.raises(ValueError, match=r"num_probes=1 must be .*2"):
        XTrace(1)
    with pytest.raises(ValueError, match=r"num_probes=5 is more than events of shape \(2, 2\)"):
        XTrace(5).draw(jax.random.key(0), (2, 2), float)


@pytest.mark.parametrize("k", [2, 4])
def test_intervals_of_xtrace_cover_the_trace_of_coupled_blocks(k, key):
    block = np.kron(np.eye(4), np.array([[0.2, 0.5], [0.5, 0.2]]))
    values, errors = x_estimates(XTrace(k), block, jax.random.split(key, NUM), (8,))
    width = student.ppf(0.975, k - 1) * errors
    assert np.mean(np.abs(values - 1.6) <= width + 1e-9) > 0.93


@pytest.mark.parametrize("off", [4.5e-3, 1e-4])
def test_a_subspace_that_is_nearly_orthonormal_is_refused(off):
    with pytest.raises(ValueError, match=r"must be orthonormal.*1e-05.*jnp.linalg.qr\(flat.T\)"):
        HutchPlusPlus((1 + off) * jnp.eye(4))
    # What rounding to float32 leaves is accepted.
    wide = orthonormal(jax.random.key(0), 20, 300)
    HutchPlusPlus(wide.astype(jnp.float32))
