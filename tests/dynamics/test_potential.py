"""A gradient field is the gradient of its potential, and its Jacobian is symmetric."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tests.laws.fields import FIELDS

from jaxflow.dynamics import Potential
from jaxflow.dynamics.potential import log_cosh
from jaxflow.trace import prepare

T = jnp.asarray(0.3)
KEY = jax.random.key(0)
POTENTIALS = [name for name in FIELDS if name.startswith("potential")]


@pytest.mark.parametrize("name", POTENTIALS)
def test_the_field_is_minus_the_gradient_of_the_potential(name):
    case = FIELDS[name]
    gradient = jax.jit(jax.grad(case.field.potential, argnums=1))(T, case.x(), case.cond)
    np.testing.assert_allclose(case.field(T, case.x(), case.cond), -gradient, rtol=1e-12)


@pytest.mark.parametrize("name", ["potential, depth 3", "potential, matrix events"])
def test_the_jacobian_is_symmetric(name):
    case = FIELDS[name]
    size = case.x().size
    jacobian = jax.jit(jax.jacfwd(lambda x: case.field(T, x)))(case.x()).reshape(size, size)
    assert float(jnp.max(jnp.abs(jacobian - jnp.diag(jnp.diag(jacobian))))) > 1e-2
    np.testing.assert_allclose(jacobian, jacobian.T, rtol=1e-12, atol=1e-13)


def test_a_potential_follows_its_equation():
    field = FIELDS["potential, condition"].field
    x, c = FIELDS["potential, condition"].x(), FIELDS["potential, condition"].cond
    y = jnp.concatenate([x, T[None], c])

    def joined(layer):
        return jnp.concatenate([layer.weight, layer.time[None], layer.cond]).T

    def s(a):
        return jnp.log(jnp.exp(a) + jnp.exp(-a))

    first, second = field.layers
    u = s(joined(first) @ y + first.bias)
    u = u + s(second.weight.T @ u + second.bias)
    a = joined(field.quadratic)
    assert a.shape == (2, 9)
    phi = field.output @ u + y @ a.T @ a @ y / 2 + joined(field.linear)[0] @ y
    np.testing.assert_allclose(field.potential(T, x, c), phi, rtol=1e-14)


def test_the_step_of_the_residual_layers_shrinks_with_their_number():
    for n, step in [(1, 1.0), (2, 1.0), (3, 0.5), (5, 0.25)]:
        field = eqx.filter_eval_shape(lambda n=n: Potential(2, width=3, depth=n, key=KEY))
        assert field.step == step


@pytest.mark.parametrize("a", [0.0, -0.7, 300.0, -1000.0])
def test_log_cosh_and_its_derivatives(a):
    # log(exp(a) + exp(-a)) overflows from 710 on; its limit there is |a|.
    size = abs(a)
    expected = size + np.log1p(np.exp(-2 * size))
    assert float(log_cosh(jnp.asarray(a))) == pytest.approx(expected, rel=1e-15)
    tanh, derivative = np.tanh(a), log_cosh
    for value in (tanh, 1 - tanh**2, -2 * tanh * (1 - tanh**2)):
        derivative = jax.grad(derivative)
        assert float(derivative(jnp.asarray(a))) == pytest.approx(value, rel=1e-14, abs=1e-15)


def test_the_rank_is_ten_at_most_by_default():
    for d, rank in [(2, 3), (9, 10), (40, 10)]:
        field = eqx.filter_eval_shape(lambda d=d: Potential(d, width=3, key=KEY))
        assert field.quadratic.weight.shape == (d, rank)
    with pytest.raises(ValueError, match="rank=0 must be an integer >= 1"):
        Potential(2, width=3, rank=0, key=KEY)


def test_weights_of_time_alone_shift_the_potential_and_not_the_field():
    field = FIELDS["potential, depth 2"].field
    x = FIELDS["potential, depth 2"].x()
    gradient = jax.jit(jax.grad(lambda field: jnp.sum(field(T, x) ** 2)))(field)
    np.testing.assert_array_equal(gradient.linear.time, 0.0)
    slope = jax.jit(jax.grad(lambda field: field.potential(T, x)))(field).linear.time
    np.testing.assert_allclose(slope, T[None])


def test_the_gram_matrix_is_used_where_it_is_cheaper():
    # Two products of width^2 dim, against one of width^3 and two with the Gram matrix.
    narrow, wide = (
        eqx.filter_eval_shape(lambda d=d: prepare(Potential(d, width=4, depth=3, key=KEY)))
        for d in (6, 7)
    )
    assert narrow.gram is None
    assert wide.gram.shape == (4, 4)
    assert wide.first is None


def test_at_first_the_field_is_small():
    @jax.jit
    def compute(key):
        x = jax.random.normal(key, (43,))
        return Potential(43, width=64, depth=2, key=key)(T, x)

    value = compute(KEY)
    assert 0.01 < float(jnp.sqrt(jnp.mean(value**2))) < 0.3
