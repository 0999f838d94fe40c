"""Where steps land, how many there are, and what is counted."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxflow.ode import ODE, TABLEAUS, Status, odeint
from jaxflow.ode.controller import first_step


def decay(t, y, rate):
    return -rate * y


def test_dt_divides_the_interval_into_whole_steps():
    # Euler on y' = -y: three steps of 0.1 multiply by 0.9^3, whatever 0.3 / 0.1 rounds to.
    y1, stats = odeint(decay, 1.0, 0.0, 0.3, 1.0, ode=ODE(solver="euler", dt=0.1))
    assert int(stats.num_accepted) == 3
    assert float(y1) == pytest.approx(0.9**3, rel=1e-14)
    assert float(stats.t) == 0.3


@pytest.mark.parametrize(
    ("t0", "t1", "dt", "expected"),
    [
        (0.0, 1.0, 0.3, 4),
        (1.0, 0.0, 0.3, 4),
        (-0.7, 2.3, 0.1, 30),
        (0.2, 0.2, 0.1, 1),
        (0, 1, 9.0, 1),
    ],
)
def test_number_of_steps_from_dt(t0, t1, dt, expected):
    y1, stats = odeint(decay, 1.0, t0, t1, 0.7, ode=ODE(solver="rk4", dt=dt))
    assert int(stats.num_accepted) == expected
    by_number, _ = odeint(decay, 1.0, t0, t1, 0.7, ode=ODE(solver="rk4", num_steps=expected))
    assert float(y1) == float(by_number)


def test_dt_in_float32_counts_the_same_steps():
    ode = ODE(solver="euler", dt=0.1)
    _, stats = odeint(decay, jnp.ones(1, jnp.float32), 0.0, 0.3, jnp.float32(1), ode=ode)
    assert int(stats.num_accepted) == 3


def test_dt_with_a_traced_time_is_refused():
    def solve(t1):
        return odeint(decay, 1.0, 0.0, t1, 1.0, ode=ODE(solver="rk4", dt=0.1))[0]

    with pytest.raises(ValueError, match=r"dt=0\.1 needs times that are known.*num_steps"):
        jax.jit(solve)(0.3)


def test_dt_under_jit_with_plain_numbers_for_times():
    def solve(y0):
        return odeint(decay, y0, 0.0, 0.3, 1.0, ode=ODE(solver="euler", dt=0.1))[0]

    assert float(jax.jit(solve)(1.0)) == pytest.approx(0.9**3, rel=1e-14)


@pytest.mark.parametrize("gradient", ["checkpointed", "adjoint", "direct"])
def test_fixed_steps_are_as_many_as_asked_for(gradient):
    ode = ODE(solver="euler", num_steps=5, gradient=gradient)
    y1, stats = odeint(decay, 1.0, 2.0, 3.0, 1.0, ode=ode)
    assert float(y1) == pytest.approx(0.8**5, rel=1e-14)
    assert (int(stats.num_accepted), int(stats.num_rejected), int(stats.num_evals)) == (5, 0, 5)
    assert Status(int(stats.status)) is Status.SUCCESS


@pytest.mark.parametrize("solver", TABLEAUS)
@pytest.mark.parametrize("kind", ["fixed", "adaptive"])
def test_evaluations_are_counted_truly(solver, kind):
    if kind == "adaptive" and not TABLEAUS[solver].adaptive:
        pytest.skip("estimates no error")
    calls = []

    def f(t, y, _):
        jax.debug.callback(lambda: calls.append(1))
        # The jump makes every method reject steps.
        return jnp.where(t > 0.6, 30.0, -1.0) * y

    num_steps = 3 if kind == "fixed" else None
    ode = ODE(solver=solver, num_steps=num_steps, rtol=1e-3, atol=1e-3, gradient="direct")  # pyright: ignore[reportArgumentType]
    _, stats = odeint(f, 1.0, 0.3, 0.8, ode=ode)
    jax.effects_barrier()
    assert len(calls) == int(stats.num_evals)
    if kind == "adaptive":
        assert int(stats.num_rejected) > 0


def test_every_gradient_counts_the_same():
    counts = []
    for gradient in ("checkpointed", "adjoint", "direct"):
        ode = ODE(rtol=1e-4, atol=1e-4, gradient=gradient)
        _, stats = odeint(decay, jnp.ones(2), 0.5, 4.0, 2.0, ode=ode)
        counts.append(jax.tree.map(float, stats))
    assert counts[0] == counts[1] == counts[2]
    assert counts[0].t == 4.0


def test_a_stage_is_evaluated_at_its_node():
    times = []

    def f(t, y, _):
        jax.debug.callback(lambda t: times.append(float(t)), t)
        return -y

    odeint(f, 1.0, 3.0, 1.0, ode=ODE(solver="midpoint", num_steps=2, gradient="direct"))
    jax.effects_barrier()
    np.testing.assert_allclose(sorted(times), [1.5, 2.0, 2.5, 3.0], rtol=1e-15)


@pytest.mark.parametrize(("solver", "order"), [("tsit5", 5), ("dopri8", 8), ("heun", 2)])
def test_the_first_step_is_hairers(solver, order):
    # y' = -y from 1: |y| = |y'| = 1 / rtol in units of the tolerance, and so is the curvature.
    y, rtol = jnp.ones(3), 1e-3
    ode = ODE(solver=solver, rtol=rtol, atol=0.0)
    h = first_step(lambda s, y: (-y, ()), jnp.asarray(0.0), y, -y, ode)
    np.testing.assert_allclose(h, min(100 * 0.01, (0.01 * rtol) ** (1 / order)), rtol=1e-12)


@pytest.mark.parametrize("solver", ["tsit5", "dopri5"])
def test_no_step_is_longer_than_the_longest(solver):
    times = []

    def f(t, y, _):
        jax.debug.callback(lambda t: times.append(float(t)), t)
        return 0.1 * y

    ode = ODE(solver=solver, max_step=0.05, gradient="direct")
    y, stats = odeint(f, 1.0, 3.0, 1.0, ode=ode)
    jax.effects_barrier()
    assert int(stats.num_accepted) >= 20
    assert np.max(np.diff(np.unique(np.round(times, 9)))) <= 0.05 * 2 * 1.02
    np.testing.assert_allclose(y, np.exp(-0.2), rtol=1e-8)


def test_idle_steps_grow_no_further_than_a_quarter():
    # Nothing moves but in a twentieth of the interval.
    def f(t, y, _):
        return (
            jnp.where(
                jnp.abs(t - 0.63) < 0.1, 10.0 * (1 + jnp.cos(jnp.pi * (t - 0.63) / 0.1)), 0.0
            )
            * y
        )

    y, _ = odeint(f, jnp.ones(1), 0.0, 1.0, ode=ODE(rtol=1e-8, atol=1e-8))
    np.testing.assert_allclose(y, np.exp(2.0), rtol=1e-6)
