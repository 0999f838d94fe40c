"""A parameter that a field closes over has the gradient that it has as an argument."""

import itertools
from dataclasses import replace
from functools import partial
from typing import Any

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxflow
from jaxflow import CNF, StandardNormal
from jaxflow.ode import ODE, odeint, odeint_adjoint, odeint_many, odeint_together

# The two solves take the same steps, however loose the tolerance.
LOOSE: dict[str, Any] = {"solver": "bosh3", "rtol": 1e-2, "atol": 1e-2, "max_steps": 64}
GRADIENTS = {
    "checkpointed": ODE(**LOOSE),
    "adjoint": ODE(**LOOSE, gradient="adjoint"),
    "checkpointed, fixed": ODE(solver="midpoint", num_steps=8),
    "adjoint, fixed": ODE(solver="midpoint", num_steps=8, gradient="adjoint"),
    "direct, fixed": ODE(solver="midpoint", num_steps=8, gradient="direct"),
    "diffrax": ODE(**LOOSE, gradient="diffrax"),
    "backsolve by diffrax": replace(ODE(**LOOSE, gradient="adjoint"), solver=diffrax.Bosh3()),
}
Y0 = jnp.asarray([[0.3, -1.1], [0.7, 0.2], [0.1, 0.9]])
# A float, an integer, a bool and a key.
VALUES = jnp.asarray([0.4, -0.7]), jnp.asarray(2), jnp.asarray(True), jax.random.key(3)


ROW = jnp.asarray([0.5, 1.0, 1.5])


def field(t, y, values, row=1.0):
    rate, power, on, key = values
    noise = 0.1 * jax.random.normal(key, y.shape)

    # The branch closes over the values too.
    def move(y):
        return row * (jnp.sin(rate * y + t) * power.astype(float) + noise)

    return jax.lax.cond(on, move, jnp.negative, y)


# The end of a solve by `f` and `args`.
SOLVERS = {
    "odeint": lambda f, args, ode: odeint(f, Y0[0], 0.0, 1.0, args, ode=ode)[0],
    "save_at": lambda f, args, ode: odeint(f, Y0[0], 0.0, 1.0, args, ode=ode, save_at=[0.4, 1.0])[
        0
    ],
    "a function in args": lambda f, args, ode: odeint(
        lambda t, y, both: both[0](t, y, both[1]), Y0[0], 0.0, 1.0, (f, args), ode=ode
    )[0],
    "odeint_many": lambda f, args, ode: odeint_many(f, Y0, 0.0, 1.0, args, ROW, ode=ode, lanes=2)[
        0
    ],
    "odeint_together": lambda f, args, ode: odeint_together(f, Y0, 0.0, 1.0, args, ROW, ode=ode)[
        0
    ],
}


def solves(solver, gradient):
    """The solve as a function of the values: closed over, and given as args."""
    solve, ode = SOLVERS[solver], GRADIENTS[gradient]

    def closed(*values):
        return solve(lambda t, y, _, *row: field(t, y, values, *row), None, ode)

    def given(*values):
        return solve(field, values, ode)

    return [lambda *values, f=f: jnp.sum(f(*values) ** 2) for f in (closed, given)]


def assert_equal(closed, given):
    assert float(jnp.min(jnp.abs(given))) > 1e-3
    np.testing.assert_allclose(closed, given, rtol=1e-12)


SLOW = pytest.mark.slow
QUICK = {
    ("odeint", "checkpointed"),
    ("odeint", "adjoint, fixed"),
    ("odeint", "direct, fixed"),
    ("odeint_many", "checkpointed, fixed"),
}


def case(solver, gradient):
    return pytest.param(solver, gradient, marks=[] if (solver, gradient) in QUICK else [SLOW])


@pytest.mark.parametrize(
    ("solver", "gradient"), [case(*pair) for pair in itertools.product(SOLVERS, GRADIENTS)]
)
def test_a_closure_has_the_gradient_of_args(solver, gradient):
    run = jax.jit(lambda *values: [jax.grad(f)(*values) for f in solves(solver, gradient)])
    assert_equal(*run(*VALUES))


@pytest.mark.parametrize(
    ("solver", "gradient"),
    [case("odeint", "adjoint, fixed"), case("odeint", "adjoint"), case("odeint_many", "adjoint")],
)
def test_outside_jit_and_under_vmap(solver, gradient):
    closed, given = map(jax.grad, solves(solver, gradient))
    rate, *others = VALUES
    expected = given(*VALUES)
    assert_equal(closed(*VALUES), expected)
    rates = jnp.stack([2 * rate, rate])
    assert_equal(jax.vmap(lambda rate: closed(rate, *others))(rates)[1], expected)


