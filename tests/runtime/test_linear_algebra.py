"""Small matrices without LAPACK, and that no program on rows calls it."""

import os
import subprocess
import sys
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxflow import CNF, GaussianMixture, StandardNormal
from jaxflow.dynamics import MLP
from jaxflow.runtime.linear_algebra import cholesky, orthonormal, solve_lower
from jaxflow.runtime.threads import may_wait
from jaxflow.trace import Hutchinson, HutchPlusPlus, XTrace

KEY = jax.random.key(0)
TRACES = {
    "rademacher": Hutchinson(3),
    "orthogonal": Hutchinson(3, "orthogonal"),
    "hutch++": HutchPlusPlus(jnp.eye(4)[:2], num_probes=2),
    "xtrace": XTrace(3),
}


@pytest.mark.parametrize("size", [1, 3, 8, 9, 43])
def test_it_agrees_with_lapack(size):
    rng = np.random.default_rng(size)
    a, b = rng.normal(size=(size, size)), rng.normal(size=size)
    positive = a @ a.T + np.eye(size)
    factor = np.linalg.cholesky(positive)
    np.testing.assert_allclose(jax.jit(cholesky)(positive), factor, rtol=1e-10, atol=1e-10)
    # What is above the diagonal is not read.
    z = jax.jit(solve_lower)(factor + np.triu(a, 1), b)
    np.testing.assert_allclose(factor @ np.asarray(z), b, rtol=1e-10, atol=1e-10)
    for rank in {1, max(1, size // 2), size}:
        q = np.asarray(jax.jit(orthonormal)(a[:, :rank]))
        np.testing.assert_allclose(q.T @ q, np.eye(rank), atol=1e-13)
        np.testing.assert_allclose(q @ (q.T @ a[:, :rank]), a[:, :rank], rtol=1e-9, atol=1e-9)


def test_gradients_agree_with_lapack():
    rng = np.random.default_rng(0)
    a, b = jnp.asarray(rng.normal(size=(5, 3))), jnp.asarray(rng.normal(size=5))
    ours = jax.jit(jax.grad(lambda a: jnp.sin(orthonormal(a)).sum()))(a)
    theirs = jax.jit(jax.grad(lambda a: jnp.sin(jnp.linalg.qr(a)[0]).sum()))(a)
    np.testing.assert_allclose(ours, theirs, atol=1e-12)
    positive = a @ a.T + jnp.eye(5)
    solves = jax.scipy.linalg.solve_triangular

    def total(factor_of, solve, matrix):
        return jnp.sin(solve(factor_of(matrix), b)).sum()

    ways = (cholesky, solve_lower), (jnp.linalg.cholesky, partial(solves, lower=True))
    ours, theirs = (np.asarray(jax.jit(jax.grad(partial(total, *way)))(positive)) for way in ways)
    np.testing.assert_allclose(ours + ours.T, theirs + theirs.T, atol=1e-12)


@pytest.mark.parametrize("columns", [jnp.zeros((5, 3)), jnp.ones((5, 3))], ids=["0", "rank 1"])
def test_columns_of_any_rank_have_an_orthonormal_basis(columns):
    q = np.asarray(jax.jit(orthonormal)(columns))
    slope = jax.jit(jax.grad(lambda a: orthonormal(a).sum()))(columns)
    np.testing.assert_allclose(q.T @ q, np.eye(3), atol=1e-14)
    assert jnp.isfinite(slope).all()


@pytest.mark.parametrize("name", TRACES)
def test_no_trace_waits(name):
    settings: Any = {"trace": TRACES[name], "transform": None}
    flow = CNF(MLP(4, width=4, key=KEY), StandardNormal(4), **settings)
    assert not may_wait(lambda x: flow.log_prob(x, key=KEY), jnp.zeros((3, 4)))


def test_what_waits_is_found():
    matrices = jnp.stack([jnp.eye(3)] * 4)
    waiting = (jnp.linalg.inv, jnp.linalg.slogdet, jnp.linalg.qr, jnp.linalg.svd, jnp.fft.fft)
    for f in (*waiting, jnp.linalg.eigh, jax.scipy.linalg.expm):
        assert may_wait(lambda a, f=f: jax.lax.map(jax.jit(f), a), matrices)
    assert not may_wait(lambda a: jnp.sin(a) @ a, matrices)


PROGRAM = """
import faulthandler, jax, numpy as np
import jaxflow

faulthandler.dump_traceback_later(100, exit=True)
x = np.random.default_rng(0).normal(size=(2500, 24)).astype(np.float32)
base = jaxflow.GaussianMixture.fit(x, 3)
flow = jaxflow.CNF(jaxflow.dynamics.MLP(24, width=8, key=jax.random.key(0)), base)
first = np.asarray(flow.log_prob(x))
for _ in range(60):
    np.testing.assert_array_equal(flow.log_prob(x), first)
"""


@pytest.mark.slow
def test_a_mixture_is_scored_by_all_cores():
    env = {**os.environ, "XLA_FLAGS": ""}
    subprocess.run([sys.executable, "-c", PROGRAM], check=True, timeout=200, env=env)


def test_a_mixture_has_the_density_of_its_formula_in_many_columns():
    rng = np.random.default_rng(1)
    factors = np.tril(rng.normal(size=(3, 20, 20)) / 8 + np.eye(20))
    base = GaussianMixture(np.ones(3) / 3, rng.normal(size=(3, 20)), factors)
    x = rng.normal(size=20)
    z = np.stack([np.linalg.solve(f, x - m) for f, m in zip(factors, base.means, strict=True)])
    scale = np.log(np.abs(np.diagonal(factors, axis1=1, axis2=2))).sum(axis=1)
    each = -0.5 * (z**2).sum(axis=1) - scale - 10 * np.log(2 * np.pi)
    np.testing.assert_allclose(
        base.log_prob(jnp.asarray(x)), np.logaddexp.reduce(each) - np.log(3)
    )
