"""Gaussianise: the spline's shape, its density, and columns that are hard to fit."""

from statistics import NormalDist

import equinox as eqx
import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxflow.transforms import Gaussianise
from jaxflow.transforms.quantile_knots import default_num_knots, fit_column, pad_knots

FORWARD = eqx.filter_jit(lambda transform, x: jax.vmap(transform.forward)(x))
INVERSE = eqx.filter_jit(lambda transform, u: jax.vmap(transform.inverse)(u))


def lognormal(n=3000):
    return np.exp(np.random.default_rng(3).normal(size=(n, 1)))


def test_equal_slopes_give_a_straight_line():
    line = jnp.array([[-1.0, 0.0, 3.0]])
    transform = Gaussianise(line, 2 * line + 1, jnp.full((1, 3), 2.0))
    x = jnp.linspace(-9.0, 9.0, 37)[:, None]
    u, log_det = FORWARD(transform, x)
    np.testing.assert_allclose(u, 2 * x + 1, rtol=1e-14, atol=1e-14)
    np.testing.assert_allclose(log_det, np.full(37, np.log(2.0)), rtol=1e-13)


def test_a_known_rational_quadratic():
    # On [0, 1] with slopes 1/2 and 2: u = (t^2 + t(1 - t)/2) / (1 + t(1 - t)/2); u(1/2) = 1/3.
    knots = jnp.array([[0.0, 1.0]])
    transform = Gaussianise(knots, knots, jnp.array([[0.5, 2.0]]))
    u, log_det = transform.forward(jnp.array([0.5]))
    np.testing.assert_allclose(u, [1 / 3], rtol=1e-15)
    np.testing.assert_allclose(log_det, np.log(8 / 9), rtol=1e-14)
    np.testing.assert_allclose(transform.inverse(jnp.array([1 / 3]))[0], [0.5], rtol=1e-15)
    tails = FORWARD(transform, jnp.array([[-4.0], [5.0]]))
    np.testing.assert_allclose(tails[0], [[-2.0], [9.0]], rtol=1e-15)
    np.testing.assert_allclose(tails[1], np.log([0.5, 2.0]), rtol=1e-14)


def test_steep_ends_are_inverted_too():
    # Slopes above twice the secant: the quadratic's middle coefficient changes sign.
    knots = jnp.array([[0.0, 1.0]])
    transform = Gaussianise(knots, knots, jnp.array([[30.0, 50.0]]))
    x = jnp.linspace(0.0, 1.0, 101)[:, None]
    np.testing.assert_allclose(INVERSE(transform, FORWARD(transform, x)[0])[0], x, atol=1e-13)


def test_value_and_slope_are_continuous_at_every_knot():
    transform = Gaussianise.fit(lognormal())
    knots = transform.knots[0]
    below, above = (jnp.nextafter(knots, jnp.full_like(knots, s))[:, None] for s in (-9e9, 9e9))
    (u0, log_det0), (u1, log_det1) = FORWARD(transform, below), FORWARD(transform, above)
    np.testing.assert_allclose(u0, u1, atol=1e-13)
    np.testing.assert_allclose(u0[:, 0], transform.scores[0], atol=1e-13)
    np.testing.assert_allclose(log_det0, log_det1, atol=1e-11)
    np.testing.assert_allclose(log_det0, jnp.log(transform.slopes[0]), atol=1e-11)


def test_the_density_integrates_to_one():
    transform = Gaussianise.fit(lognormal())
    low, high = float(transform.knots[0, 0]) - 0.5, float(transform.knots[0, -1]) + 5.0
    grid = jnp.linspace(low, high, 400_001)
    u, log_det = FORWARD(transform, grid[:, None])
    density = jnp.exp(log_det - u[:, 0] ** 2 / 2) / np.sqrt(2 * np.pi)
    step = float(grid[1] - grid[0])
    inside = step * float(density.sum() - (density[0] + density[-1]) / 2)
    tails = NormalDist().cdf(float(u[0, 0])) + NormalDist().cdf(-float(u[-1, 0]))
    assert abs(inside + tails - 1) < 1e-6
    # and the tails are those of a normal distribution: log-density is a parabola
    log_tail = jnp.log(density[-30_000:])
    curvature = jnp.diff(log_tail[::10_000], n=2) / (10_000 * step) ** 2
    np.testing.assert_allclose(curvature, -(transform.slopes[0, -1:] ** 2), rtol=1e-6)


