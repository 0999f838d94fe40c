"""Flows on manifolds: log-densities with respect to the surface measure, by closed forms."""

import math
import re

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tests.laws.fields import grown

from jaxflow import CNF, ODE, Hutchinson, StandardNormal, exact_trace, load, save
from jaxflow.bases import Independent, UniformOn, WrappedNormal
from jaxflow.diagnostics import diagnose
from jaxflow.dynamics import MLP, OnManifold, Sum
from jaxflow.manifolds import (
    SO3,
    Euclidean,
    Product,
    Projective,
    Sphere,
    Torus,
    quadrature,
)
from jaxflow.transforms import Angles, Blocks, LatLon, Standardise

KEY = jax.random.key(2)
SPHERE = Sphere(2)


def learned(manifold, base=None, **settings):
    network = grown(MLP(manifold.ambient, width=16, depth=1, key=KEY))
    network = jax.tree.map(lambda leaf: 0.6 * leaf, network)
    return CNF(OnManifold(network, manifold), base or UniformOn(manifold), **settings)


def up(t, p):
    """The constant field along the axis."""
    return jnp.zeros_like(p).at[-1].set(1)


RISE = CNF(OnManifold(up, SPHERE), UniformOn(SPHERE))
# Fixed steps compile quickly.
FIXED = ODE(solver="rk4", num_steps=4)


def log_density_of_rise(height):
    """Of the flow `d/dt h = 1 - h^2` of heights, from uniform points: `int 2 h dt` more."""
    end = np.arctanh(height)
    return 2 * (np.log(np.cosh(end)) - np.log(np.cosh(end - 1))) - math.log(4 * math.pi)


def at_heights(height):
    flat = np.sqrt(1 - height**2)
    turn = np.arange(len(height))
    return np.stack([flat * np.cos(turn), flat * np.sin(turn), height], axis=1)


@pytest.mark.parametrize(
    ("manifold", "expected"),
    [(SPHERE, -2.5310242), (Torus(7), -12.8651), (SO3(), -math.log(math.pi**2))],
)
def test_the_uniform_density_is_the_volume(manifold, expected):
    base = UniformOn(manifold)
    assert float(base.log_prob(base.sample(KEY))) == pytest.approx(expected, abs=5e-5)


@pytest.mark.parametrize("dim", [1, 2, 5])
def test_the_divergence_of_a_projected_constant(dim):
    x = np.asarray(Sphere(dim).uniform(KEY))
    field = OnManifold(up, Sphere(dim))
    traced = jax.jit(lambda x: exact_trace(field, jnp.asarray(0.0), x))
    for scale in (1.0, 0.3, 7.0):  # at any distance: the drift of a solve changes nothing
        _, trace = traced(scale * x)
        np.testing.assert_allclose(trace, -dim * x[-1], atol=1e-14)


@pytest.mark.slow
def test_a_rising_field_has_its_closed_form():
    height = np.linspace(-0.99, 0.999, 40)
    x = at_heights(height)
    expected = log_density_of_rise(height)
    np.testing.assert_allclose(RISE.log_prob(x, atol_nats=1e-8), expected, atol=1e-8)
    start = CNF(RISE.field, RISE.base, ode_eval=FIXED).log_prob_at(0.0, x)
    np.testing.assert_allclose(start, -math.log(4 * math.pi), atol=1e-12)
    rough = CNF(RISE.field, RISE.base, ode_eval=ODE(rtol=1e-2, atol=1e-2))
    answer = rough.log_prob_with_error(x)
    missed = np.abs(answer.value - expected)
    assert missed.max() > 1e-5
    assert (missed <= answer.ode_error).all()


@pytest.mark.slow
def test_probes_state_their_error_on_the_sphere():
    height = np.linspace(-0.99, 0.999, 40)
    x, expected = at_heights(height), log_density_of_rise(height)
    noisy = CNF(RISE.field, RISE.base, trace=Hutchinson(64))
    answer = noisy.log_prob_with_error(x, key=KEY)
    error = 4.5 * np.asarray(answer.trace_se) + np.asarray(answer.ode_error)
    assert (np.abs(answer.value - expected) <= error).all()


