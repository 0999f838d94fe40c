"""Toy densities integrate to one, agree with their samples, and know their entropy."""

import numpy as np
import pytest

from jaxflow.data import (
    Checkerboard,
    EightGaussians,
    LongGaussian,
    Moons,
    Pinwheel,
    Rings,
    Swissroll,
    TwoSpirals,
    breast_cancer,
    digits,
)

TOYS = {
    "eight_gaussians": EightGaussians(),
    "rings": Rings(),
    "checkerboard": Checkerboard(),
    "long_gaussian": LongGaussian(),
}
# Those whose density takes seconds on a grid.
SLOW = {
    "moons": Moons(),
    "swissroll": Swissroll(),
    "two_spirals": TwoSpirals(),
    "pinwheel": Pinwheel(),
}
ALL = TOYS | SLOW
# Half-width of a box that holds the mass, and points along it: the trapezoidal rule is then
# exact to rounding for the smooth densities; midpoints are exact for the squares.
BOX = {
    "eight_gaussians": (7.0, 301),
    "rings": (4.0, 601),
    "checkerboard": (5.0, 200),
    "moons": (5.0, 200),
    "swissroll": (4.8, 192),
    "two_spirals": (4.0, 320),
    "pinwheel": (7.6, 304),
    "long_gaussian": (16.0, 1280),
}


@pytest.fixture(params=[*TOYS, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)])
def name(request):
    return request.param


def _grid(name):
    half_width, num = BOX[name]
    spacing = 2 * half_width / num
    axis = -half_width + spacing * (np.arange(num) + 0.5)
    return np.stack(np.meshgrid(axis, axis, indexing="ij"), axis=-1), spacing**2


def test_density_integrates_to_one(name):
    points, area = _grid(name)
    assert np.sum(np.exp(ALL[name].log_prob(points))) * area == pytest.approx(1.0, abs=1e-9)


def test_entropy_is_the_integral_of_minus_p_log_p(name):
    points, area = _grid(name)
    log_p = ALL[name].log_prob(points)
    p = np.exp(log_p)
    integral = -np.sum(p * np.where(p > 0, log_p, 0.0)) * area
    # The folds of the pinwheel leave corners that a grid does not see.
    tolerance = 2e-6 if name == "pinwheel" else 1e-8
    assert ALL[name].entropy() == pytest.approx(integral, abs=tolerance)


def test_samples_have_the_entropy(name):
    toy = ALL[name]
    x = toy.sample(40_000, seed=0)
    assert x.shape == (40_000, 2)
    assert x.dtype == np.float32
    surprise = -toy.log_prob(x)
    # The board's surprise is one number; only rounding remains.
    error = 4 * surprise.std() / np.sqrt(len(x)) + 1e-12
    assert abs(surprise.mean() - toy.entropy()) < error


def test_samples_have_the_density(name):
    # Entropy alone would not notice points moved along a level set: count in cells, against
    # the integral of p. Each count is binomial, so the sum of squares is chi-squared.
    toy, n, cells = ALL[name], 100_000, 10
    points, area = _grid(name)
    p = np.exp(toy.log_prob(points)) * area
    half_width = BOX[name][0]
    edges = np.linspace(-half_width, half_width, cells + 1)
    centres = points.reshape(-1, 2)
    expected = n * np.histogram2d(*centres.T, bins=edges, weights=p.ravel())[0]
    counts = np.histogram2d(*toy.sample(n, seed=1).T, bins=edges)[0]
    # A point of the grid speaks for the area around it, which a cell's edge may cut.
    tolerance = 5 * np.sqrt(expected) + (0.0 if name == "checkerboard" else 0.05 * expected) + 5
    assert np.all(np.abs(counts - expected) < tolerance)
    assert counts.sum() == n


def test_samples_depend_on_the_seed_alone(name):
    toy = ALL[name]
    np.testing.assert_array_equal(toy.sample(50, seed=4), toy.sample(50, seed=4))
    assert not np.array_equal(toy.sample(50, seed=4), toy.sample(50, seed=5))


