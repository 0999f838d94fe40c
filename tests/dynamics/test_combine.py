"""Values and traces of a sum add up; a gate scales both."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tests.laws.fields import FIELDS, swirl

from jaxflow.dynamics import MLP, Gated, Hollow, Linear, Sum
from jaxflow.trace import exact_trace, has_closed_form, jacobian_trace, prepare

T = jnp.asarray(0.3)
KEY, OTHER = jax.random.split(jax.random.key(0))


def test_values_and_traces_of_a_sum_add_up():
    case = FIELDS["sum"]
    pairs = [exact_trace(part, T, case.x()) for part in case.field.fields]
    value, trace = exact_trace(case.field, T, case.x())
    assert len(pairs) == 3
    np.testing.assert_allclose(value, sum(v for v, _ in pairs), rtol=1e-14)
    np.testing.assert_allclose(trace, sum(tr for _, tr in pairs), rtol=1e-14)


def test_a_gate_scales_value_and_trace():
    gated = FIELDS["gated"].field
    x = FIELDS["gated"].x()
    g = 2 / (1 + jnp.exp(-(T * gated.gate.time[0] + gated.gate.bias[0])))
    assert abs(float(g) - 1) > 1e-3
    value, trace = exact_trace(gated, T, x)
    inner, inner_trace = exact_trace(gated.field, T, x)
    np.testing.assert_allclose(value, g * inner, rtol=1e-14)
    np.testing.assert_allclose(trace, g * inner_trace, rtol=1e-14)


def test_at_first_a_gate_is_open():
    gated = Gated(Linear(2, key=KEY), key=OTHER)
    x = jnp.ones(2)
    for t, tolerance in [(0.0, 1e-15), (0.5, 0.2), (1.0, 0.3)]:
        ratio = gated(jnp.asarray(t), x) / gated.field(jnp.asarray(t), x)
        np.testing.assert_allclose(ratio, 1.0, atol=tolerance)


def test_a_gate_takes_one_time_a_row():
    gated = FIELDS["gated"].field
    x, t = jnp.stack([FIELDS["gated"].x(i) for i in (0, 1)]), jnp.asarray([0.1, 0.9])
    rows = jax.vmap(gated.with_trace)(t, x)
    for i in (0, 1):
        one = gated.with_trace(t[i], x[i])
        np.testing.assert_allclose(rows[0][i], one[0], rtol=1e-12)
        np.testing.assert_allclose(rows[1][i], one[1], rtol=1e-12)


def test_one_part_without_a_closed_form_leaves_none():
    mlp, deep = MLP(5, width=3, key=KEY), MLP(5, width=3, depth=3, key=KEY)
    for parts in [(mlp, swirl), (mlp, deep), (Gated(swirl, key=KEY), mlp), (Sum((deep,)),)]:
        field = Sum(parts)
        assert not has_closed_form(field)
        assert prepare(field) is field
        x = jnp.linspace(-1.0, 1.0, 5)
        apart = sum(exact_trace(part, T, x)[1] for part in parts)
        np.testing.assert_allclose(jacobian_trace(field, T, x)[1], apart, rtol=1e-12)


def test_each_part_is_prepared():
    def make():
        gated = Gated(Hollow(3, width=4, key=KEY), key=OTHER)
        return prepare(Sum((MLP(3, width=4, key=KEY), gated, Linear(3, key=KEY))))

    field = eqx.filter_eval_shape(make)
    assert isinstance(field, Sum)
    assert isinstance(field.fields[1], Gated)
    names = [type(part).__name__ for part in (*field.fields, field.fields[1].field)]
    assert names == ["Prepared", "Gated", "Linear", "Masked"]


def test_a_function_without_a_condition_is_a_part():
    gated = Gated(lambda t, x: x * t, key=KEY)
    field = Sum((lambda t, x: -x, gated))
    gate = 2 * jax.nn.sigmoid(gated.gate.context(T, None)[0])
    np.testing.assert_allclose(field(T, jnp.ones(3)), (-1 + gate * T) * jnp.ones(3), rtol=1e-14)


def test_gradients_reach_every_part():
    field = FIELDS["sum"].field
    x = FIELDS["sum"].x()

    def closed(field):
        return exact_trace(prepare(field), T, x)[1]

    def brute(field):
        return jacobian_trace(field, T, x)[1]

    one, other = (jax.jit(jax.grad(trace))(field) for trace in (closed, brute))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-10), one, other)
    for part in one.fields[:2]:
        assert float(jnp.abs(part.gate.time[0])) > 1e-6


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_values_keep_their_precision_and_traces_have_32_bits(dtype):
    case = FIELDS["sum"]
    inputs = jax.tree.map(lambda w: w.astype(dtype), (case.field, T, case.x()))
    value, trace = jax.jit(exact_trace)(*inputs)
    assert value.dtype == dtype
    assert trace.dtype == jnp.float32


def test_no_fields_are_refused():
    with pytest.raises(ValueError, match=r"fields=\(\) is empty: a sum needs at least one field"):
        Sum(())


def test_a_part_that_is_not_callable_is_refused_by_its_place():
    words = r"fields\[1\]=3.0 must be a field or a function f\(t, x, cond=None\)"
    with pytest.raises(TypeError, match=words):
        Sum((swirl, 3.0))
    with pytest.raises(TypeError, match="field='mlp' must be a field or a function"):
        Gated("mlp", key=KEY)
