"""States at given times, and gradients through them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tests.problems import PROBLEMS

from jaxflow.ode import ODE, odeint

TIMES = jnp.asarray([0.25, 0.5, 1.0])
FIXED = {"solver": "rk4", "num_steps": 60}
ADAPTIVE = {"solver": "tsit5", "rtol": 1e-11, "atol": 1e-11}
REVERSE = {
    f"{gradient}, {kind}": ODE(**steps, gradient=gradient)
    for gradient in ("checkpointed", "adjoint", "direct")
    for kind, steps in (("fixed", FIXED), ("adaptive", ADAPTIVE))
    if (gradient, kind) != ("direct", "adaptive")
}


def decay(t, y, _):
    return -y


@pytest.mark.quick("checkpointed, fixed", "adjoint, adaptive", "direct, fixed")
@pytest.mark.parametrize("ode", REVERSE.values(), ids=REVERSE)
def test_sums_of_saved_states_and_their_slopes(ode):
    # y0 = 2 W, y' = -y: the states are 2 W exp(-t), here with W = 1.
    def sums(w, times):
        ys, _ = odeint(decay, 2 * w, 0.0, 1.0, save_at=times, ode=ode)
        return jnp.stack([jnp.sum(ys), jnp.sum(ys**2)])

    @jax.jit
    def values_and_slopes(w, times):
        values, vjp = jax.vjp(sums, w, times)
        return values, vjp(jnp.asarray([1.0, 0.0])), vjp(jnp.asarray([0.0, 1.0]))

    values, (by_w, by_times), of_squares = values_and_slopes(1.0, TIMES)
    np.testing.assert_allclose(values, [3.5064218, 4.4389815], atol=5e-8)
    assert float(by_w) == pytest.approx(3.5064218, abs=5e-8)
    np.testing.assert_allclose(by_times, -2 * np.exp(-np.asarray(TIMES)), atol=1e-8)
    by_w, by_times = of_squares
    assert float(by_w) == pytest.approx(8.8779631, abs=5e-8)
    np.testing.assert_allclose(by_times, -8 * np.exp(-2 * np.asarray(TIMES)), atol=1e-8)


@pytest.mark.parametrize("kind", ["fixed", "adaptive"])
def test_forward_mode_through_saved_states(kind):
    ode = ODE(**(FIXED if kind == "fixed" else ADAPTIVE), gradient="direct")

    @jax.jit
    def push(*args):
        def solved(w):
            return odeint(decay, 2 * w, 0.0, 1.0, save_at=TIMES, ode=ode)[0]

        return jax.jvp(solved, *args)

    ys, slopes = push((1.0,), (1.0,))
    np.testing.assert_allclose(ys, 2 * np.exp(-np.asarray(TIMES)), atol=1e-8)
    np.testing.assert_allclose(slopes, ys, rtol=1e-12)


@pytest.mark.parametrize("name", ["riccati", "damped rotation"])
def test_every_state_is_the_exact_one_in_both_directions(name):
    problem = PROBLEMS[name]
    y0, t0, t1, args = problem.y0, problem.t0, problem.t1, problem.args
    solution = jax.jit(problem.solution)
    y1 = solution(y0, t0, t1, args)
    between = t0 + (t1 - t0) * np.array([0.1, 0.1, 0.7])
    times = np.array([t0, *between, t1])
    for start, ta, tb, at in ((y0, t0, t1, times), (y1, t1, t0, times[::-1])):
        ys, stats = odeint(
            problem.f, start, ta, tb, args, ode=ODE(**ADAPTIVE), save_at=jnp.asarray(at)
        )
        ys = jax.tree.map(np.asarray, ys)
        for i, t in enumerate(at):
            exact = solution(y0, t0, t, args)
            jax.tree.map(
                lambda ys, y, i=i: np.testing.assert_allclose(ys[i], y, atol=1e-9), ys, exact
            )
        assert float(stats.t) == float(at[-1])


def test_saving_at_t1_alone_is_the_plain_solve():
    problem = PROBLEMS["growing rate"]
    ys, saved = odeint(problem.f, 1.0, 0.5, 2.0, 0.4, save_at=[2.0])
    y1, plain = odeint(problem.f, 1.0, 0.5, 2.0, 0.4)
    assert ys.shape == (1,)
    assert float(ys[0]) == float(y1)
    assert int(saved.num_evals) == int(plain.num_evals)


def test_counts_add_up_over_the_times():
    _, stats = odeint(decay, 1.0, 0.0, 1.0, save_at=TIMES, ode=ODE(solver="rk4", num_steps=5))
    assert (int(stats.num_accepted), int(stats.num_evals)) == (15, 60)


def test_dt_counts_the_steps_of_the_widest_gap():
    ode = ODE(solver="euler", dt=0.25)
    _, stats = odeint(decay, 1.0, 0.0, 1.0, save_at=TIMES, ode=ode)
    assert int(stats.num_accepted) == 3 * 2


@pytest.mark.parametrize("times", [[0.5, 0.25], [0.5, 1.5], [-0.1, 0.5], [0.2, 0.9, 0.8]])
def test_times_out_of_order_are_refused(times):
    with pytest.raises(ValueError, match=r"save_at=\[.*must run in order from t0=0.0 to t1=1.0"):
        odeint(decay, 1.0, 0.0, 1.0, save_at=times)


def test_increasing_times_of_a_backward_solve_are_refused():
    with pytest.raises(ValueError, match=r"must run in order from t0=1.0 to t1=0.0"):
        odeint(decay, 1.0, 1.0, 0.0, save_at=[0.25, 0.5])


@pytest.mark.parametrize("times", [[], 0.5, [[0.1, 0.2]]])
def test_times_must_be_a_list(times):
    with pytest.raises(ValueError, match="save_at must be a 1-d array of times, got shape"):
        odeint(decay, 1.0, 0.0, 1.0, save_at=times)


def test_a_failure_between_the_times_names_the_first():
    # y' = y^2 from 1 is 1 / (1 - t): fine at 0.5, gone at 1.
    ode = ODE(throw=False, rtol=1e-6, atol=1e-6)
    ys, stats = odeint(lambda t, y, _: y**2, 1.0, 0.0, 3.0, save_at=[0.5, 2.0, 3.0], ode=ode)
    assert float(ys[0]) == pytest.approx(2.0, rel=1e-5)
    assert np.isnan(ys[1:]).all()
    assert int(stats.status) != 0
    assert float(stats.t) == pytest.approx(1.0, abs=1e-3)
