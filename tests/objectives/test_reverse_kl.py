"""Reverse KL and importance weights, where both densities are known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxflow import CNF, ODE, StandardNormal, TrainConfig, fit, importance_sample
from jaxflow.dynamics import MLP, Linear
from jaxflow.flows.importance import generalised_pareto, pareto_smoothed
from jaxflow.objectives import ReverseKL, maximum_likelihood

KEY = jax.random.key(4)
FINE = ODE(solver="tsit5", num_steps=12)


def normal(scale):
    """Log-density of N(0, scale^2 I), up to a constant that is not left out here."""
    return lambda x: (
        -0.5 * jnp.sum((x / scale) ** 2) - x.size * jnp.log(scale * jnp.sqrt(2 * jnp.pi))
    )


def stretched(log_factor, dim=2):
    """The flow whose samples are exp(log_factor) times standard normal."""
    field = Linear(matrix=log_factor * jnp.eye(dim))
    return CNF(field, StandardNormal(dim), ode=FINE, ode_eval=FINE)


def loss_of(flow, scale, **settings):
    return ReverseKL(target=normal(scale), **settings)(flow, None, None, KEY)[0]


@pytest.mark.slow
def test_known_divergences():
    # KL(N(0, 1), N(0, 2^2)) = log 2 + 1 / 8 - 1 / 2 a dimension.
    identity = stretched(0.0)
    np.testing.assert_allclose(loss_of(identity, 1.0), 0.0, atol=1e-12)
    many = loss_of(identity, 2.0, num_samples=200_000)
    np.testing.assert_allclose(many / 2, 0.3181472, atol=3e-3)
    np.testing.assert_allclose(loss_of(stretched(np.log(2)), 2.0), 0.0, atol=1e-8)


@pytest.mark.slow
def test_the_path_gradient_vanishes_at_the_solution_for_every_batch():
    flow = stretched(np.log(2))

    def gradient(path_gradient):
        def loss(matrix):
            field = Linear(matrix=matrix)
            moved = CNF(field, StandardNormal(2), ode=FINE, ode_eval=FINE)
            return loss_of(moved, 2.0, num_samples=8, path_gradient=path_gradient)

        return jax.grad(loss)(flow.field.matrix)

    np.testing.assert_allclose(gradient(True), 0.0, atol=1e-6)
    assert np.max(np.abs(gradient(False))) > 0.01


@pytest.mark.slow
def test_samples_outside_the_target_are_left_out_and_counted():
    # The half plane x_0 > 0, and NaN beyond it: half of the samples.
    def half(x):
        return jnp.where(x[0] > 0, jnp.log(x[0]), jnp.nan)

    objective = ReverseKL(target=half, num_samples=1000)
    flow = stretched(0.1)
    (loss, metrics), gradient = jax.value_and_grad(
        lambda a: objective(stretched_by(a), None, None, KEY), has_aux=True
    )(0.1)
    assert np.isfinite(loss)
    assert np.isfinite(gradient)
    np.testing.assert_allclose(metrics["non_finite"], 0.5, atol=0.06)
    never = ReverseKL(target=lambda x: jnp.full((), -jnp.inf))
    assert never(flow, None, None, KEY)[1]["non_finite"] == 1.0


def stretched_by(a):
    return CNF(Linear(matrix=a * jnp.eye(2)), StandardNormal(2), ode=FINE, ode_eval=FINE)


def test_the_right_flow_has_equal_weights():
    found = importance_sample(stretched(np.log(2)), normal(2.0), 200, key=KEY)
    np.testing.assert_allclose(found.effective, 200, rtol=1e-9)
    np.testing.assert_allclose([found.log_z, found.log_z_se], 0.0, atol=1e-7)
    assert found.reliable
    np.testing.assert_allclose(np.exp(found.log_weights).sum(), 1.0)


def test_log_z_of_an_unnormalised_target():
    # A base wider than the target: Z = 3, within its standard error.
    def target(x):
        return normal(0.8)(x) + jnp.log(3.0)

    found = importance_sample(stretched(0.0), target, 20_000, key=KEY)
    assert abs(found.log_z - np.log(3)) < 3 * found.log_z_se
    assert found.log_z_se < 0.01
    assert found.reliable
    # sum w / sqrt(sum w^2) of two normals in the plane: ((2 - s^2) s^2) of N.
    np.testing.assert_allclose(found.effective / 20_000, 1.36 * 0.64, atol=0.02)


def test_weights_with_a_heavy_tail_are_reported():
    # Proposal 0.5 wide, target 1 wide: E w^2 is infinite, the shape is 1 - 0.25.
    found = importance_sample(stretched(np.log(0.5), 1), normal(1.0), 20_000, key=KEY)
    assert found.pareto_k > 0.5


@pytest.mark.parametrize("shape", [-0.4, 0.3, 0.9])
def test_the_shape_of_a_pareto_tail(shape):
    u = np.random.default_rng(0).uniform(size=20_000)
    k, sigma = generalised_pareto(np.sort(2.0 * np.expm1(-shape * np.log(u)) / shape))
    assert k == pytest.approx(shape, abs=0.05)
    assert sigma == pytest.approx(2.0, rel=0.05)


def test_smoothing_keeps_the_order_and_caps_the_largest():
    raw = np.log(np.random.default_rng(1).pareto(1.5, size=500))
    smoothed, k = pareto_smoothed(raw)
    order = np.argsort(raw)
    assert np.all(np.diff(smoothed[order]) >= -1e-12)
    assert 0.3 < k < 1.1
    np.testing.assert_allclose(np.exp(smoothed).sum(), 1.0)


@pytest.mark.slow
def test_fit_learns_a_target_without_data():
    flow = CNF(MLP(2, width=8, depth=1, key=KEY), StandardNormal(2))
    config = TrainConfig(steps=60, eval_every=30, learning_rate=2e-2)
    flow, history = fit(
        flow, None, key=KEY, config=config, objective=ReverseKL(target=normal(0.5), num_samples=64)
    )
    assert history["validation"][-1] < 0.3 * 2 * 0.8068
    assert importance_sample(flow, normal(0.5), 500, key=KEY).effective > 250


def test_bad_arguments_raise():
    flow = stretched(0.0)
    with pytest.raises(ValueError, match=r"x=None, and objective=.* needs data"):
        fit(flow, None, key=KEY, objective=maximum_likelihood)
    with pytest.raises(ValueError, match=r"ReverseKL draws samples: pass key"):
        ReverseKL(target=normal(1.0))(flow, None, None, None)
    assert ReverseKL(target=normal(1.0), num_samples=1).num_samples == 1
    with pytest.raises(ValueError, match="num_samples=0"):
        ReverseKL(target=normal(1.0), num_samples=0)
    with pytest.raises(ValueError, match="finite at none of 30 samples"):
        importance_sample(flow, lambda x: jnp.full((), -jnp.inf), 30, key=KEY)
