"""Flow matching along geodesics, and `fit` of flows on manifolds."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxflow
from jaxflow import CNF, TrainConfig, fit
from jaxflow.bases import UniformOn, WrappedNormal
from jaxflow.density.paths import Trigonometric
from jaxflow.dynamics import MLP, OnManifold
from jaxflow.manifolds import Sphere, Torus
from jaxflow.objectives import FlowMatching, Swaps, independent
from jaxflow.transforms import Angles, LatLon

KEY = jax.random.key(4)
SPHERE = Sphere(2)


class TowardsPole:
    """The field of geodesics that all end at the pole, as seen from `t`: `log(x, pole) / (1 - t)`.

    In ambient coordinates; the projection leaves it as it is.
    """

    pole = jnp.asarray([0.0, 0.0, 1.0])

    def __call__(self, t, p):
        return SPHERE.log(p, self.pole.astype(p.dtype)) / (1 - t)


def test_the_path_is_the_geodesic():
    # All data at one point: the exact field has no loss, and moves at the speed of the distance.
    flow = CNF(OnManifold(TowardsPole(), SPHERE), UniformOn(SPHERE))
    x = jnp.broadcast_to(TowardsPole.pole, (256, 3))
    loss, metrics = jax.jit(lambda x: FlowMatching(coupling=independent)(flow, x, None, KEY))(x)
    assert float(loss) < 1e-20
    # E[angle^2] of uniform points: int_0^pi a^2 sin(a) / 2 da = pi^2 / 2 - 2.
    assert float(metrics["velocity"]) == pytest.approx(math.pi**2 / 2 - 2, rel=0.1)


@pytest.mark.slow
def test_rows_of_a_chart_are_moved_to_the_manifold():
    flow = CNF(OnManifold(TowardsPole(), SPHERE), UniformOn(SPHERE), transform=LatLon())
    x = jnp.broadcast_to(jnp.asarray([90.0, 17.0]), (64, 2))
    loss, _ = FlowMatching()(flow, x, None, KEY)
    assert float(loss) < 1e-12


def test_pairs_are_near_each_other_across_the_seam():
    torus = Torus(1)
    field = OnManifold(lambda t, p: 0 * p, torus)
    flow = CNF(field, WrappedNormal(torus, [0.01], 0.1))
    x = jnp.remainder(0.1 * jax.random.normal(KEY, (256, 1)), 2 * jnp.pi)

    @jax.jit
    def speeds_of(x):
        objectives = [FlowMatching(coupling=coupling) for coupling in (independent, Swaps())]
        return [objective(flow, x, None, KEY)[1]["velocity"] for objective in objectives]

    speeds = list(map(float, speeds_of(x)))
    assert speeds[0] == pytest.approx(2 * 0.1**2, rel=0.3)
    assert speeds[1] < 0.2 * speeds[0]


def test_a_path_of_flat_space_is_refused():
    flow = CNF(OnManifold(TowardsPole(), SPHERE), UniformOn(SPHERE))
    with pytest.raises(ValueError, match=r"one of flat space, .* Sphere\(2\): write path=Linear"):
        FlowMatching(path=Trigonometric()).check(flow)


def bimodal(n):
    rng = np.random.default_rng(0)
    turn = np.where(rng.random(n) < 0.4, 177.0, -60.0) + 12 * rng.normal(size=n)
    return (turn[:, None] + 180) % 360 - 180


@pytest.mark.parametrize(
    "objective",
    [FlowMatching(), None],
    ids=["matching", "default"],
)
@pytest.mark.slow
def test_fit_learns_a_density_across_the_seam(objective):
    torus = Torus(1)
    network = MLP(torus.ambient, width=32, activation="sin", frequency=4.0, key=KEY)
    flow = CNF(OnManifold(network, torus), UniformOn(torus), transform=Angles(1, start=-180.0))
    config = TrainConfig(steps=800, batch_size=256, eval_every=400, learning_rate=4e-3)
    flow, history = fit(
        flow, bimodal(4000), key=KEY, config=config, objective=objective, progress=False
    )
    assert isinstance(flow.transform, Angles)
    grid = np.arange(-180, 180, 0.5)[:, None]
    density = np.exp(flow.log_prob(grid))
    assert float(density.sum() * 0.5) == pytest.approx(1, abs=1e-3)
    z = (grid - np.array([177.0, -60.0]) + 180) % 360 - 180
    truth = (np.exp(-0.5 * (z / 12) ** 2) / (12 * math.sqrt(2 * math.pi))) @ [0.4, 0.6]
    gap = truth * (np.log(truth + 1e-300) - np.log(density))
    assert float(gap.sum() * 0.5) < 0.05  # that of the uniform density is 1.3
    assert history["validation"][-1] < math.log(360)


def test_fit_names_rows_off_the_manifold():
    network = MLP(3, width=4, depth=1, key=KEY)
    flow = CNF(OnManifold(network, SPHERE), UniformOn(SPHERE))
    x = 1.01 * np.asarray(jax.jit(jax.vmap(SPHERE.uniform))(jax.random.split(KEY, 50)))
    with pytest.raises(ValueError, match=r"x lies off Sphere\(2\) in 45 of 45 rows, first row 0"):
        fit(flow, x, key=KEY, config=TrainConfig(steps=1), progress=False)


def test_steps_of_a_map_would_leave_the_manifold():
    flow = CNF(OnManifold(MLP(3, width=4, depth=1, key=KEY), SPHERE), UniformOn(SPHERE))
    with pytest.raises(TypeError, match=r"on Sphere\(2\), which the steps of a FlowMap"):
        jaxflow.distil(flow, np.eye(3), key=KEY)


def test_the_likelihood_trains_too():
    torus = Torus(2)
    flow = CNF(OnManifold(MLP(4, width=8, depth=1, key=KEY), torus), UniformOn(torus))
    x = jnp.remainder(1 + 0.3 * jax.random.normal(KEY, (128, 2)), 2 * jnp.pi)
    likelihood = jaxflow.objectives.maximum_likelihood
    loss, _ = jax.jit(lambda x: likelihood(flow, x, None, KEY))(x)
    assert float(loss) == pytest.approx(torus.log_volume, abs=0.2)
