"""Conditions in any units reach the network as numbers of order one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxflow import CNF, StandardNormal, TrainConfig, fit
from jaxflow.dynamics import MLP, StandardisedCondition
from jaxflow.trace import exact_trace

KEY = jax.random.key(2)
COND = np.random.default_rng(1).normal(size=(200, 3)) * [1e4, 1e-3, 0.0] + [5e4, 0.0, 7.0]


def test_value_and_trace_are_the_field_s_at_the_standardised_condition():
    field = MLP(2, width=8, cond_dim=3, key=KEY)
    wrapped = StandardisedCondition.fit(field, jnp.asarray(COND))
    assert wrapped.scale[2] == 1.0
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


def test_what_is_refused():
    field = MLP(2, width=8, cond_dim=3, key=KEY)
    with pytest.raises(ValueError, match="of one length, and every scale positive"):
        StandardisedCondition(field, (0.0,), (0.0,))
    with pytest.raises(ValueError, match="was made for conditions of 3 entries"):
        StandardisedCondition.fit(field, jnp.asarray(COND))(
            jnp.asarray(0.0), jnp.zeros(2), jnp.zeros(2)
        )
