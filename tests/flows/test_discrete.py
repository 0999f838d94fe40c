"""Coupling layers compared with the change of variables by a dense Jacobian."""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxflow.bases import DiagonalNormal, StandardNormal
from jaxflow.density import dense_log_det
from jaxflow.flows.coupling import LOG_SCALE_BOUND, CouplingFlow
from jaxflow.flows.flow import Flow
from jaxflow.io.checkpoint import load, save
from jaxflow.training.trainable import combine_trainable, partition_trainable
from jaxflow.transforms import Standardise

SIZES = {"num_layers": 4, "width": 8, "depth": 2}


def make(dim, key, *, scale=0.2, **settings):
    """A flow whose weights and biases, zeros included, have random numbers added."""
    flow = CouplingFlow(dim, key=key, **(SIZES | settings))
    weights, rest = partition_trainable(flow)
    # By NumPy: JAX would compile its generator once for each shape.
    rng = np.random.default_rng(np.asarray(jax.random.key_data(key)))
    return combine_trainable(
        jax.tree.map(lambda leaf: leaf + scale * rng.standard_normal(leaf.shape), weights), rest
    )


def normal(key, shape):
    rng = np.random.default_rng(np.asarray(jax.random.key_data(jax.random.fold_in(key, 7))))
    return jnp.asarray(rng.standard_normal(shape))


def rows_and_cond(dim, cond_dim, count, key):
    x = normal(key, (count, dim + cond_dim))
    return x[:, :dim], x[:, dim:] if cond_dim else None


# Compiled whole: one program for each flow.
log_det_of = jax.jit(dense_log_det, static_argnums=0)
to_base = eqx.filter_jit(lambda flow, x, cond: jax.vmap(flow.to_base)(x, cond))
from_base = eqx.filter_jit(lambda flow, z, cond: jax.vmap(flow.from_base)(z, cond))


@pytest.mark.parametrize("shape", [(), (1,), (3,), (2, 3)])
def test_dense_log_det_of_a_linear_map_is_that_of_its_matrix(shape, key):
    size = math.prod(shape)
    matrix, x = normal(key, (size, size)), normal(jax.random.fold_in(key, 1), shape)
    y, log_det = log_det_of(lambda x: (matrix @ x.reshape(-1)).reshape(shape), x)
    np.testing.assert_allclose(np.ravel(y), matrix @ x.reshape(-1), rtol=1e-14)
    assert y.shape == shape
    np.testing.assert_allclose(log_det, np.log(abs(np.linalg.det(matrix))), rtol=0, atol=1e-13)


def test_dense_log_det_of_an_elementwise_map_is_the_sum_of_its_log_slopes(key):
    x = normal(key, (2, 3))
    # The transpose permutes entries, which leaves |det| alone.
    y, log_det = log_det_of(lambda x: jnp.sinh(x).T, x)
    assert y.shape == (3, 2)
    np.testing.assert_allclose(log_det, np.log(np.cosh(x)).sum(), rtol=1e-13)


def test_dense_log_det_evaluates_its_map_once(key):
    calls = []

    def g(x):
        calls.append(x)
        return 2.0 * x

    dense_log_det(g, jax.random.normal(key, (3,)))
    assert len(calls) == 1


def test_dense_log_det_of_a_singular_map_is_minus_infinity():
    _, log_det = dense_log_det(lambda x: jnp.stack([x[0], x[0]]), jnp.ones(2))
    assert log_det == -jnp.inf


def test_dense_log_det_refuses_a_jacobian_that_is_not_square():
    with pytest.raises(ValueError, match=r"shape \(3,\) to shape \(2,\): 3 entries to 2"):
        dense_log_det(lambda x: x[:2], jnp.ones(3))


