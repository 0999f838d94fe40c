"""A field in fewer bits moves states that keep theirs."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxflow import CNF, StandardNormal, load, save
from jaxflow.dynamics import MLP, Rounded, Sum, unrounded
from jaxflow.trace import exact_trace

NET = MLP(5, width=8, depth=2, key=jax.random.key(0))
T, X = jnp.asarray(0.3), jnp.linspace(-1, 1, 5)


@pytest.mark.parametrize(("dtype", "error"), [("bfloat16", 2**-8), ("float32", 2**-23)])
def test_values_and_traces_are_those_of_rounded_weights(dtype, error):
    field = Rounded(NET, dtype)
    f, trace = exact_trace(field.prepare(), T, X)
    true_f, true_trace = exact_trace(NET, T, X)
    assert f.dtype == trace.dtype == X.dtype
    np.testing.assert_allclose(f, true_f, atol=8 * error)
    np.testing.assert_allclose(trace, true_trace, atol=8 * error)
    assert jnp.max(jnp.abs(f - true_f)) > error / 100
    np.testing.assert_array_equal(field(T, X), f)


def test_products_of_matrices_have_few_bits():
    text = str(jax.make_jaxpr(Rounded(NET))(T, X))
    products = [line for line in text.splitlines() if "dot_general" in line]
    assert products
    assert all("bf16" in line for line in products)


def test_gradients_reach_the_weights_in_their_own_precision():
    slope = eqx.filter_grad(lambda field: jnp.sum(field(T, X)))(Rounded(NET))
    leaves = jax.tree.leaves(slope)
    assert all(leaf.dtype == X.dtype for leaf in leaves)
    assert any(bool(jnp.any(leaf != 0)) for leaf in leaves)


@pytest.mark.slow
def test_log_densities_keep_their_precision(tmp_path):
    flow = CNF(Rounded(NET), StandardNormal((5,)))
    x = jax.random.normal(jax.random.key(1), (6, 5))
    log_p = flow.log_prob_rows(x)[0]
    assert log_p.dtype == x.dtype
    full = unrounded(flow).log_prob(x)
    np.testing.assert_array_equal(full, CNF(NET, flow.base).log_prob(x))
    np.testing.assert_allclose(log_p, full, atol=0.1)
    save(tmp_path / "flow", flow)
    assert load(tmp_path / "flow").field.dtype == "bfloat16"


def test_rounding_inside_a_rounded_field_goes_too():
    assert eqx.tree_equal(unrounded(Rounded(Sum((Rounded(NET), NET)))), Sum((NET, NET)))


def test_a_rounded_field_has_a_closed_form_only_if_the_field_has():
    assert Rounded(lambda t, x: x).with_trace is None


def test_wrong_arguments_are_named():
    with pytest.raises(ValueError, match="dtype='int8' is unknown; choose one of 'bfloat16'"):
        Rounded(NET, "int8")
    with pytest.raises(TypeError, match="field=3"):
        Rounded(3)
