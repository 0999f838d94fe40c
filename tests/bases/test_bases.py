"""Particulars of each base: fits, flows as bases, refused parameters."""

from dataclasses import replace

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from jax.scipy import stats

from jaxflow import (
    CNF,
    ODE,
    DiagonalNormal,
    FlowBase,
    GaussianMixture,
    SolveError,
    StandardNormal,
    Status,
    StudentT,
)
from jaxflow.bases import as_base, check_base, log_prob_rows, sample_rows
from jaxflow.dynamics import Linear
from jaxflow.training.trainable import partition_trainable
from jaxflow.transforms import Standardise


def test_a_mixture_is_fitted_by_maximum_likelihood(key):
    means, covs = np.array([[0.0, 1.0], [3.0, -2.0]]), np.array([np.eye(2), 0.2 * np.eye(2)])
    base = GaussianMixture([0.25, 0.75], means, np.linalg.cholesky(covs))
    drawn = jax.jit(jax.vmap(base.sample))(jax.random.split(key, 20_000))
    again = GaussianMixture.fit(drawn, 2)
    order = np.argsort(again.means[:, 0])
    np.testing.assert_allclose(np.asarray(again.means)[order], means, atol=0.1)
    np.testing.assert_allclose(np.asarray(again.weights)[order], [0.25, 0.75], atol=0.02)


def test_a_mixture_has_the_units_of_its_data(key):
    x = np.asarray(jax.random.normal(key, (300, 2))) + 4.0 * (np.arange(300) % 2)[:, None]
    base = GaussianMixture.fit(x, 2)
    units = np.array([1e-4, 1e6])
    other = GaussianMixture.fit(x * units + units, 2)
    np.testing.assert_allclose(other.weights, base.weights, rtol=1e-6)
    np.testing.assert_allclose(other.means, np.asarray(base.means) * units + units, rtol=1e-6)
    expected = np.asarray(base.factors) * units[:, None]
    np.testing.assert_allclose(other.factors, expected, rtol=1e-6, atol=1e-9)
    with pytest.raises(ValueError, match=r"x is constant .* 1 column: 1 ="):
        GaussianMixture.fit(x * [1, 0] + 2, 2)


def test_the_degrees_of_freedom_are_those_of_every_entry():
    np.testing.assert_array_equal(StudentT(4.0, 3).df, [4.0, 4.0, 4.0])
    # The 90 % points of t with 3 and 30 degrees of freedom (any table).
    np.testing.assert_allclose(
        StudentT([3.0, 30.0]).cdf(jnp.asarray([1.638, 1.310])), 0.9, atol=1e-4
    )


def linear(scale, base, **settings):
    """`x(1) = exp(scale) x(0)`."""
    field = Linear(matrix=scale * jnp.eye(2))
    return CNF(field, base, ode_eval=ODE(rtol=1e-9, atol=1e-9), **settings)


@pytest.mark.parametrize(("dtype", "most"), [(jnp.float32, 5e-7), (jnp.float64, 3e-14)])
def test_the_distribution_function_of_student_s_t(dtype, most):
    df = np.asarray([1, 4, 7.9, 8, 30, 99, 101, 1e3, 1e4, 1e5, 1e7, 1e12, 1e20])
    x = np.linspace(-9, 9, 61)
    cdf = jax.jit(jax.vmap(StudentT(df.astype(dtype)).cdf, in_axes=0))
    values = cdf(jnp.broadcast_to(jnp.asarray(x, dtype)[:, None], (len(x), len(df))))
    assert values.dtype == dtype
    exact = scipy.stats.t.cdf(np.asarray(x, dtype)[:, None], df.astype(dtype).astype(float))
    np.testing.assert_allclose(values, exact, rtol=0, atol=most)
    far = StudentT(df.astype(dtype)).cdf(jnp.full(len(df), 1e18, dtype))
    np.testing.assert_allclose(far, 1, atol=1e-6)


@pytest.mark.slow
def test_student_s_t_is_right_at_every_scale_and_number_of_degrees():
    # log t(x; 3) = log(6 sqrt(3) / pi) - 2 log(3 + x^2).
    for dtype, rtol in ((jnp.float32, 1e-6), (jnp.float64, 1e-13)):
        x = jnp.asarray([[1.0], [1e5], [1e10], [1e20], [1e25], [1e30]], dtype)
        size = np.asarray(x, np.float64)[:, 0]
        expected = np.log(6 * 3**0.5 / np.pi) - 4 * np.log(size) - 2 * np.log1p(3 / size**2)
        base = StudentT(3.0, 1)
        base = jax.tree.map(lambda leaf, dtype=dtype: leaf.astype(dtype), base)
        np.testing.assert_allclose(jax.jit(jax.vmap(base.log_prob))(x), expected, rtol=rtol)
        slope = jax.jit(jax.vmap(jax.grad(base.log_prob)))(x)[:, 0]
        np.testing.assert_allclose(slope, -4 / size / (1 + 3 / size**2), rtol=rtol)
        # Close to the standard normal density: log t(0; n) = -log(2 pi) / 2 - 1 / (4 n) + ...
        df = np.array([1e3, 1e6, 1e12])
        peak = []
        for n in df:
            far = eqx.tree_at(lambda base: base.df, StudentT(n), jnp.asarray(n, dtype))
            peak.append(far.log_prob(jnp.zeros((), dtype)))
        expected = -0.5 * np.log(2 * np.pi) - 1 / (4 * df) + 1 / (24 * df**3)
        np.testing.assert_allclose(peak, expected, rtol=rtol)


