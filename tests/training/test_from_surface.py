"""Tables with places, angles and directions: `fit_density` puts the flow on their manifold."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest

import jaxflow
from jaxflow.dynamics import MLP, OnManifold
from jaxflow.estimator import FlowDensity
from jaxflow.flows.cnf import CNF
from jaxflow.manifolds import Euclidean, Product, Sphere, Torus, quadrature
from jaxflow.training.from_surface import kernel_density
from jaxflow.transforms import Angles, propose

KEY = jax.random.key(0)
SMALL = {"width": 8, "depth": 1, "steps": 4, "progress": False, "key": KEY}
NAMES = ["lon", "magnitude", "lat", "hour", "month"]


def quakes(rows, seed=0):
    """Places across the date line, a magnitude, an hour and a month as a whole number."""
    rng = np.random.default_rng(seed)
    lon = (180 + 60 * rng.normal(size=rows) + 180) % 360 - 180
    lat = np.degrees(np.arcsin(rng.uniform(-1, 1, rows)))
    hour = (22 + 4 * rng.normal(size=rows)) % 24
    columns = lon, 4 + rng.gamma(2, 0.5, rows), lat, hour, rng.integers(1, 13, rows)
    return np.column_stack(columns)


@pytest.fixture(scope="module")
def fitted():
    x = quakes(200)
    return x, *jaxflow.fit_density(x, columns=NAMES, **SMALL)


@pytest.mark.slow
def test_the_flow_lives_on_the_manifold_of_the_columns(fitted):
    _, flow, _, comparison = fitted
    assert flow.field.manifold == Product(Sphere(2), Torus(2), Euclidean(1))
    names = list(comparison.log_p)
    assert names[0] == "flow"
    assert names[1].startswith("uniform x Gaussian")
    assert names[-1] == "kernel density"
    assert "held-out rows, which also chose the best weights" in str(comparison)


def test_densities_have_no_seams_and_no_poles(fitted):
    _, flow, _, _ = fitted
    rows = np.asarray(
        [
            [[179.999999, 5.0, 40.0, 23.999999, 5], [-179.999999, 5.0, 40.0, 0.0, 5]],
            [[0.0, 5.0, 90.0, 3.0, 12], [77.0, 5.0, 90.0, 3.0, 12]],
        ]
    )
    log_p = flow.log_prob(rows)
    assert np.isfinite(log_p).all()
    np.testing.assert_allclose(log_p[:, 0], log_p[:, 1], atol=1e-5)


def test_samples_lie_inside_the_periods(fitted):
    _, flow, _, _ = fitted
    lon, _, lat, hour, month = np.asarray(flow.sample(KEY, 200)).T
    assert np.abs(lon).max() <= 180
    assert np.abs(lat).max() <= 90
    assert 0 <= hour.min() <= hour.max() < 24
    assert set(np.unique(month)) == set(range(1, 13))


def test_mistakes_are_refused_and_named(fitted, tmp_path):
    x, flow, _, _ = fitted
    with pytest.raises(ValueError, match=r"of columns 2, 0: column 0 has 1 values .* row 1"):
        flow.log_prob(np.where(np.arange(len(x))[:, None] == 1, [0, 5, 91, 3, 5], x))
    jaxflow.save(tmp_path / "flow.safetensors", flow)
    np.testing.assert_array_equal(
        jaxflow.load(tmp_path / "flow.safetensors").log_prob(x[:5]), flow.log_prob(x[:5])
    )


@pytest.mark.slow
def test_it_is_never_second_to_the_uniform_density():
    # Nothing to learn: the flow of a few steps would be worse.
    rng = np.random.default_rng(1)
    x = rng.uniform(-180, 180, (300, 2))
    flow, _, comparison = jaxflow.fit_density(x, **SMALL)
    assert comparison.mean()[0] >= -2 * math.log(360) - 1e-9
    points, weights = quadrature(Torus(2, 360.0, -180.0), 24)
    assert np.sum(weights * np.exp(flow.log_prob(points))) == pytest.approx(1, abs=1e-3)


@pytest.mark.slow
def test_a_trained_flow_has_mass_1_and_beats_the_uniform_density():
    rng = np.random.default_rng(2)
    x = np.radians([100.0, 0.0]) + np.asarray([0.9, 2.5]) * rng.normal(size=(600, 2))
    x = x.astype(np.float32) % np.float32(2 * math.pi)
    settings: dict[str, Any] = SMALL | {"steps": 150, "width": 16}
    flow, _, comparison = jaxflow.fit_density(x, columns=["phi", "psi"], **settings)
    assert comparison.difference("uniform density")[0] > 0.1
    points, weights = quadrature(Torus(2), 64)
    log_p = flow.log_prob(points.astype(np.float32))
    assert float(np.sum(weights * np.exp(log_p))) == pytest.approx(1, abs=1e-3)


def test_unit_vectors_and_few_rows():
    z = np.random.default_rng(3).normal(size=(8, 3))
    x = np.concatenate([z / np.linalg.norm(z, axis=1, keepdims=True), z[:, :1]], axis=1)
    kinds = {"0,1,2": "direction"}
    flow, _, comparison = jaxflow.fit_density(x, kinds=kinds, **SMALL)
    assert comparison.log_p == {}
    assert flow.field.manifold == Product(Sphere(2), Euclidean(1))
    x = np.tile(x, (3, 1))[:, :3]
    assert jaxflow.fit_density(x, **SMALL)[0].field.manifold == Sphere(2)


@pytest.mark.slow
def test_a_circle_given_other_columns_is_an_interval_and_a_call_for_the_circle():
    rng = np.random.default_rng(4)
    x, cond = rng.uniform(0, 360, (60, 1)), rng.normal(size=(60, 2))
    with pytest.warns(UserWarning, match=r"^heading: on a manifold, Torus.*intervals.*write s = "):
        flow, _, _ = jaxflow.fit_density(x, cond, columns=["heading"], **SMALL)
    assert "OnManifold" not in str(flow.field)
    # The call of the note.
    s = propose(x, ["heading"]).surface
    assert s is not None
    m = s.manifold
    field = OnManifold(MLP(m.ambient, cond_dim=cond.shape[1], key=KEY), m)
    config = jaxflow.TrainConfig(steps=2)
    flow = CNF(field, s.base(), transform=s.transform())
    flow, _ = jaxflow.fit(flow, x, cond, key=KEY, config=config, progress=False)
    ends = flow.log_prob(jnp.asarray([[0.0], [360.0]]), jnp.asarray(cond[:1].repeat(2, 0)))
    assert ends[0] == pytest.approx(float(ends[1]), abs=1e-4)


@pytest.mark.slow
def test_intervals_on_request_and_with_conditions():
    x = np.random.default_rng(4).uniform(0, 360, (60, 1))
    flow, _, _ = jaxflow.fit_density(x, kinds={"0": "interval"}, **SMALL)
    assert isinstance(flow.field, MLP)
    with pytest.raises(ValueError, match="without cond and transform"):
        jaxflow.fit_density(x, x, kinds={"0": "periodic"}, **SMALL)
    flat = CNF(MLP(1, width=8, key=KEY), jaxflow.StandardNormal(1))
    config = jaxflow.TrainConfig(steps=2)
    flow, _ = jaxflow.fit(flat, x, key=KEY, transform=propose(x), config=config, progress=False)
    assert np.isfinite(flow.log_prob(x)).all()


def test_the_kernel_density_has_mass_1():
    rng = np.random.default_rng(5)
    x = (350 + 20 * rng.normal(size=(300, 1))) % 360
    field = OnManifold(MLP(2, width=4, key=KEY), Torus(1))
    flow = CNF(field, jaxflow.bases.UniformOn(Torus(1)), transform=Angles(1, 360.0))
    grid = jnp.arange(0.5, 360.0)[:, None]
    log_p = kernel_density(flow, jnp.asarray(x), grid, KEY)
    assert np.exp(log_p).sum() == pytest.approx(1, abs=1e-3)
    assert log_p[350] > log_p[180] + 3
    assert log_p[0] == pytest.approx(log_p[359], abs=0.1)


@pytest.mark.slow
def test_the_estimator_takes_kinds(tmp_path):
    frame = pd.DataFrame(quakes(80)[:, [2, 0]], columns=["lat", "lon"])
    settings = {"width": 8, "depth": 1, "steps": 4, "random_state": 0, "contamination": None}
    place = FlowDensity(**settings).fit(frame)
    assert place.flow_.field.manifold == Sphere(2)
    assert place.score_samples(frame.iloc[:3]).shape == (3,)
    place.save(tmp_path / "density.safetensors")
    again = FlowDensity.load(tmp_path / "density.safetensors")
    np.testing.assert_array_equal(again.sample(5, 0), place.sample(5, 0))
    kinds = {"lat": "interval", "lon": "periodic:360:-180"}
    turned = FlowDensity(**settings, kinds=kinds).fit(frame)
    assert turned.flow_.field.manifold == Product(Torus(1), Euclidean(1))
    with pytest.raises(ValueError, match="is for the default flow"):
        FlowDensity(**settings, kinds=kinds, objective="matching").fit(frame)
