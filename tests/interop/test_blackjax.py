"""A flow as log-density of BlackJAX."""

from dataclasses import replace
from typing import Any

import blackjax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.linalg import expm

from jaxflow import CNF, ODE, StandardNormal
from jaxflow.dynamics import Linear


@pytest.fixture(autouse=True)
def _lenient():
    """BlackJAX promotes dtypes and ranks."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


@pytest.mark.slow
def test_nuts_samples_a_flow(key):
    flow = CNF(
        Linear(matrix=jnp.asarray([[0.3, -0.8], [0.4, 0.2]])),
        StandardNormal(2),
        ode_eval=ODE(solver="rk4", num_steps=4),
    )
    quiet = replace(flow, ode_eval=replace(flow.ode_eval, throw=False))
    nuts: Any = blackjax.nuts(quiet.log_prob, step_size=0.7, inverse_mass_matrix=jnp.ones(2))

    def step(state, key):
        state, info = nuts.step(key, state)
        return state, (state.position, info.is_divergent)

    keys = jax.random.split(key, 400)
    _, (x, divergent) = jax.jit(lambda x: jax.lax.scan(step, nuts.init(x), keys))(jnp.zeros(2))
    assert not divergent.any()
    # NUTS draws are nearly independent here, so the average of z^T z is 2 +- sqrt(4 / 400).
    z = np.linalg.solve(expm(np.asarray(flow.field.matrix)), np.asarray(x).T)
    assert np.mean(np.sum(z**2, axis=0)) == pytest.approx(2.0, abs=0.5)
    np.testing.assert_allclose(z.mean(axis=1), 0.0, atol=0.25)
