"""The exact trace of a function: one evaluation, memory by chunks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxflow.trace import exact_trace, jacobian_trace

T = jnp.asarray(0.5)


def test_a_trace_worked_out_by_hand():
    # f = (x1^2 x2, x1 + sin(t x2)): tr = 2 x1 x2 + t cos(t x2).
    def f(t, x):
        return jnp.stack([x[0] ** 2 * x[1], x[0] + jnp.sin(t * x[1])])

    value, trace = exact_trace(f, T, jnp.asarray([3.0, 0.8]))
    np.testing.assert_allclose(value, [7.2, 3 + np.sin(0.4)], rtol=1e-14)
    assert float(trace) == pytest.approx(4.8 + 0.5 * np.cos(0.4), rel=1e-14)


def test_a_field_brings_its_own_trace():
    class Field:
        def __call__(self, t, x):
            return x

        def with_trace(self, t, x):
            return x, jnp.asarray(42.0)

    assert float(exact_trace(Field(), T, jnp.ones(3))[1]) == 42.0
    assert float(jacobian_trace(Field(), T, jnp.ones(3))[1]) == 3.0


def test_the_field_is_evaluated_once():
    calls = []

    def f(t, x):
        jax.debug.callback(lambda: calls.append(1))
        return x**3

    _, trace = jax.jit(lambda x: jacobian_trace(f, T, x, chunk=2))(jnp.arange(5.0))
    jax.effects_barrier()
    assert float(trace) == 3 * (0 + 1 + 4 + 9 + 16)
    assert len(calls) == 1


@pytest.mark.parametrize("chunk", [1, 2, 5, 14])
def test_any_chunk_gives_the_same_trace(chunk):
    _, trace = jacobian_trace(lambda t, x: t * x**3 + x[::-1], T, jnp.arange(5.0), chunk=chunk)
    # The reversal adds the middle entry's 1.
    assert float(trace) == 0.5 * 90 + 1


def test_under_vmap_each_row_has_its_own_trace():
    x = jnp.asarray([[1.0, 2.0, 3.0], [0.0, -1.0, 5.0]])
    _, traces = jax.vmap(lambda x: jacobian_trace(lambda t, x: x**2 * t, T, x, chunk=2))(x)
    np.testing.assert_allclose(traces, jnp.sum(x, axis=1), rtol=1e-14)