@pytest.mark.parametrize(
    ("dim", "cond_dim"),
    [(5, 2), *(pytest.param(dim, 0, marks=pytest.mark.slow) for dim in (2, 3))],
)
def test_log_prob_is_the_change_of_variables_by_the_dense_jacobian(dim, cond_dim, key):
    flow = make(dim, key, cond_dim=cond_dim)
    x, cond = rows_and_cond(dim, cond_dim, 16, jax.random.fold_in(key, 2))

    def expected(x, cond):
        z, log_det = dense_log_det(lambda x: flow.to_base(x, cond)[0], x)
        return flow.base.log_prob(z) + log_det

    want, base = jax.jit(jax.vmap(lambda *row: (expected(*row), flow.base.log_prob(row[0]))))(
        x, cond
    )
    assert np.std(want - base) > 0.1
    np.testing.assert_allclose(flow.log_prob(x, cond), want, rtol=0, atol=1e-10)


def test_log_prob_counts_the_transform_and_the_base(key):
    transform = Standardise(jnp.array([1.0, -2.0, 0.5]), jnp.array([2.0, 0.3, 5.0]))
    base = DiagonalNormal(jnp.array([0.1, 0.2, 0.3]), jnp.array([1.5, 0.5, 1.0]))
    flow = make(3, key, base=base, transform=transform)
    x = normal(key, (8, 3))

    @jax.jit
    @jax.vmap
    def expected(x):
        z, log_det = dense_log_det(lambda x: flow.to_base(transform.forward(x)[0])[0], x)
        return base.log_prob(z) + log_det

    np.testing.assert_allclose(flow.log_prob(x), expected(x), rtol=0, atol=1e-10)
    drawn, log_p = flow.sample_and_log_prob(jax.random.fold_in(key, 3), 64)
    np.testing.assert_allclose(log_p, flow.log_prob(drawn), rtol=0, atol=1e-10)


def test_events_of_any_shape_are_vectors_of_their_entries(key):
    flow = make(6, key)
    shaped = make(6, key, base=StandardNormal((2, 3)))
    x = normal(key, (4, 2, 3))
    np.testing.assert_array_equal(shaped.log_prob(x), flow.log_prob(x.reshape(4, 6)))
    assert shaped.sample(key, (4, 5)).shape == (4, 5, 2, 3)


@pytest.mark.parametrize(("dim", "cond_dim"), [(2, 0), (5, 2)])
def test_the_two_directions_are_inverse_and_their_log_determinants_opposite(dim, cond_dim, key):
    flow = make(dim, key, cond_dim=cond_dim)
    z, cond = rows_and_cond(dim, cond_dim, 16, jax.random.fold_in(key, 2))
    u, forwards = from_base(flow, z, cond)
    back, backwards = to_base(flow, u, cond)
    assert np.max(np.abs(np.asarray(u) - z)) > 0.1
    np.testing.assert_allclose(back, z, rtol=0, atol=1e-12)
    np.testing.assert_allclose(backwards, -np.asarray(forwards), rtol=0, atol=1e-12)


@pytest.mark.parametrize("cond_dim", [0, 2])
def test_samples_come_with_their_log_densities(cond_dim, key):
    flow = make(3, key, cond_dim=cond_dim)
    cond = normal(key, (50, cond_dim)) if cond_dim else None
    x, log_p = flow.sample_and_log_prob(key, 50, cond)
    np.testing.assert_allclose(log_p, flow.log_prob(x, cond), rtol=0, atol=1e-10)
    np.testing.assert_array_equal(x, flow.sample(key, 50, cond))
    assert np.std(log_p) > 0.1


def test_the_density_follows_the_condition(key):
    flow = make(2, key, cond_dim=1)
    x = normal(key, (5, 2))
    one, other = (np.asarray(flow.log_prob(x, jnp.array([value]))) for value in (0.0, 1.0))
    assert np.all(np.abs(one - other) > 1e-3)
    mixed = flow.log_prob(x, jnp.array([[0.0], [1.0], [0.0], [1.0], [0.0]]))
    want = np.where(np.arange(5) % 2 == 0, one, other)
    np.testing.assert_allclose(mixed, want, rtol=0, atol=1e-13)


