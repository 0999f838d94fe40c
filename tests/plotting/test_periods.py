"""Pictures of columns with a period: torsions, corners, and where a period is found."""

import math

import jax
import numpy as np
import pytest
from matplotlib import pyplot as plt

from jaxflow import CNF, StandardNormal, plotting
from jaxflow.bases import UniformOn, WrappedNormal
from jaxflow.dynamics import MLP, OnManifold
from jaxflow.manifolds import Torus
from jaxflow.transforms import Angles, Blocks, Chain, Dequantise, LatLon, Standardise

KEY = jax.random.key(0)


@pytest.fixture(autouse=True)
def close():
    yield
    plt.close("all")


def still(dim, base, transform):
    """A flow whose field is 0."""
    network = jax.tree.map(np.zeros_like, MLP(2 * dim, width=4, depth=1, key=KEY))
    return CNF(OnManifold(network, Torus(dim)), base, transform=transform)


def test_periods_are_those_of_the_transform():
    scaling = Standardise.fit(np.random.default_rng(0).normal(size=(5, 1)))
    angles = Angles(2, (24.0, 360.0), (0.0, -180.0))
    transform = Chain((Dequantise(np.zeros(5)), Blocks((LatLon(), scaling, angles))))
    day, turn = (0.0, 24.0), (-180.0, 360.0)
    assert plotting.periods(transform, 5) == [None, turn, None, day, turn]
    mixed = Blocks((LatLon(degrees=False), angles), (3, 1, 0, 2))
    around = (-math.pi, 2 * math.pi)
    assert plotting.periods(mixed, 4) == [day, around, turn, None]
    assert plotting.periods(Torus(1, 7.0), 1) == [(0.0, 7.0)]
    assert plotting.periods(LatLon(hours=True, west=0), 2) == [None, (0.0, 24.0)]
    assert plotting.periods(None, 2) == [None, None]


@pytest.mark.slow
def test_torsions_of_two_columns_are_the_density():
    base = WrappedNormal(Torus(2), np.array([math.pi, 0.0]), 0.5)
    flow = still(2, base, Angles(2, 360.0, -180.0))
    ax = plotting.torsions(flow, flow.sample(KEY, 20), columns=(1, 0), resolution=24)
    (image,) = ax.images
    values = np.asarray(image.get_array())
    assert tuple(image.get_extent()) == (-180, 180, -180, 180)
    assert values.sum() * 15**2 == pytest.approx(1, abs=1e-3)
    centre = -172.5 + 15 * np.arange(24)
    # Across is column 1, which is around the seam; up is column 0, around 0.
    up, across = np.unravel_index(np.argmax(values), values.shape)
    assert abs(centre[up]) < 10
    assert abs(centre[across]) > 170
    assert values[up, across] == pytest.approx(
        np.exp(flow.log_prob([centre[up], centre[across]])), rel=1e-6
    )
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("x1", "x0")


@pytest.mark.slow
def test_torsions_of_more_columns_are_a_marginal():
    base = WrappedNormal(Torus(3), np.array([math.pi, 0.0, 1.0]), 0.5)
    flow = still(3, base, Angles(3, 360.0))
    ax = plotting.torsions(flow, columns=(0, 2), names=("phi", "psi"))
    (image,) = ax.images
    values = np.asarray(image.get_array())
    assert values.sum() * 4**2 == pytest.approx(1, abs=1e-6)
    up, across = np.unravel_index(np.argmax(values), values.shape)
    assert abs(2 + 4 * across - 180) < 20
    assert abs(2 + 4 * up - np.degrees(1)) < 20
    with pytest.raises(ValueError, match="must be two columns with a period"):
        plotting.torsions(flow, columns=(1, 1))
    flat = CNF(MLP(2, width=4, key=KEY), StandardNormal(2))
    with pytest.raises(ValueError, match=r"those of the flow are \[\]"):
        plotting.torsions(flat)


def test_a_corner_shows_one_period():
    x = np.random.default_rng(0).uniform(-20, 20, (50, 2)) % 360
    periods = [(0.0, 360.0), None]
    axes = plotting.corner(x, columns=["angle", "size"], periods=periods)
    assert axes[0, 0].get_xlim() == axes[1, 0].get_xlim() == (0, 360)
    assert axes[1, 1].get_xlim() != (0, 360)
    with pytest.raises(ValueError, match="has 1 entries for 2 columns"):
        plotting.corner(x, periods=periods[:1])


@pytest.mark.slow
def test_a_uniform_flow_has_no_peak():
    flow = still(2, UniformOn(Torus(2)), "auto")
    ax = plotting.torsions(flow, resolution=8)
    np.testing.assert_allclose(ax.images[0].get_array(), 1 / (2 * math.pi) ** 2, rtol=1e-6)