def test_log_prob_takes_any_batch_shape_and_precision(name):
    toy = ALL[name]
    x = toy.sample(6, seed=2)
    log_p = toy.log_prob(x)
    assert log_p.dtype == np.float64
    np.testing.assert_array_equal(toy.log_prob(x.astype(np.float64)), log_p)
    np.testing.assert_array_equal(toy.log_prob(x.reshape(2, 3, 2)), log_p.reshape(2, 3))
    np.testing.assert_allclose(toy.log_prob(x[0]), log_p[0], rtol=1e-14)
    assert toy.log_prob(x[:0]).shape == (0,)


def test_log_prob_far_away(name):
    far = np.array([[1e3, 0.0], [np.inf, 0.0], [np.nan, 0.0]])
    log_p = ALL[name].log_prob(far)
    assert log_p[0] < -1e5
    assert log_p[1] == -np.inf
    assert np.isnan(log_p[2])


def test_eight_gaussians_at_a_centre():
    # The k-th next centre is at squared distance
    # 2 R^2 (1 - cos(k pi / 4)).
    toy = EightGaussians()
    chords = 2 * toy.radius**2 * (1 - np.cos(2 * np.pi * np.arange(8) / 8))
    density = np.mean(np.exp(-chords / (2 * toy.std**2))) / (2 * np.pi * toy.std**2)
    np.testing.assert_allclose(toy.log_prob(toy.centres), np.log(density), rtol=1e-12)
    assert toy.radius == 4 / 1.414
    assert toy.std == 0.5 / 1.414


def test_rings_are_circles_convolved_with_noise():
    toy = Rings()
    angles = 2 * np.pi * np.arange(4000) / 4000
    circle = np.stack([np.cos(angles), np.sin(angles)], axis=-1)
    x = np.array([[0.0, 0.0], [0.5, 0.4], [-1.1, 2.0], [2.9, -0.7], [0.0, 3.3]])
    centres = np.asarray(toy.radii)[:, None, None] * circle
    squares = np.sum((x[:, None, None] - centres) ** 2, axis=-1)
    density = np.mean(np.exp(-squares / (2 * toy.std**2)), axis=(1, 2)) / (2 * np.pi * toy.std**2)
    np.testing.assert_allclose(toy.log_prob(x), np.log(density), rtol=1e-12)


def test_checkerboard_colours_and_border():
    toy = Checkerboard()
    inside = np.array([[1.0, 1.0], [-1.0, -1.0], [3.0, -1.0], [-3.0, 1.0], [-4.0, -4.0]])
    outside = np.array([[1.0, -1.0], [3.0, 1.0], [5.0, 5.0], [4.0, 4.0], [-4.5, -4.5]])
    np.testing.assert_array_equal(toy.log_prob(inside), -np.log(32.0))
    np.testing.assert_array_equal(toy.log_prob(outside), -np.inf)


def test_every_checkerboard_sample_lies_on_the_board():
    # In float32, too, where a draw rounded to an edge would get density zero.
    assert np.isfinite(Checkerboard().log_prob(Checkerboard().sample(10**6, seed=6))).all()


def test_breast_cancer_is_the_published_table():
    table = breast_cancer()
    assert table.values.shape == (569, 30)
    assert table.values.dtype == np.float64
    assert table.columns[0] == "mean radius"
    assert table.values[0, 0] == 17.99


def test_digits_are_dequantised_within_their_levels():
    table = digits(seed=0)
    assert table.values.shape == (1797, 64)
    assert table.columns[:2] == ("pixel_0_0", "pixel_0_1")
    assert table.values.min() >= 0
    assert table.values.max() < 17
    levels = np.floor(table.values)
    np.testing.assert_array_equal(levels[0, :8], [0, 0, 5, 13, 9, 1, 0, 0])
    np.testing.assert_array_equal(np.floor(digits(seed=1).values), levels)
    # The noise is uniform: its mean is within 4 standard errors of 1/2.
    noise = table.values - levels
    assert abs(noise.mean() - 0.5) < 4 / np.sqrt(12 * noise.size)
    assert not np.array_equal(table.values, digits(seed=1).values)
