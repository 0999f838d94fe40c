"""The laws of a base, over a table of all bases: density, distribution function and samples."""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from jaxflow import DiagonalNormal, GaussianMixture, StandardNormal, StudentT
from jaxflow.bases import Base, Independent, WrappedNormal, log_prob_rows, sample_rows
from jaxflow.manifolds import Euclidean
from jaxflow.runtime.threads import may_wait

log_prob_of_rows = eqx.filter_jit(log_prob_rows)
samples_of_keys = eqx.filter_jit(sample_rows)


@eqx.filter_jit
def log_prob_and_slope(base, x):
    return base.log_prob(x), jax.grad(base.log_prob)(x)


@dataclass(frozen=True)
class Case:
    """A base, its coordinates as frozen scipy distributions, and where its mass lies."""

    base: Any
    truth: Any
    centre: Any = 0.0
    scale: Any = 1.0

    @cached_property
    def drawn(self):
        return np.asarray(samples_of_keys(self.base, jax.random.split(jax.random.key(5), 20_000)))

    def samples(self, n=20_000):
        return self.drawn[:n]

    def log_prob(self, x):
        return self.truth.logpdf(x).reshape(len(x), -1).sum(axis=1)


class Mixture:
    """A mixture of Gaussians by scipy: its joint density, and its marginal distributions."""

    weights = np.array([0.25, 0.75])
    means = np.array([[0.0, 1.0], [3.0, -2.0]])
    covs = np.array([[[1.0, 0.3], [0.3, 0.5]], [[0.2, 0.0], [0.0, 2.0]]])
    components = [*zip(weights, means, covs, strict=True)]  # noqa: RUF012

    def logpdf(self, x):
        return np.log(
            sum(w * stats.multivariate_normal(m, c).pdf(x) for w, m, c in self.components)
        )

    def cdf(self, x):
        return sum(w * stats.norm(m, np.diag(c) ** 0.5).cdf(x) for w, m, c in self.components)


class Numbers:
    """A mixture of two normal distributions of one number."""

    parts = ((0.25, -1.0, 0.5), (0.75, 2.0, 1.5))

    def logpdf(self, x):
        return np.log(sum(w * stats.norm.pdf(x, m, s) for w, m, s in self.parts))

    def cdf(self, x):
        return sum(w * stats.norm.cdf(x, m, s) for w, m, s in self.parts)


MEAN, SCALE = np.array([[1.0, -2.0], [0.5, 30.0]]), np.array([[0.1, 3.0], [1.0, 20.0]])
DF = np.array([3.0, 30.0])
BASES = {
    "normal, scalar": Case(StandardNormal(()), stats.norm()),
    "normal, vector": Case(StandardNormal(2), stats.norm()),
    "normal, matrix": Case(StandardNormal((3, 4)), stats.norm()),
    "diagonal": Case(
        DiagonalNormal(MEAN[1], SCALE[1]), stats.norm(MEAN[1], SCALE[1]), MEAN[1], SCALE[1]
    ),
    "diagonal, matrix": Case(DiagonalNormal(MEAN, SCALE), stats.norm(MEAN, SCALE), MEAN, SCALE),
    "student": Case(StudentT(DF), stats.t(DF)),
    "student, scalar": Case(StudentT(1.5, ()), stats.t(1.5)),
    "mixture": Case(
        GaussianMixture(Mixture.weights, Mixture.means, np.linalg.cholesky(Mixture.covs)),
        Mixture(),
        1.5,
    ),
    "independent": Case(
        Independent((DiagonalNormal(np.zeros(1), np.ones(1)), DiagonalNormal(MEAN[1], SCALE[1]))),
        stats.norm([0.0, *MEAN[1]], [1.0, *SCALE[1]]),
        np.array([0.0, *MEAN[1]]),
        np.array([1.0, *SCALE[1]]),
    ),
    # On other manifolds: `tests/manifolds/test_laws.py`.
    "wrapped normal": Case(
        WrappedNormal(Euclidean(2), MEAN[1], 3.0), stats.norm(MEAN[1], 3.0), MEAN[1], 3.0
    ),
    "mixture of numbers": Case(
        GaussianMixture([1.0, 3.0], [[-1.0], [2.0]], [[[0.5]], [[1.5]]]), Numbers(), 1.0
    ),
}


