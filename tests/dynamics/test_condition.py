"""Conditions in any units reach the network as numbers of order one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxflow import CNF, CouplingFlow, StandardNormal, TrainConfig, fit
from jaxflow.dynamics import MLP, ConditionScaling, StandardisedCondition
from jaxflow.trace import exact_trace

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


def test_wrong_sizes_and_scales_are_refused():
    field = MLP(2, width=8, cond_dim=3, key=KEY)
    with pytest.raises(ValueError, match="of one length, and every scale positive"):
        ConditionScaling((0.0,), (0.0,))
    with pytest.raises(ValueError, match="was made for conditions of 3 entries"):
        StandardisedCondition(field, ConditionScaling.fit(jnp.asarray(COND)))(
            jnp.asarray(0.0), jnp.zeros(2), jnp.zeros(2)
        )