def test_the_density_integrates_to_one(key):
    flow = make(2, key)
    # A plain sum converges exponentially for a smooth density that vanishes at the edges.
    axis, step = np.linspace(-20.0, 20.0, 801, retstep=True)
    x = np.stack(np.meshgrid(axis, axis), axis=-1)
    total = np.sum(np.exp(flow.log_prob(x))) * step**2
    np.testing.assert_allclose(total, 1.0, rtol=0, atol=1e-6)


def test_compiled_and_plain_evaluation_agree(key):
    flow = make(3, key)
    x = normal(key, (4, 3))
    with jax.disable_jit():
        plain, stats = flow.log_prob_rows(x)
    assert stats is None
    np.testing.assert_allclose(flow.log_prob(x), plain, rtol=0, atol=1e-12)


def test_a_new_flow_is_the_identity(key):
    flow = CouplingFlow(5, cond_dim=2, key=key, **SIZES)
    x, cond = rows_and_cond(5, 2, 8, key)
    u, log_det = from_base(flow, x, cond)
    np.testing.assert_array_equal(u, x)
    np.testing.assert_array_equal(log_det, 0.0)
    want = jax.jit(jax.vmap(flow.base.log_prob))(x)
    np.testing.assert_allclose(flow.log_prob(x, cond), want, rtol=1e-14)