def test_steps_off_the_sphere_leave_no_trace():
    # Two steps leave the sphere; samples and encoded rows do not.
    settings = ODE(solver="euler", num_steps=2, gradient="direct")
    rough = CNF(RISE.field, RISE.base, ode=settings, ode_eval=settings)
    for x in (rough.sample(KEY, 20), rough.encode(at_heights(np.linspace(-0.9, 0.9, 20)))):
        np.testing.assert_allclose(jnp.linalg.norm(x, axis=1), 1, rtol=1e-14)
    path = rough.transport(at_heights(np.asarray([0.5])), 1.0, 0.0, save_at=[0.5, 0.0])
    np.testing.assert_allclose(jnp.linalg.norm(path, axis=-1), 1, rtol=1e-14)


@pytest.mark.slow
def test_a_rotation_carries_a_density_unchanged():
    def turn(t, p):
        return jnp.cross(jnp.asarray([0.3, -2.0, 1.0]), p)

    base = WrappedNormal(SPHERE, [0.6, 0.0, 0.8], 0.5)
    flow = CNF(OnManifold(turn, SPHERE), base, ode_eval=ODE(rtol=1e-9, atol=1e-9))
    x = flow.sample(KEY, 10)
    z = flow.encode(x)
    np.testing.assert_allclose(flow.log_prob(x), jax.vmap(base.log_prob)(z), atol=1e-7)
    np.testing.assert_allclose(flow.decode(z), x, atol=1e-7)


@pytest.mark.slow
def test_the_mass_on_the_sphere_is_one():
    flow = learned(SPHERE)
    placed = CNF(flow.field, flow.base, transform=LatLon(measure="surface"))
    points, weights = quadrature(SPHERE, 48)
    rows = np.asarray(jax.vmap(placed.transform.inverse)(jnp.asarray(points))[0])
    log_p = placed.log_prob(rows)
    assert np.ptp(log_p) > 2
    assert float(np.sum(weights * np.exp(log_p))) == pytest.approx(1, abs=1e-5)
    # The same by unit vectors; and per square degree, with its own area.
    x = jax.vmap(placed.transform.forward)(jnp.asarray(rows[:50]))[0]
    np.testing.assert_allclose(flow.log_prob(x), log_p[:50], atol=1e-10)
    chart = CNF(flow.field, flow.base, transform=LatLon()).log_prob(rows[:50])
    area = np.log(np.cos(np.radians(rows[:50, 0]))) + 2 * math.log(math.pi / 180)
    np.testing.assert_allclose(chart, log_p[:50] + area, atol=1e-9)


