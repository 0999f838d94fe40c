"""Reflow: its pairs, and training on them."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxflow import CNF, ODE, StandardNormal, TrainConfig, fit
from jaxflow.bases import UniformOn
from jaxflow.dynamics import MLP, Linear, OnManifold
from jaxflow.manifolds import Product, Sphere, Torus
from jaxflow.objectives import Reflow, Staged
from jaxflow.transforms import Standardise

KEY = jax.random.key(3)
CONFIG = TrainConfig(steps=400, batch_size=256, learning_rate=1e-2, eval_every=200)


def loss_of(pairs, flow, x):
    return jax.jit(lambda x: pairs(flow, x, None, KEY))(x)


def turning(**settings):
    """A flow that turns the base by a right angle, which changes nothing but the way."""
    matrix = jnp.asarray([[0.0, -1.0], [1.0, 0.0]]) * jnp.pi / 2
    return CNF(Linear(matrix=matrix), StandardNormal((2,)), **settings)


def test_pairs_are_the_ends_of_trajectories():
    pairs = Reflow.of(turning(), KEY, 50)
    z = np.asarray(pairs.z)
    np.testing.assert_allclose(pairs.x, np.stack([-z[:, 1], z[:, 0]], axis=1), atol=1e-4)


def test_a_field_that_goes_straight_already_has_nothing_to_learn():
    flow = CNF(
        lambda t, x: jnp.full_like(x, 2.0),
        StandardNormal((3,)),
        ode_eval=ODE(solver="euler", num_steps=1),
    )
    loss, metrics = loss_of(Reflow.of(flow, KEY, 20), flow, jnp.zeros((8, 3)))
    assert float(loss) == pytest.approx(0.0, abs=1e-20)
    assert float(metrics["velocity"]) == pytest.approx(12.0, rel=1e-12)


def test_lines_on_a_sphere_are_geodesics():
    sphere, pole = Sphere(2), jnp.asarray([0.0, 0.0, 1.0])
    field = OnManifold(lambda t, p: sphere.log(p, pole) / (1 - t), sphere)
    z = jax.jit(jax.vmap(sphere.uniform))(jax.random.split(KEY, 32))
    flow = CNF(field, UniformOn(sphere))
    loss, metrics = loss_of(Reflow(z, jnp.broadcast_to(pole, z.shape)), flow, z)
    assert float(loss) < 1e-20
    assert float(metrics["velocity"]) > 1


def test_lines_on_a_torus_follow_trajectories_round_it():
    torus, z = Torus(1), jnp.asarray([[0.1], [3.0]])
    field = OnManifold(lambda t, p: 5 * jnp.asarray([-p[1], p[0]]), torus)
    loss, _ = loss_of(Reflow(z, z + 5), CNF(field, UniformOn(torus)), z)
    assert float(loss) < 1e-20


def test_lines_on_a_product_are_those_of_its_factors():
    sphere, pole = Sphere(2), jnp.asarray([0.0, 0.0, 1.0])
    manifold = Product(Torus(1), sphere)

    def field(t, p):
        turn = 5 * jnp.asarray([-p[1], p[0]])
        return jnp.concatenate([turn, sphere.log(p[2:], pole) / (1 - t)])

    z = jax.jit(jax.vmap(manifold.uniform))(jax.random.split(KEY, 32))
    end = jnp.concatenate([z[:, :1] + 5, jnp.broadcast_to(pole, (32, 3))], axis=1)
    flow = CNF(OnManifold(field, manifold), UniformOn(manifold))
    loss, _ = loss_of(Reflow(z, end), flow, z)
    assert float(loss) < 1e-20


@pytest.mark.slow
def test_trajectories_come_out_straight():
    flow = turning()
    x = np.random.default_rng(0).normal(size=(2000, 2))
    new = replace(flow, field=MLP(2, width=32, key=KEY))
    straight, _ = fit(
        new, x, key=KEY, config=CONFIG, objective=Reflow.of(flow, KEY, 4096), transform=None
    )
    z = jax.random.normal(KEY, (100, 2))
    # Where the pairs' lines lead, and half way there half of it.
    path = straight.transport(z, 0.0, 1.0, save_at=jnp.asarray([0.5, 1.0]))
    turned = jnp.stack([-z[:, 1], z[:, 0]], axis=1)
    assert float(jnp.mean(jnp.abs(path[1] - turned))) < 0.1
    assert float(jnp.mean(jnp.abs(path[0] - (z + turned) / 2))) < 0.1


@pytest.mark.slow
def test_each_pair_keeps_its_condition():
    field = MLP(1, width=8, cond_dim=1, key=KEY)
    flow = CNF(field, StandardNormal((1,)))
    cond = jnp.linspace(-1, 1, 20)[:, None]
    pairs = Reflow.of(flow, KEY, cond=cond)
    expected = flow.decode(pairs.z, cond)
    np.testing.assert_allclose(pairs.x, expected, atol=1e-5)
    loss, metrics = pairs(flow, jnp.zeros((8, 1)), cond[:8], KEY)
    assert jnp.isfinite(loss)
    assert metrics["velocity"] > 0


def test_bad_arguments_raise():
    x = np.random.default_rng(0).normal(size=(50, 2))
    pairs = Reflow.of(turning(transform=Standardise(jnp.ones(2), jnp.ones(2))), KEY, 20)
    with pytest.raises(ValueError, match="the transform of the flow that made the pairs"):
        fit(turning(), x, key=KEY, config=CONFIG, objective=pairs, transform=None)
    with pytest.raises(ValueError, match="leave weights out"):
        pairs(turning(), jnp.zeros((4, 2)), None, KEY, jnp.ones(4))
    with pytest.raises(TypeError, match="trains the field of a CNF"):
        Reflow.of(object(), KEY)


@pytest.mark.slow
def test_a_fresh_field_learns_the_pairs_conditions_as_they_were_given():
    # x = z + c / 100 from conditions far from standard, by a field that knows none yet.
    teacher = CNF(lambda t, x, cond: 0 * x + cond / 100, StandardNormal((1,)))
    cond = 500.0 + 100.0 * jax.random.normal(KEY, (512, 1))
    pairs = Reflow.of(teacher, KEY, cond=cond)
    new = replace(teacher, field=MLP(1, width=8, depth=1, cond_dim=1, key=KEY))
    config = TrainConfig(steps=2, eval_every=2, batch_size=64)
    for objective in (pairs, Staged(((pairs, 1.0),))):
        fitted, _ = fit(
            new, np.asarray(pairs.x), cond, key=KEY, config=config, objective=objective,
            transform=None,
        )  # fmt: skip
        assert isinstance(fitted.field, MLP)