def test_samples_become_nearly_normal():
    x = np.random.default_rng(0).gamma(0.7, size=(20_000, 1))
    u = np.sort(np.asarray(FORWARD(Gaussianise.fit(x), jnp.asarray(x))[0])[:, 0])
    expected = [NormalDist().cdf(v) for v in u[::100]]
    np.testing.assert_allclose(expected, np.arange(0, 20_000, 100) / 20_000, atol=0.004)


def test_a_normal_column_stays_as_it_is_up_to_sampling_error():
    x = np.random.default_rng(1).normal(5.0, 3.0, size=(50_000, 1))
    transform = Gaussianise.fit(x, num_knots=8)
    z = jnp.linspace(-2.5, 2.5, 101)[:, None]
    u, log_det = FORWARD(transform, 5.0 + 3.0 * z)
    np.testing.assert_allclose(u, z, atol=0.06)
    np.testing.assert_allclose(log_det, np.full(101, -np.log(3.0)), atol=0.15)


def test_tail_slope_is_that_of_maximum_likelihood():
    x = lognormal()[:, 0]
    knots, scores, slopes = fit_column(x, 20, 1e-16)
    beyond = x[x > knots[-1]] - knots[-1]

    def log_likelihood(slope):
        return len(beyond) * np.log(slope) - ((scores[-1] + slope * beyond) ** 2).sum() / 2

    assert slopes[-1] < 2 * (scores[-1] - scores[-2]) / (knots[-1] - knots[-2])
    assert log_likelihood(slopes[-1]) > log_likelihood(slopes[-1] * 1.001)
    assert log_likelihood(slopes[-1]) > log_likelihood(slopes[-1] * 0.999)


def test_an_outlier_stays_within_a_few_scores():
    x = np.random.default_rng(0).normal(size=(1000, 1))
    x[0] = 1e6
    u, log_det = FORWARD(Gaussianise.fit(x), jnp.asarray(x))
    assert 3 < u[0, 0] < 10
    assert np.isfinite(log_det).all()


def test_tied_values_share_a_knot_at_their_middle_rank():
    x = np.repeat([0.0, 1.0, 5.0], [24, 50, 26])[:, None]
    transform = Gaussianise.fit(x, num_knots=12)
    np.testing.assert_array_equal(transform.knots, [[0.0, 1.0, 5.0]])
    expected = [NormalDist().inv_cdf(p) for p in (0.12, 0.49, 0.87)]
    np.testing.assert_allclose(transform.scores[0], expected, rtol=1e-14)


def test_padding_leaves_the_curve_as_it_is():
    column = lognormal()[:, 0]
    curve = fit_column(column, 9, 1e-16)
    short = Gaussianise(*(jnp.asarray(a[None]) for a in curve))
    long = Gaussianise(*(jnp.asarray(a[None]) for a in pad_knots(*curve, 15)))
    assert long.knots.shape == (1, 15)
    x = jnp.concatenate([jnp.linspace(-5.0, 60.0, 300), long.knots[0], jnp.array([1e4])])[:, None]
    for got, expected in zip(FORWARD(long, x), FORWARD(short, x), strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-12, atol=1e-12)


def test_number_of_knots():
    assert [default_num_knots(n) for n in (2, 599, 1234, 10**7)] == [6, 6, 12, 40]
    assert Gaussianise.fit(lognormal()).knots.shape == (1, 30)
    assert Gaussianise.fit(lognormal(), num_knots=11).knots.shape == (1, 11)


