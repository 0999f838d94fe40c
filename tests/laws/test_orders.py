"""Order conditions of every tableau, and the orders of convergence that follow from them."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tests.problems import PROBLEMS

from jaxflow.ode import ODE, TABLEAUS, ButcherTableau, odeint

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
    assert [len(rooted_trees(n)) for n in range(1, 7)] == [1, 1, 2, 4, 9, 20]


@pytest.mark.parametrize("tableau", TABLEAUS.values(), ids=TABLEAUS)
def test_order_conditions_hold_up_to_the_order_and_no_further(tableau):
    for order in range(1, tableau.order + 1):
        assert defect(tableau.b, tableau, order) < 1e-13
    assert defect(tableau.b, tableau, tableau.order + 1) > 1e-5


@pytest.mark.parametrize("tableau", PAIRS.values(), ids=PAIRS)
def test_the_embedded_method_has_its_order_and_no_more(tableau):
    embedded = np.subtract(tableau.b, tableau.error)
    assert abs(sum(tableau.error)) < 1e-13
    for order in range(1, tableau.error_order + 1):
        assert defect(embedded, tableau, order) < 1e-13
    assert defect(embedded, tableau, tableau.error_order + 1) > 1e-5
    assert tableau.error_order < tableau.order


@pytest.mark.parametrize("tableau", TABLEAUS.values(), ids=TABLEAUS)
def test_shape_of_a_tableau(tableau):
    stages = len(tableau.b)
    assert len(tableau.a) == len(tableau.c) == stages
    assert [len(row) for row in tableau.a] == list(range(stages))
    np.testing.assert_allclose([sum(row) for row in tableau.a], tableau.c, atol=1e-14)
    last_is_first = (*tableau.a[-1], 0.0) == tableau.b and tableau.c[-1] == 1.0
    assert tableau.fsal == last_is_first


@pytest.mark.parametrize("solver", TABLEAUS)
def test_measured_order(solver):
    problem = PROBLEMS["riccati"]
    # Larger starts make larger errors, well above rounding where the order shows.
    y0, args = 2 * problem.y0, problem.args
    y1 = problem.solution(y0, problem.t0, problem.t1, args)
    forwards = (y0, problem.t0, problem.t1, y1)
    backwards = (y1, problem.t1, problem.t0, y0)

    def error(start, t0, t1, exact, num_steps):
        ode = ODE(solver=solver, num_steps=num_steps)
        end, stats = odeint(problem.f, start, t0, t1, args, ode=ode)
        assert int(stats.num_accepted) == num_steps
        return float(jnp.linalg.norm(end - exact))

    for way in (forwards, backwards):
        slope = math.log2(error(*way, 256) / error(*way, 512))
        assert slope == pytest.approx(TABLEAUS[solver].order, abs=0.2)


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
    np.testing.assert_array_equal(together[1:2], alone)


def test_result_is_the_same_under_jit_and_vmap():
    problem = PROBLEMS["riccati"]
    ode = ODE(rtol=1e-6, atol=1e-6)

    def solve(y0):
        return odeint(problem.f, y0, problem.t0, problem.t1, problem.args, ode=ode)[0]

    starts = jnp.stack([problem.y0, 0.5 * problem.y0])
    loop = jnp.stack([solve(y0) for y0 in starts])
    np.testing.assert_allclose(jax.jit(solve)(starts[0]), loop[0], rtol=1e-14)
    np.testing.assert_allclose(jax.vmap(solve)(starts), loop, rtol=1e-14)