@pytest.mark.slow
def test_the_mass_on_the_torus_is_one():
    flow = learned(Torus(2), transform=Angles(2, period=[360.0, 24.0]))
    points, weights = quadrature(Torus(2, period=[360.0, 24.0]), 96)
    log_p = flow.log_prob(points)
    assert np.ptp(log_p) > 2
    assert float(np.sum(weights * np.exp(log_p))) == pytest.approx(1, abs=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("manifold", [SPHERE, SO3()])
def test_diagnose_integrates_over_the_manifold(manifold):
    flow = learned(manifold, transform=LatLon() if manifold == SPHERE else "auto")
    result = diagnose(flow, flow.sample(KEY, 300), key=KEY, num_rows=200, num_samples=200)
    assert result.mass is not None
    assert abs(result.mass.value - 1) < 3 * result.mass.error + 1e-4
    assert "problem found" not in str(result).replace("no problem found", "")


def test_a_quadrature_rule_is_exact_for_polynomials():
    for manifold, expected in ((Sphere(1), math.pi), (SPHERE, 4 * math.pi / 3)):
        x, weights = quadrature(manifold, 8)
        np.testing.assert_allclose(np.sum(weights * x[:, 0] ** 2), expected, rtol=1e-13)
        np.testing.assert_allclose(np.linalg.norm(x, axis=1), 1, rtol=1e-14)
    with pytest.raises(ValueError, match=r"Euclidean\(1\) has no rule: Sphere, Torus"):
        quadrature(Product(SPHERE, Euclidean(1)))


@pytest.mark.parametrize(
    ("manifold", "num"),
    [
        *((m, 12) for m in (Sphere(1), Sphere(2), Sphere(3))),
        *((m, 12) for m in (Projective(1), Projective(2), SO3())),
        *((m, 12) for m in (Torus(1), Torus(3, period=[2.0, 3.0, 2.5], start=-0.5))),
        (Product(Sphere(2), Torus(1), Projective(1)), 10),
    ],
    ids=str,
)
def test_rules_have_the_volume_and_the_mass_of_a_normal_density(manifold, num):
    x, weights = quadrature(manifold, num)
    assert np.log(weights.sum()) == pytest.approx(manifold.log_volume, abs=1e-12)
    assert len(np.unique(x.round(9), axis=0)) == len(x)
    # No point of the rule: opposite it, on spheres, the density has a faint pole.
    base = WrappedNormal(manifold, manifold.uniform(KEY), 0.4)
    p = np.exp(jax.jit(jax.vmap(base.log_prob))(jnp.asarray(x)))
    assert float(weights @ p) == pytest.approx(1, abs=0.01)


@pytest.mark.slow
def test_there_is_no_seam():
    flow = learned(SPHERE, transform=LatLon(measure="surface"))
    rows = np.array([[40.0, 179.999999], [40.0, -179.999999], [40.0, 180.0], [40.0, -180.0]])
    log_p = flow.log_prob(rows, atol_nats=1e-7)
    np.testing.assert_allclose(log_p, log_p[0], atol=2e-6)
    for lat in (90.0, -90.0):
        pole = flow.log_prob(np.array([[lat, 0.0], [lat, 100.0], [lat, -180.0]]), atol_nats=1e-9)
        np.testing.assert_allclose(pole, pole[0], atol=1e-9)
    chart = CNF(flow.field, flow.base, transform=LatLon())
    assert np.isfinite(chart.log_prob(np.array([[90.0, 0.0], [-90.0, 3.0]]))).all()
    hours = learned(Torus(1, period=24.0))
    np.testing.assert_allclose(*hours.log_prob([[0.0], [24.0]]), atol=1e-10)


@pytest.mark.slow
def test_samples_lie_within_the_chart():
    flow = learned(SPHERE, transform=LatLon())
    x = np.asarray(flow.sample(KEY, 500))
    assert x.shape == (500, 2)
    flow.transform.check(x)
    assert np.abs(x[:, 1]).max() <= 180
    z = flow.encode(x)
    assert z.shape == (500, 3)
    np.testing.assert_allclose(flow.decode(z), x, atol=2e-2)
    assert flow.transport(x[:3], 1.0, 0.5, save_at=[0.7, 0.5]).shape == (2, 3, 2)


@pytest.mark.slow
def test_a_product_of_independent_parts_is_a_sum():
    torus, line = learned(Torus(1)), learned(Euclidean(1), StandardNormal(1))

    def both(t, p):
        return jnp.concatenate([torus.field.field(t, p[:2]), line.field.field(t, p[2:])])

    manifold = Product(Torus(1), Euclidean(1))
    base = Independent((torus.base, line.base))
    flow = CNF(OnManifold(both, manifold), base)
    x = flow.sample(KEY, 10)
    parts = torus.log_prob(x[:, :1], atol_nats=1e-8) + line.log_prob(x[:, 1:], atol_nats=1e-8)
    np.testing.assert_allclose(flow.log_prob(x, atol_nats=1e-8), parts, atol=1e-7)


@pytest.mark.slow
def test_a_table_of_place_time_and_size_is_one_flow():
    manifold = Product(SPHERE, Torus(1), Euclidean(1))
    transform = Blocks((LatLon(), Angles(1, 24.0), Standardise(jnp.asarray([3.0]), jnp.ones(1))))
    base = Independent((UniformOn(Product(SPHERE, Torus(1))), StandardNormal(1)))
    flow = learned(manifold, base, transform=transform)
    x, log_p = flow.sample_and_log_prob(KEY, 8)
    assert x.shape == (8, 4)
    np.testing.assert_allclose(flow.log_prob(x), log_p, atol=1e-3)
    assert "Blocks" in str(flow)


def test_a_field_in_a_sum_keeps_its_manifold(tmp_path):
    flow = CNF(Sum((learned(SPHERE).field, RISE.field)), UniformOn(SPHERE), ode_eval=FIXED)
    assert flow.transform == SPHERE
    x = flow.sample(KEY, 3)
    flow = learned(SPHERE, ode_eval=FIXED)
    save(tmp_path / "flow.safetensors", flow)
    again = load(tmp_path / "flow.safetensors")
    assert again.transform == SPHERE
    np.testing.assert_array_equal(again.log_prob(x), flow.log_prob(x))


@pytest.mark.slow
def test_rotations_have_no_sign():
    flow = learned(SO3())
    x = flow.sample(KEY, 5)
    np.testing.assert_allclose(flow.log_prob(-x), flow.log_prob(x), atol=1e-10)
    assert np.ptp(flow.log_prob(x)) > 0.1


def test_points_off_the_manifold_are_mistakes():
    rise = CNF(RISE.field, RISE.base, ode_eval=FIXED)
    x = np.array(rise.sample(KEY, 5))
    x[3] *= 1.01
    message = "x lies off Sphere(2) in 1 of 5 rows, first row 3"
    with pytest.raises(ValueError, match=re.escape(message)):
        rise.log_prob(x)
    with pytest.raises(ValueError, match=r"jax.vmap\(manifold.retract\)\(x\)"):
        rise.transport(x, 1.0, 0.0)
    moved = jax.jit(jax.vmap(SPHERE.retract))(x)
    assert np.isfinite(rise.log_prob(moved)).all()
    # Under jit values are unknown: no density there, never that of another point.
    np.testing.assert_array_equal(np.isneginf(jax.jit(rise.log_prob)(x)), np.arange(5) == 3)
    with pytest.raises(ValueError, match="not a latitude"):
        CNF(RISE.field, RISE.base, transform=LatLon()).log_prob([[91.0, 0.0]])
    with pytest.raises(ValueError, match=r"Values lie in \[0, 6.28319\]"):
        learned(Torus(1)).log_prob([[359.0]])


def test_bad_parts_are_refused():
    with pytest.raises(ValueError, match=r"field takes 7 entries, .* it sees 14: write MLP"):
        OnManifold(MLP(7, key=KEY), Torus(7))
    with pytest.raises(TypeError, match=r"must be one of jaxflow.manifolds"):
        OnManifold(up, "sphere")
    with pytest.raises(TypeError, match=r"must be one of jaxflow.manifolds"):
        UniformOn(3)
    with pytest.raises(ValueError, match="at most 1 on Sphere"):
        WrappedNormal(SPHERE, [0.0, 0.0, 1.0], 3.0)
    with pytest.raises(ValueError, match=r"lies off Sphere.*first row 0"):
        WrappedNormal(SPHERE, [0.0, 0.0, 2.0], 0.5)
    with pytest.raises(ValueError, match=r"period=-1.0 must be positive"):
        Torus(2, period=-1.0)
    with pytest.raises(ValueError, match="one for each of 2 columns"):
        Torus(2, period=[1.0, 2.0, 3.0])
    with pytest.raises(TypeError, match="must be manifolds"):
        Product(2)
    with pytest.raises(ValueError, match="transform='none'"):
        CNF(RISE.field, RISE.base, transform="none")


@pytest.mark.slow
def test_float32_rows_are_right():
    flow = learned(SPHERE)
    x = np.asarray(flow.sample(KEY, 20), np.float32)
    single = jax.tree.map(
        lambda leaf: leaf.astype(jnp.float32) if eqx.is_inexact_array(leaf) else leaf, flow
    )
    with jax.enable_x64(False):
        answer = single.log_prob_with_error(x)
        assert answer.value.dtype == jnp.float32
    missed = np.abs(np.asarray(answer.value) - np.asarray(flow.log_prob(x, atol_nats=1e-8)))
    assert (missed <= np.asarray(answer.ode_error)).all()
