"""Second derivatives of a solve: forward over reverse is exact, the others are refused by name."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxflow import CNF, ODE, StandardNormal, odeint, odeint_adjoint, odeint_many
from jaxflow.ode import Direct

TIGHT = ODE(rtol=1e-10, atol=1e-10)
Y0 = jnp.asarray([0.7, 0.4])


def f(t, y, rate):
    return rate * y**2


SOLVES = {
    "odeint": lambda y, rate: odeint(f, y, 0.0, 0.5, rate, ode=TIGHT)[0],
    "adjoint": lambda y, rate: odeint_adjoint(f, y, 0.0, 0.5, rate, ode=TIGHT)[0],
    "many": lambda y, rate: odeint_many(f, y[None], 0.0, 0.5, rate, ode=TIGHT)[0],
}


@pytest.mark.quick("odeint")
@pytest.mark.parametrize("name", SOLVES)
def test_the_hessian_is_that_of_the_closed_form(name):
    def total(args):
        return jnp.sum(SOLVES[name](args[:2], args[2]))

    def exact(args):
        return jnp.sum(args[:2] / (1 - 0.5 * args[2] * args[:2]))

    args = jnp.append(Y0, 0.8)
    ours, theirs = (jax.jit(jax.hessian(f))(args) for f in (total, exact))
    np.testing.assert_allclose(ours, theirs, atol=1e-7)


@pytest.mark.parametrize("name", SOLVES)
def test_what_is_not_defined_names_the_call_to_write(name):
    def total(y):
        return jnp.sum(SOLVES[name](y, 0.8))

    with pytest.raises(TypeError, match=r"forward-mode.*ODE\(gradient=Direct\(\)\)"):
        jax.jvp(total, (Y0,), (Y0,))
    with pytest.raises(RuntimeError, match=r"jax.grad of jax.grad.*jax.hessian.*ODE\(num_steps="):
        jax.eval_shape(jax.grad(lambda y: jnp.sum(jax.grad(total)(y) ** 2)), Y0)
    # Of what depends on the value alone, too.
    with pytest.raises(RuntimeError, match=r"jax.grad of jax.grad"):
        jax.eval_shape(jax.grad(lambda y: jax.value_and_grad(total)(y)[0]), Y0)


def test_reverse_mode_of_adaptive_steps_of_their_own_is_refused_by_name():
    ode = ODE(gradient=Direct())
    for solve in (odeint, odeint_many):

        def total(y, solve=solve):
            return jnp.sum(solve(f, y[None], 0.0, 0.5, 0.8, ode=ode)[0])

        with pytest.raises(
            RuntimeError, match=r"reverse-mode.*ODE\(gradient=Direct\(\), num_steps="
        ):
            jax.eval_shape(jax.grad(total), Y0)


def test_the_calls_to_write_are_defined():
    def total(ode, y):
        return jnp.sum(odeint(f, y, 0.0, 0.5, 0.8, ode=ode)[0])

    exact = jax.grad(lambda y: jnp.sum(y / (1 - 0.4 * y)))
    direct = ODE(rtol=1e-10, atol=1e-10, gradient=Direct())
    slopes = jax.jit(jax.jacfwd(lambda y: total(direct, y)))(Y0)
    np.testing.assert_allclose(slopes, jax.jit(exact)(Y0), rtol=1e-8)
    fixed = ODE(solver="dopri5", num_steps=40)

    def squares(gradient):
        return lambda y: jnp.sum(gradient(y) ** 2)

    twice = jax.jit(jax.grad(squares(jax.grad(lambda y: total(fixed, y)))))(Y0)
    np.testing.assert_allclose(twice, jax.jit(jax.grad(squares(exact)))(Y0), rtol=1e-6)


@pytest.mark.slow
def test_derivatives_that_a_flow_does_not_have_name_the_call_to_write():
    flow = CNF(lambda t, x: 0.3 * x, StandardNormal(2))
    for call, at in (
        (flow.log_prob, Y0),
        (flow.integrated_jacobian, Y0),
        (lambda t: flow.transport(Y0, 0.0, t), 0.7),
        (lambda t: flow.log_prob_at(t, Y0), 0.7),
    ):
        with pytest.raises(TypeError, match=r"forward-mode.*ode_eval=ODE\(gradient=Direct\(\)\)"):
            jax.eval_shape(jax.jacfwd(call), at)
    with pytest.raises(RuntimeError, match=r"log_prob_with_error.*write log_prob"):
        jax.eval_shape(jax.grad(lambda y: flow.log_prob_with_error(y).value), Y0)
    fixed = dataclasses.replace(flow, ode_eval=ODE(num_steps=2))
    slope = jax.jit(jax.grad(lambda y: fixed.log_prob_with_error(y).value))(Y0)
    np.testing.assert_allclose(slope, jax.jit(jax.grad(fixed.log_prob))(Y0))


@pytest.mark.slow
def test_a_log_density_has_a_hessian():
    flow = CNF(lambda t, x: 0.3 * x, StandardNormal(2), ode_eval=TIGHT)
    hessian = jax.hessian(flow.log_prob)(Y0)
    np.testing.assert_allclose(hessian, -np.exp(-0.6) * np.eye(2), atol=1e-8)
