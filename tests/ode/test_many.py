"""Many solves at once: a row's result does not depend on the other rows, bit for bit."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tests.problems import PROBLEMS

from jaxflow.dynamics import MLP
from jaxflow.ode import ODE, SolveError, Status, odeint, odeint_many
from jaxflow.ode.twice import solve_twice

TSIT = ODE(rtol=1e-6, atol=1e-8)
QUIET = dataclasses.replace(TSIT, throw=False)
LANES = 16
FIELD = MLP(3, width=16, activation="tanh", key=jax.random.key(1))
X = 2 * jax.random.normal(jax.random.key(2), (45, 3))


def network(t, x, field):
    return 5 * field(t, x)


def stiff(t, y, args):
    """`y' = -r (y - cos t)`, whose steps depend on the rate r = |y_1|."""
    return jnp.stack([-jnp.abs(y[1]) * (y[0] - jnp.cos(t)), jnp.zeros_like(y[1])])


def solve(x, ode=TSIT, lanes=LANES):
    return odeint_many(network, x, 1.0, 0.0, FIELD, ode=ode, lanes=lanes)


def test_values_are_those_of_one_solve_a_row():
    y, stats = jax.tree.map(np.asarray, solve(X))
    assert stats.num_accepted.shape == (45,)
    assert len(np.unique(stats.num_evals)) > 1
    for i in (0, 20, 44):
        alone, counts = odeint(
            lambda t, x, field: jax.vmap(network, (None, 0, None))(t, x, field),
            X[i : i + 1],
            1.0,
            0.0,
            FIELD,
            ode=TSIT,
        )
        np.testing.assert_allclose(y[i], alone[0], rtol=1e-12)
        assert int(counts.num_evals) == int(stats.num_evals[i])
        assert int(stats.status[i]) == Status.SUCCESS
        assert float(stats.t[i]) == 0.0


# Compiled as for users, which is where the bits are promised (tests/laws/test_bits.py).
@pytest.mark.slow
@pytest.mark.parametrize("seed", range(6))
def test_bits_do_not_depend_on_the_batch(seed):
    y, stats = solve(X)
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(X))[: rng.integers(1, len(X) + 1)]
    part, counts = solve(X[order])
    np.testing.assert_array_equal(part, y[order])
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a, b[order]), counts, stats)


@pytest.mark.parametrize(
    "bad", [1e30, *(pytest.param(bad, marks=pytest.mark.slow) for bad in (jnp.nan, jnp.inf))]
)
def test_a_row_that_fails_leaves_the_others_alone(bad):
    x = np.stack([np.cos(np.arange(40.0)), np.linspace(0.0, 5.0, 40)], axis=1)
    y, _ = odeint_many(stiff, x, 0.0, 1.0, ode=QUIET, lanes=LANES)
    hurt = x.copy()
    hurt[7], hurt[20, 1] = [bad, 1.0], 1e9
    ode = dataclasses.replace(QUIET, max_steps=200)
    z, stats = odeint_many(stiff, hurt, 0.0, 1.0, ode=ode, lanes=LANES)
    y, z, stats = jax.tree.map(np.asarray, (y, z, stats))
    others = np.delete(np.arange(40), [7, 20])
    np.testing.assert_array_equal(z[others], y[others])
    assert int(stats.status[20]) == Status.MAX_STEPS
    assert np.all(np.isnan(z[20]))
    if bad != 1e30:
        assert int(stats.status[7]) == Status.NON_FINITE
        assert np.all(np.isnan(z[7]))
    assert np.all(stats.status[others] == Status.SUCCESS)
    with pytest.raises(SolveError, match=r"odeint_many failed"):
        odeint_many(stiff, hurt, 0.0, 1.0, ode=dataclasses.replace(ode, throw=True), lanes=LANES)


@pytest.mark.parametrize("ode", [TSIT, ODE(solver="rk4", num_steps=50)])
def test_rows_have_times_and_arguments_of_their_own(ode):
    # y' = (a + c) y from t0 to t1.
    num = 21
    t0, t1 = np.linspace(-1.0, 0.5, num), np.linspace(2.0, -1.0, num)
    c = np.linspace(0.1, 0.4, num)
    y0 = {"y": np.ones(num), "z": np.full((num, 2), 3.0)}

    def field(t, y, a, c):
        return jax.tree.map(lambda leaf: (a + c) * leaf, y)

    y, stats = odeint_many(field, y0, t0, t1, jnp.asarray(0.3), c, ode=ode, lanes=LANES)
    exact = np.exp((0.3 + c) * (t1 - t0))
    np.testing.assert_allclose(y["y"], exact, rtol=1e-5)
    np.testing.assert_allclose(y["z"], 3 * exact[:, None] * np.ones((1, 2)), rtol=1e-5)
    np.testing.assert_array_equal(stats.t, t1)


@pytest.mark.quick("adjoint")
@pytest.mark.parametrize("gradient", ["checkpointed", "adjoint"])
def test_gradients_are_those_of_the_exact_solution(gradient):
    problem = PROBLEMS["riccati"]
    ode = ODE(solver="dopri5", rtol=1e-11, atol=1e-11, gradient=gradient, max_steps=400)
    num = 5
    y0 = jnp.asarray(np.asarray(problem.y0) * np.linspace(0.8, 1.2, num)[:, None, None])
    t1 = jnp.linspace(0.5, 1.3, num)
    weights = jax.random.normal(jax.random.key(5), y0.shape)

    def solved(y0, t0, t1, args, scale):
        def field(t, y, args, scale):
            return problem.f(t, y, scale * args)

        return jnp.sum(weights * odeint_many(field, y0, t0, t1, args, scale, ode=ode, lanes=4)[0])

    def exact(y0, t0, t1, args, scale):
        each = jax.vmap(lambda y0, t1, s: problem.solution(y0, t0, t1, s * args))
        return jnp.sum(weights * each(y0, t1, scale))

    inputs = y0, jnp.asarray(-0.4), t1, problem.args, jnp.linspace(0.9, 1.1, num)
    ours, theirs = (
        jax.jit(jax.grad(f, argnums=(0, 1, 2, 3, 4)))(*inputs) for f in (solved, exact)
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-7, atol=1e-8), ours, theirs)


@pytest.mark.slow
def test_checkpointed_gradients_are_those_of_the_steps_taken():
    # A loose tolerance: the gradient of the discrete solve is not that of the exact one.
    loose = ODE(rtol=0.1, atol=0.1, max_steps=64)

    def value(y, gradient):
        ode = dataclasses.replace(loose, gradient=gradient)
        return odeint_many(lambda t, y, a: y, y, 0.0, 1.0, ode=ode, lanes=4)[0]

    y = jnp.linspace(1.0, 2.0, 6)
    reverse = jax.grad(lambda y: jnp.sum(value(y, "checkpointed")))(y)
    forward = jax.jvp(lambda y: value(y, "direct"), (y,), (jnp.ones(6),))[1]
    np.testing.assert_allclose(reverse, forward, rtol=1e-13)
    assert float(jnp.max(jnp.abs(reverse - jnp.e))) > 1e-6


def test_no_rows_and_no_time():
    y, stats = solve(X[:0])
    assert y.shape == (0, 3)
    assert stats.status.shape == (0,)
    y, _ = odeint_many(network, X, 0.4, 0.4, FIELD, ode=TSIT, lanes=LANES)
    np.testing.assert_array_equal(y, X)


def test_one_compilation_for_one_shape():
    calls = []

    def field(t, y, a):
        calls.append(None)
        return a * y

    run = jax.jit(lambda y, a: odeint_many(field, y, 0.0, 1.0, a, ode=QUIET, lanes=4)[0])
    run(X, jnp.asarray(-1.0))
    before = len(calls)
    run(2 * X, jnp.asarray(-2.0))
    assert len(calls) == before


def test_what_is_refused():
    with pytest.raises(ValueError, match=r"y0 of shape \(45, 3\) has 45 rows and row_args of"):
        odeint_many(lambda t, y, a, c: y, X, 0.0, 1.0, None, jnp.ones(44))
    with pytest.raises(ValueError, match=r"t1 has shape \(44,\) and y0 45 rows; give one number"):
        odeint_many(lambda t, y, a: y, X, 0.0, jnp.ones(44))
    with pytest.raises(ValueError, match="y0 is a single number"):
        odeint_many(lambda t, y, a: y, 1.0, 0.0, 1.0)
    with pytest.raises(ValueError, match="lanes=0 must be"):
        solve(X, lanes=0)
    with pytest.raises(TypeError, match="int"):
        odeint_many(lambda t, y, a: y, jnp.ones(3, int), 0.0, 1.0)
    with pytest.raises(ValueError, match="below the rounding"):
        odeint_many(
            lambda t, y, a: y, X.astype(jnp.float32), 0.0, 1.0, ode=ODE(rtol=1e-12, atol=1e-12)
        )


def test_no_rows_are_solved_twice():
    none = {"x": jnp.zeros((0, 3)), "p": jnp.zeros(0)}
    twice, stats = solve_twice(
        lambda t, y, _, rate: jax.tree.map(lambda leaf: -rate * leaf, y),
        none, jnp.zeros(0), jnp.ones(0), None, jnp.zeros(0), ode=ODE(),
    )  # fmt: skip
    for part in twice:
        assert jax.tree.map(jnp.shape, part) == {"x": (0, 3), "p": (0,)}
    assert stats.status.shape == stats.t.shape == (0,)
