"""Every solver with every gradient, forwards and backwards in time, against the exact solution."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tests.problems import PROBLEMS

from jaxflow.ode import ODE, TABLEAUS, odeint

# One entry of a nonlinear, time-dependent problem: small, as every case compiles for itself.
PROBLEM = PROBLEMS["riccati"]
Y0, T0, T1, ARGS = PROBLEM.y0[:1, :1], PROBLEM.t0, PROBLEM.t1, PROBLEM.args[:1]
# By order: number of fixed steps and largest error.
FIXED = {
    1: (20_000, 1e-3),
    2: (2000, 1e-5),
    3: (400, 1e-6),
    4: (200, 1e-7),
    5: (80, 1e-8),
    8: (20, 1e-8),
}
# By order: tolerance, as tight as a few thousand steps reach, and largest error.
ADAPTIVE = {2: (1e-7, 1e-5), 3: (1e-9, 1e-6), 5: (1e-11, 1e-9), 8: (1e-11, 1e-9)}
# Gradients do not depend on the coefficients. So the daily run takes all gradients with two
# methods (one first-same-as-last) and all methods with one gradient; every case compiles anew.
DAILY = ("heun", "tsit5")


def cases(gradients, *, adaptive):
    """Settings and error bound of every solver with these gradients."""
    for solver, tableau in TABLEAUS.items():
        for gradient in gradients:
            if not adaptive:
                num_steps, error = FIXED[tableau.order]
                ode = ODE(solver=solver, num_steps=num_steps, gradient=gradient)
            elif tableau.adaptive:
                tol, error = ADAPTIVE[tableau.order]
                ode = ODE(solver=solver, rtol=tol, atol=tol, gradient=gradient, max_steps=10_000)
            else:
                continue
            daily = solver in DAILY or (gradient == "checkpointed" and not adaptive)
            steps = "adaptive" if adaptive else "fixed"
            yield pytest.param(
                ode,
                error,
                id=f"{solver}, {steps}, {gradient}",
                marks=[] if daily else pytest.mark.slow,
            )


REVERSE = [
    *cases(("checkpointed", "adjoint", "direct"), adaptive=False),
    *cases(("checkpointed", "adjoint"), adaptive=True),
]
FORWARD = [*cases(("direct",), adaptive=True)]


def solver(ode):
    return lambda y0, t0, t1, args: odeint(PROBLEM.f, y0, t0, t1, args, ode=ode)[0]


def there_and_back(answer, truth, error):
    """Check a solve, and one from where it ended back to the start.

    Both functions take the inputs of a solve and return its end and the derivatives there.
    """
    t0, t1 = jnp.asarray(T0), jnp.asarray(T1)
    there = answer(Y0, t0, t1, ARGS)
    back = answer(there[0], t1, t0, ARGS)
    np.testing.assert_allclose(back[0], Y0, rtol=error)
    for ours, inputs in ((there, (Y0, t0, t1, ARGS)), (back, (there[0], t1, t0, ARGS))):
        for value, exact in zip(*map(jax.tree.leaves, (ours, truth(*inputs))), strict=True):
            np.testing.assert_allclose(value, exact, rtol=error, atol=error)


@pytest.mark.parametrize(("ode", "error"), REVERSE)
def test_values_and_gradients_there_and_back(ode, error):
    def differentiated(solve):
        def loss(*inputs):
            y1 = solve(*inputs)
            return jnp.sum(y1), y1

        def answer(*inputs):
            slopes, y1 = jax.grad(loss, argnums=(0, 1, 2, 3), has_aux=True)(*inputs)
            return y1, slopes

        return answer

    there_and_back(jax.jit(differentiated(solver(ode))), differentiated(PROBLEM.solution), error)


@pytest.mark.parametrize(("ode", "error"), FORWARD)
def test_values_and_tangents_there_and_back(ode, error):
    tangents = (
        jnp.full_like(Y0, 0.7),
        jnp.asarray(-0.4),
        jnp.asarray(1.1),
        jnp.full_like(ARGS, 0.9),
    )

    def differentiated(solve):
        return lambda *inputs: jax.jvp(solve, inputs, tangents)

    there_and_back(jax.jit(differentiated(solver(ode))), differentiated(PROBLEM.solution), error)


def test_from_1_to_0_the_field_sees_the_true_times_decreasing():
    seen = []

    def f(t, y, _):
        jax.debug.callback(lambda t: seen.append(float(t)), t, ordered=True)
        return -t * y

    ode = ODE(solver="euler", num_steps=2, gradient="direct")
    ys, _ = odeint(f, 1.0, 1.0, 0.0, ode=ode, save_at=[0.75, 0.5, 0.0])
    jax.effects_barrier()
    assert seen == [1.0, 0.875, 0.75, 0.625, 0.5, 0.25]
    # A step of Euler's method from t multiplies by 1 + h t.
    sizes = np.asarray([1, 1, 1, 1, 2, 2]) / 8
    np.testing.assert_allclose(ys, np.cumprod(1 + sizes * seen)[1::2], rtol=1e-15)