@pytest.mark.parametrize("dim", [2, 3, 5, 6])
def test_every_pair_of_layers_moves_every_coordinate(dim, key):
    orders = np.asarray(CouplingFlow(dim, key=key, **SIZES).layers.permutation)
    np.testing.assert_array_equal(np.sort(orders, axis=1), np.tile(np.arange(dim), (4, 1)))
    moved = orders[:, dim // 2 :]
    for pair in (moved[:2], moved[2:]):
        assert set(pair.ravel().tolist()) == set(range(dim))


def test_orders_of_the_coordinates_come_from_the_key(key):
    orders = [
        np.asarray(CouplingFlow(6, key=each, **SIZES).layers.permutation)
        for each in (key, key, jax.random.fold_in(key, 1))
    ]
    np.testing.assert_array_equal(orders[0], orders[1])
    assert not np.array_equal(orders[0], orders[2])
    assert not np.array_equal(orders[0][0], orders[0][2])


def test_a_layer_scales_by_at_most_its_bound(key):
    flow = make(5, key, scale=100.0)
    layer = jax.tree.map(lambda array: array[0], flow.layers)
    x = normal(key, (32, 5))
    jacobian = jax.jit(jax.vmap(jax.jacfwd(lambda x: layer.forward(x, None)[0])))(x)
    stretch = np.abs(np.log(np.diagonal(jacobian, axis1=1, axis2=2)))
    np.testing.assert_allclose(stretch.max(), LOG_SCALE_BOUND, rtol=1e-12)


def test_gradients_reach_every_weight_and_no_permutation(key):
    flow = make(3, key, cond_dim=2)
    x, cond = rows_and_cond(3, 2, 8, jax.random.fold_in(key, 2))
    weights, rest = partition_trainable(flow)

    @jax.jit
    def loss(weights):
        return -jnp.mean(combine_trainable(weights, rest).log_prob_rows(x, cond, training=True)[0])

    gradient = jax.tree.map(np.asarray, jax.jit(jax.grad(loss))(weights))
    weights = jax.tree.map(np.asarray, weights)
    assert not any("permutation" in name for name in gradient)
    assert jnp.issubdtype(rest.layers.permutation.dtype, jnp.integer)
    for leaf in jax.tree.leaves(gradient):
        assert np.all(np.isfinite(leaf))
        assert np.all(np.max(np.abs(leaf), axis=tuple(range(1, leaf.ndim))) > 0)
    # The derivative along the gradient, by central differences.
    step = 1e-5
    ends = [jax.tree.map(lambda w, g, h=h: w + h * g, weights, gradient) for h in (step, -step)]
    slope = (loss(ends[0]) - loss(ends[1])) / (2 * step)
    squares = sum(np.sum(g**2) for g in jax.tree.leaves(gradient))
    np.testing.assert_allclose(slope, squares, rtol=1e-6)


def test_the_program_does_not_grow_with_the_number_of_layers(key):
    def program(num_layers):
        make_flow = eqx.Partial(CouplingFlow, 4, num_layers=num_layers, width=8)
        flow = eqx.filter_eval_shape(make_flow, key=key)
        log_prob = eqx.filter_make_jaxpr(lambda flow, x: flow.log_prob_rows(x)[0])
        return str(log_prob(flow, jnp.ones((2, 4)))[0])

    assert program(2).count("dot_general") == program(20).count("dot_general") > 0


def test_no_rows_give_no_densities(key):
    flow = make(3, key, cond_dim=2)
    assert flow.log_prob(jnp.zeros((0, 3)), jnp.zeros((0, 2))).shape == (0,)
    x, log_p = flow.sample_and_log_prob(key, (0,), jnp.zeros((0, 2)))
    assert x.shape == (0, 3)
    assert log_p.shape == (0,)


def test_float32_stays_float32(key):
    flow = make(3, key)
    small = jax.tree.map(lambda a: a.astype("float32") if eqx.is_inexact_array(a) else a, flow)
    x = normal(key, (16, 3))
    log_p = small.log_prob(x.astype("float32"))
    assert log_p.dtype == jnp.float32
    np.testing.assert_allclose(log_p, flow.log_prob(x), rtol=0, atol=1e-4)


def test_a_saved_flow_comes_back(key, tmp_path):
    flow = make(3, key)
    save(tmp_path / "flow.safetensors", flow)
    back = load(tmp_path / "flow.safetensors")
    assert isinstance(back, Flow)
    x = normal(key, (4, 3))
    np.testing.assert_array_equal(back.log_prob(x), flow.log_prob(x))


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"dim": 1}, r"dim=1 must be at least 2: .* write CNF\(MLP\(1, key=key\)"),
        ({"dim": 0}, "dim=0 must be an integer >= 1"),
        ({"num_layers": 0}, "num_layers=0 must be an integer >= 1"),
        ({"width": 0}, "width=0 must be an integer >= 1"),
        ({"depth": 0}, "depth=0 must be an integer >= 1"),
        ({"cond_dim": -1}, "cond_dim=-1 must be an integer >= 0"),
        (
            {"base": StandardNormal((3,))},
            r"base has events of shape \(3,\), but dim=2; give e\.g\. jaxflow\.StandardNormal",
        ),
    ],
)
def test_bad_settings_are_refused(settings, text, key):
    with pytest.raises(ValueError, match=text):
        CouplingFlow(**({"dim": 2, "key": key} | settings))


def test_a_base_that_is_not_a_density_is_refused(key):
    with pytest.raises(TypeError, match=r"base='normal' has no event_shape; give e\.g\."):
        CouplingFlow(2, base="normal", key=key)


def test_conditions_that_do_not_fit_are_refused(key):
    with_cond, without = make(2, key, cond_dim=3), make(2, key)
    x = jnp.ones((4, 2))
    with pytest.raises(ValueError, match=r"cond_dim=3: pass cond of shape \(\*batch, 3\)"):
        with_cond.log_prob(x)
    with pytest.raises(ValueError, match=r"cond has shape \(2,\), so 2 entries.* made for 3"):
        with_cond.log_prob(x, jnp.ones(2))
    with pytest.raises(ValueError, match="make it with cond_dim=2"):
        without.log_prob(x, jnp.ones(2))


def test_events_of_another_size_are_refused(key):
    flow = make(3, key)
    with pytest.raises(ValueError, match="expected 3 columns, got 5"):
        flow.log_prob(jnp.ones((4, 5)))
    with pytest.raises(ValueError, match=r"x has shape \(5,\), so 5 entries"):
        flow.log_prob_rows(jnp.ones((4, 5)))
