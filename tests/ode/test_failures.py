"""A solve that fails raises, or returns a status and NaN; never a plausible number."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxflow.ode import ODE, Adjoint, SolveError, Stats, Status, odeint
from jaxflow.ode.status import raise_if_failed

NAN_ODES = {
    "checkpointed, fixed": ODE(num_steps=4, throw=False),
    "checkpointed, adaptive": ODE(throw=False),
    "adjoint, fixed": ODE(num_steps=4, throw=False, gradient="adjoint"),
    "adjoint, adaptive": ODE(throw=False, gradient="adjoint"),
    "direct, fixed": ODE(num_steps=4, throw=False, gradient="direct"),
}


def explosion(t, y, shift):
    """`y' = y^2` from 1 is `1 / (1 - t)`."""
    return y**2 + shift


def test_a_pole_raises_and_names_its_time():
    with pytest.raises(SolveError, match=r"odeint failed at t = (1|1\.000\d*|0\.999\d*): the "):
        odeint(explosion, 1.0, 0.0, 2.0, 0.0)


def test_a_pole_raises_under_jit_and_under_grad():
    def solve(y0):
        return odeint(explosion, y0, 0.0, 2.0, 0.0)[0]

    words = "the step size fell to the rounding limit|the state or f became NaN"
    with pytest.raises(RuntimeError, match=words):
        jax.block_until_ready(jax.jit(solve)(1.0))
    with pytest.raises(RuntimeError, match=words):
        jax.block_until_ready(jax.grad(solve)(1.0))


@pytest.mark.parametrize("gradient", ["checkpointed", "adjoint"])
def test_without_raising_a_pole_gives_a_status_and_nan_in_value_and_gradient(gradient):
    ode = ODE(throw=False, gradient=gradient)

    def solve(y0, t0, t1, shift):
        return odeint(explosion, y0, t0, t1, shift, ode=ode)

    (y1, slopes), stats = (
        jax.value_and_grad(lambda *inputs: solve(*inputs)[0], argnums=(0, 1, 2, 3))(
            1.0, 0.0, 2.0, 0.0
        ),
        solve(1.0, 0.0, 2.0, 0.0)[1],
    )
    assert np.isnan(y1)
    assert np.isnan(slopes).all()
    assert Status(int(stats.status)) in (Status.STEP_TOO_SMALL, Status.NON_FINITE)
    assert float(stats.t) == pytest.approx(1.0, abs=1e-4)


@pytest.mark.parametrize("name", NAN_ODES)
def test_a_start_that_is_nan_gives_nan_in_every_gradient(name):
    ode = NAN_ODES[name]
    slopes = jax.grad(
        lambda *inputs: odeint(lambda t, y, a: a * y, *inputs, ode=ode)[0], argnums=(0, 1, 2, 3)
    )(jnp.nan, 0.5, 1.5, 0.3)
    assert np.isnan(slopes).all()


def test_running_out_of_steps():
    ode = {"max_steps": 3, "rtol": 1e-8, "atol": 1e-8}
    with pytest.raises(SolveError, match=r"max_steps was reached.*raise max_steps, loosen"):
        odeint(lambda t, y, _: -y, 1.0, 0.0, 9.0, ode=ODE(**ode))
    y1, stats = odeint(lambda t, y, _: -y, 1.0, 0.0, 9.0, ode=ODE(**ode, throw=False))
    assert np.isnan(y1)
    assert Status(int(stats.status)) is Status.MAX_STEPS
    assert int(stats.num_accepted + stats.num_rejected) == 3
    assert 0 < float(stats.t) < 9


def test_a_right_side_that_is_nan():
    with pytest.raises(SolveError, match=r"at t = 0\.\d+: the state or f became NaN or infinite"):
        odeint(lambda t, y, _: jnp.sqrt(0.5 - t) * y, 1.0, 0.0, 1.0)


def test_fixed_steps_that_overflow():
    ode = {"solver": "rk4", "num_steps": 9}
    with pytest.raises(SolveError, match="the state or f became NaN or infinite"):
        odeint(lambda t, y, _: y**3, 100.0, 0.0, 9.0, ode=ODE(**ode))
    y1, stats = odeint(lambda t, y, _: y**3, 100.0, 0.0, 9.0, ode=ODE(**ode, throw=False))
    assert np.isnan(y1)
    assert Status(int(stats.status)) is Status.NON_FINITE


def test_one_failure_among_many_under_vmap():
    def solve(y0):
        return odeint(explosion, y0, 0.0, 2.0, 0.0, ode=ODE(throw=False))

    y1, stats = jax.vmap(solve)(jnp.asarray([0.25, 1.0, -2.0]))
    np.testing.assert_allclose(y1[jnp.asarray([0, 2])], [0.5, -0.4], rtol=1e-4)
    assert np.isnan(y1[1])
    assert (np.asarray(stats.status) != 0).tolist() == [False, True, False]


def test_a_failed_backward_solve_raises():
    # The forward solve needs 200 fixed steps; the backward one may take a single step.
    ode = ODE(
        solver="rk4",
        num_steps=200,
        gradient=Adjoint(backward=ODE(rtol=1e-9, atol=1e-9, max_steps=1)),
    )

    def slope(ode):
        return jax.grad(lambda a: odeint(lambda t, y, a: a * t * y, 1.0, 0.5, 2.0, a, ode=ode)[0])

    with pytest.raises(RuntimeError, match="the backward solve of odeint_adjoint failed: max_st"):
        jax.block_until_ready(slope(ode)(0.4))


def test_a_relative_tolerance_alone_serves_a_state_with_a_zero():
    y0 = jnp.asarray([1.0, 0.0])
    ode = ODE(rtol=1e-8, atol=0.0)
    y1, _ = odeint(lambda t, y, _: -y, y0, 0.5, 1.5, ode=ode)
    np.testing.assert_allclose(y1, [np.exp(-1), 0], rtol=1e-7)


def test_rows_that_failed_are_counted():
    bad = int(Status.NON_FINITE)
    for status, where in (
        ([0, bad, 0], r"row 1 at t = 0.5"),
        ([bad, bad, 0], r"row 0 \(and 1 more\) at t = 0.5"),
        ([bad, bad, bad], r"row 0 \(and 2 more\) at t = 0.5"),
    ):
        zeros, t = jnp.zeros(3, int), jnp.full(3, 0.5)
        with pytest.raises(SolveError, match=f"odeint failed in {where}"):
            raise_if_failed(zeros, Stats(zeros, zeros, zeros, jnp.asarray(status), t))


def test_solves_in_turn_end_as_the_first_of_them_that_failed():
    good, late, small = (
        Stats(*map(jnp.asarray, (8, 2, 1, int(status), time)))
        for status, time in (
            (Status.SUCCESS, 1.0),
            (Status.MAX_STEPS, 0.25),
            (Status.STEP_TOO_SMALL, 0.5),
        )
    )
    for *solves, end in (
        (good, good, good),
        (good, late, late),
        (late, good, late),
        (small, late, small),
    ):
        one = jax.tree.map(lambda *leaves: jnp.stack(leaves), *solves).in_turn()
        for stats in (solves[0].then(solves[1]), one):
            assert (int(stats.status), float(stats.t)) == (int(end.status), float(end.t))
            counts = stats.num_evals, stats.num_accepted, stats.num_rejected
            assert tuple(map(int, counts)) == (16, 4, 2)
