"""Probabilities of cells of a grid, at fixed points and at random ones."""

import warnings

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import ndtr

import jaxflow
from jaxflow import CNF, Ensemble, StandardNormal
from jaxflow.dynamics import MLP
from jaxflow.dynamics.mlp import zero_field
from jaxflow.flows.log_mass import MidpointWarning, log_cell_mean
from jaxflow.runtime.precision import cast_floats
from jaxflow.training.config import TrainConfig
from jaxflow.training.prepare import prepare
from jaxflow.transforms import CellNoise, Dequantise

RNG = np.random.default_rng(0)


def normal_on_a_grid(steps):
    """N(0, I) on a grid; 0 for columns without one."""
    dim = len(steps)
    field = zero_field(MLP(dim, width=4, depth=1, key=jax.random.key(0)))
    grid = Dequantise(np.asarray(steps, float))
    return CNF(field, StandardNormal(dim), transform=grid)


@pytest.mark.parametrize(
    ("steps", "atol"),
    [
        ([1.0], 1e-9),
        ([1.5, 1.0], 5e-4),
        ([1.0, 0.0, 1.0], 1e-4),
        ([1.0, 1.0, 0.5], 2e-3),
        ([0.5] * 6, 2e-2),
    ],
)
def test_fixed_points_give_the_probability_of_a_cell(steps, atol):
    x = np.round(2 * RNG.normal(size=(40, len(steps))))
    x = np.where(np.asarray(steps) > 0, x * steps, x)
    flow = normal_on_a_grid(steps)
    density = -0.5 * x**2 - 0.5 * np.log(2 * np.pi)
    half = np.asarray(steps) / 2
    mass = np.log(ndtr(-np.abs(x) + half) - ndtr(-np.abs(x) - half), where=half > 0, out=density)
    log_p = log_cell_mean(flow, x)
    np.testing.assert_allclose(log_p, mass.sum(axis=1), atol=atol)
    np.testing.assert_allclose(log_cell_mean(Ensemble([flow, flow]), x), log_p, atol=1e-12)
    drawn, se = jaxflow.log_mass(flow, x, jax.random.key(0), num_draws=200)
    assert (np.abs(drawn - log_p) < 5 * se + atol).all()


def test_rows_without_a_grid_have_their_log_prob():
    x = RNG.normal(size=(5, 2))
    np.testing.assert_array_equal(
        log_cell_mean(normal_on_a_grid([0.0, 0.0]), x), normal_on_a_grid([0.0, 0.0]).log_prob(x)
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        rows = np.random.default_rng(0).normal(size=(60, 2))
        jaxflow.fit_density(rows, key=jax.random.key(0), steps=1)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_probabilities_of_a_grid_sum_to_one(dtype):
    field = MLP(1, width=8, depth=1, cond_dim=1, key=jax.random.key(3))
    field = jax.tree.map(lambda leaf: 3 * leaf if eqx.is_array(leaf) else leaf, field)
    flow = CNF(field, StandardNormal(1), transform=Dequantise(np.ones(1, dtype)))
    with jax.enable_x64(dtype == np.float64):
        flow = cast_floats(flow, dtype)
        x = np.arange(-60.0, 61.0)[:, None]
        for cond in np.asarray([[-1.0], [0.3], [2.0]], dtype):
            total = np.exp(log_cell_mean(flow, x, cond)).sum()
            middles = np.exp(np.asarray(flow.log_prob(x, cond), np.float64)).sum()
            assert total == pytest.approx(1.0, abs=1e-4), middles


def test_a_fit_says_where_log_prob_is_not_a_probability():
    rng = np.random.default_rng(0)
    count = rng.poisson(4.0, 200)
    # One column nearly fixes the other.
    x = np.stack([count, count + (rng.random(200) < 0.2)], axis=1).astype(float)
    with pytest.warns(MidpointWarning, match=r"nats too high on average over 200 rows; write jax"):
        jaxflow.fit_density(x, key=jax.random.key(0), steps=1)


def test_validation_rows_have_noise_that_stays():
    x = np.random.default_rng(0).poisson(3.0, (50, 1)).astype(float)
    flow = CNF(MLP(1, width=4, depth=1, key=jax.random.key(0)), StandardNormal(1))
    grid = Dequantise(np.ones(1))
    noisy = grid.with_noise(CellNoise(jnp.asarray(x), width=4, depth=1, key=jax.random.key(0)))
    for transform in (grid, noisy):
        problem, again = (
            prepare(flow, x, None, jax.random.key(1), x, transform, TrainConfig())["as given"]
            for _ in range(2)
        )
        moved = np.asarray(problem.validation.x) - x
        assert 0.25 < moved.std() < 0.33
        assert np.abs(moved).max() < 0.5
        np.testing.assert_array_equal(again.validation.x, problem.validation.x)
        # Learned noise counts by its density: log q, here 0 before training.
        np.testing.assert_allclose(np.asarray(problem.log_det), 0.0, atol=1e-6)