def log_prob_is_the_formula(case):
    assert isinstance(case.base, Base)
    x = case.centre + 2 * (case.samples(50) - case.centre)
    assert x.shape == (50, *case.base.event_shape)
    np.testing.assert_allclose(
        log_prob_of_rows(case.base, jnp.asarray(x)), case.log_prob(x), rtol=1e-11
    )


def the_density_integrates_to_one(case):
    size = math.prod(case.base.event_shape)
    # x = centre + scale sinh(s), which reaches far into heavy tails.
    s = np.linspace(-18.0, 18.0, 721 if size < 2 else 361)
    grid = np.stack(np.meshgrid(*[s] * size), axis=-1).reshape(-1, *case.base.event_shape)
    x = case.centre + case.scale * np.sinh(grid)
    log_volume = np.log(case.scale * np.cosh(grid)).reshape(len(x), -1).sum(axis=1)
    log_p = np.asarray(log_prob_of_rows(case.base, jnp.asarray(x)))
    mass = np.exp(log_p + log_volume).sum()
    assert mass * (s[1] - s[0]) ** size == pytest.approx(1.0, abs=1e-8)


def the_cdf_is_the_integral_of_the_density(case):
    x = case.centre + 2 * (case.samples(50) - case.centre)
    rows = jnp.asarray(x)

    @jax.jit
    @jax.vmap
    def values_and_slopes(x):
        return jax.jvp(case.base.cdf, (x,), (jnp.ones_like(x),))

    values, slopes = values_and_slopes(rows)
    np.testing.assert_allclose(values, case.truth.cdf(x), rtol=1e-9, atol=1e-12)
    log_p = np.log(slopes).reshape(50, -1).sum(axis=1)
    np.testing.assert_allclose(log_p, log_prob_of_rows(case.base, rows), rtol=1e-9, atol=1e-9)


def the_icdf_inverts_the_cdf(case):
    rng = np.random.default_rng(3)
    q = rng.uniform(size=(20, *case.base.event_shape)) ** 8
    x = jax.jit(jax.vmap(case.base.icdf))(jnp.asarray(q))
    np.testing.assert_allclose(x, case.truth.ppf(q), rtol=1e-9, atol=1e-12)


def samples_have_the_marginal_distributions(case):
    x = case.samples()
    u = np.sort(case.truth.cdf(x).reshape(len(x), -1), axis=0)
    distance = np.abs(u - (np.arange(len(x)) + 0.5)[:, None] / len(x)).max()
    # Kolmogorov's statistic exceeds 2.2 / sqrt(n) with probability 1e-4.
    assert distance < 2.2 / len(x) ** 0.5


def samples_have_the_joint_density(case):
    # Stein's identity: E[score] = 0 and E[x_i score_j] = -delta_ij.
    x = case.samples()
    score = case.scale * np.asarray(jax.jit(jax.vmap(jax.grad(case.base.log_prob)))(x))
    z = (x - case.centre) / case.scale
    z, score = z.reshape(len(x), -1), score.reshape(len(x), -1)
    products = z[:, :, None] * score[:, None, :] + np.eye(z.shape[1])
    for terms in (score, products):
        error = terms.std(axis=0) / len(x) ** 0.5
        assert np.all(np.abs(terms.mean(axis=0)) < 5 * error + 1e-12)


def float32_stays_float32_and_finite(case):
    base = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), case.base)
    far = np.asarray(case.centre + case.scale * 1e3 * np.ones(base.event_shape), np.float32)
    cdf = eqx.filter_jit(base.cdf) if has_cdf(base) else None
    for x in map(jnp.asarray, (np.zeros_like(far), far, -far)):
        results = [*log_prob_and_slope(base, x)]
        if cdf is not None:
            results.append(cdf(x))
        assert all(a.dtype == jnp.float32 for a in results)
        assert all(np.isfinite(a).all() for a in results)
    if jax.tree.leaves(base):
        assert jax.eval_shape(base.sample, jax.random.key(0)).dtype == jnp.float32


