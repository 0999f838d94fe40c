"""The two-sample test on manifolds: its level, what it finds, and bad input."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxflow import CNF
from jaxflow.bases import UniformOn, WrappedNormal
from jaxflow.diagnostics import diagnose
from jaxflow.diagnostics.geodesic import geodesic_mmd
from jaxflow.dynamics import MLP, OnManifold
from jaxflow.manifolds import SO3, Euclidean, Hyperbolic, Product, Sphere, Torus

KEY = jax.random.key(1)
MANIFOLDS = {
    "sphere": Sphere(2),
    "torus": Torus(2, period=360.0),
    "rotations": SO3(),
    "hyperbolic": Hyperbolic(2),
    "product": Product(Sphere(2), Torus(1), Euclidean(1)),
}


def draw(manifold, rows, seed=0, scale=0.5):
    loc = jnp.zeros(manifold.event_shape).at[0].set(1.0)
    if isinstance(manifold, Torus):
        scale *= manifold.period[0] / 4
    keys = jax.random.split(jax.random.key(seed), rows)
    return np.asarray(jax.jit(jax.vmap(WrappedNormal(manifold, loc, scale).sample))(keys))


def p_of(manifold, x, y, **settings):
    tested = geodesic_mmd(manifold, x, y, np.random.default_rng(0), **settings)
    assert not isinstance(tested, str)
    return tested.p


@pytest.mark.quick("sphere", "product")
@pytest.mark.parametrize("name", MANIFOLDS)
def test_it_finds_another_spread_and_no_difference_from_the_same(name):
    m = MANIFOLDS[name]
    x = draw(m, 150)
    assert p_of(m, x, draw(m, 150, seed=1, scale=0.9)) < 0.01
    assert p_of(m, x, draw(m, 150, seed=2)) > 0.02


def test_false_alarms_are_as_rare_as_stated():
    pairs = draw(Sphere(2), 60 * 80).reshape(60, 2, 40, 3)
    p = [p_of(Sphere(2), x, y) for x, y in pairs]
    # 60 uniform numbers: the share below 0.1 is within four standard errors.
    assert 0 <= np.mean(np.asarray(p) < 0.1) < 0.1 + 4 * (0.09 / 60) ** 0.5
    assert 0.3 < np.mean(p) < 0.7


def test_it_finds_a_difference_that_is_equal_at_antipodes():
    # The energy distance of geodesics is 0 here: both have the same mean over x and -x.
    rng = np.random.default_rng(0)
    up = rng.normal(size=(300, 3)) * 0.4 + [0, 0, 1]
    up /= np.linalg.norm(up, axis=1, keepdims=True)
    x, y = up * rng.choice([-1, 1], (300, 1)), up[:, [2, 0, 1]] * rng.choice([-1, 1], (300, 1))
    assert p_of(Sphere(2), x, rng.permutation(y)) < 0.001


def test_it_does_not_see_the_seam():
    rng = np.random.default_rng(0)
    torus = Torus(1, period=360.0)
    x, y = ((5 * rng.normal(size=(200, 1)) + at) % 360 for at in (0.0, 0.0))
    assert p_of(torus, x, y) > 0.02
    assert p_of(torus, x, (y + 5) % 360) < 0.001


def test_it_sees_samples_at_other_conditions():
    x = draw(Torus(1), 200)
    cond = (x - np.pi)[:, :1]
    samples = np.random.default_rng(0).permutation(x)
    assert p_of(Torus(1), x, samples) > 0.02
    assert p_of(Torus(1), x, samples, cond=cond) < 0.001


def test_float32_and_whole_numbers():
    x = draw(Sphere(2), 50).astype(np.float32)
    y = draw(Sphere(2), 50, 1).astype(np.float32)
    wide = p_of(Sphere(2), x.astype(float), y.astype(float))
    assert p_of(Sphere(2), x, y) == pytest.approx(wide, abs=0.02)
    degrees = np.arange(40)[:, None]
    assert 0 < p_of(Torus(1, period=360.0), degrees, degrees + 3) <= 1


def test_bad_input_is_named():
    x = draw(Sphere(2), 50)
    assert "too few" in str(geodesic_mmd(Sphere(2), x[:5], x[:5], np.random.default_rng(0)))
    with pytest.raises(ValueError, match=r"samples \(49, 3\): draw a sample for each row"):
        p_of(Sphere(2), x, x[1:])
    with pytest.raises(ValueError, match=re.escape("lies off Sphere(2) in 50 of 50 rows")):
        p_of(Sphere(2), x, 1.1 * x)
    with pytest.raises(ValueError, match=r"cond has 3 rows, .* 50"):
        p_of(Sphere(2), x, x, cond=np.ones((3, 1)))


@pytest.mark.slow
def test_diagnose_uses_it():
    m = Sphere(2)
    flow = CNF(OnManifold(MLP(3, width=4, depth=1, key=KEY), m), UniformOn(m))
    few = {"key": KEY, "num_rows": 100, "num_samples": 100}
    wrong = diagnose(flow, draw(m, 300, scale=0.8), **few)
    assert wrong.mmd is not None
    assert wrong.mmd.p < 0.02
    right = diagnose(flow, flow.sample(KEY, 100), **few)
    assert right.mmd is not None
    assert right.mmd.p > 0.02
