"""Flows trained on manifolds: the integral of their density is 1, by quadrature."""

from functools import cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxflow import CNF, TrainConfig, fit
from jaxflow.bases import UniformOn, WrappedNormal
from jaxflow.dynamics import MLP, OnManifold
from jaxflow.manifolds import SO3, Product, Projective, Sphere, Torus, quadrature
from jaxflow.objectives import FlowMatching, maximum_likelihood
from jaxflow.transforms import Angles, LatLon, UnitLength

KEY = jax.random.key(6)


class Case(NamedTuple):
    """A manifold, a point of it, steps of the rule, and a chart of its rows."""

    manifold: Any
    loc: Any
    num: int
    chart: Any = None
    objective: Any = FlowMatching()
    steps: int = 100


TURN, PLACE = Product(Torus(1), Sphere(1)), Product(Sphere(2), Torus(1))
CASES = {
    "circle": Case(Torus(1), [6.2], 64),
    "circle of unit vectors": Case(Sphere(1), [0.6, 0.8], 64),
    "torus": Case(Torus(2), [0.1, 3.0], 64),
    "hours": Case(Torus(2), [0.1, 3.0], 64, Angles(2, period=[24.0, 360.0], start=[0.0, -180.0])),
    "torus of three": Case(Torus(3), [0.1, 3.0, 6.2], 24),
    "sphere": Case(Sphere(2), [0.6, 0.0, -0.8], 32),
    "places": Case(Sphere(2), [0.0, 0.0, 1.0], 32, LatLon(measure="surface")),
    "rounded": Case(Sphere(2), [0.6, 0.0, -0.8], 32, UnitLength(Sphere(2), 0.01)),
    "by likelihood": Case(Sphere(2), [0.6, 0.0, -0.8], 32, None, maximum_likelihood, 20),
    "sphere of three": Case(Sphere(3), [0.5, 0.5, 0.5, 0.5], 16),
    "axes": Case(Projective(2), [0.6, 0.0, -0.8], 24),
    "rotations": Case(SO3(), [0.5, -0.5, 0.5, 0.5], 16),
    "angle and direction": Case(TURN, [6.2, 0.0, 1.0], 48),
    "place and hour": Case(PLACE, [0.0, 0.0, 1.0, 0.1], 16),
}
QUICK = ("circle",)


@cache
def trained(name):
    m, loc, _, chart, objective, steps = CASES[name]
    network = MLP(m.ambient, width=16, activation="sin", key=KEY)
    flow = CNF(OnManifold(network, m), UniformOn(m), transform=chart or "auto")
    base = WrappedNormal(m, loc, 0.6)
    x = jax.jit(jax.vmap(base.sample))(jax.random.split(KEY, 1000))
    if chart is not None:
        x = jax.jit(jax.vmap(chart.inverse))(x)[0]
    config = TrainConfig(
        steps=steps, batch_size=128, eval_every=steps, learning_rate=4e-3, ema=0.0
    )
    flow, _ = fit(flow, x, key=KEY, config=config, objective=objective, progress=False)
    return flow


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[] if n in QUICK else pytest.mark.slow) for n in CASES]
)
def test_the_mass_of_a_trained_flow_is_1(name):
    m, _, num, chart, *_ = CASES[name]
    points, weights = quadrature(m, num)
    flow = trained(name)
    x, volume = jnp.asarray(points), np.ones(len(points))
    if chart is not None:
        x, log_det = jax.jit(jax.vmap(chart.inverse))(x)
        volume = np.exp(log_det)
    log_p = np.asarray(flow.log_prob(x))
    assert np.ptp(log_p) > 0.1  # it has learned something
    assert float(np.sum(weights * volume * np.exp(log_p))) == pytest.approx(1, abs=1e-3)
