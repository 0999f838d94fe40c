"""Encoded rows against the base of a flow on a manifold: level, power, and within `diagnose`."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxflow import CNF, StandardNormal
from jaxflow.bases import Independent, UniformOn, WrappedNormal
from jaxflow.diagnostics import diagnose, two_sample, uniformity
from jaxflow.dynamics import MLP, OnManifold
from jaxflow.manifolds import SO3, Euclidean, Product, Sphere, Torus
from jaxflow.transforms import LatLon

KEY = jax.random.key(0)
# A reason, as text, is returned where nothing can be measured.
measure_uniformity: Any = uniformity.measure_uniformity
energy: Any = two_sample.energy
MIXED = Product(Sphere(2), Torus(1), Euclidean(1))
BASES = {
    "circle": UniformOn(Torus(1)),
    "sphere": UniformOn(Sphere(2)),
    "rotations": UniformOn(SO3()),
    "wrapped": WrappedNormal(Torus(2), np.zeros(2), 0.7),
    "mixed": Independent((UniformOn(Product(Sphere(2), Torus(1))), StandardNormal(1))),
}
MANIFOLDS = {"circle": Torus(1), "sphere": Sphere(2), "rotations": SO3()}
MANIFOLDS |= {"wrapped": Torus(2), "mixed": MIXED}


def examine(name, rows, seed, change=None):
    base, manifold = BASES[name], MANIFOLDS[name]
    z = jax.vmap(base.sample)(jax.random.split(jax.random.key(seed), rows))
    z = z if change is None else jnp.asarray(change(np.array(z)))
    return measure_uniformity(base, manifold, z, np.random.default_rng(seed), 0.01)


@pytest.mark.quick("circle", "mixed")
@pytest.mark.parametrize("name", BASES)
def test_rows_of_the_base_pass(name):
    p = np.array([[t.mean_p, t.square_p, t.energy_p] for t in
                  (examine(name, 200, seed) for seed in range(6))])  # fmt: skip
    assert p.min() > 0.002
    assert p.mean(axis=0) == pytest.approx(0.5, abs=0.4)


def test_rows_off_the_base_are_found():
    def to_one_side(z):
        z[:40] = [0.0, 0.0, 1.0]
        return z

    found = examine("sphere", 200, 0, to_one_side)
    assert max(found.mean_p, found.square_p, found.energy_p) < 1e-3
    assert "not those of the base, UniformOn (means" in found.findings()[0].text

    def to_both_poles(z):
        z[:60], z[60:120] = [0.0, 0.0, 1.0], [0.0, 0.0, -1.0]
        return z

    found = examine("sphere", 200, 0, to_both_poles)
    assert found.mean_p > 1e-3
    assert found.square_p < 1e-6
    assert found.energy_p < 1e-3

    def in_four_places(z):
        return np.round(2 * z / np.pi) * np.pi / 2 + 0.1

    found = examine("circle", 400, 0, in_four_places)
    assert min(found.mean_p, found.square_p) > 1e-3
    assert found.energy_p < 0.01


def test_signs_of_axes_do_not_count():
    alike = examine("rotations", 100, 3), examine("rotations", 100, 3, np.abs)
    assert alike[0].square_p == pytest.approx(examine("rotations", 100, 3, np.negative).square_p)
    assert alike[1].energy_p < 1e-2


def test_failed_or_few_rows_are_not_tested():
    def failing(z):
        z[:10] = np.nan
        return z

    assert "10 of 50 encoded rows failed" in examine("sphere", 50, 0, failing)
    assert "too few" in examine("sphere", 10, 0)


def test_energy_is_the_distance_by_its_definition():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2, 25, 3))
    value, _ = energy(x, y, rng, 0.01)

    def mean(a, b, pairs):
        return np.linalg.norm(a[:, None] - b, axis=-1).sum() / pairs

    expected = 2 * mean(x, y, 625) - mean(x, x, 600) - mean(y, y, 600)
    assert value == pytest.approx(expected, abs=1e-6)
    assert energy(x, y + 1, rng, 0.01)[1] < 0.01
    assert isinstance(energy(x[:3], y[:3], rng, 0.01), str)


@pytest.mark.slow
def test_diagnose_sees_rows_that_the_flow_does_not_fit():
    flow = CNF(
        OnManifold(MLP(3, width=8, depth=1, key=KEY), Sphere(2)),
        UniformOn(Sphere(2)),
        transform=LatLon(),
    )
    rng = np.random.default_rng(0)
    right = np.asarray(flow.sample(KEY, 300))
    wrong = np.stack([20 * rng.normal(size=300), (180 + 30 * rng.normal(size=300)) % 360], axis=1)
    settings = {"key": KEY, "num_rows": 200, "num_samples": 200}
    good, bad = diagnose(flow, right, **settings), diagnose(flow, wrong, **settings)
    assert good.problems == ()
    assert "z, energy distance" in str(good)
    assert len(bad.problems) >= 3
