"""The report on gradients: right methods look right, wrong ones are named."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tests.laws.fields import grown

from jaxflow import CNF, ODE, StandardNormal
from jaxflow.diagnostics import gradients
from jaxflow.dynamics import MLP, Linear

KEY = jax.random.key(5)
X = jax.random.normal(KEY, (12, 2))


def rows_of(report):
    return {row.method: row for row in report.rows}


@pytest.mark.slow
def test_every_method_comes_within_its_solve_of_the_truth():
    flow = CNF(grown(MLP(2, width=6, depth=1, key=KEY)), StandardNormal(2))
    report = gradients(flow, X, ode=ODE(rtol=1e-8, atol=1e-8))
    rows = rows_of(report)
    assert rows["direct"].problem.startswith("no reverse mode with adaptive steps")
    for method in ("checkpointed", "adjoint", "diffrax"):
        assert rows[method].error < 1e-6, method
        assert rows[method].seconds > 0
        assert abs(rows[method].value - report.truth) < 1e-6
    assert "Use ODE(gradient=" in report.verdict
    assert str(report).count("\n") == 6


def test_the_truth_is_the_gradient_in_closed_form():
    # z = exp(-a) x for the field a x, so the loss is mean x^2 exp(-2 a) / 2 + a + log(2 pi) / 2.
    rate, x = 0.7, X[:, :1]
    flow = CNF(Linear(matrix=jnp.asarray([[rate]])), StandardNormal(1))
    report = gradients(flow, x, methods=("checkpointed",), ode=ODE(solver="rk4", num_steps=3))
    shrunk = float(np.exp(-2 * rate) * jnp.mean(x**2))
    np.testing.assert_allclose(report.truth, shrunk / 2 + rate + np.log(2 * np.pi) / 2, rtol=1e-9)
    # The error is the one of three coarse steps: small, and not nothing.
    assert 1e-7 < report.rows[0].error < 1e-2


@pytest.mark.slow
def test_a_backward_solve_that_drifts_is_reported():
    # Samples spread like exp(50 t), so going to the base and back is going back and forth.
    flow = CNF(Linear(matrix=50.0 * jnp.eye(2)), StandardNormal(2))
    report = gradients(flow, X, methods=("checkpointed", "adjoint"), ode=ODE())
    rows = rows_of(report)
    assert rows["checkpointed"].error < 1e-5
    assert "drifted" in rows["adjoint"].problem
    assert "checkpointed" in report.verdict
    assert "drifted" in str(report)


def test_bad_arguments_are_refused():
    flow = CNF(Linear(matrix=jnp.eye(2)), StandardNormal(2))
    with pytest.raises(ValueError, match=r"methods=\(\) must be some of"):
        gradients(flow, X, methods=())
    with pytest.raises(ValueError, match="x has shape"):
        gradients(flow, jnp.ones((3, 5)))
