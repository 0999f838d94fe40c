"""Distilled flows: the stated error is the true one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxflow
from jaxflow import CNF, FlowMap, StandardNormal, TrainConfig, distil
from jaxflow.dynamics import MLP, Linear
from jaxflow.transforms import Bounded, Standardise

KEY = jax.random.key(5)
CONFIG = TrainConfig(steps=800, batch_size=128, learning_rate=1e-2, ema=0.99, eval_every=200)


@pytest.fixture(scope="module")
def flow():
    """A flow that turns and stretches."""
    matrix = jnp.asarray([[0.4, -1.0], [1.0, -0.2]])
    transform = Standardise(jnp.asarray([1.0, -1.0]), jnp.asarray([2.0, 0.5]))
    return CNF(Linear(matrix=matrix), StandardNormal((2,)), transform=transform)


@pytest.fixture(scope="module")
def fast(flow):
    x = flow.sample(KEY, 500)
    return distil(
        flow, x, key=KEY, num_steps=2, num_samples=2048, width=32, depth=1, config=CONFIG
    )


@pytest.fixture(scope="module")
def brief(flow):
    """A map after a few steps, for what any map does."""
    x, config = flow.sample(KEY, 500), TrainConfig(steps=4, batch_size=32, eval_every=4)
    sizes = {"num_samples": 64, "width": 8, "depth": 1}
    return distil(flow, x, key=KEY, num_steps=2, config=config, **sizes)  # pyright: ignore


@pytest.mark.slow
def test_the_stated_error_is_the_error(flow, fast):
    x = flow.sample(KEY, 500)
    gap = np.abs(fast.log_prob(x) - flow.log_prob(x))
    assert fast.error.median == pytest.approx(np.median(gap), rel=1e-6)
    assert fast.error.q99 == pytest.approx(np.quantile(gap, 0.99), rel=1e-6)
    assert fast.error.num_rows == 500
    assert fast.error.median < 0.05
    # Fresh rows are no worse.
    fresh = flow.sample(jax.random.key(1), 500)
    assert np.median(np.abs(fast.log_prob(fresh) - flow.log_prob(fresh))) < 0.07


@pytest.mark.slow
def test_samples_are_those_of_the_flow(flow, fast):
    np.testing.assert_allclose(fast.sample(KEY, 50), flow.sample(KEY, 50), atol=0.3)
    assert fast.sample(KEY, (3, 4)).shape == (3, 4, 2)


def test_a_map_that_overflows_raises(flow):
    net = MLP(3, width=8, depth=1, cond_dim=1, activation="sin", key=KEY)
    broken = jax.tree.map(lambda leaf: leaf * jnp.inf, net)
    fast = FlowMap(broken, flow, 1)
    for call in (fast.log_prob, fast.encode, fast.decode, jax.jit(fast.log_prob)):
        with pytest.raises(RuntimeError, match="is NaN: a row, a condition or a parameter"):
            call(jnp.ones((2, 2)))


@pytest.mark.slow
def test_rows_outside_the_support_are_left_out_of_the_error():
    flow = CNF(Linear(2, key=KEY), StandardNormal(2), transform=Bounded([0.0, 0.0], [np.inf] * 2))
    x = np.random.default_rng(0).gamma(2.0, size=(50, 2))
    x[3] = -1
    config = TrainConfig(steps=5, batch_size=16, eval_every=5)
    fast = distil(flow, x, key=KEY, num_samples=64, width=8, depth=1, config=config)
    assert fast.error is not None
    assert fast.error.num_rows == 49
    assert np.isfinite([fast.error.median, fast.error.bias]).all()


@pytest.mark.slow
def test_exact_falls_back_to_the_solve(flow, brief):
    x = flow.sample(KEY, 10)
    np.testing.assert_array_equal(brief.log_prob(x, exact=True), flow.log_prob(x))
    np.testing.assert_array_equal(brief.sample(KEY, 5, exact=True), flow.sample(KEY, 5))


def test_the_map_is_saved_with_its_error(brief, tmp_path):
    jaxflow.save(tmp_path / "fast.safetensors", brief)
    again = jaxflow.load(tmp_path / "fast.safetensors")
    assert again.error == brief.error
    x = jnp.zeros((3, 2))
    np.testing.assert_array_equal(again.log_prob(x), brief.log_prob(x))


@pytest.mark.slow
def test_conditions_reach_the_map():
    field = MLP(1, width=8, cond_dim=1, key=KEY)
    flow = CNF(field, StandardNormal((1,)))
    cond = jnp.linspace(-2, 2, 64)[:, None]
    x = flow.sample(KEY, 64, cond)
    config = TrainConfig(steps=200, batch_size=64, learning_rate=1e-2, eval_every=100)
    fast = distil(flow, x, cond, key=KEY, num_samples=512, width=16, depth=1, config=config)
    assert fast.log_prob(x, cond).shape == (64,)
    assert fast.error is not None
    assert fast.error.median < 0.3


def test_bad_arguments_raise(flow):
    with pytest.raises(ValueError, match="num_steps=0 must be an integer"):
        distil(flow, jnp.zeros((2, 2)), key=KEY, num_steps=0)
    with pytest.raises(ValueError, match=r"x has shape \(2, 3\)"):
        distil(flow, jnp.zeros((2, 3)), key=KEY)
