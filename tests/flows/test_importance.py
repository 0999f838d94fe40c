"""Weights of samples: what is finite is weighted, whatever share of the samples it is."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxflow import CNF, ODE, StandardNormal, importance_sample
from jaxflow.dynamics import Linear
from jaxflow.flows.importance import LEAST_NUM, generalised_pareto, pareto_smoothed

KEY = jax.random.key(4)
FLOW = CNF(
    Linear(matrix=jnp.zeros((2, 2))), StandardNormal(2), ode_eval=ODE(solver="rk4", num_steps=1)
)


def weights(kind, num, rng):
    """Raw log-weights without, and with more and more ties."""
    log_w = rng.normal(size=num)
    return {
        "distinct": log_w,
        "rounded": np.round(log_w),
        "two values": np.where(log_w > 1, 1.0, 0.0),
        "equal": np.zeros(num),
        "tied at the top": np.minimum(log_w, 0.0),
        "far apart": 400 * log_w,
    }[kind]


@pytest.mark.parametrize(
    "kind", ["distinct", "rounded", "two values", "equal", "tied at the top", "far apart"]
)
def test_every_positive_weight_is_kept_and_the_others_are_zero(kind):
    rng = np.random.default_rng(0)
    for num in (1, 2, 5, 6, 10, 24, 25, 26, 36, 40, 100, 500, 1000):
        raw = np.full(1000, -np.inf)
        some = rng.choice(1000, num, replace=False)
        raw[some] = weights(kind, num, rng)
        log_w, k = pareto_smoothed(raw)
        assert not np.isnan(log_w).any()
        np.testing.assert_array_equal(np.isfinite(log_w), np.isfinite(raw))
        np.testing.assert_allclose(np.exp(log_w).sum(), 1.0)
        order = some[np.argsort(raw[some])]
        steps, raw_steps = np.diff(log_w[order]), np.diff(raw[order])
        assert np.all(steps >= -1e-12)
        np.testing.assert_allclose(steps[raw_steps == 0], 0.0, atol=1e-12)
        assert not np.isnan(k)
        if num < LEAST_NUM:
            assert k == np.inf
            np.testing.assert_allclose(steps, raw_steps, atol=1e-12)
        elif kind in ("equal", "tied at the top"):
            assert k == -np.inf
        elif kind == "distinct":
            # Log-normal weights of scale 1.
            assert k < 0.7
        # Zeros change nothing but their own weight.
        alone, k_alone = pareto_smoothed(raw[some])
        np.testing.assert_allclose(log_w[some], alone, atol=1e-12)
        assert k == k_alone


def test_weights_of_two_values_keep_their_mean():
    # A tenth of them is twice as large; smoothing spreads them but not their sum.
    raw = np.where(np.arange(1000) < 60, np.log(2), 0.0)
    log_w, k = pareto_smoothed(raw)
    np.testing.assert_allclose(np.exp(log_w[:60]).sum(), 120 / 1060, rtol=0.02)
    assert k < 0.5


def test_equal_numbers_have_a_tail_too():
    # At 100 of them b = 0, an exponential tail, is among the candidates.
    for m in (5, 50, 99, 100, 101, 120, 121):
        assert np.isfinite(generalised_pareto(np.full(m, 0.5))).all()


def test_a_target_on_a_part_of_the_plane():
    # Of 1,000 samples of N(0, I) about 36 have x_0 > 1.8.
    def target(x):
        return jnp.where(x[0] > 1.8, -0.5 * jnp.sum((x - 2) ** 2), -jnp.inf)

    found = importance_sample(FLOW, target, 1000, key=KEY)
    inside = np.asarray(found.x)[:, 0] > 1.8
    assert 25 <= inside.sum() <= 50
    np.testing.assert_array_equal(np.isfinite(found.log_weights), inside)
    np.testing.assert_allclose(np.exp(found.log_weights).sum(), 1.0)
    assert np.isfinite([found.log_z, found.effective, found.pareto_k]).all()
    assert np.isfinite(found.log_z_se) == found.reliable
    # Fewer than 25: weighted, and called too few.
    few = importance_sample(FLOW, target, 300, key=KEY)
    assert not few.reliable
    assert few.pareto_k == few.log_z_se == np.inf
    np.testing.assert_allclose(np.exp(few.log_weights).sum(), 1.0)


def test_a_target_without_values_in_places_is_not_reliable():
    found = importance_sample(
        FLOW, lambda x: jnp.where(x[0] > 0, -0.5 * jnp.sum(x**2), jnp.nan), 500, key=KEY
    )
    assert 0.4 < found.undefined < 0.6
    assert found.pareto_k < 0.7
    assert not found.reliable
