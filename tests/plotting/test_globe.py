"""Maps of the sphere."""

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import pytest

from jaxflow import CNF, StandardNormal, plotting
from jaxflow.bases import Independent, UniformOn, WrappedNormal
from jaxflow.dynamics import MLP, OnManifold
from jaxflow.dynamics.mlp import zero_field
from jaxflow.manifolds import Euclidean, Product, Sphere
from jaxflow.transforms import Blocks, Chain, Dequantise, LatLon, Standardise

SPHERE, LINES = Sphere(2), Standardise(jnp.asarray([2.0, -1.0]), jnp.asarray([3.0, 0.5]))
CENTRE = np.asarray([0.0, 1.0, 0.0])  # latitude 0, longitude 90


def still(manifold, base, transform):
    field = zero_field(MLP(manifold.ambient, width=4, depth=1, key=jax.random.key(0)))
    return CNF(OnManifold(field, manifold), base, transform=transform)


def values_of(axes):
    """The image, and its integral over the sphere."""
    values = np.asarray(axes.collections[0].get_array(), np.float64).ravel()
    values = values.reshape(int((len(values) / 2) ** 0.5), -1)
    lat = (np.arange(len(values)) + 0.5) / len(values) * np.pi - np.pi / 2
    plt.close(axes.figure)
    return values, float(np.sum(values * np.cos(lat)[:, None]) * (np.pi / len(values)) ** 2)


@pytest.mark.slow
def test_a_place_beside_other_columns_has_its_map():
    place = WrappedNormal(SPHERE, CENTRE, 0.4)
    alone = still(SPHERE, place, LatLon())
    expected, mass = values_of(plotting.globe(alone, [[0.0, 90.0]], resolution=60))
    assert mass == pytest.approx(1, abs=1e-2)
    base = Independent((place, StandardNormal(2)))
    transform = Chain((Dequantise(np.zeros(4)), Blocks((LatLon(), LINES), (3, 1, 0, 2))))
    flow = still(Product(SPHERE, Euclidean(2)), base, transform)
    values, mass = values_of(plotting.globe(flow, flow.sample(jax.random.key(1), 5)))
    assert mass == pytest.approx(1, abs=1e-2)
    assert values.max() == pytest.approx(expected.max(), rel=0.15)
    assert np.abs(values - expected).max() < 0.15 * expected.max()
    turned, _ = values_of(plotting.globe(flow, longitude=90, columns=(3, 1)))
    np.testing.assert_allclose(turned, np.roll(values, -30, axis=1), rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_unit_vectors_beside_other_columns_have_their_map():
    base = Independent((UniformOn(SPHERE), UniformOn(SPHERE), StandardNormal(2)))
    transform = Blocks((LatLon(), SPHERE, LINES))
    flow = still(Product(SPHERE, SPHERE, Euclidean(2)), base, transform)
    values, mass = values_of(plotting.globe(flow, columns=(2, 3, 4)))
    assert mass == pytest.approx(1, abs=1e-2)
    assert values.std() < 0.2 / (4 * np.pi)
    with pytest.raises(ValueError, match=r"places here are columns \[\(0, 1\), \(2, 3, 4\)\]"):
        plotting.globe(flow, columns=(5, 6))


def test_flows_without_a_place_have_no_map():
    flow = CNF(MLP(2, width=4, depth=1, key=jax.random.key(0)), StandardNormal(2))
    with pytest.raises(ValueError, match="globe draws flows on"):
        plotting.globe(flow)
