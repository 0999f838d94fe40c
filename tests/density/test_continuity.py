"""Densities along trajectories whose closed form is known."""

from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.scipy import stats
from jax.scipy.linalg import expm
from scipy.stats import norm
from tests.laws.fields import grown

from jaxflow import CNF, ODE, Hutchinson, StandardNormal, augmented_dynamics, hutchinson_trace
from jaxflow.density.continuity import solve_density, transport
from jaxflow.dynamics import MLP, Linear
from jaxflow.ode import odeint_many, odeint_together

TIGHT = ODE(rtol=1e-10, atol=1e-10)


class Cubic(eqx.Module):
    """`v = 3 t^2 x`, so `x(t) = exp(t^3) x(0)`; any event shape."""

    def __call__(self, t, x):
        return 3 * t**2 * x


def cubic(t, x):
    """The same as a plain function."""
    return 3 * t**2 * x


@pytest.mark.parametrize(
    ("field", "event_shape"),
    [
        pytest.param(Cubic(), (2, 2), id="module"),
        pytest.param(cubic, (3,), id="function", marks=pytest.mark.slow),
    ],
)
def test_a_stretch_that_grows_with_time(field, event_shape, key):
    d = int(np.prod(event_shape))
    x = np.asarray(jax.random.normal(key, (6, *event_shape)))
    flow = CNF(field, StandardNormal(event_shape), ode_eval=TIGHT)
    normal = norm.logpdf(x / np.e).reshape(6, -1).sum(axis=1)
    np.testing.assert_allclose(flow.log_prob(x), normal - d, rtol=1e-8)
    half = norm.logpdf(x / np.exp(0.5**3)).reshape(6, -1).sum(axis=1) - d * 0.5**3
    np.testing.assert_allclose(flow.log_prob_at(0.5, x), half, rtol=1e-8)
    np.testing.assert_allclose(flow.decode(x), np.e * x, rtol=1e-8)
    moved = flow.transport(x, 0.25, 0.75)
    np.testing.assert_allclose(moved, np.exp(0.75**3 - 0.25**3) * x, rtol=1e-8)


MATRIX = 0.6 * jax.random.normal(jax.random.key(5), (5, 5)) - 0.2 * jnp.eye(5)


@jax.jit
def linear_log_prob(matrix, x):
    """`x(1) = expm(A) x(0)`, so `log p_1(x) = log N(expm(-A) x) - tr(A)`."""
    z = x @ expm(-matrix).T
    return jnp.sum(stats.norm.logpdf(z), axis=1) - jnp.trace(matrix)


LINEAR_ODES = {
    "checkpointed, fixed": ODE(solver="rk4", num_steps=300),
    "checkpointed, adaptive": ODE(solver="bosh3", rtol=1e-9, atol=1e-9),
    "adjoint, adaptive": ODE(solver="bosh3", rtol=1e-9, atol=1e-9, gradient="adjoint"),
}


@pytest.mark.quick("checkpointed, fixed")
@pytest.mark.parametrize("ode", LINEAR_ODES.values(), ids=LINEAR_ODES)
def test_density_of_a_linear_flow_and_its_gradient_in_the_matrix(ode, key):
    x = jax.random.normal(key, (4, 5))

    # pyright: ignore[reportArgumentType]
    def density(matrix):
        return CNF(Linear(matrix=matrix), StandardNormal(5), ode_eval=ode).log_prob(x)

    def exact(matrix):
        return linear_log_prob(matrix, x)

    @partial(jax.jit, static_argnums=0)
    def values_and_slope(f, matrix, weights):
        values, vjp = jax.vjp(f, matrix)
        return values, vjp(weights)[0]

    weights = jnp.asarray([1.0, -2.0, 0.5, 3.0])
    ours, theirs = (values_and_slope(f, MATRIX, weights) for f in (density, exact))
    np.testing.assert_allclose(ours[0], theirs[0], rtol=1e-8)
    np.testing.assert_allclose(ours[1], theirs[1], rtol=1e-6, atol=1e-7)


@pytest.mark.slow
def test_forward_mode_of_a_density(key):
    x, tangent = jax.random.normal(key, (2, 4, 5))

    def density(x):
        ode = ODE(solver="bosh3", rtol=1e-8, atol=1e-8, gradient="direct")
        return CNF(Linear(matrix=MATRIX), StandardNormal(5), ode_eval=ode).log_prob(x)

    def exact(x):
        return linear_log_prob(MATRIX, x)

    values, expected = (
        jax.jit(lambda x, tangent, f=f: jax.jvp(f, (x,), (tangent,)))(x, tangent)
        for f in (density, exact)
    )
    np.testing.assert_allclose(values, expected, rtol=1e-6)


