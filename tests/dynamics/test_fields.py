"""Sizes, conditions and events of the fields."""

from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tests.laws.fields import FIELDS

from jaxflow.dynamics import MLP, ConcatSquash, Linear
from jaxflow.trace import has_closed_form

T = jnp.asarray(0.3)
KEY = jax.random.key(0)


def test_an_mlp_follows_its_equation():
    field = MLP(2, width=3, depth=2, cond_dim=1, key=KEY)
    x, c, t = np.array([0.5, -1.0]), np.array([2.0]), float(T)
    h = x
    for i, layer in enumerate(jax.tree.map(np.asarray, field.layers)):
        assert layer.weight is not None
        assert layer.bias is not None
        assert layer.time is not None
        assert layer.cond is not None
        a = h @ layer.weight + layer.bias + t * layer.time + c @ layer.cond
        h = a if i == 2 else np.tanh(a)
    value = eqx.filter_jit(field)(T, jnp.asarray(x), jnp.asarray(c))
    np.testing.assert_allclose(value, h, rtol=1e-14)


def test_a_concatsquash_layer_follows_its_equation():
    field = FIELDS["concatsquash, depth 1"].field
    x = FIELDS["concatsquash, depth 1"].x()
    h, t = np.asarray(x), float(T)
    for i, layer in enumerate(jax.tree.map(np.asarray, field.layers)):
        gate = 1 / (1 + np.exp(-(layer.gate.bias + t * layer.gate.time)))
        a = (h @ layer.affine.weight + layer.affine.bias) * gate + t * layer.shift.time
        h = a if i == 1 else np.tanh(a)
    np.testing.assert_allclose(eqx.filter_jit(field)(T, x), h, rtol=1e-14)


def test_a_linear_field_is_a_matrix_product():
    a = jnp.asarray([[1.0, 2.0], [3.0, 4.0]])
    np.testing.assert_allclose(Linear(matrix=a)(T, jnp.asarray([1.0, -1.0])), [-1.0, -1.0])


def test_a_matrix_of_integers_holds_floats_and_is_square():
    assert Linear(matrix=[[0, 1], [-1, 0]]).matrix.dtype == T.dtype
    with pytest.raises(ValueError, match=r"matrix has shape \(2, 3\): give \(dim, dim\)"):
        Linear(matrix=np.ones((2, 3)))


@pytest.mark.parametrize("name", FIELDS)
def test_events_keep_their_shape_and_conditions_count(name):
    case = FIELDS[name]
    x = case.x()
    if case.cond is None:
        assert eqx.filter_eval_shape(case.field, T, x).shape == case.event_shape
        return

    @jax.jit
    def answers(cond):
        of = partial(case.field, T, x)
        return of(cond), of(cond + 1.0), of(cond[:, None])

    f, other, column = map(np.asarray, answers(case.cond))
    assert f.shape == case.event_shape
    assert np.max(np.abs(other - f)) > 1e-3
    np.testing.assert_array_equal(column, f)


@pytest.mark.parametrize("field", [MLP, ConcatSquash])
def test_weights_follow_the_key(field):
    one, same, other = (
        jax.tree.leaves(field(3, width=4, key=key)) for key in (KEY, KEY, jax.random.key(1))
    )
    assert all(np.array_equal(a, b) for a, b in zip(one, same, strict=True))
    assert not all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


SIZES = {
    "dim": ({"dim": 0}, "dim=0 must be an integer >= 1"),
    "width": ({"dim": 2, "width": -3}, "width=-3 must be"),
    "depth": ({"dim": 2, "depth": 0}, "depth=0 must be"),
    "cond_dim": ({"dim": 2, "cond_dim": -1}, "cond_dim=-1 must be an integer >= 0"),
}


@pytest.mark.parametrize("field", [MLP, ConcatSquash])
@pytest.mark.parametrize(("sizes", "words"), SIZES.values(), ids=SIZES)
def test_sizes_out_of_range_are_refused(field, sizes, words):
    with pytest.raises(ValueError, match=words):
        field(**sizes, key=KEY)


def test_an_unknown_place_for_time_is_refused():
    with pytest.raises((ValueError, TypeError), match=r"(?s)time.*'last'"):
        MLP(2, time="last", key=KEY)  # pyright: ignore[reportArgumentType]


FIELDS_OF_TWO = {
    "mlp": lambda cond_dim: MLP(2, width=3, cond_dim=cond_dim, key=KEY),
    "concatsquash": lambda cond_dim: ConcatSquash(2, width=3, cond_dim=cond_dim, key=KEY),
    "linear": lambda cond_dim: Linear(2, cond_dim=cond_dim, key=KEY),
}


@pytest.mark.parametrize("make", FIELDS_OF_TWO.values(), ids=FIELDS_OF_TWO)
def test_events_and_conditions_of_another_size_are_refused(make):
    x = jnp.ones(2)
    with pytest.raises(ValueError, match=r"x has shape \(3,\), so 3 entries.*made for 2"):
        make(0)(T, jnp.ones(3))
    with pytest.raises(ValueError, match="was made with cond_dim=2: pass cond of shape"):
        make(2)(T, x)
    with pytest.raises(ValueError, match=r"a model without conditions: make it with cond_dim=2"):
        make(0)(T, x, jnp.ones(2))
    with pytest.raises(ValueError, match=r"cond has shape \(3,\), so 3 entries.*made for 2"):
        make(2)(T, x, jnp.ones(3))


def test_a_linear_field_needs_a_matrix_or_a_size():
    words = r"write Linear\(matrix=A\), or Linear\(dim, key=key\)"
    with pytest.raises(ValueError, match=words):
        Linear()  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match=words):
        Linear(2)
    with pytest.raises(ValueError, match=words):
        Linear(2, matrix=jnp.eye(2), key=KEY)
    with pytest.raises(ValueError, match="cond_dim=1 needs key="):
        Linear(matrix=jnp.eye(2), cond_dim=1)


def test_a_frequency_multiplies_the_first_layer_alone():
    plain, quick = (MLP(3, width=5, frequency=f, key=jax.random.key(0)) for f in (1.0, 4.0))
    np.testing.assert_array_equal(quick.layers[0].weight, 4 * plain.layers[0].weight)
    for one, other in zip(plain.layers[1:], quick.layers[1:], strict=True):
        np.testing.assert_array_equal(one.weight, other.weight)
    with pytest.raises(ValueError, match=r"frequency=0\.0 must be a positive number"):
        MLP(3, frequency=0.0, key=jax.random.key(0))


def test_to_ask_for_a_closed_form_computes_nothing(monkeypatch):
    monkeypatch.setattr("jaxflow.dynamics.mlp.trace_weights", None)
    assert has_closed_form(MLP(3, width=5, key=KEY))
    assert not has_closed_form(MLP(3, width=5, depth=3, key=KEY))