HARD_COLUMNS = {
    "two values, one rare": lambda rng, n: (np.arange(n) == 0).astype(float),
    "an atom with a tail": lambda rng, n: np.where(rng.random(n) < 0.9, 0, rng.lognormal(0, 3, n)),
    "an atom and its neighbours": lambda rng, n: (
        5 + 1e-9 * rng.normal(size=n) + (rng.random(n) < 0.1)
    ),
    "Cauchy": lambda rng, n: rng.standard_cauchy(n),
    "log-normal over many decades": lambda rng, n: rng.lognormal(0, 6, n),
    "large offset": lambda rng, n: 1e5 + rng.normal(size=n),
    "tiny units": lambda rng, n: 1e-20 * rng.normal(size=n),
    "huge units": lambda rng, n: 1e20 * rng.normal(size=n),
    "uniform": lambda rng, n: rng.random(n),
}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_hard_columns_are_finite_increasing_and_invertible(dtype):
    rng = np.random.default_rng(5)
    x = np.stack([make(rng, 1500) for make in HARD_COLUMNS.values()], axis=1).astype(dtype)
    transform = Gaussianise.fit(x)  # the constructor checks the order of knots and scores
    rows = jnp.concatenate([jnp.asarray(x), transform.knots.T])
    u, log_det = FORWARD(transform, rows)
    back, _ = INVERSE(transform, u)
    assert u.dtype == back.dtype == dtype
    assert np.isfinite(u).all()
    assert np.isfinite(log_det).all()
    assert np.abs(u[:1500]).max() < 12
    order = jnp.argsort(rows, axis=0)
    assert (jnp.diff(jnp.take_along_axis(u, order, 0), axis=0) >= 0).all()
    span = np.asarray(transform.knots[:, -1] - transform.knots[:, 0])
    scale = np.maximum(np.abs(rows), span)
    tolerance = 1e-3 if dtype == np.float32 else 1e-10
    np.testing.assert_allclose(back / scale, rows / scale, rtol=0, atol=tolerance)


@hypothesis.settings(max_examples=25, deadline=None, derandomize=True)
@hypothesis.given(
    st.lists(st.floats(-1e6, 1e6, width=32), min_size=3, max_size=40).filter(
        lambda values: np.ptp(values) > 1e-3 * max(map(abs, values))
    )
)
def test_any_short_column_is_fitted_or_refused_never_wrong(values):
    x = np.array(values)[:, None]
    transform = Gaussianise.fit(x)
    curve = (transform.knots, transform.scores, transform.slopes)
    knots, scores, slopes = (np.asarray(a[0]) for a in curve)
    padded = pad_knots(knots, scores, slopes, 6)
    transform = Gaussianise(*(jnp.asarray(a[None]) for a in padded))  # one shape, one compilation
    ends = x.min() - 3 * np.ptp(x), x.max() + 3 * np.ptp(x)
    grid = jnp.linspace(*ends, 500)[:, None]
    u, log_det = FORWARD(transform, grid)
    assert (np.diff(u[:, 0]) > 0).all()
    assert np.isfinite(log_det).all()
    back, back_log_det = INVERSE(transform, u)
    np.testing.assert_allclose(back / np.ptp(x), grid / np.ptp(x), rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(back_log_det, -log_det, atol=1e-5)


def test_arguments_are_refused_by_name():
    x = lognormal(50)
    with pytest.raises(ValueError, match="num_knots=1 must be at least 2"):
        Gaussianise.fit(x, num_knots=1)
    with pytest.raises(TypeError, match="num_knots"):
        Gaussianise.fit(x, num_knots=4.5)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"x has shape \(50, 1, 1\); give rows \(n, d\)"):
        Gaussianise.fit(x[..., None])
    good = jnp.array([[0.0, 1.0]])
    with pytest.raises(ValueError, match=r"all must have one shape \(d, K\)"):
        Gaussianise(good, good[:, :1], good)
    with pytest.raises(ValueError, match=r"knots must be .* increasing, .* columns \[0\]"):
        Gaussianise(good[:, ::-1], good, jnp.ones((1, 2)))
    with pytest.raises(ValueError, match=r"slopes must be finite and positive"):
        Gaussianise(good, good, good)