def float32_is_right_far_away(case):
    base = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), case.base)
    for size in (1e5, 1e10, 1e15, 1e20, 1e25, 1e30):
        for sign in (-1, 1):
            x = (case.centre + sign * size * case.scale) * np.ones(case.base.event_shape)
            x = jnp.asarray(x, jnp.float32)
            wide = x.astype(jnp.float64)
            expected, expected_slope = log_prob_and_slope(case.base, wide)
            if abs(float(expected)) < float(np.finfo(np.float32).max):
                log_p, slope = log_prob_and_slope(base, x)
                np.testing.assert_allclose(log_p, expected, rtol=1e-5)
                np.testing.assert_allclose(slope, expected_slope, rtol=1e-5)


def no_gradient_of_a_parameter_is_cut(case):
    # What is fixed is fixed by `jaxflow.trainable`, not inside the base.
    x = jnp.asarray(case.samples(5))

    def total(base):
        value = jnp.sum(log_prob_rows(base, x, grouped=False))
        if not isinstance(base, StudentT):  # drawn by rejection: `test_bases.py`
            value = value + jnp.sum(jnp.sin(base.sample(jax.random.key(1))))
        return value

    check_slopes(total, case.base)


def check_slopes(total, module):
    """Compare the gradient in each array with central differences, along a random direction."""
    slopes, rng = eqx.filter_jit(eqx.filter_grad(total))(module), np.random.default_rng(2)
    total = eqx.filter_jit(total)
    leaves, structure = jax.tree.flatten(jax.tree.map(np.asarray, module))
    slopes = jax.tree.leaves(jax.tree.map(np.asarray, slopes))
    for i, (leaf, slope) in enumerate(zip(leaves, slopes, strict=True)):
        # In proportion, so that zeros and infinities stay: entries of factors, and no limits.
        step = np.where(np.isfinite(leaf), leaf, 0.0) * rng.uniform(0.5, 1.5, leaf.shape)
        ends = [
            total(structure.unflatten([*leaves[:i], leaf + h * step, *leaves[i + 1 :]]))
            for h in (1e-6, -1e-6)
        ]
        assert np.isfinite(slope).all()
        expected = (ends[0] - ends[1]) / 2e-6
        np.testing.assert_allclose(np.sum(slope * step), expected, rtol=1e-6, atol=1e-6)


def a_batch_is_refused(case):
    with pytest.raises(ValueError, match=r"base.log_prob takes one event of shape"):
        case.base.log_prob(jnp.zeros((5, *case.base.event_shape)))


def no_thread_waits(case):
    rows = jnp.asarray(case.samples(5))
    assert not may_wait(jax.vmap(jax.value_and_grad(case.base.log_prob)), rows)
    assert not may_wait(jax.vmap(case.base.sample), jax.random.split(jax.random.key(0), 5))


LAWS = (
    log_prob_is_the_formula,
    no_thread_waits,
    a_batch_is_refused,
    samples_have_the_marginal_distributions,
    samples_have_the_joint_density,
    float32_stays_float32_and_finite,
    float32_is_right_far_away,
    no_gradient_of_a_parameter_is_cut,
)


def laws_of(case):
    """Quadrature is for two dimensions at most."""
    small = math.prod(case.base.event_shape) <= 2
    return (
        *LAWS,
        *((the_density_integrates_to_one,) if small else ()),
        *((the_cdf_is_the_integral_of_the_density,) if has_cdf(case.base) else ()),
        *((the_icdf_inverts_the_cdf,) if hasattr(case.base, "icdf") else ()),
    )


def has_cdf(base):
    """A mixture of vectors has none, since its coordinates are not independent."""
    several = isinstance(base, GaussianMixture) and base.event_shape != (1,)
    return hasattr(base, "cdf") and not several


@pytest.mark.parametrize(
    ("name", "law"),
    [(name, law) for name, case in BASES.items() for law in laws_of(case)],
    ids=lambda part: part if isinstance(part, str) else part.__name__,
)
def test_law(name, law):
    law(BASES[name])


def test_all_but_mixtures_of_vectors_and_those_of_manifolds_have_a_cdf():
    names = {name for name, case in BASES.items() if has_cdf(case.base)}
    assert names == BASES.keys() - {"mixture", "independent", "wrapped normal"}
    with pytest.raises(NotImplementedError, match="cdf is for a mixture in one dimension"):
        BASES["mixture"].base.cdf(jnp.zeros(2))
    closed = {name for name, case in BASES.items() if hasattr(case.base, "icdf")}
    assert closed == {name for name in BASES if name.startswith(("normal", "diagonal"))}
