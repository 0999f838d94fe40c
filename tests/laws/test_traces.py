"""Every way to an exact trace gives the trace of the dense Jacobian, for every field."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxflow.trace import (
    exact_trace,
    has_closed_form,
    hutchinson_trace,
    jacobian_trace,
    prepare,
)
from tests.laws.fields import FIELDS

T = jnp.asarray(0.37)
DEEP = {"mlp, depth 3", "concatsquash, depth 3", "function", "function, matrix events"}


@pytest.fixture(params=FIELDS)
def name(request):
    return request.param


def value(case, x):
    return case.field(T, x) if case.cond is None else case.field(T, x, case.cond)


def test_traces_are_those_of_the_dense_jacobian(name):
    case = FIELDS[name]
    x = case.x()
    size = x.size
    jacobian = jax.jacfwd(lambda x: value(case, x))(x).reshape(size, size)
    f, trace = value(case, x), jnp.trace(jacobian)
    assert abs(float(trace)) > 1e-3

    prepared = prepare(case.field)
    answers = {
        "exact": exact_trace(case.field, T, x, case.cond),
        "prepared": exact_trace(prepared, T, x, case.cond),
        **{
            f"chunks of {chunk}": jacobian_trace(case.field, T, x, case.cond, chunk=chunk)
            for chunk in {1, 2, size, size + 9}
        },
    }
    # Probes that are the scaled unit vectors leave nothing to chance: sum_i e_i^T J e_i.
    probes = jnp.sqrt(size) * jnp.eye(size).reshape(size, *x.shape)
    answers["probes"] = hutchinson_trace(case.field, T, x, probes, case.cond)
    for way, (f_of_way, trace_of_way) in answers.items():
        np.testing.assert_allclose(f_of_way, f, rtol=1e-12, atol=1e-13, err_msg=way)
        np.testing.assert_allclose(trace_of_way, trace, rtol=1e-10, atol=1e-10, err_msg=way)

    if case.cond is None:
        np.testing.assert_allclose(prepared(T, x), f, rtol=1e-13)
    else:
        np.testing.assert_allclose(prepared(T, x, case.cond), f, rtol=1e-13)


def test_which_fields_bring_a_closed_form(name):
    field = FIELDS[name].field
    assert has_closed_form(field) == (name not in DEEP)
    if name in DEEP:
        assert getattr(field, "with_trace", None) is None
        assert prepare(field) is field


@pytest.mark.parametrize(
    "name", ["mlp, tanh", "mlp, condition", "concatsquash, depth 2", "concatsquash, condition"]
)
def test_gradients_of_the_trace_in_weights_and_time(name):
    case = FIELDS[name]

    def closed(field, t):
        return exact_trace(prepare(field), t, case.x(), case.cond)[1]

    def brute(field, t):
        return jacobian_trace(field, t, case.x(), case.cond)[1]

    one, other = (jax.grad(f, argnums=(0, 1))(case.field, T) for f in (closed, brute))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-10), one, other
    )


def test_a_field_sees_time(name):
    case = FIELDS[name]
    if name.startswith("linear"):
        pytest.skip("does not depend on time")
    x = case.x()
    f, trace = exact_trace(case.field, T, x, case.cond)
    later, later_trace = exact_trace(case.field, T + 1.0, x, case.cond)
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
