"""Which activations a field takes: smooth ones, and no kinks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxflow.dynamics import ACTIVATIONS, MLP, ConcatSquash
from jaxflow.dynamics.activations import value_and_slope
from jaxflow.dynamics.sine import cosine, sine


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_value_and_slope_of_each(name):
    a = jnp.linspace(-3.0, 3.0, 7)
    value, slope = value_and_slope(name, a)
    np.testing.assert_allclose(value, ACTIVATIONS[name](a), rtol=1e-14)
    h = 1e-5
    difference = (ACTIVATIONS[name](a + h) - ACTIVATIONS[name](a - h)) / (2 * h)
    np.testing.assert_allclose(slope, difference, atol=1e-9)


@pytest.mark.parametrize("field", [MLP, ConcatSquash])
@pytest.mark.parametrize(
    "activation", ["relu", "leaky_relu", "hard_tanh", jax.nn.relu, jax.nn.selu]
)
def test_kinks_are_refused_with_the_reason(field, activation):
    words = r"has a kink: the trace of df/dx would jump.*choose one of \['tanh', 'softplus'"
    with pytest.raises(ValueError, match=words):
        field(2, width=3, activation=activation, key=jax.random.key(0))


@pytest.mark.parametrize("activation", [jax.nn.elu, jax.nn.celu])
def test_a_continuous_slope_is_no_kink(activation):
    _, slope = value_and_slope(activation, jnp.asarray([-1e-9, 1e-9]))
    np.testing.assert_allclose(slope, 1.0, atol=1e-8)
    MLP(2, width=3, activation=activation, key=jax.random.key(0))


def test_a_kink_by_its_other_name_is_refused():
    with pytest.raises(ValueError, match="has a kink"):
        MLP(2, width=3, activation=jax.nn.hard_swish, key=jax.random.key(0))


@pytest.mark.parametrize("field", [MLP, ConcatSquash])
def test_an_unknown_name_lists_the_known_ones(field):
    with pytest.raises(ValueError, match=r"activation='tan' is unknown; choose one of 'tanh',"):
        field(2, width=3, activation="tan", key=jax.random.key(0))


@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [(jnp.float32, 4e-7), pytest.param(jnp.float64, 4e-16, marks=pytest.mark.slow)],
)
def test_the_sine_is_the_sine_to_its_second_derivative(dtype, tolerance):
    x = jnp.linspace(-50, 50, 20_001, dtype=dtype)
    exact = np.asarray(x, np.longdouble)
    slope = jax.jit(jax.vmap(jax.grad(sine)))
    curve = jax.jit(jax.vmap(jax.grad(jax.grad(sine))))
    for found, expected in ((sine, np.sin), (cosine, np.cos), (slope, np.cos), (curve, minus_sin)):
        assert found(x).dtype == dtype
        np.testing.assert_allclose(
            np.asarray(found(x), np.longdouble), expected(exact), rtol=0, atol=tolerance
        )
    assert jnp.isnan(sine(jnp.asarray([jnp.inf, jnp.nan], dtype))).all()


def minus_sin(x):
    return -np.sin(x)


def test_the_sine_is_bounded_everywhere():
    x = jnp.concatenate([jnp.geomspace(1.0, 1e38, 2000), -jnp.geomspace(1.0, 1e38, 2000)])
    assert float(jnp.abs(sine(x.astype(jnp.float32))).max()) <= 1.0 + 1e-6
    assert float(jnp.abs(sine(x)).max()) <= 1.0
