"""Order conditions of every tableau, and the orders of convergence that follow from them."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tests.problems import PROBLEMS, GrowingRate, LimitCycle, Logistic, Together

from jaxflow.ode import ODE, TABLEAUS, ButcherTableau, odeint
from jaxflow.ode.step import rk_step

PAIRS = {name: tableau for name, tableau in TABLEAUS.items() if tableau.adaptive}


def rooted_trees(order):
    """All rooted trees with `order` nodes; a tree is the sorted tuple of its branches."""
    if order == 1:
        return {()}
    grown = set()
    for tree in rooted_trees(order - 1):
        grown |= set(attach(tree))
    return grown


def attach(tree):
    """The trees with one more leaf, hung from any node."""
    yield tuple(sorted((*tree, ())))
    for i, branch in enumerate(tree):
        for longer in attach(branch):
            yield tuple(sorted((*tree[:i], longer, *tree[i + 1 :])))


def size(tree):
    return 1 + sum(map(size, tree))


def density(tree):
    """Butcher's gamma: the size of the tree times the densities of its branches."""
    return size(tree) * math.prod(map(density, tree))


def stage_weights(tree, a):
    """Butcher's elementary weight of each stage."""
    return math.prod((a @ stage_weights(branch, a) for branch in tree), start=np.ones(len(a)))


def defect(weights, tableau, order):
    """Largest violation of `sum_i b_i Phi_i(tree) = 1 / gamma(tree)` over trees of this order."""
    a = np.zeros((len(tableau.b), len(tableau.b)))
    for i, row in enumerate(tableau.a):
        a[i, : len(row)] = row
    return max(
        abs(np.dot(weights, stage_weights(tree, a)) - 1 / density(tree))
        for tree in rooted_trees(order)
    )


def test_there_are_as_many_rooted_trees_as_known():
    assert [len(rooted_trees(n)) for n in range(1, 10)] == [1, 1, 2, 4, 9, 20, 48, 115, 286]


@pytest.mark.parametrize("tableau", TABLEAUS.values(), ids=TABLEAUS)
def test_order_conditions_hold_up_to_the_order_and_no_further(tableau):
    for order in range(1, tableau.order + 1):
        assert defect(tableau.b, tableau, order) < 1e-13
    assert defect(tableau.b, tableau, tableau.order + 1) > 5e-6


@pytest.mark.parametrize("tableau", PAIRS.values(), ids=PAIRS)
def test_the_embedded_method_has_its_order_and_no_more(tableau):
    embedded = np.subtract(tableau.b, tableau.error)
    assert abs(sum(tableau.error)) < 1e-13
    for order in range(1, tableau.error_order + 1):
        assert defect(embedded, tableau, order) < 1e-13
    assert defect(embedded, tableau, tableau.error_order + 1) > 1e-5
    assert tableau.error_order < tableau.order


def test_coefficients_have_the_bits_of_quotients_of_floats():
    hashes = {name: hash(TABLEAUS[name]) for name in ("dopri5", "tsit5", "dopri8")}
    assert hashes == {
        "dopri5": 1459953408975841281,
        "tsit5": -9144899960955580273,
        "dopri8": 1728857856091386279,
    }


@pytest.mark.parametrize("tableau", TABLEAUS.values(), ids=TABLEAUS)
def test_shape_of_a_tableau(tableau):
    stages = len(tableau.b)
    assert len(tableau.a) == len(tableau.c) == stages
    assert [len(row) for row in tableau.a] == list(range(stages))
    np.testing.assert_allclose([sum(row) for row in tableau.a], tableau.c, atol=1e-14)
    last_is_first = (*tableau.a[-1], 0.0) == tableau.b and tableau.c[-1] == 1.0
    assert tableau.fsal == last_is_first


def extrapolated(errors):
    """The order that three errors show, their steps halved twice.

    Each halving gives a slope, which is off by an amount that halves too.
    """
    coarse, middle, fine = np.log2(errors)
    first, second = coarse - middle, middle - fine
    return 2 * second - first


# Autonomous and nonlinear; time-dependent; a nonlinear system.
THREE = Together((Logistic(), GrowingRate(), LimitCycle()), t0=0.3, t1=2.0)
THREE_ARGS = (jnp.asarray(3.0), jnp.asarray(1.5), LimitCycle().args)
# Steps between two times, at their coarsest: the error must follow the leading power of h, and the
# finest steps must keep it well above rounding.
COARSE = {"dopri5": 40, "tsit5": 40, "dopri8": 6}


