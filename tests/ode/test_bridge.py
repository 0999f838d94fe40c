"""Solvers of diffrax behind `odeint`: the same values, gradients and statuses."""

from typing import Any

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxflow.ode import ODE, Adjoint, Status, odeint, odeint_many

TIGHT: dict[str, Any] = {"rtol": 1e-8, "atol": 1e-8}


def decay(t, y, rate):
    return -rate * y


def loss(rate, t1, ode):
    return jnp.sum(odeint(decay, jnp.ones((3, 2)), 0.0, t1, rate, ode=ode)[0])


@pytest.mark.parametrize(
    "ode",
    [
        ODE(gradient="diffrax", **TIGHT),
        pytest.param(ODE(solver=diffrax.Kvaerno5(), **TIGHT), marks=pytest.mark.slow),
        pytest.param(
            ODE(gradient="diffrax", solver="dopri5", num_steps=40), marks=pytest.mark.slow
        ),
        pytest.param(
            ODE(solver=diffrax.Kvaerno5(), gradient="adjoint", **TIGHT), marks=pytest.mark.slow
        ),
    ],
    ids=["adaptive", "implicit", "fixed", "implicit adjoint"],
)
def test_value_and_gradients_are_those_of_the_closed_form(ode):
    gradient = jax.jit(jax.value_and_grad(loss, (0, 1)), static_argnums=2)
    value, (of_rate, of_t1) = gradient(2.0, 1.0, ode)
    exact = 6 * np.exp(-2)
    np.testing.assert_allclose([value, of_rate, of_t1], [exact, -exact, -2 * exact], rtol=1e-6)


@pytest.mark.slow
def test_an_implicit_solver_takes_few_steps_on_stiff_rows():
    rates = jnp.asarray([1.0, 1e2, 1e4, 1e6])

    def field(t, y, _, rate):
        return -rate * (y - jnp.cos(t))

    ode = ODE(solver=diffrax.Kvaerno5(), rtol=1e-6, atol=1e-6)
    y, stats = odeint_many(field, jnp.zeros((4, 1)), 0.0, 1.0, None, rates, ode=ode)
    r, t = np.asarray(rates), 1.0
    exact = r * (r * np.cos(t) + np.sin(t) - r * np.exp(-r * t)) / (r**2 + 1)
    np.testing.assert_allclose(y[:, 0], exact, atol=2e-6)
    assert np.max(stats.num_accepted) < 60


@pytest.mark.parametrize("throw", [True, False])
def test_a_failed_solve_has_its_status(throw):
    ode = ODE(solver=diffrax.Tsit5(), throw=throw)
    solve = lambda: odeint(lambda t, y, _: y**2, jnp.ones(1), 0.0, 2.0, ode=ode)  # noqa: E731
    if throw:
        with pytest.raises(RuntimeError, match=r"at t = 1.*rounding limit"):
            solve()
    else:
        y, stats = solve()
        assert np.isnan(y).all()
        assert stats.status == Status.STEP_TOO_SMALL


def test_what_diffrax_cannot_do_is_refused_by_name():
    with pytest.raises(ValueError, match=r"solver='rk4' has no counterpart .*gradient='diffrax'"):
        ODE(solver="rk4", num_steps=3, gradient="diffrax")
    with pytest.raises(ValueError, match=r"Euler.* estimates no error"):
        ODE(solver=diffrax.Euler())
    with pytest.raises(ValueError, match=r"is not a method: .*Kvaerno5"):
        ODE(solver=diffrax.Tsit5)
    with pytest.raises(ValueError, match=r"checkpoints=2.* has settings of jaxflow's own solvers"):
        ODE(solver=diffrax.Tsit5(), gradient=Adjoint(checkpoints=2))
    with pytest.raises(ValueError, match=r"backward=.* solves by diffrax"):
        Adjoint(backward=ODE(solver=diffrax.Tsit5()))
