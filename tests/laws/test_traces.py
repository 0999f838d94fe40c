"""Every way to an exact trace gives the trace of the dense Jacobian, for every field."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tests.laws.fields import FIELDS

from jaxflow.trace import (
    exact_trace,
    has_closed_form,
    hutchinson_trace,
    jacobian_trace,
    prepare,
)

T = jnp.asarray(0.37)
DEEP = {
    *("mlp, depth 3", "concatsquash, depth 3", "function", "function, matrix events"),
    *("gated function", "sum with a function", "residual, condition, matrix events"),
}


@pytest.fixture(params=FIELDS)
def name(request):
    return request.param


def all_ways(case):
    """`f` and the trace by every way, of one compiled function."""

    @jax.jit
    def compute(t, x, cond):
        def value(x):
            return case.field(t, x) if cond is None else case.field(t, x, cond)

        size = x.size
        jacobian = jax.jacfwd(value)(x).reshape(size, size)
        prepared = prepare(case.field)
        # Probes that are scaled unit vectors leave nothing to chance: sum_i e_i^T J e_i.
        probes = size**0.5 * jnp.eye(size).reshape(size, *x.shape)
        ways = {
            "exact": exact_trace(case.field, t, x, cond),
            "prepared": exact_trace(prepared, t, x, cond),
            "probes": hutchinson_trace(case.field, t, x, probes, cond),
            "prepared field": (prepared(t, x, cond) if cond is not None else prepared(t, x),),
        }
        for chunk in (2, size):
            ways[f"chunks of {chunk}"] = jacobian_trace(case.field, t, x, cond, chunk=chunk)
        return value(x), jnp.trace(jacobian), ways

    return compute(T, case.x(), case.cond)


def check_traces(case):
    """Hold a field to the trace of its dense Jacobian."""
    f, trace, ways = all_ways(case)
    assert abs(float(trace)) > 1e-3
    for way, answer in ways.items():
        np.testing.assert_allclose(answer[0], f, rtol=1e-12, atol=1e-13, err_msg=way)
        if len(answer) == 2:
            np.testing.assert_allclose(answer[1], trace, rtol=1e-10, atol=1e-10, err_msg=way)


def test_traces_are_those_of_the_dense_jacobian(name):
    check_traces(FIELDS[name])


def test_which_fields_bring_a_closed_form(name):
    field = FIELDS[name].field
    assert has_closed_form(field) == (name not in DEEP)
    if name in DEEP:
        assert getattr(field, "with_trace", None) is None
        assert prepare(field) is field


@pytest.mark.parametrize("name", ["mlp, condition", "concatsquash, condition"])
def test_gradients_of_the_trace_in_weights_and_time(name):
    case = FIELDS[name]

    def closed(field, t):
        return exact_trace(prepare(field), t, case.x(), case.cond)[1]

    def brute(field, t):
        return jacobian_trace(field, t, case.x(), case.cond)[1]

    one, other = (jax.jit(jax.grad(f, argnums=(0, 1)))(case.field, T) for f in (closed, brute))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-10), one, other)


@pytest.mark.parametrize(
    "name", ["mlp, depth 1", "mlp, time in the first", "concatsquash, depth 1"]
)
def test_field_and_trace_see_time(name):
    case = FIELDS[name]
    (f, trace), (later, later_trace) = (
        exact_trace(case.field, t, case.x(), case.cond) for t in (T, T + 1.0)
    )
    assert float(jnp.max(jnp.abs(later - f))) > 1e-3
    assert abs(float(later_trace - trace)) > 1e-3


@pytest.mark.parametrize("name", ["mlp, tanh", "concatsquash, condition", "linear"])
def test_float32_stays_float32(name):
    case = FIELDS[name]
    cast = lambda tree: jax.tree.map(lambda w: w.astype(jnp.float32), tree)  # noqa: E731
    x, cond = cast(case.x()), cast(case.cond)
    f, trace = exact_trace(cast(case.field), cast(T), x, cond)
    assert f.dtype == trace.dtype == jnp.float32
    exact = exact_trace(case.field, T, case.x(), case.cond)[1]
    assert float(trace) == pytest.approx(float(exact), rel=1e-4)
