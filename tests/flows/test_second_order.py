"""Derivatives of a log-density of first and second order, where they are known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.linalg import expm

from jaxflow import CNF, ODE, StandardNormal
from jaxflow.dynamics import Linear

A = jnp.asarray([[0.3, 0.8], [-0.5, 0.1]])
X = jnp.asarray([0.7, -0.4])
# x(1) = exp(A) z, so x is normal with covariance exp(A) exp(A)^T.
PRECISION = np.linalg.inv(expm(np.asarray(A)) @ expm(np.asarray(A)).T)
SETTINGS = {
    "checkpointed, fixed": ODE(solver="rk4", num_steps=64),
    "direct, fixed": ODE(solver="dopri8", num_steps=6, gradient="direct"),
    "direct, adaptive": ODE(solver="dopri8", rtol=1e-10, atol=1e-10, gradient="direct"),
}
FORWARD_TWICE = {"direct, adaptive"}


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.slow] * ("direct" in n)) for n in SETTINGS]
)
def test_the_second_derivative_is_minus_the_inverse_covariance(name):
    flow = CNF(Linear(matrix=A), StandardNormal(2), ode_eval=SETTINGS[name])
    outer = jax.jacfwd if name in FORWARD_TWICE else jax.jacrev
    hessian = jax.jit(outer(outer(flow.log_prob)))(X)
    np.testing.assert_allclose(hessian, -PRECISION, rtol=1e-8)


@pytest.mark.parametrize(
    "gradient", [pytest.param("checkpointed", marks=pytest.mark.slow), "adjoint"]
)
def test_the_score_is_minus_the_inverse_covariance_times_x(gradient):
    ode = ODE(solver="tsit5", rtol=1e-9, atol=1e-9, gradient=gradient)
    flow = CNF(Linear(matrix=A), StandardNormal(2), ode_eval=ode)
    score = jax.jit(jax.grad(lambda x: flow.log_prob(x)))(X)
    np.testing.assert_allclose(score, -PRECISION @ X, rtol=1e-6)


@pytest.mark.slow
def test_a_gradient_inside_a_scan():
    flow = CNF(Linear(matrix=A), StandardNormal(2), ode_eval=ODE(rtol=1e-8, atol=1e-8))

    def climb(x, _):
        return x + 0.1 * jax.grad(lambda x: flow.log_prob(x))(x), None

    end, _ = jax.lax.scan(climb, X, None, length=3)
    step = np.eye(2) - 0.1 * PRECISION
    np.testing.assert_allclose(end, np.linalg.matrix_power(step, 3) @ X, rtol=1e-6)


def patchy(t, x):
    """A shift to the right that is not defined beyond x = 2."""
    return jnp.where(x[0] > 2.0, jnp.nan, 1.0) * jnp.stack([jnp.ones_like(x[0]), 0.0 * x[1]])


def test_a_field_undefined_beyond_a_region_fails_in_the_rows_that_enter_it():
    ode = ODE(throw=False)
    flow = CNF(patchy, StandardNormal(2), ode_eval=ode)
    z = jnp.asarray([[0.5, 0.0], [1.5, 0.0], [-3.0, 1.0]])
    moved = flow.transport(z, 0.0, 1.0)
    np.testing.assert_allclose(moved[::2], [[1.5, 0.0], [-2.0, 1.0]], rtol=1e-6)
    assert np.isnan(moved[1]).all()


def test_a_field_with_a_jump_is_followed_over_it():
    # Speed 1 left of 0 and 3 right of it: from -1 to 0 in time 1, on to 3 in another.
    def jump(t, x):
        return jnp.where(x < 0, 1.0, 3.0)

    flow = CNF(jump, StandardNormal(1), ode_eval=ODE(rtol=1e-7, atol=1e-7))
    end = flow.transport(jnp.asarray([[-1.0]]), 0.0, 2.0)
    np.testing.assert_allclose(end, 3.0, atol=1e-5)
