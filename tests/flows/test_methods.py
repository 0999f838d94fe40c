"""Methods of flows are functions that jax's own transformations take."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxflow import CNF, ODE, CouplingFlow, StandardNormal
from jaxflow.dynamics import Linear
from jaxflow.flows.methods import FlowMethod

KEY = jax.random.key(0)
X = jax.random.normal(KEY, (3, 2))
STEPS = ODE(solver="rk4", num_steps=2)


def linear_flow():
    matrix = jnp.array([[0.3, -0.2], [0.1, 0.4]])
    return CNF(Linear(matrix=matrix), StandardNormal(2), ode=STEPS, ode_eval=STEPS)


@pytest.fixture(params=["cnf", "coupling"])
def flow(request):
    if request.param == "cnf":
        return linear_flow()
    return CouplingFlow(2, num_layers=2, width=4, key=KEY)


def test_jit_takes_methods(flow):
    np.testing.assert_allclose(jax.jit(flow.log_prob)(X), flow.log_prob(X), rtol=1e-12)
    draw = jax.jit(flow.sample, static_argnums=1)
    np.testing.assert_allclose(draw(KEY, 3), flow.sample(KEY, 3), rtol=1e-12)


def test_jit_traces_a_method_once():
    traced = []

    class Counted(CNF):
        def __init__(self):
            super().__init__(lambda t, x, cond=None: -x, StandardNormal(2), ode_eval=STEPS)

        def score(self, x):
            traced.append(x)
            return self.log_prob(x)

    flow = Counted()
    first, again = jax.jit(flow.score), jax.jit(flow.score)
    np.testing.assert_array_equal(first(X), again(X))
    assert len(traced) == 1


def test_checkpoint_takes_methods_and_keeps_gradients_of_weights(flow):
    def loss(flow, wrap):
        once, twice = wrap(flow.train_log_prob), wrap(flow.train_log_prob)
        return (once(X) + 2 * twice(2 * X)).sum()

    plain = eqx.filter_grad(loss)(flow, lambda f: f)
    kept = eqx.filter_jit(eqx.filter_grad(loss))(flow, jax.checkpoint)
    for one, other in zip(jax.tree.leaves(plain), jax.tree.leaves(kept), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-10, atol=1e-12)
    evaluated = jax.checkpoint(flow.log_prob)(X)
    np.testing.assert_allclose(evaluated, flow.log_prob(X), rtol=1e-12)


def test_a_method_equals_that_of_the_same_object_alone(flow):
    copy = jax.tree.map(lambda leaf: leaf, flow)
    assert flow.log_prob == flow.log_prob
    assert hash(flow.log_prob) == hash(flow.log_prob)
    assert flow.log_prob != copy.log_prob
    assert flow.log_prob != flow.train_log_prob
    assert len({flow.log_prob, flow.log_prob, copy.log_prob}) == 2


def test_a_method_is_a_pytree_of_its_flow(flow):
    method = flow.log_prob
    assert jax.tree.leaves(method) == jax.tree.leaves(flow)
    doubled = jax.tree.map(lambda leaf: leaf, method)
    assert isinstance(doubled, FlowMethod)
    assert doubled.__name__ == "log_prob"
    np.testing.assert_allclose(eqx.filter_jit(doubled)(X), flow.log_prob(X), rtol=1e-12)


def test_flows_with_other_weights_do_not_share_what_is_compiled():
    flow = linear_flow()
    other = eqx.tree_at(lambda f: f.field.matrix, flow, -flow.field.matrix)
    one, two = jax.jit(flow.log_prob)(X), jax.jit(other.log_prob)(X)
    assert np.abs(one - two).min() > 0.01
    np.testing.assert_allclose(two, other.log_prob(X), rtol=1e-12)


def test_a_method_in_init_is_refused_as_before():
    class Held(CNF):
        method: object

        def __init__(self):
            super().__init__(lambda t, x, cond=None: x, StandardNormal(2))
            self.method = self.log_prob

    with pytest.raises(ValueError, match="method"):
        Held()
