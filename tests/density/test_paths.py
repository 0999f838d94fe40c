"""Paths between base and data: ends, velocities and requirements."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxflow import DiagonalNormal, StandardNormal
from jaxflow.density.paths import (
    Linear,
    Path,
    SchroedingerBridge,
    Trigonometric,
    VariancePreserving,
    check_path,
    check_path_base,
    interpolate,
)

PATHS = {
    "linear": Linear(),
    "linear, blurred": Linear(sigma_min=0.01),
    "trigonometric": Trigonometric(),
    "variance preserving": VariancePreserving(),
    "bridge": SchroedingerBridge(noise=0.7),
    "a pair of functions": Path(alpha=lambda t: t**3, sigma=lambda t: 1 - t**2),
    "one function": lambda t: (t, 1 - t),
}
each_path = pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)


@each_path
def test_velocity_is_the_time_derivative_of_the_point(path, key):
    x0, x1, noise = jax.random.normal(key, (3, 2, 2))

    def point(t):
        return interpolate(path, jnp.asarray(t), x0, x1, noise)[0]

    h = 1e-4
    for t in (0.13, 0.5, 0.9):
        _, velocity = interpolate(path, jnp.asarray(t), x0, x1, noise)
        # Central difference of fourth order.
        difference = 8 * (point(t + h) - point(t - h)) - (point(t + 2 * h) - point(t - 2 * h))
        np.testing.assert_allclose(velocity, difference / (12 * h), rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("name", PATHS)
def test_a_path_leads_from_the_base_to_the_data(name, key):
    path = PATHS[name]
    check_path(path)
    x0, x1, noise = jax.random.normal(key, (3, 4))
    blur = 0.01 if name == "linear, blurred" else 0.0
    # Share of the data that remains at the end of variance-preserving diffusion.
    left = np.exp(-(0.1 + 20.0) / 4) if name == "variance preserving" else 0.0
    start = interpolate(path, jnp.asarray(0.0), x0, x1, noise)[0]
    np.testing.assert_allclose(start, (1 - left**2) ** 0.5 * x0 + left * x1, atol=1e-15)
    end = interpolate(path, jnp.asarray(1.0), x0, x1, noise)[0]
    np.testing.assert_allclose(end, x1 + blur * x0, atol=1e-15)


def test_known_points_and_velocities():
    x0, x1, noise = jnp.asarray([2.0]), jnp.asarray([4.0]), jnp.asarray([10.0])

    def at(path, t):
        return [float(part[0]) for part in interpolate(path, jnp.asarray(t), x0, x1, noise)]

    assert at(Linear(), 0.25) == pytest.approx([2.5, 2.0], rel=1e-15)
    root, half_pi = 0.5**0.5, np.pi / 2
    assert at(Trigonometric(), 0.5) == pytest.approx([6 * root, half_pi * 2 * root], rel=1e-14)
    # Tong et al. 2023: u = (1 - 2 t) / (2 t (1 - t)) (x - mean) + x1 - x0, with s = noise scale.
    x, u = at(SchroedingerBridge(noise=0.3), 0.2)
    assert x == pytest.approx(2.4 + 0.3 * 0.4 * 10, rel=1e-14)
    assert u == pytest.approx(0.6 / (2 * 0.16) * (x - 2.4) + 2, rel=1e-14)


@pytest.mark.parametrize("path", [Trigonometric(), VariancePreserving()], ids=str)
def test_variance_is_preserved(path):
    alpha, sigma = jax.vmap(path)(jnp.linspace(0, 1, 11))
    np.testing.assert_allclose(alpha**2 + sigma**2, 1, rtol=1e-14)


def test_variance_preserving_solves_its_diffusion():
    path, t = VariancePreserving(beta_min=0.2, beta_max=15.0), jnp.asarray(0.3)
    (alpha, _), (slope, _) = jax.jvp(path, (t,), (jnp.ones_like(t),))
    beta = 0.2 + 0.7 * (15.0 - 0.2)
    np.testing.assert_allclose(slope, 0.5 * beta * alpha, rtol=1e-13)
    np.testing.assert_allclose(path(jnp.asarray(0.0))[0], np.exp(-(0.2 + 15.0) / 4), rtol=1e-13)


def test_float32_stays_float32():
    x = jnp.ones(3, jnp.float32)
    for path in PATHS.values():
        point, velocity = interpolate(path, jnp.asarray(0.4, jnp.float32), x, x, x)
        assert point.dtype == velocity.dtype == jnp.float32


def test_variance_preserving_requires_a_standard_normal():
    check_path_base(VariancePreserving(), StandardNormal(2))
    base = DiagonalNormal(jnp.zeros(2), jnp.full(2, 3.0))
    check_path_base(Linear(), base)
    with pytest.raises(ValueError, match=r"write base=jaxflow.StandardNormal\(\(2,\)\)"):
        check_path_base(VariancePreserving(), base)


@pytest.mark.parametrize(
    ("path", "error", "match"),
    [
        (Linear, TypeError, "must be a function of time: write e.g. Path"),
        ("linear", TypeError, "path='linear' must be a function of time"),
        (lambda t: t, TypeError, r"must return \(alpha, sigma\) or .*: write e.g. Path"),
        (Path(lambda t: 1 - t, lambda t: t), ValueError, r"alpha\(0\)=1, sigma\(0\)=0"),
        (Path(lambda t: t, lambda t: 1 - t / 2), ValueError, r"alpha\(1\)=1, sigma\(1\)=0.5"),
        (lambda t: (t, 1 - t, 0.3), ValueError, r"gamma\(0\)=0.3"),
        (lambda t: (t, jnp.log(t)), ValueError, r"sigma\(0\)=-inf"),
    ],
)
def test_a_path_with_other_ends_is_refused(path, error, match):
    with pytest.raises(error, match=match):
        check_path(path)


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: Linear(sigma_min=-0.1), "sigma_min=-0.1 must lie in"),
        (lambda: Linear(sigma_min=0.5), "sigma_min=0.5 must lie in"),
        (lambda: VariancePreserving(beta_min=0.0), "beta_min=0.0"),
        (lambda: VariancePreserving(beta_min=3.0, beta_max=2.0), "beta_max=2.0"),
        (lambda: SchroedingerBridge(noise=0.0), r"without noise write Linear\(\)"),
    ],
)
def test_settings_out_of_range_are_refused(make, match):
    with pytest.raises(ValueError, match=match):
        make()