class Distrax:
    """The documented calls of a distribution of distrax or TFP: `sample(seed=key)`."""

    event_shape, batch_shape = (2,), ()

    def log_prob(self, value):
        return StandardNormal(2).log_prob(value)

    def sample(self, *, seed, sample_shape=()):
        assert sample_shape == ()
        return StandardNormal(2).sample(seed)


def test_a_distribution_with_seeds_is_a_base(key):
    base = as_base(Distrax())
    np.testing.assert_array_equal(base.sample(key), StandardNormal(2).sample(key))
    assert base.event_shape == (2,)
    keys = jax.random.split(key, 3)
    x = sample_rows(base, keys)
    np.testing.assert_array_equal(log_prob_rows(base, x), jax.vmap(StandardNormal(2).log_prob)(x))
    assert as_base(StandardNormal(2)) == StandardNormal(2)


def test_a_base_of_other_shapes_is_refused_by_name():
    distributions = pytest.importorskip("numpyro.distributions")
    for size in (3, 1):
        many = distributions.Normal(jnp.zeros(size), jnp.ones(size))
        words = rf"event_shape=\(\), but sample\(key\) has shape \({size},\).*base.to_event\(1\)"
        with pytest.raises(ValueError, match=words):
            CNF(Linear(matrix=jnp.eye(size)), many)
        check_base(many.to_event(1))

    class Batch(Distrax):
        event_shape, batch_shape = (), (2,)

    with pytest.raises(ValueError, match=r"Independent\(base, reinterpreted_batch_ndims=1\)"):
        check_base(Batch())

    class Each(StandardNormal):
        def log_prob(self, x):
            return -(x**2)

    with pytest.raises(ValueError, match=r"log_prob of a sample has shape \(2,\)"):
        check_base(Each((2,)))

    class Rows(StandardNormal):
        def sample(self, key):
            return jax.random.normal(key, (5, *self.event_shape))

    with pytest.raises(ValueError, match=r"sample\(key\) has shape \(5, 2\)"):
        check_base(Rows((2,)))


def test_sizes_may_be_integers_of_numpy():
    for one, other in (
        (StandardNormal(np.int64(3)), StandardNormal(3)),
        (StandardNormal((np.int32(3), 4)), StandardNormal((3, 4))),
        (StandardNormal(np.array([3, 4])), StandardNormal((3, 4))),
    ):
        assert one == other
        assert [type(size) for size in one.event_shape] == [int] * len(one.event_shape)
    assert StudentT(4.0, np.prod((2, 2))).event_shape == (4,)
    with pytest.raises(ValueError, match=r"event_shape=.* must hold sizes of at least 1"):
        StandardNormal(np.array([2.0, 1]))


@pytest.mark.parametrize(
    "base", [DiagonalNormal([0, 0], [1, 1]), GaussianMixture([1], [[0, 0]], [[[1, 0], [0, 1]]])]
)
def test_parameters_may_be_integers(base, key):
    x = base.sample(key)
    assert float(base.log_prob(x)) == pytest.approx(float(StandardNormal(2).log_prob(x)))


@pytest.mark.slow
def test_a_fitted_flow_is_a_base(key):
    # N(0, e^2) under a flow that multiplies its scale by e again: N(0, e^4).
    first = linear(1.0, StandardNormal(2), transform=Standardise(jnp.ones(2), jnp.ones(2)))
    flow = linear(1.0, FlowBase(first))
    x = jax.random.normal(key, (5, 2))
    expected = stats.norm.logpdf(x, np.e, np.e**2).sum(axis=1)
    np.testing.assert_allclose(flow.log_prob(x), expected, atol=1e-6)
    drawn, log_p = flow.sample_and_log_prob(key, 2000)
    np.testing.assert_allclose(log_p[:5], flow.log_prob(drawn[:5]), atol=1e-6)
    assert drawn.std() == pytest.approx(np.e**2, rel=0.1)
    assert partition_trainable(flow)[0].keys() == {".field.matrix", ".field.bias"}


