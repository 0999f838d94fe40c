"""Random weights of layers."""

import jax
import numpy as np
import pytest

from jaxflow.dynamics.weights import SMALLEST, normal_weights


@pytest.mark.parametrize("shape", [(), (3,), (64, 65), (3, 3, 8, 200), (SMALLEST,)])
@pytest.mark.parametrize("impl", ["threefry2x32", "rbg"])
def test_weights_have_the_bits_of_a_draw_of_their_shape(shape, impl):
    key = jax.random.key(3, impl=impl)
    weights = normal_weights(key, shape, 0.3)
    np.testing.assert_array_equal(weights, 0.3 * jax.random.normal(key, shape))
    assert weights.dtype == float
    traced = jax.jit(lambda key: normal_weights(key, shape, 0.3))(key)
    np.testing.assert_allclose(traced, weights, rtol=1e-12)


def test_a_legacy_key_is_a_key():
    key = jax.random.PRNGKey(0)
    np.testing.assert_array_equal(normal_weights(key, (5,)), jax.random.normal(key, (5,)))


def test_float32_stays_float32():
    with jax.enable_x64(False):
        assert normal_weights(jax.random.key(0), (4, 2)).dtype == np.float32
