"""Values and gradients of every strategy against the exact solution, in y0, t0, t1 and args."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tests.problems import PROBLEMS

from jaxflow.ode import ODE, Adjoint, odeint, odeint_adjoint, odeint_checkpointed

FIXED = {"solver": "rk4", "num_steps": 600}
ADAPTIVE = {"solver": "dopri5", "rtol": 1e-11, "atol": 1e-11}
REVERSE = {
    "checkpointed, fixed": ODE(**FIXED, gradient="checkpointed"),
    "checkpointed, adaptive": ODE(**ADAPTIVE, gradient="checkpointed"),
    "adjoint, fixed": ODE(**FIXED, gradient="adjoint"),
    "adjoint, adaptive": ODE(**ADAPTIVE, gradient="adjoint"),
    "adjoint, backward settings": ODE(
        **FIXED, gradient=Adjoint(backward=ODE(solver="tsit5", rtol=1e-10, atol=1e-10))
    ),
    "direct, fixed": ODE(**FIXED, gradient="direct"),
}
DIRECT = {"fixed": ODE(**FIXED, gradient="direct"), "adaptive": ODE(**ADAPTIVE, gradient="direct")}


def random_like(tree, seed):
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape)), tree)


# A nonlinear and a linear problem, the state a pytree of both.
PROBLEM = PROBLEMS["together"]
WEIGHTS = random_like(PROBLEM.y0, seed=3)
solution = jax.jit(PROBLEM.solution)


def loss(y1):
    return sum(jax.tree.leaves(jax.tree.map(lambda w, y: jnp.sum(w * y), WEIGHTS, y1)))


@jax.jit
def exact_gradient(*arguments):
    exact = jax.value_and_grad(lambda *a: loss(PROBLEM.solution(*a)), argnums=(0, 1, 2, 3))
    return exact(*arguments)


@jax.jit
def exact_push(arguments, tangents):
    return jax.jvp(PROBLEM.solution, arguments, tangents)


def inputs():
    """From `t0` to `t1`, and the other way past `t0`."""
    t0, t1 = jnp.asarray(PROBLEM.t0), jnp.asarray(PROBLEM.t1)
    y1 = solution(PROBLEM.y0, t0, t1, PROBLEM.args)
    before = jnp.asarray(1.1 * PROBLEM.t0)
    return [(PROBLEM.y0, t0, t1, PROBLEM.args), (y1, t1, before, PROBLEM.args)]


def assert_close(actual, expected):
    def leaf(actual, expected):
        np.testing.assert_allclose(actual, expected, rtol=1e-8, atol=1e-8)

    jax.tree.map(leaf, actual, expected)


@pytest.mark.parametrize("ode", REVERSE.values(), ids=REVERSE)
def test_reverse_mode_is_that_of_the_exact_solution(ode):
    def solved(y0, t0, t1, args):
        return loss(odeint(PROBLEM.f, y0, t0, t1, args, ode=ode)[0])

    gradient = jax.jit(jax.value_and_grad(solved, argnums=(0, 1, 2, 3)))
    for arguments in inputs():
        assert_close(gradient(*arguments), exact_gradient(*arguments))


@pytest.mark.parametrize("ode", DIRECT.values(), ids=DIRECT)
def test_forward_mode_is_that_of_the_exact_solution(ode):
    def solved(*arguments):
        return odeint(PROBLEM.f, *arguments, ode=ode)[0]

    push = jax.jit(lambda primals, tangents: jax.jvp(solved, primals, tangents))
    for arguments in inputs():
        tangents = random_like(arguments, seed=4)
        assert_close(push(arguments, tangents), exact_push(arguments, tangents))


@pytest.mark.parametrize(
    "ode",
    [
        pytest.param(ode, id=name, marks=[pytest.mark.slow] * name.endswith("settings"))
        for name, ode in REVERSE.items()
    ],
)
def test_numbers_worked_out_by_hand(ode):
    problem = PROBLEMS["growing rate"]

    def f(t, z, args):
        return problem.f(t, z, args["theta"])

    @jax.jit
    def solved(*inputs):
        def solve(*inputs):
            return odeint(f, *inputs, ode=ode)[0]

        return jax.value_and_grad(solve, argnums=(0, 1, 2, 3))(*inputs)

    args = {"theta": jnp.asarray(0.4), "unused": jnp.ones(3)}

    # z' = theta t z from 0.5 to 2: z1 = exp(0.75), dz1/dtheta = (4 - 1/4) / 2 z1.
    z1, (_, by_t0, by_t1, by_args) = solved(1.0, 0.5, 2.0, args)
    assert float(z1) == pytest.approx(2.1170000166, abs=1e-8)
    assert float(by_args["theta"]) == pytest.approx(3.9693750311, abs=1e-8)
    # dz1/dt1 = theta t1 z1, dz1/dt0 = -theta t0 z1.
    np.testing.assert_allclose((by_t0, by_t1), (-0.4234000033, 1.6936000133), atol=1e-8)
    # A parameter that is not used has gradient exactly 0.
    np.testing.assert_array_equal(by_args["unused"], np.zeros(3))

    # On an interval of length zero the slopes in t1 and t0 are f = 0.4 * 0.6 * 3 and -f.
    z1, (by_z0, by_t0, by_t1, by_args) = solved(3.0, 0.6, 0.6, args)
    assert (float(z1), float(by_z0), float(by_args["theta"])) == (3.0, 1.0, 0.0)
    np.testing.assert_allclose((by_t0, by_t1), (-0.72, 0.72), rtol=1e-12)


def test_slopes_in_the_times_of_a_quadrature():
    # y' = cos(1.5 t): dy1/dt1 = cos(1.65), dy1/dt0 = -cos(0.45).
    problem = PROBLEMS["cosine"]

    def solved(t0, t1):
        ode = REVERSE["checkpointed, adaptive"]
        return odeint(problem.f, problem.y0, t0, t1, problem.args, ode=ode)[0][0]

    slopes = jax.jit(jax.grad(solved, argnums=(0, 1)))(0.3, 1.1)
    np.testing.assert_allclose(slopes, (-0.9004471, -0.0791209), atol=5e-8)


@pytest.mark.parametrize("ode", DIRECT.values(), ids=DIRECT)
def test_an_interval_of_length_zero_forward(ode):
    @jax.jit
    def push(*tangents):
        def solved(t0, t1):
            return odeint(lambda t, y, _: y, 3.0, t0, t1, ode=ode)[0]

        return jax.jvp(solved, (0.6, 0.6), tangents)

    y1, dy1 = push(0.25, 1.0)
    assert float(y1) == 3.0
    assert float(dy1) == pytest.approx(3.0 * 0.75, rel=1e-14)


@pytest.mark.parametrize(
    ("solve", "gradient"), [(odeint_adjoint, "adjoint"), (odeint_checkpointed, "checkpointed")]
)
def test_named_solvers_are_odeint_with_that_gradient(solve, gradient):
    problem = PROBLEMS["growing rate"]
    loose = {"solver": "bosh3", "rtol": 1e-2, "atol": 1e-2}

    def named(theta):
        return solve(problem.f, problem.y0, 0.5, 2.0, theta, ode=ODE(**loose))[0]

    def plain(theta):
        ode = ODE(**loose, gradient=gradient)
        return odeint(problem.f, problem.y0, 0.5, 2.0, theta, ode=ode)[0]

    one, other = (float(jax.jit(jax.grad(solved))(0.4)) for solved in (named, plain))
    assert one == other


def test_the_adjoint_gradient_is_not_the_discrete_one():
    # At a loose tolerance the two strategies differ, which shows that both code paths run.
    problem = PROBLEMS["riccati"]

    def solved(r, gradient):
        ode = ODE(solver="bosh3", rtol=1e-2, atol=1e-2, gradient=gradient)
        return jnp.sum(odeint(problem.f, problem.y0, problem.t0, problem.t1, r, ode=ode)[0])

    adjoint, discrete = (
        np.asarray(jax.jit(jax.grad(partial(solved, gradient=gradient)))(problem.args))
        for gradient in ("adjoint", "checkpointed")
    )
    difference = np.max(np.abs(adjoint - discrete))
    assert 1e-4 < difference < 0.1
