"""The backward solve of the adjoint: a drift is an error, and checkpoints prevent it."""

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxflow.ode import ODE, Adjoint, Status, odeint
from jaxflow.ode.pontryagin import drifted

Y0 = jnp.asarray([1.0, 2.0])


def contracting(t, y, rate):
    """Neighbours approach each other like exp(-rate t), so the backward solve separates them."""
    return -rate * y + jnp.sin(3 * t) * jnp.cos(y)


def gradient(rate, ode):
    return jax.grad(lambda rate: jnp.sum(odeint(contracting, Y0, 0.0, 1.0, rate, ode=ode)[0]))(
        rate
    )


def test_a_drift_is_an_error_with_its_reason():
    with pytest.raises(RuntimeError, match=r"(?s)did not come back.*checkpoints=8"):
        gradient(50.0, ODE(gradient="adjoint", rtol=1e-7, atol=1e-7))


def test_a_drift_is_nan_without_throw():
    assert np.isnan(gradient(50.0, ODE(gradient="adjoint", rtol=1e-7, atol=1e-7, throw=False)))


@pytest.mark.parametrize(
    ("ode", "most"),
    [
        (ODE(solver="rk4", num_steps=4, atol=1e-6), 0.1 * 2 + 1e-4),
        (ODE(rtol=1e-5, atol=1e-6), 0.01 * 2 + 1e-4),
        (ODE(rtol=1e-3, atol=1e-6), 0.1 * 2 + 1e-4),
    ],
    ids=["fixed", "tight", "loose"],
)
def test_the_limit_of_a_drift(ode, most):
    # The largest Euclidean norm of a row counts: 2 for the state, 1 for the drift.
    y0 = jnp.asarray([[1.0, 0.0], [1.2, -1.6]])
    off = jnp.asarray([[0.0, 0.0], [0.6, 0.8]])
    assert not drifted(y0 + 0.999 * most * off, y0, ode)
    assert drifted(y0 + 1.001 * most * off, y0, ode)


@pytest.mark.parametrize("tolerance", [0.3, 0.1, 0.01])
def test_a_loose_tolerance_is_no_licence_to_drift(tolerance):
    def bistable(t, y, _):
        return 6 * jnp.sin(4 * y) * jnp.cos(3 * t)

    ode = ODE(gradient="adjoint", rtol=tolerance, atol=tolerance, throw=False)
    assert np.isnan(jax.grad(lambda y: odeint(bistable, y, 0.0, 2.0, None, ode=ode)[0])(1.0))


@pytest.mark.slow
def test_checkpoints_prevent_the_drift():
    exact = gradient(50.0, ODE(rtol=1e-11, atol=1e-11))
    kept = gradient(50.0, ODE(gradient=Adjoint(checkpoints=15), rtol=1e-8, atol=1e-8))
    np.testing.assert_allclose(kept, exact, rtol=1e-5)


@pytest.mark.parametrize("piece", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_a_drift_in_any_piece_is_reported(piece):
    def dip(t, y, rate):
        return contracting(t, y, rate * jnp.exp(-(((t - (piece + 0.5) / 4) / 0.03) ** 2)))

    ode = ODE(gradient=Adjoint(checkpoints=3), rtol=1e-7, atol=1e-7, throw=False)
    through = jax.jit(jax.grad(lambda rate: jnp.sum(odeint(dip, Y0, 0.0, 1.0, rate, ode=ode)[0])))
    assert np.isfinite(through(1.0))
    assert np.isnan(through(1000.0))


@pytest.mark.slow
@pytest.mark.parametrize("steps", [{"num_steps": 40}, {"rtol": 1e-9, "atol": 1e-9}])
def test_checkpoints_keep_a_right_gradient(steps):
    plain = gradient(1.0, ODE(gradient="adjoint", **steps))
    kept = gradient(1.0, ODE(gradient=Adjoint(checkpoints=3), **steps))
    np.testing.assert_allclose(kept, plain, rtol=1e-6)


def test_a_partial_result_is_the_solution_where_it_stopped():
    ode = ODE(max_steps=5, partial=True, rtol=1e-8, atol=1e-8)
    y, pull, stats = jax.vjp(
        lambda y0: odeint(lambda t, y, _: -50 * y, y0, 0.0, 2.0, ode=ode),
        jnp.ones(2),
        has_aux=True,
    )
    assert stats.status == Status.MAX_STEPS
    assert 0 < stats.t < 2
    np.testing.assert_allclose(y, np.exp(-50 * stats.t), rtol=1e-6)
    # The steps taken are linear in y0, and no later step adds to the gradient.
    np.testing.assert_allclose(pull(jnp.ones(2))[0], y, rtol=1e-12)


def test_without_partial_an_unfinished_solve_is_nan():
    ode = ODE(max_steps=5, throw=False)
    y, stats = odeint(lambda t, y, _: -50 * y, jnp.ones(2), 0.0, 2.0, ode=ode)
    assert stats.status == Status.MAX_STEPS
    assert np.isnan(y).all()


def test_settings_that_contradict_each_other_are_refused():
    with pytest.raises(ValueError, match=r"checkpoints=-1 must be"):
        Adjoint(checkpoints=-1)
    with pytest.raises(ValueError, match=r"num_steps=10 must be a multiple of 4"):
        ODE(gradient=Adjoint(checkpoints=3), num_steps=10)
    with pytest.raises(ValueError, match=r"partial=True may stop .*gradient='checkpointed'"):
        ODE(gradient="adjoint", partial=True)
    with pytest.raises(ValueError, match=r"save_at needs every solve to finish"):
        odeint(lambda t, y, _: -y, Y0, 0.0, 1.0, ode=ODE(partial=True), save_at=[0.5])


@pytest.mark.filterwarnings("ignore:ODE's (backward|checkpoints):DeprecationWarning")
def test_settings_of_the_adjoint_by_their_old_keywords():
    new = ODE(rtol=1e-3, gradient=Adjoint(checkpoints=3, backward=ODE()))
    old: Any = {"checkpoints": 3, "backward": ODE()}
    assert ODE(rtol=1e-3, gradient="adjoint", **old) == new
    assert replace(ODE(rtol=1e-3, gradient="adjoint"), **old) == new
    assert replace(new, backward=None, checkpoints=0).gradient == Adjoint()  # pyright: ignore[reportCallIssue]
    assert (new.checkpoints, new.backward) == (3, ODE())
    assert (ODE().checkpoints, ODE().backward) == (0, None)
    stored = {"rtol": 1e-3, "gradient": "adjoint", **old}
    assert ODE.upgrade_fields(stored) == {
        "rtol": 1e-3,
        "max_step": None,
        "gradient": new.gradient,
    }
    for name, value in old.items():
        with pytest.raises(ValueError, match=rf"{name}=.* is a setting of the adjoint"):
            ODE(**{name: value})
    with pytest.warns(DeprecationWarning, match=r"ODE\(gradient=Adjoint\(checkpoints=...\)\)"):
        ODE(gradient="adjoint", checkpoints=3)  # pyright: ignore[reportCallIssue]


def test_a_field_that_is_zero_takes_few_steps():
    y, stats = odeint(lambda t, y, _: jnp.zeros_like(y), Y0, 0.0, 1.0)
    np.testing.assert_array_equal(y, Y0)
    # 0.1, 0.2, then a quarter at most: it may move in between.
    assert stats.num_accepted == 5
    assert stats.num_evals == 32
