"""Maximum likelihood, its penalties and weights, against known integrals."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.linalg import expm
from scipy.stats import norm

from jaxflow import CNF, ODE, CouplingFlow, StandardNormal
from jaxflow.dynamics import MLP, Linear
from jaxflow.objectives import MaximumLikelihood, maximum_likelihood

KEY = jax.random.key(2)
X = jax.random.normal(KEY, (7, 2))
A = jnp.asarray([[0.4, 0.9], [-0.3, 0.2]])
FINE = ODE(solver="tsit5", num_steps=40)


@dataclasses.dataclass(frozen=True)
class Shift:
    """Constant speed (3, -4): straight trajectories, an optimal transport."""

    def __call__(self, t, x, cond=None):
        return jnp.asarray([3.0, -4.0])

    def potential(self, t, x, cond=None):
        return -jnp.dot(jnp.asarray([3.0, -4.0]), x) + 12.5 * t


def metrics_of(field, objective, x=X, **settings):
    flow = CNF(field, StandardNormal(2), ode=FINE, **settings)
    return jax.jit(lambda x: objective(flow, x, None, KEY)[1])(x)


def test_kinetic_energy_of_a_straight_flow_is_its_squared_length():
    found = metrics_of(Shift(), MaximumLikelihood(kinetic=1.0, hjb=1.0, taylor2=1.0))
    np.testing.assert_allclose(found["kinetic"], 25.0, rtol=1e-12)
    # And it solves the Hamilton-Jacobi-Bellman equation, without any acceleration.
    np.testing.assert_allclose([found["hjb"], found["taylor2"]], 0.0, atol=1e-12)


@pytest.mark.parametrize("trace", ["exact", "hutchinson"])
def test_jacobian_norm_of_a_linear_field(trace):
    # A Rademacher probe shows the norm of a diagonal matrix without error.
    diagonal = Linear(matrix=jnp.diag(jnp.asarray([1.5, -0.5])))
    found = metrics_of(diagonal, MaximumLikelihood(jacobian=1.0), trace=trace)
    np.testing.assert_allclose(found["jacobian"], 2.5, rtol=1e-12)


@pytest.mark.parametrize("order", [2, 3])
def test_derivatives_along_the_trajectories_of_a_linear_field(order):
    # d^K x / dt^K = A^K exp(A (t - 1)) x(1).
    found = metrics_of(Linear(matrix=A), MaximumLikelihood(**{f"taylor{order}": 1.0}))
    power = np.linalg.matrix_power(A, order)
    nodes, weights = np.polynomial.legendre.leggauss(20)
    exact = 0.0
    for t, w in zip((nodes + 1) / 2, weights / 2, strict=True):
        moved = power @ expm(np.asarray(A) * (t - 1)) @ np.asarray(X).T
        exact += w * np.mean(np.sum(moved**2, axis=0))
    np.testing.assert_allclose(found[f"taylor{order}"], exact, rtol=1e-9)


def test_a_penalty_is_added_to_the_loss_and_leaves_the_log_density():
    flow = CNF(Linear(matrix=A), StandardNormal(2), ode=FINE)

    @jax.jit
    def losses(x):
        penalised = MaximumLikelihood(kinetic=0.3, taylor2=0.2)
        return maximum_likelihood(flow, x, None, KEY)[0], penalised(flow, x, None, KEY)

    plain, (loss, metrics) = losses(X)
    added = 0.3 * metrics["kinetic"] + 0.2 * metrics["taylor2"]
    np.testing.assert_allclose(loss - added, plain, rtol=1e-12)
    np.testing.assert_allclose(plain, -jnp.mean(flow.log_prob(X)), rtol=1e-5)


def test_a_random_end_averages_the_densities_about_the_base():
    # Gradients must see the random end, and steer=0 must not.
    flow = CNF(Linear(matrix=A), StandardNormal(2), ode=FINE)
    loss = jax.jit(lambda key: MaximumLikelihood(steer=0.5)(flow, X, None, key)[0])
    losses = [loss(jax.random.key(i)) for i in range(3)]
    assert np.std(losses) > 1e-3
    # Of `v = A x` stopped at e, the log-density is the base's there plus (1 - e) tr A.
    end_key, _ = jax.random.split(jax.random.key(1))
    e = 0.5 * float(jax.random.uniform(end_key, (), float, -1.0, 1.0))
    z = np.asarray(X) @ expm(np.asarray(A) * (e - 1)).T
    exact = norm.logpdf(z).sum(axis=1).mean() - (1 - e) * np.trace(A)
    np.testing.assert_allclose(losses[1], -exact, rtol=1e-9)


def test_a_failed_solve_gives_a_loss_of_nan():
    flow = CNF(lambda t, x: jnp.log(x - 9), StandardNormal(1), trace="exact")
    for objective in (maximum_likelihood, MaximumLikelihood(kinetic=0.1)):
        loss = jax.jit(lambda x, f=objective: f(flow, x, None, jax.random.key(0))[0])
        assert np.isnan(loss(jnp.zeros((3, 1))))


def test_weights_are_rows_that_occur_that_often():
    flow = CNF(Linear(matrix=A), StandardNormal(2), ode=FINE)
    objective = MaximumLikelihood(kinetic=0.1)
    loss_of = jax.jit(lambda x, weights: objective(flow, x, None, KEY, weights))
    loss, metrics = loss_of(X[:3], jnp.asarray([2.0, 1.0, 0.0]))
    again, same = loss_of(X[jnp.asarray([0, 0, 1])], None)
    np.testing.assert_allclose(loss, again, rtol=1e-12)
    np.testing.assert_allclose(metrics["kinetic"], same["kinetic"], rtol=1e-12)


def test_bad_penalties_raise():
    flow = CNF(MLP(2, width=4, key=KEY), StandardNormal(2))
    with pytest.raises(ValueError, match=r"hjb needs a field with a potential and field=MLP"):
        MaximumLikelihood(hjb=1.0)(flow, X, None, KEY)
    with pytest.raises(ValueError, match=r"kinetic=-1.0 must be 0 or a positive number"):
        MaximumLikelihood(kinetic=-1.0)
    with pytest.raises(ValueError, match=r"steer=1.0 must be less than 1"):
        MaximumLikelihood(steer=1.0)
    coupling = CouplingFlow(2, num_layers=2, width=4, key=KEY)
    with pytest.raises(TypeError, match=r"flows that solve an ODE.*CouplingFlow"):
        MaximumLikelihood(kinetic=1.0)(coupling, X, None, KEY)
