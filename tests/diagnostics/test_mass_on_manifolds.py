"""The integral of a density over a manifold without a quadrature rule."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxflow import CNF, StandardNormal
from jaxflow.bases import Independent, UniformOn
from jaxflow.diagnostics import mass as masses
from jaxflow.dynamics import MLP, OnManifold
from jaxflow.manifolds import Euclidean, Product, Sphere
from jaxflow.transforms import Blocks, LatLon, Standardise

KEY = jax.random.key(0)
# A reason, as text, is returned where nothing can be measured.
measure_mass: Any = masses.measure_mass


@pytest.mark.slow
def test_a_product_with_a_line_has_mass_1(monkeypatch):
    monkeypatch.setattr(masses, "DRAWS", 2000)
    manifold = Product(Sphere(2), Euclidean(1))
    network = MLP(4, width=8, depth=1, key=KEY)
    network = jax.tree.map(lambda leaf: 2 * leaf if jnp.ndim(leaf) else leaf, network)
    base = Independent((UniformOn(Sphere(2)), StandardNormal(1)))
    scaling = Standardise(jnp.zeros(1), jnp.full(1, 3.0))
    transform = Blocks((LatLon(), scaling), (2, 0, 1))
    flow = CNF(OnManifold(network, manifold), base, transform=transform, trace="exact")
    rows = flow.sample(KEY, 200)
    mass = measure_mass(flow, rows, None, np.random.default_rng(0), allowed=0.01)
    assert abs(mass.value - 1) < 4 * mass.error + 1e-3
    assert mass.error < 0.05
    assert "effective of 2,000 draws" in mass.how
    # Kernels far from the mass leave the draws of the base.
    far = jnp.asarray([[0.0, 500.0 + i, 0.0] for i in range(20)])
    found = measure_mass(flow, far, None, np.random.default_rng(0), allowed=0.01)
    assert found.value == pytest.approx(1, abs=4 * found.error) or np.isnan(found.value)