@pytest.mark.parametrize("solver", TABLEAUS)
def test_measured_order(solver):
    exact = THREE.solution(THREE.y0, THREE.t0, THREE.t1, THREE_ARGS)
    ode = ODE(solver=solver, num_steps=COARSE.get(solver, 64))

    def errors(halvings):
        # Steps are `num_steps` between any two times, so smaller gaps make smaller steps. Beyond
        # t1 nothing is left to do: always four times, one compilation.
        gap = (THREE.t1 - THREE.t0) / 2**halvings
        times = np.minimum(THREE.t0 + gap * np.arange(1, 5), THREE.t1)
        ys, _ = odeint(THREE.f, THREE.y0, THREE.t0, THREE.t1, THREE_ARGS, ode=ode, save_at=times)
        return [float(jnp.linalg.norm(y[-1] - e)) for y, e in zip(ys, exact, strict=True)]

    measured = extrapolated([errors(halvings) for halvings in range(3)])
    np.testing.assert_allclose(measured, TABLEAUS[solver].order, atol=0.1)


@pytest.mark.parametrize("solver", PAIRS)
def test_measured_order_of_the_error_estimate(solver):
    tableau = TABLEAUS[solver]

    @jax.jit
    def estimate(h):
        def g(t, y):
            return THREE.f(t, y, THREE_ARGS), None

        step = rk_step(tableau, g, jnp.asarray(THREE.t0), h, THREE.y0, with_error=True)
        return jnp.linalg.norm(
            jnp.concatenate(jax.tree.leaves(jax.tree.map(jnp.ravel, step.error)))
        )

    coarse = 0.2 if solver == "dopri8" else 0.02
    measured = extrapolated([estimate(jnp.asarray(coarse / 2**k)) for k in range(3)])
    assert measured == pytest.approx(tableau.error_order + 1, abs=0.1)


@pytest.mark.quick("bosh3", "tsit5")
@pytest.mark.parametrize("solver", PAIRS)
def test_the_error_of_adaptive_steps_follows_the_tolerance(solver):
    problem = PROBLEMS["riccati"]
    exact = problem.solution(problem.y0, problem.t0, problem.t1, problem.args)
    for tolerance in (1e-4, 1e-6):
        ode = ODE(solver=solver, rtol=tolerance, atol=tolerance)
        y1, _ = odeint(problem.f, problem.y0, problem.t0, problem.t1, problem.args, ode=ode)
        error = float(jnp.max(jnp.abs(y1 - exact)))
        assert 1e-4 * tolerance < error < 10 * tolerance


def test_a_tableau_of_your_own():
    # Ralston's second-order method, which the table does not hold.
    ralston = ButcherTableau(a=((), (2 / 3,)), b=(1 / 4, 3 / 4), c=(0.0, 2 / 3), order=2)
    assert defect(ralston.b, ralston, 2) < 1e-15
    # On y' = y two stages of order 2 multiply by 1 + h + h^2 / 2.
    y1, stats = odeint(lambda t, y, _: y, 2.0, 0.5, 1.0, ode=ODE(solver=ralston, num_steps=1))
    assert float(y1) == pytest.approx(2 * 1.625, rel=1e-14)
    assert int(stats.num_evals) == 2


def test_worst_row_decides_the_steps():
    # A fast row among slow ones gets the steps that it takes alone.
    def f(t, y, rates):
        return -rates[:, None] * y

    ode = ODE(rtol=1e-6, atol=1e-6)
    alone, alone_stats = odeint(f, jnp.ones((1, 2)), 0.0, 1.0, jnp.asarray([30.0]), ode=ode)
    rates = jnp.asarray([0.1, 30.0] + 98 * [0.1])
    together, stats = odeint(f, jnp.ones((100, 2)), 0.0, 1.0, rates, ode=ode)
    assert int(stats.num_accepted) == int(alone_stats.num_accepted)
    np.testing.assert_allclose(together[1:2], alone, rtol=1e-8)


def test_result_is_the_same_under_jit_and_vmap():
    problem = PROBLEMS["riccati"]
    ode = ODE(rtol=1e-6, atol=1e-6)

    def solve(y0):
        return odeint(problem.f, y0, problem.t0, problem.t1, problem.args, ode=ode)[0]

    starts = jnp.stack([problem.y0, 0.5 * problem.y0])
    loop = jnp.stack([solve(y0) for y0 in starts])
    np.testing.assert_allclose(jax.jit(solve)(starts[0]), loop[0], rtol=1e-14)
    np.testing.assert_allclose(jax.vmap(solve)(starts), loop, rtol=1e-14)
