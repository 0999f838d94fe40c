"""Conditions in any units reach the network as numbers of order one."""

import contextlib

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxflow import CNF, CouplingFlow, StandardNormal, TrainConfig, fit
from jaxflow.data import check_columns
from jaxflow.dynamics import MLP, ConditionScaling, StandardisedCondition
from jaxflow.trace import exact_trace
from jaxflow.training.trainable import partition_trainable
from jaxflow.transforms import Gaussianise, Standardise

KEY = jax.random.key(2)
COND = np.random.default_rng(1).normal(size=(200, 3)) * [1e4, 1e-3, 0.0] + [5e4, 0.0, 7.0]


def test_value_and_trace_are_the_field_s_at_the_standardised_condition():
    field = MLP(2, width=8, cond_dim=3, key=KEY)
    wrapped = StandardisedCondition(field, ConditionScaling.fit(jnp.asarray(COND)))
    assert wrapped.scaling.scale[2] == 1.0
    inner = (jnp.asarray(COND[0]) - COND.mean(0)) / jnp.asarray([*COND.std(0)[:2], 1.0])
    t, x = jnp.asarray(0.3), jnp.asarray([0.5, -1.0])
    np.testing.assert_allclose(wrapped(t, x, jnp.asarray(COND[0])), field(t, x, inner), rtol=1e-9)
    value, trace = exact_trace(wrapped.prepare(), t, x, jnp.asarray(COND[0]))
    expected = exact_trace(field, t, x, inner)
    np.testing.assert_allclose(value, expected[0], rtol=1e-9)
    np.testing.assert_allclose(trace, expected[1], rtol=1e-9)


@pytest.mark.slow
def test_a_fit_does_not_depend_on_the_condition_s_units():
    rng = np.random.default_rng(0)
    cond = rng.normal(size=(300, 1))
    x = cond + 0.3 * rng.normal(size=(300, 1))
    flow = CNF(MLP(1, width=8, cond_dim=1, key=KEY), StandardNormal((1,)))
    config = TrainConfig(steps=20, eval_every=20, batch_size=64)
    one, _ = fit(flow, x, cond, key=KEY, config=config)
    other, _ = fit(flow, x, 1e5 + 1e3 * cond, key=KEY, config=config)
    np.testing.assert_allclose(
        one.log_prob(x[:5], cond[:5]), other.log_prob(x[:5], 1e5 + 1e3 * cond[:5]), rtol=1e-5
    )
    assert isinstance(one.field, StandardisedCondition)


def test_a_coupling_flow_s_conditions_may_be_in_any_units_too():
    rng = np.random.default_rng(0)
    cond = rng.normal(size=(200, 1))
    x = cond + 0.3 * rng.normal(size=(200, 2))
    flow = CouplingFlow(2, num_layers=2, width=8, depth=1, cond_dim=1, key=KEY)
    config = TrainConfig(steps=20, eval_every=20, batch_size=64)
    plain, far = cond, 1e5 + 1e3 * cond
    one, other = (fit(flow, x, c, key=KEY, config=config, transform=None)[0] for c in (plain, far))
    expected = one.log_prob(x[:5], plain[:5])
    np.testing.assert_allclose(other.log_prob(x[:5], far[:5]), expected, rtol=1e-5)
    again, _ = fit(other, x, far, key=KEY, config=config, transform=None)
    assert again.cond_scaling == other.cond_scaling


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_one_rule_says_which_columns_are_constant(dtype):
    # The spread of a column of size 1.7e9, in units of the rounding of its values.
    rng, eps = np.random.default_rng(0), np.finfo(dtype).eps
    for units, is_constant in ((0.0, True), (0.4, True), (30.0, False), (1e-6 / eps, False)):
        if units * eps > 1e-5:
            continue
        x = (1.7e9 * (1 + units * eps * rng.normal(size=(500, 1)))).astype(dtype)
        scaling = ConditionScaling.fit(x)
        scale = x.std(dtype=np.float64)
        assert float(scaling.scale[0]) == pytest.approx(1.0 if is_constant else scale, rel=1e-6)
        for refuses in (check_columns, Standardise.fit, Gaussianise.fit):
            with contextlib.ExitStack() as stack:
                if is_constant:
                    stack.enter_context(pytest.raises(ValueError, match="is constant"))
                refuses(x)


def test_a_time_of_1_7e9_is_not_constant_in_float64():
    cond = 1.7e9 + 1000 * np.random.default_rng(0).normal(size=(500, 1))
    scaled = np.asarray(jax.jit(jax.vmap(ConditionScaling.fit(cond)))(cond))
    assert scaled.std() == pytest.approx(1.0)
    assert abs(scaled.mean()) < 1e-5


def test_a_scaling_is_saved_with_the_arrays_of_its_flow(tmp_path):
    x, cond = jnp.asarray([[0.1, 0.2], [-1.0, 2.0]]), jnp.asarray(COND[:2])
    scaling = ConditionScaling.fit(COND)
    start = ConditionScaling(jnp.zeros(3), jnp.ones(3))
    coupling = CouplingFlow(2, num_layers=2, width=4, depth=1, cond_dim=3, key=KEY)

    def flows(scaling):
        field = StandardisedCondition(MLP(2, width=4, cond_dim=3, key=KEY), scaling)
        with_scaling = eqx.tree_at(
            lambda f: f.cond_scaling, coupling, scaling, is_leaf=lambda leaf: leaf is None
        )
        return CNF(field, StandardNormal(2)), with_scaling

    for flow, like in zip(flows(scaling), flows(start), strict=True):
        eqx.tree_serialise_leaves(tmp_path / "leaves", flow)
        again = eqx.tree_deserialise_leaves(tmp_path / "leaves", like)
        expected = flow.log_prob(x, cond)
        np.testing.assert_array_equal(again.log_prob(x, cond), expected)
        assert not any("scaling" in name for name in partition_trainable(flow)[0])


def test_wrong_sizes_and_scales_are_refused():
    field = MLP(2, width=8, cond_dim=3, key=KEY)
    with pytest.raises(ValueError, match="of one length, and every scale positive"):
        ConditionScaling((0.0,), (0.0,))
    with pytest.raises(ValueError, match="was made for conditions of 3 entries"):
        StandardisedCondition(field, ConditionScaling.fit(jnp.asarray(COND)))(
            jnp.asarray(0.0), jnp.zeros(2), jnp.zeros(2)
        )