def test_samples_of_a_linear_flow_have_its_moments(key):
    n = 8000
    x, log_p = CNF(Linear(matrix=MATRIX), StandardNormal(5)).sample_and_log_prob(key, n)
    e, x = np.asarray(jax.jit(expm)(MATRIX)), np.asarray(x)
    np.testing.assert_allclose(log_p, linear_log_prob(MATRIX, x), atol=1e-3)
    # In the base's coordinates mean and covariance are 0 and I, with known standard errors.
    z = np.linalg.solve(e, x.T).T
    np.testing.assert_allclose(np.mean(z, axis=0), 0, atol=5 / n**0.5)
    np.testing.assert_allclose(z.T @ z / n, np.eye(5), atol=5 * (2 / n) ** 0.5)


def test_the_density_of_a_network_integrates_to_one():
    field = grown(MLP(2, width=8, key=jax.random.key(1)))
    flow = CNF(field, StandardNormal(2), ode_eval=ODE(rtol=1e-5, atol=1e-5))
    # Wide enough for its samples, fine enough for its sharpest edge.
    axes = np.linspace(-9.0, 7.0, 144), np.linspace(-6.0, 6.0, 144)
    cell = (axes[0][1] - axes[0][0]) * (axes[1][1] - axes[1][0])
    grid = np.stack(np.meshgrid(*axes), axis=-1)
    p = np.exp(np.asarray(flow.log_prob(grid)))
    assert np.sum(p) * cell == pytest.approx(1.0, abs=0.01)
    # Not the density of the base.
    base = np.exp(np.sum(norm.logpdf(grid), axis=-1))
    assert np.sum(np.abs(p - base)) * cell > 0.2


def test_the_derivative_of_point_and_log_density(key):
    x, t = jnp.asarray([1.0, -2.0]), jnp.asarray(0.5)
    matrix = jnp.asarray([[1.0, 4.0], [0.0, 5.0]])
    field = Linear(matrix=matrix)
    f, change = augmented_dynamics(t, (x, jnp.asarray(7.0)), (field, None, None))
    np.testing.assert_allclose(f, matrix @ x)
    assert float(change) == -6.0
    probes = Hutchinson(3).draw(key, (2,), float)
    f, change = augmented_dynamics(t, (x, jnp.asarray(7.0)), (field, None, probes))
    np.testing.assert_allclose(f, matrix @ x)
    assert float(change) == -float(hutchinson_trace(field, t, x, probes)[1])


@pytest.mark.slow
def test_rows_share_one_solve_unless_told_otherwise(key):
    x = jax.random.normal(key, (3, 5))
    rows, ode = (Linear(matrix=MATRIX), x, jnp.zeros(3)), ODE(rtol=1e-3, atol=1e-3)
    for solver, shape in ((odeint_together, ()), (odeint_many, (3,))):
        _, stats = solve_density(solver, *rows, 1.0, 0.0, None, None, ode=ode)
        assert stats.num_evals.shape == shape


@pytest.mark.slow
@pytest.mark.parametrize("solver", [odeint_together, odeint_many])
def test_probes_stay_fixed_through_a_solve(solver, key):
    # For a linear field the estimate of a row is then exactly mean v^T A v, at every tolerance.
    probes = jax.vmap(lambda key: Hutchinson(2).draw(key, (5,), float))(jax.random.split(key, 3))
    x, start = jax.random.normal(key, (3, 5)), jnp.asarray([0.0, 1.0, -2.0])
    field = Linear(matrix=MATRIX)
    (moved, log_p), _ = solve_density(
        solver, field, x, start, 0.2, 0.9, None, probes, ode=ODE(rtol=1e-3, atol=1e-3)
    )
    estimate = jnp.einsum("nki,ij,nkj->n", probes, MATRIX, probes) / 2
    np.testing.assert_allclose(log_p, start - 0.7 * estimate, rtol=1e-12)
    there, _ = transport(field, x, 0.2, 0.9, ode=TIGHT)
    np.testing.assert_allclose(moved, there, atol=1e-2)
    np.testing.assert_allclose(there, x @ expm(0.7 * MATRIX).T, rtol=1e-8)
