"""Latitude and longitude, columns with a period, and transforms side by side."""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from jaxflow.transforms import (
    Angles,
    Blocks,
    Bounded,
    Chain,
    LatLon,
    RotationMatrix,
    Standardise,
    image_shape,
)

forward = eqx.filter_jit(lambda chart, x: jax.vmap(chart.forward)(x))
inverse = eqx.filter_jit(lambda chart, u: jax.vmap(chart.inverse)(u))
inside_each = eqx.filter_jit(lambda chart, x: jax.vmap(chart.inside)(x))


def inside(chart, x):
    return np.asarray(inside_each(chart, x))


RNG = np.random.default_rng(3)
PLACES = np.stack([RNG.uniform(-90, 90, 200), RNG.uniform(-180, 180, 200)], axis=1)
CHARTS = {
    "degrees": (LatLon(), PLACES),
    "radians": (LatLon(degrees=False), np.deg2rad(PLACES)),
    "hours": (LatLon(hours=True, west=0), np.abs(PLACES * [1, 24 / 360])),
    "polar angles and hours": (LatLon(hours=True, polar=True), np.abs(PLACES) * [2, 12 / 180]),
}


@pytest.mark.parametrize("name", CHARTS)
def test_the_area_is_that_of_the_dense_jacobian(name):
    chart, rows = CHARTS[name]
    u, log_det = map(np.asarray, forward(chart, rows))
    np.testing.assert_allclose(np.linalg.norm(u, axis=1), 1, rtol=1e-15)
    slopes = jax.jit(jax.vmap(jax.jacfwd(lambda x: chart.forward(x)[0])))(rows)
    areas = np.linalg.slogdet(np.einsum("nij,nik->njk", slopes, slopes))[1] / 2
    np.testing.assert_allclose(log_det, areas, rtol=0, atol=1e-9)
    back, back_log_det = inverse(chart, 2.5 * u)
    np.testing.assert_allclose(back, rows, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(back_log_det, -log_det, rtol=0, atol=1e-9)


def test_places_are_where_geographers_have_them():
    u, _ = forward(LatLon(), jnp.asarray([[0.0, 0.0], [0.0, 90.0], [90.0, 17.0]]))
    np.testing.assert_allclose(u, np.eye(3), atol=1e-15)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_the_poles_and_the_date_line_are_places_like_others(dtype):
    chart = LatLon()
    poles = jnp.asarray([[90.0, 0.0], [90.0, 123.0], [-90.0, 180.0], [-90.0, -180.0]], dtype)
    u, log_det = forward(chart, poles)
    np.testing.assert_allclose(np.asarray(u)[:, 2], [1, 1, -1, -1])
    assert np.isfinite(log_det).all()
    assert np.ptp(np.asarray(log_det)) == 0
    assert bool(inside(chart, poles).all())
    chart.check(poles)
    # Straight up, where no longitude is better than another; 0, as of masked rows; a fixed one.
    x, log_det = inverse(chart, jnp.asarray([[0, 0, 1], [0, 0, -2], [0, 0, 0]], dtype))
    np.testing.assert_allclose(np.asarray(x)[:2], [[90, 0], [-90, 0]])
    straight = jnp.asarray([[0, 0, 1], [0, 0, 0]], dtype)
    slopes = jax.jit(jax.vmap(jax.jacfwd(chart.inverse)))(straight)
    for part in (x, log_det, *slopes):
        assert part.dtype == dtype
        assert np.isfinite(part).all()
    seam = jnp.asarray([[10.0, 180.0], [10.0, -180.0]], dtype)
    u, log_det = map(np.asarray, forward(chart, seam))
    np.testing.assert_allclose(u[0], u[1], atol=4 * float(jnp.finfo(dtype).eps))
    assert log_det[0] == log_det[1]


def test_the_surface_measure_has_no_area():
    x = jnp.asarray(PLACES[0])
    _, log_det = LatLon(measure="surface").forward(x)
    assert log_det == 0
    expected = math.log(math.cos(math.radians(PLACES[0, 0]))) + 2 * math.log(math.pi / 180)
    assert float(LatLon().forward(x)[1]) == pytest.approx(expected, abs=1e-12)
    with pytest.raises(ValueError, match="measure='area' is unknown; choose one of 'chart'"):
        LatLon(measure="area")


def test_no_latitude_is_beyond_a_pole():
    rows = PLACES.copy()
    rows[7, 0] = 90.5
    with pytest.raises(ValueError, match=r"column 0 has 1 values .* not a latitude .* row 7"):
        LatLon().check(rows)
    np.testing.assert_array_equal(np.flatnonzero(~inside(LatLon(), rows)), [7])
    with pytest.raises(ValueError, match=r"column 1 .* longitude in degrees, from -360 to 360"):
        LatLon().check(10 * PLACES[:, ::-1] / 20 + [[0, 400]])
    with pytest.raises(ValueError, match=r"in radians.*degrees=True. if these are degrees"):
        LatLon(degrees=False).check(PLACES)
    with pytest.raises(ValueError, match=r"column 1 .* not a longitude in hours, from -24 to 24"):
        LatLon(hours=True).check(PLACES)
    with pytest.raises(ValueError, match="hours beside degrees"):
        LatLon(hours=True, degrees=False)


def test_rotation_matrices_are_quaternions():
    chart = RotationMatrix()
    q = RNG.normal(size=(200, 4))
    q[:4] = np.eye(4)  # no turn, and half turns
    x, log_det = inverse(chart, q)
    chart.check(x)
    assert bool(inside(chart, x).all())
    np.testing.assert_array_equal(log_det, 0.0)
    np.testing.assert_allclose(x[1].reshape(3, 3), np.diag([1, -1, -1]), atol=1e-15)
    expected = Rotation.from_quat(q, scalar_first=True).as_matrix()
    np.testing.assert_allclose(x.reshape(-1, 3, 3), expected, atol=1e-14)
    back, _ = forward(chart, x)
    np.testing.assert_allclose(np.abs(np.sum(back * q, axis=1)), np.linalg.norm(q, axis=1))
    slopes = jax.jit(jax.vmap(jax.jacfwd(lambda x: chart.forward(x)[0])))(x)
    assert np.isfinite(slopes).all()
    bad = np.array(x)
    bad[[2, 5]] *= np.array([[-1.0], [1.01]])
    with pytest.raises(ValueError, match=r"2 rows .* not rotation matrices, first row 2: .*svd"):
        chart.check(bad)
    outside = ~inside(chart, bad)
    np.testing.assert_array_equal(np.flatnonzero(outside), [2, 5])


def test_angles_are_in_radians():
    chart = Angles(2, period=[360.0, 24.0], start=[-180.0, 0.0])
    x = jnp.asarray([[-180.0, 6.0], [90.0, 23.0]])
    u, log_det = forward(chart, x)
    expected = [[0, math.pi / 2], [1.5 * math.pi, 23 / 12 * math.pi]]
    np.testing.assert_allclose(u, expected, atol=1e-14)
    np.testing.assert_allclose(log_det, math.log(2 * math.pi / 360) + math.log(math.pi / 12))
    turned, back = inverse(chart, u + 2 * math.pi * jnp.asarray([[3.0, -2.0]]))
    np.testing.assert_allclose(turned, x, atol=1e-12)
    np.testing.assert_allclose(back, -log_det)
    chart.check(x)
    beyond = np.array([[0.0, 0.0], [0.0, 24.5]])
    with pytest.raises(ValueError, match=r"row 1: .*Values lie in \[-180, 180\], \[0, 24\]"):
        chart.check(beyond)
    np.testing.assert_array_equal(inside(chart, beyond), [True, False])


def test_blocks_keep_their_columns_apart():
    table = np.concatenate(
        [PLACES, RNG.uniform(0, 24, (200, 1)), RNG.gamma(3.0, size=(200, 2))], 1
    )
    parts = LatLon(), Angles(1, period=24.0), Bounded([0.0, -np.inf], [np.inf, np.inf])
    chart = Blocks(parts)
    assert chart.event_shape == (5,)
    assert image_shape(chart) == (6,)
    u, log_det = forward(chart, table)
    ends = [(0, 2, 0, 3), (2, 3, 3, 4), (3, 5, 4, 6)]
    total = 0
    for part, (a, b, c, d) in zip(parts, ends, strict=True):
        own, own_log_det = forward(part, table[:, a:b])
        np.testing.assert_allclose(u[:, c:d], own)
        total = total + own_log_det
    np.testing.assert_allclose(log_det, total)
    back, back_log_det = inverse(chart, u)
    np.testing.assert_allclose(back, table, rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(back_log_det, -log_det, atol=1e-9)
    chart.check(table)
    table[3, 3] = -1
    with pytest.raises(ValueError, match=r"of columns 3 to 4: column 0 .* row 3"):
        chart.check(table)
    np.testing.assert_array_equal(np.flatnonzero(~inside(chart, table)), [3])
    with pytest.raises(ValueError, match="must be transforms of vectors"):
        Blocks(())


def test_a_chain_ends_where_the_next_part_begins():
    after = Standardise(jnp.zeros(3), jnp.ones(3))
    chain = Chain((LatLon(), after))
    assert chain.event_shape == (2,)
    assert image_shape(chain) == (3,)
    with pytest.raises(ValueError, match="have event shapes"):
        Chain((LatLon(), Standardise(jnp.zeros(2), jnp.ones(2))))
