"""The largest slope of a field along trajectories, by the dense Jacobian and by products."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxflow import CNF, ODE, StandardNormal
from jaxflow.diagnostics import slope
from jaxflow.diagnostics.slope import measure_slope
from jaxflow.dynamics import Linear

KEY = jax.random.key(0)
STEPS = ODE(solver="rk4", num_steps=10)


class Bump(eqx.Module):
    """`f(t, x) = (a sin(x_1) t^2, 0)`: Lipschitz constant a, at t = 1 where x_1 = 0."""

    a: jax.Array

    def __call__(self, t, x):
        return jnp.stack([self.a * jnp.sin(x[1]) * t**2, jnp.zeros_like(t)])


def test_the_steepest_row_and_time_are_found():
    flow = CNF(Bump(jnp.asarray(3.0)), StandardNormal(2), ode_eval=STEPS)
    x = np.full((20, 2), 1.2)
    x[13, 1] = 0.0
    found = measure_slope(flow, jnp.asarray(x), None, 100 + np.arange(20), key=KEY)
    assert not isinstance(found, str)
    assert (found.row, found.t) == (113, 1.0)
    assert found.lipschitz == pytest.approx(3.0, rel=1e-12)
    assert found.trace_error is None
    assert "at least 3 (row 113 at t = 1)" in found.findings()[0].text


def test_products_find_the_largest_singular_value_from_below(monkeypatch):
    matrix = np.random.default_rng(0).normal(size=(6, 6))
    flow = CNF(Linear(matrix=jnp.asarray(matrix)), StandardNormal(6), ode_eval=STEPS)
    x = jnp.zeros((4, 6))
    dense = measure_slope(flow, x, None, np.arange(4), key=KEY)
    eqx.clear_caches()
    monkeypatch.setattr(slope, "DENSE", 3)
    probed = measure_slope(flow, x, None, np.arange(4), key=KEY)
    assert not isinstance(dense, str)
    assert not isinstance(probed, str)
    norm = np.linalg.norm(matrix, 2)
    assert dense.lipschitz == pytest.approx(norm, rel=1e-12)
    assert 0.97 * norm < probed.lipschitz <= norm * (1 + 1e-12)
    assert dense.trace_error == pytest.approx(0.0, abs=1e-14)
    assert probed.trace_error is None


def test_a_trace_of_nan_is_infinitely_wrong():
    class Broken(eqx.Module):
        def __call__(self, t, x):
            return x

        def with_trace(self, t, x):
            return x, jnp.where(x[0] > 1.0, jnp.nan, 2.0)

    flow = CNF(Broken(), StandardNormal(2), ode_eval=STEPS)
    x = jnp.asarray([[0.1, 0.2], [4.0, 0.0]])
    found = measure_slope(flow, x, None, np.arange(2), key=KEY)
    assert not isinstance(found, str)
    assert found.trace_error == np.inf
    assert found.findings()[1].grade == "bad"


def test_trajectories_that_fail_have_no_slope():
    flow = CNF(lambda t, x: x * jnp.nan, StandardNormal(2), ode_eval=STEPS)
    why = "every trajectory failed"
    assert measure_slope(flow, jnp.zeros((3, 2)), None, np.arange(3), key=KEY) == why
