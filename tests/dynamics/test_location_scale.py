"""The frame of a regression, encoders of conditions, and trees as arrays."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.ensemble import HistGradientBoostingRegressor

import jaxflow
from jaxflow import CNF, StandardNormal
from jaxflow.dynamics import (
    MLP,
    ConditionScaling,
    EncodedCondition,
    LocationScale,
    Moments,
    Regression,
    Trees,
)
from jaxflow.runtime.lanes import lanes_for
from jaxflow.training.regression import _nodes

KEY = jax.random.key(0)
RNG = np.random.default_rng(0)


def still(t, y, cond):
    return 0.0 * y


def test_a_field_of_zero_carries_the_base_to_the_regression():
    flow = CNF(LocationScale(still), StandardNormal(2))
    location, log_scale = np.array([3.0, -1.0]), np.array([-2.0, 0.7])
    cond = np.concatenate([location, log_scale])
    x = location + np.exp(log_scale) * RNG.normal(size=(50, 2))
    z = (x - location) / np.exp(log_scale)
    exact = np.sum(-0.5 * z**2 - log_scale - 0.5 * np.log(2 * np.pi), axis=1)
    answer = flow.log_prob_with_error(x, cond=cond)
    np.testing.assert_allclose(answer.value, exact, atol=2e-4)
    assert (np.abs(answer.value - exact) <= answer.ode_error).mean() > 0.95
    np.testing.assert_allclose(flow.encode(x, cond=cond), z, atol=1e-3)


@pytest.mark.slow
def test_the_inner_field_sees_the_frame():
    field = MLP(1, width=8, cond_dim=2, key=KEY)
    inner, outer = CNF(field, StandardNormal(1)), CNF(LocationScale(field), StandardNormal(1))
    y, cond = RNG.normal(size=(20, 1)), np.array([5.0, -3.0])
    moved = outer.log_prob(5.0 + np.exp(-3.0) * y, cond=cond)
    np.testing.assert_allclose(moved, inner.log_prob(y, cond=cond) + 3.0, atol=2e-4)


def test_short_conditions_are_refused():
    flow = CNF(LocationScale(still), StandardNormal(2))
    with pytest.raises(ValueError, match=r"cond has shape .*; LocationScale needs"):
        flow.log_prob(np.zeros((1, 2)), cond=np.zeros(3))


@pytest.mark.slow
def test_conditions_are_encoded_once_a_solve():
    calls = []

    def count(c):
        calls.append(len(c))
        return np.asarray(c)

    def encode(c):
        shape = jax.ShapeDtypeStruct(c.shape, c.dtype)
        return jax.pure_callback(count, shape, c, vmap_method="expand_dims")

    field = MLP(2, width=8, cond_dim=3, key=KEY)
    flow = CNF(EncodedCondition(field, encode), StandardNormal(2))
    x, cond = RNG.normal(size=(300, 2)), RNG.normal(size=(300, 3))
    value = jax.block_until_ready(flow.log_prob(x, cond))
    assert len(calls) == -(-300 // lanes_for(2))
    plain = CNF(field, StandardNormal(2))
    np.testing.assert_allclose(value, plain.log_prob(x, cond), atol=1e-12)
    draws = flow.sample(KEY, 5, cond[:5]), plain.sample(KEY, 5, cond[:5])
    np.testing.assert_allclose(*draws, atol=1e-12)


def test_encoders_are_trained_with_the_flow():
    field = MLP(2, width=8, cond_dim=3, key=KEY)
    flow = CNF(
        EncodedCondition(field, MLP(3, width=4, key=KEY).layers[0].context), StandardNormal(2)
    )
    assert any(jax.tree.leaves(jaxflow.trainable(flow)))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_trees_are_those_of_scikit_learn(dtype):
    c = RNG.normal(size=(400, 3)).round(1).astype(dtype)
    y = np.sin(2 * c[:, 0]) + c[:, 1] * c[:, 2]
    model = HistGradientBoostingRegressor(max_iter=30, max_leaf_nodes=9).fit(c, y)
    columns = [np.unique(column) for column in c.T]
    trees = Trees.stack([_nodes(each.nodes, columns) for (each,) in model._predictors], dtype)
    sums = (
        np.asarray(jax.jit(jax.vmap(trees))(jnp.asarray(c)))
        + np.ravel(model._baseline_prediction)[0]
    )
    np.testing.assert_allclose(sums, model.predict(c), atol=1e-5 if dtype == np.float32 else 1e-12)
    assert trees.value.dtype == dtype


def test_rounding_sends_no_row_to_another_leaf():
    """Thresholds of scikit-learn may be values of the column."""
    c = np.random.default_rng(0).normal(size=(2000, 1))
    model = HistGradientBoostingRegressor(max_iter=20).fit(c, np.sin(3 * c[:, 0]))
    nodes = [each.nodes for (each,) in model._predictors]
    assert np.isin(nodes[0]["num_threshold"], c).any()
    trees = Trees.stack([_nodes(each, [np.unique(c)]) for each in nodes])
    sums = [jax.jit(jax.vmap(trees))(jnp.asarray(c, dtype)) for dtype in (np.float32, np.float64)]
    np.testing.assert_array_equal(np.asarray(sums[0]), np.asarray(sums[1]))


@pytest.mark.slow
def test_moments_are_saved_with_the_flow(tmp_path):
    trees = Trees.stack(
        [
            {"feature": [0, 0, 0], "threshold": [0.5, 0, 0], "left": [1, 1, 2]}
            | {"right": [2, 1, 2], "value": [0.0, 10.0, 20.0]}
        ]
    )
    moments = Moments(
        ConditionScaling([1.0], [2.0]),
        Regression(jnp.ones((1, 1)), jnp.ones(1), (trees,)),
        Regression(jnp.zeros((1, 1)), jnp.zeros(1), (None,)),
    )
    np.testing.assert_allclose(moments(jnp.asarray([3.0])), [1.0, 22.0, 0.0])
    field = EncodedCondition(LocationScale(still), moments)
    flow = CNF(
        EncodedCondition(LocationScale(MLP(1, cond_dim=3, key=KEY)), moments), StandardNormal(1)
    )
    assert not any(jax.tree.leaves(jaxflow.trainable(flow).field.encoder))
    jaxflow.save(tmp_path / "flow", flow)
    loaded = jaxflow.load(tmp_path / "flow")
    x, cond = np.array([[20.0], [22.0]]), np.array([[3.0], [1.0]])
    np.testing.assert_array_equal(loaded.log_prob(x, cond), flow.log_prob(x, cond))
    np.testing.assert_allclose(
        CNF(field, StandardNormal(1)).decode([[0.0]], [[3.0]]), 22.0, atol=1e-3
    )