@SLOW
def test_the_named_adjoint():
    run = jax.jit(
        jax.grad(lambda rate: odeint_adjoint(lambda t, y, _: rate * y, 1.0, 0.0, 1.0)[0])
    )
    # y1 = exp(rate)
    np.testing.assert_allclose(run(0.4), np.exp(0.4), rtol=1e-4)


@SLOW
def test_second_derivatives():
    run = jax.jit(lambda *values: [jax.hessian(f)(*values) for f in solves("odeint", "adjoint")])
    ours, theirs = run(*VALUES)
    assert float(jnp.min(jnp.abs(jnp.diagonal(theirs)))) > 1e-3
    np.testing.assert_allclose(ours, theirs, rtol=1e-12, atol=1e-14)


@SLOW
def test_on_a_mesh():
    with jax.set_mesh(jaxflow.rows_mesh(2)):
        run = jax.jit(lambda *v: [jax.grad(f)(*v) for f in solves("odeint_many", "checkpointed")])
        assert_equal(*run(*VALUES))


@pytest.mark.parametrize("solve", [odeint, odeint_many])
def test_constants_are_traced_once(solve):
    rate, calls = jnp.asarray(0.4), []

    def f(t, y, _):
        calls.append(None)
        return rate * y

    for scale in (1.0, 2.0):
        y1, _ = solve(f, scale * jnp.ones(2), 0.0, 1.0, ode=ODE())
        np.testing.assert_allclose(y1, scale * np.exp(0.4), rtol=1e-4)
        if scale == 1.0:
            calls.clear()
    # The check of the field's shapes; nothing is compiled again.
    assert len(calls) == 1


X, KEY, MATRIX = Y0, jax.random.key(0), jnp.asarray([[0.3, -0.5], [0.2, 0.9]])
QUESTIONS = {
    "log_prob": lambda flow: flow.log_prob(X),
    "log_prob of a training": lambda flow: flow.log_prob_rows(X, training=True)[0],
    "log_prob with probes": lambda flow: flow.log_prob(X, key=KEY),
    "log_prob to a tolerance": lambda flow: flow.log_prob(X, atol_nats=1e-2),
    "sample": lambda flow: flow.sample(KEY, 3),
    "sample_and_log_prob": lambda flow: flow.sample_and_log_prob(KEY, 3)[1],
    "encode": lambda flow: flow.encode(X),
    "decode": lambda flow: flow.decode(X),
    "log_prob_at": lambda flow: flow.log_prob_at(0.5, X),
    "transport": lambda flow: flow.transport(X, 0.0, 0.5),
}


def turning(t, x, matrix):
    return jnp.tanh(matrix @ x + t)


def flow_of(field, question, ode_eval=GRADIENTS["adjoint, fixed"]):
    ode_eval = ODE(**LOOSE) if question.endswith("tolerance") else ode_eval
    trace = "hutchinson" if question.endswith("probes") else "auto"
    return CNF(field, StandardNormal(2), trace=trace, ode=ODE(num_steps=3), ode_eval=ode_eval)


def answers(question, matrix):
    """Of a flow whose field closes over `matrix`, and of one that holds it."""
    held = jax.tree_util.Partial(lambda matrix, t, x: turning(t, x, matrix), matrix)
    for f in (lambda t, x: turning(t, x, matrix), held):
        yield jnp.sum(QUESTIONS[question](flow_of(f, question)) ** 2)


@pytest.mark.quick("log_prob")
@pytest.mark.parametrize("question", QUESTIONS)
def test_a_flow_whose_field_closes_over_its_parameters(question):
    ours, theirs = jax.jit(jax.jacrev(lambda matrix: jnp.stack([*answers(question, matrix)])))(
        MATRIX
    )
    assert_equal(ours, theirs)


@SLOW
@pytest.mark.parametrize("question", ["log_prob", "sample", "encode"])
def test_such_a_flow_outside_jit_and_under_vmap(question):
    def slope(which, matrix):
        return jax.grad(lambda matrix: [*answers(question, matrix)][which])(matrix)

    expected = slope(1, MATRIX)
    assert_equal(slope(0, MATRIX), expected)
    matrices = jnp.stack([2 * MATRIX, MATRIX])
    assert_equal(jax.vmap(partial(slope, 0))(matrices)[1], expected)


@SLOW
def test_the_error_of_such_a_flow():
    def error(f):
        return flow_of(f, "", ODE(**LOOSE)).log_prob_with_error(X).ode_error

    def both(matrix):
        held = jax.tree_util.Partial(lambda matrix, t, x: turning(t, x, matrix), matrix)
        return error(lambda t, x: turning(t, x, matrix)), error(held)

    np.testing.assert_allclose(*jax.jit(both)(MATRIX), rtol=1e-9)
