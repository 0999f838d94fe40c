"""The checkpointed gradient is that of the steps that the solver took."""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxflow.ode import ODE, odeint


def field(t, y, args):
    """A small network driven by time, with a pulse that makes a solver reject steps."""
    pulse = 1 + 8 * jnp.exp(-200 * (t - 0.9) ** 2)
    hidden = pulse * jnp.tanh(y["x"] @ args["w"] + t * args["b"])
    return {"x": hidden @ args["v"], "log": -jnp.sum(hidden**2, axis=-1)}


def random_inputs(seed):
    rng = np.random.default_rng(seed)

    def normal(*shape):
        return jnp.asarray(rng.normal(size=shape))

    y0 = {"x": normal(3, 2), "log": normal(3)}
    args = {"w": 2 * normal(2, 5), "b": normal(1, 5), "v": normal(5, 2)}
    return y0, jnp.asarray(-0.3), jnp.asarray(1.4), args


INPUTS = random_inputs(0)
# Exactly the number of steps that `test_over_several_stretches` takes.
MAX_STEPS = 78


def dot(a, b):
    product = jax.tree.map(lambda a, b: np.sum(np.asarray(a) * np.asarray(b)), a, b)
    return sum(jax.tree.leaves(product))


def solver(settings, gradient):
    return lambda *inputs: odeint(field, *inputs, ode=ODE(**settings, gradient=gradient))


@partial(jax.jit, static_argnums=0)
def push(f, inputs, tangents):
    return jax.jvp(f, inputs, tangents, has_aux=True)


@partial(jax.jit, static_argnums=0)
def pull(f, inputs, cotangents):
    """Values, the product of cotangents and derivatives, and what else `f` returns."""
    y1, vjp, aux = jax.vjp(f, *inputs, has_aux=True)
    return y1, vjp(cotangents), aux


def assert_transposed(settings):
    """`<w, J v>` of forward mode through the loop is `<J^T w, v>` of the reverse mode."""
    tangents, cotangents = random_inputs(1), random_inputs(2)[0]
    y1, jv, stats = push(solver(settings, "direct"), INPUTS, tangents)
    y1_again, slopes, again = pull(solver(settings, "checkpointed"), INPUTS, cotangents)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-13), y1, y1_again)
    assert float(dot(slopes, tangents)) == pytest.approx(float(dot(cotangents, jv)), rel=1e-12)
    counts = int(stats.num_accepted), int(stats.num_rejected)
    assert counts == (int(again.num_accepted), int(again.num_rejected))
    return counts


def test_reverse_mode_transposes_forward_mode():
    # A tolerance loose enough that the solution itself is wrong in the third digit, with
    # rejected steps among the accepted: nothing but the same steps can agree to 1e-12.
    settings = {"solver": "heun", "rtol": 1e-2, "atol": 1e-2, "max_steps": 100}
    assert assert_transposed(settings)[1] >= 1


@pytest.mark.slow
def test_over_several_stretches_with_max_steps_exactly_reached():
    # bosh3 is first-same-as-last, and Heun's method is not.
    settings = {"solver": "bosh3", "rtol": 1e-4, "atol": 1e-4, "max_steps": MAX_STEPS}
    accepted, rejected = assert_transposed(settings)
    assert accepted + rejected == MAX_STEPS
    assert accepted > 2 * math.isqrt(MAX_STEPS)


@pytest.mark.parametrize("max_steps", [1, 2])
def test_with_hardly_a_step_allowed(max_steps):
    # y' = c with |c| far below the tolerance is solved in one step of any size.
    def solve(c):
        ode = ODE(rtol=1e-3, atol=1e-3, max_steps=max_steps)
        return odeint(lambda t, y, c: c, jnp.asarray(400.0), 0.5, 2.5, c, ode=ode)

    c = jnp.asarray(0.001)
    assert int(solve(c)[1].num_accepted) == 1
    y1, slope = jax.jit(jax.value_and_grad(lambda c: solve(c)[0]))(c)
    assert float(y1) == pytest.approx(400.002, rel=1e-14)
    assert float(slope) == pytest.approx(2.0, rel=1e-14)


def test_fixed_steps_agree_with_plain_reverse_mode():
    settings = {"solver": "midpoint", "num_steps": 5}
    cotangents = random_inputs(2)[0]
    plain, checkpointed = (
        pull(solver(settings, gradient), INPUTS, cotangents)[1]
        for gradient in ("direct", "checkpointed")
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12), plain, checkpointed)


def test_under_vmap_each_solve_has_its_own_gradient():
    ode = ODE(solver="bosh3", rtol=1e-8, atol=1e-8, max_steps=2000)

    def solved(y0, rate):
        return odeint(lambda t, y, r: -r * t * y, y0, 0.2, 1.9, rate, ode=ode)[0]

    def exact(y0, rate):
        return y0 * jnp.exp(-rate * (1.9**2 - 0.2**2) / 2)

    inputs = jnp.asarray([1.0, 2.0]), jnp.asarray([0.3, 3.0])
    gradients = (jax.jit(jax.vmap(jax.grad(f, argnums=(0, 1))))(*inputs) for f in (solved, exact))
    for one, other in zip(*gradients, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-7)


def test_float32_keeps_its_dtype_in_the_gradient():
    inputs = [jnp.asarray(value, jnp.float32) for value in ([1.0, 2.0], 0.2, 1.9, 0.3)]

    def loss(*inputs):
        ode = ODE(solver="bosh3", rtol=1e-3, atol=1e-3)
        return jnp.sum(odeint(lambda t, y, r: -r * t * y, *inputs, ode=ode)[0])

    value, gradient = jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2, 3)))(*inputs)
    assert {leaf.dtype for leaf in jax.tree.leaves(gradient)} == {jnp.dtype("float32")}
    # y1 = y0 exp(-r (t1^2 - t0^2) / 2)
    assert float(gradient[3]) == pytest.approx(-float(value) * (1.9**2 - 0.2**2) / 2, rel=1e-2)
