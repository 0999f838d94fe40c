"""The conditioner never sees its own entry, always sees the others, and the trace is exact."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tests.laws.fields import FIELDS, grown

from jaxflow.dynamics import Hollow
from jaxflow.dynamics.hollow import conditioner_masks
from jaxflow.trace import exact_trace, prepare

T = jnp.asarray(0.3)
KEY = jax.random.key(0)
HOLLOWS = [name for name in FIELDS if name.startswith("hollow")]


@pytest.mark.parametrize("name", HOLLOWS)
def test_the_jacobian_of_the_conditioner_is_hollow_and_full_beside_the_diagonal(name):
    case = FIELDS[name]
    size = case.x().size

    def features(flat):
        return prepare(case.field).conditioner(T, flat.reshape(case.event_shape), case.cond)

    jacobian = jax.jit(jax.jacfwd(features))(case.x().reshape(size))
    assert jacobian.shape == (size, 2 * case.field.features, size)
    i, j = np.arange(size), np.arange(size)
    np.testing.assert_array_equal(jacobian[i, :, i], 0.0)
    below, above = np.split(np.asarray(jacobian), 2, axis=1)
    lower = (j[None, :] < i[:, None])[:, None, :]
    assert np.array_equal(below != 0, np.broadcast_to(lower, below.shape))
    upper = (j[None, :] > i[:, None])[:, None, :]
    assert np.array_equal(above != 0, np.broadcast_to(upper, above.shape))


@pytest.mark.parametrize("name", ["hollow, depth 3", "hollow, matrix events", "hollow, condition"])
def test_every_entry_depends_on_every_entry(name):
    case = FIELDS[name]
    jacobian = jax.jit(jax.jacfwd(lambda x: case.field(T, x, case.cond)))(case.x())
    assert float(jnp.min(jnp.abs(jacobian))) > 0.0


def test_the_trace_is_exact_at_200_entries():
    make = lambda: Hollow(200, width=199, depth=1, features=2, key=KEY)  # noqa: E731
    field = grown(eqx.filter_eval_shape(make))
    x = jax.random.normal(KEY, (200,))

    @jax.jit
    def both(x):
        return exact_trace(prepare(field), T, x), jax.jacfwd(lambda x: field(T, x))(x)

    (_, trace), jacobian = both(x)
    assert abs(float(trace)) > 1.0
    assert float(trace) == pytest.approx(float(jnp.trace(jacobian)), rel=1e-12)


def test_masked_weights_get_no_gradient_and_all_others_some():
    case = FIELDS["hollow, depth 2"]

    def loss(field):
        value, trace = exact_trace(field, T, case.x())
        return jnp.sum(value**2) + trace

    gradient = jax.jit(jax.grad(loss))(case.field)
    masks = conditioner_masks(5, 7, 2, case.field.features)
    for layer, mask in zip(gradient.conditioner, masks, strict=True):
        np.testing.assert_array_equal(np.asarray(layer.weight)[~mask], 0.0)
        assert float(np.mean(np.asarray(layer.weight)[mask] != 0)) > 0.7


def test_every_leaf_is_trained():
    assert all(
        jnp.issubdtype(w.dtype, jnp.floating) for w in jax.tree.leaves(FIELDS[HOLLOWS[0]].field)
    )


@pytest.mark.parametrize(("dim", "width"), [(1, 3), (2, 1), (5, 4), (5, 9), (12, 64)])
def test_masks_are_autoregressive_and_mirrored(dim, width):
    masks = conditioner_masks(dim, width, 3, 2)
    assert [mask.shape for mask in masks] == [
        (2, dim, width),
        (2, width, width),
        (2, width, width),
        (2, width, 2 * dim),
    ]
    below, above = (
        np.linalg.multi_dot([mask[k].astype(float) for mask in masks]).reshape(dim, dim, 2)
        for k in (0, 1)
    )
    # Entry (j, i): the number of paths from x_j to the features of x_i.
    for feature in range(2):
        np.testing.assert_array_equal(below[..., feature] > 0, np.triu(np.ones((dim, dim)), 1) > 0)
        np.testing.assert_array_equal(
            above[..., feature] > 0, np.tril(np.ones((dim, dim)), -1) > 0
        )
    np.testing.assert_array_equal(below[::-1, ::-1], above)


@pytest.mark.slow
def test_at_first_units_are_of_ordinary_size_for_any_number_of_inputs():
    @jax.jit
    def compute(key):
        field = prepare(Hollow(100, width=128, depth=1, key=key))
        x = jax.random.normal(key, (500, 100))
        return x @ field.field.conditioner[0].weight[0], jax.vmap(lambda x: field(T, x))(x)

    a, value = compute(KEY)
    sizes = np.std(np.asarray(a), axis=0)
    assert 0.5 < np.mean(sizes[:16]) < 1.5
    assert 0.8 < np.mean(sizes[-16:]) < 1.2
    assert 0.01 < float(jnp.std(value)) < 0.3


@pytest.mark.parametrize("name", ["features", "transformer_width"])
def test_sizes_out_of_range_are_refused(name):
    with pytest.raises(ValueError, match=f"{name}=0 must be an integer >= 1"):
        Hollow(3, width=4, **{name: 0}, key=KEY)  # pyright: ignore[reportArgumentType]


def test_a_width_that_would_cut_entries_off_is_refused():
    words = "width=8 must be at least dim - 1 = 9.*write width=9 or more"
    with pytest.raises(ValueError, match=words):
        Hollow(10, width=8, key=KEY)