@pytest.mark.slow
def test_a_row_without_a_density_is_reported(key):
    class Broken(StandardNormal):
        def log_prob(self, x):
            return jnp.where(x[0] > 0, jnp.nan, 0.0)

    flow = linear(0.5, Broken((2,)))
    with pytest.raises(SolveError, match="the base's log_prob is NaN"):
        flow.log_prob(jnp.asarray([[1.0, 0.0], [-1.0, 0.0]]))
    quiet = linear(0.5, Broken((2,)))
    answer = replace(quiet, ode_eval=replace(quiet.ode_eval, throw=False)).log_prob_with_error(
        jnp.asarray([[1.0, 0.0], [-1.0, 0.0]])
    )
    assert answer.status.tolist() == [Status.NO_DENSITY, Status.SUCCESS]


def test_wrong_parameters_are_refused():
    with pytest.raises(ValueError, match=r"event_shape=\(2, 0\) must hold sizes of at least 1"):
        StandardNormal((2, 0))
    with pytest.raises(ValueError, match="event_shape=True must hold sizes"):
        StandardNormal(True)
    with pytest.raises(ValueError, match=r"scale=.*must be positive"):
        DiagonalNormal(jnp.zeros(2), jnp.asarray([1.0, 0.0]))
    with pytest.raises(ValueError, match=r"scale=.*must be positive"):
        DiagonalNormal(jnp.zeros(2), jnp.asarray([1.0, jnp.nan]))
    with pytest.raises((ValueError, TypeError), match=r"(?s)mean.*scale"):
        DiagonalNormal(jnp.zeros(2), jnp.ones(3))
    eye = jnp.eye(2)[None]
    with pytest.raises(ValueError, match="must be positive"):
        GaussianMixture([1.1, -0.1], jnp.zeros((2, 2)), jnp.tile(eye, (2, 1, 1)))
    with pytest.raises(ValueError, match="lower triangular"):
        GaussianMixture([1.0], jnp.zeros((1, 2)), -eye)
    with pytest.raises(ValueError, match=r"factors have shape"):
        GaussianMixture([1.0], jnp.zeros((1, 2)), jnp.ones((1, 3, 3)))
    with pytest.raises(ValueError, match=r"df=.* must be positive"):
        StudentT([1.0, 0.0])
    with pytest.raises(TypeError, match="is not a flow: give a CNF"):
        FlowBase(StandardNormal(2))
    with pytest.raises(ValueError, match="gives a random log-density"):
        FlowBase(linear(1.0, StandardNormal(2), trace="hutchinson"))


def test_only_the_ratios_of_a_mixtures_weights_count(key):
    factors = jnp.tile(jnp.eye(2)[None], (2, 1, 1))
    one, other = (
        GaussianMixture(weights, jnp.asarray([[0.0, 0.0], [2.0, 1.0]]), factors)
        for weights in ([0.25, 0.75], [3.0, 9.0])
    )
    x = jax.random.normal(key, (20, 2))
    np.testing.assert_allclose(jax.vmap(one.log_prob)(x), jax.vmap(other.log_prob)(x), rtol=1e-14)


@pytest.mark.parametrize(("dtype", "least"), [(jnp.float32, 0.366), (jnp.float64, 0.102)])
def test_samples_of_the_heaviest_tails_have_a_density(dtype, least, key):
    with pytest.raises(ValueError, match=rf"df=.* must be at least {least} in {jnp.dtype(dtype)}"):
        StudentT(jnp.asarray(0.05, dtype))
    allowed = StudentT(jnp.asarray(least, dtype))
    # Training may go below.
    trained = eqx.tree_at(lambda base: base.df, allowed, jnp.asarray(0.01, dtype))
    for base, overflows in ((allowed, False), (trained, True)):
        x = sample_rows(base, jax.random.split(key, 20_000))
        assert np.isfinite(x).all()
        assert np.isfinite(log_prob_rows(base, x)).all()
        assert (np.abs(x) == jnp.finfo(dtype).max).any() == overflows


@pytest.mark.slow
def test_samples_of_student_move_with_their_degrees_of_freedom(key):
    # d/d(df) E[log(1 + x^2)] by quadrature, and as the mean of the slopes of samples.
    def mean(df):
        x = np.sinh(np.linspace(-25, 25, 200_001))
        weight = stats.t.pdf(x, df) * np.sqrt(1 + x**2) * (50 / 200_000)
        return np.sum(weight * np.log1p(x**2))

    def value(df, key):
        return jnp.log1p(StudentT(df, ()).sample(key) ** 2)

    slopes = jax.jit(jax.vmap(jax.grad(value), (None, 0)))(5.0, jax.random.split(key, 40_000))
    expected = (mean(5.01) - mean(4.99)) / 0.02
    assert abs(float(slopes.mean()) - expected) < 4.5 * float(slopes.std()) / 200
