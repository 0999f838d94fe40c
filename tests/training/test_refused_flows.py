"""What `fit` cannot train is refused by name before it trains."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tests.diffusion.gaussian import Known

import jaxflow
from jaxflow import CNF, FlowMap, StandardNormal, TrainConfig, fit, fit_classifier, fit_noise
from jaxflow.diffusion import VariancePreserving, as_flow
from jaxflow.dynamics import MLP, Linear
from jaxflow.objectives import Staged, maximum_likelihood

KEY = jax.random.key(3)
CONFIG = TrainConfig(steps=2, batch_size=32, eval_every=1)
X = np.random.default_rng(0).normal(size=(64, 2))
PARAMS = {"w": 0.1 * jnp.eye(2), "b": jnp.zeros(2)}


def apply(params, t, x, cond=None):
    return jnp.tanh(params["w"] @ x + params["b"])


@pytest.mark.parametrize(
    "field",
    [
        lambda t, x, cond=None: apply(PARAMS, t, x),
        lambda t, x, cond=None: -x,
        jax.tree_util.Partial(apply, {}),
        jax.tree_util.Partial(apply, {"w": jnp.zeros((0, 2)), "n": jnp.arange(3)}),
    ],
    ids=["closure", "no weights", "Partial of nothing", "Partial of integers"],
)
def test_a_field_without_arrays_is_refused(field):
    seen = []
    with pytest.raises(ValueError, match=r"no arrays to train.*tree_util\.Partial\(apply, params"):
        fit(
            CNF(field, StandardNormal(2)), X, key=KEY, config=CONFIG,
            callback=lambda row: seen.append(row),
        )  # fmt: skip
    assert not seen


@pytest.mark.parametrize("library", [jnp, np])
def test_the_call_that_the_refusal_names_trains(library):
    params = jax.tree.map(library.asarray, PARAMS)
    flow = CNF(jax.tree_util.Partial(apply, params), StandardNormal(2))
    config = TrainConfig(steps=8, eval_every=8, learning_rate=1e-2)
    trained, _ = fit(flow, X, key=KEY, config=config, objective=maximum_likelihood)
    for name, before in PARAMS.items():
        assert float(jnp.max(jnp.abs(trained.field.args[0][name] - before))) > 0


def test_so_is_a_classifier_without_arrays_and_its_call_trains():
    flow, x, labels = as_flow(Known(VariancePreserving()), 1), X[:, :1], np.arange(64) % 2
    weights = jnp.ones((2, 1))

    def logits(weights, t, x):
        return weights @ x

    with pytest.raises(ValueError, match=r"no arrays to train.*tree_util\.Partial"):
        fit_classifier(lambda t, x: logits(weights, t, x), flow, x, labels, key=KEY, config=CONFIG)
    classifier = jax.tree_util.Partial(logits, weights)
    trained = fit_classifier(classifier, flow, x, labels, key=KEY, config=CONFIG)
    assert float(jnp.max(jnp.abs(trained.args[0] - weights))) > 0


def test_a_flow_map_is_not_trained_by_rows():
    flow = CNF(Linear(2, key=KEY), StandardNormal(2))
    fast = FlowMap(MLP(3, cond_dim=1, width=4, depth=1, key=KEY), flow, 2)
    for name in ("transport", "log_prob_at", "log_prob_with_error"):
        with pytest.raises(AttributeError, match=rf"a FlowMap has no {name}.*flow\.exact\.{name}"):
            getattr(fast, name)
    with pytest.raises(AttributeError, match="'FlowMap' object has no attribute 'transprt'"):
        _ = fast.transprt  # pyright: ignore[reportAttributeAccessIssue]
    with pytest.raises(TypeError, match=r"flow is a FlowMap.*jaxflow\.distil\(flow, x, key=key\)"):
        fit(fast, X, key=KEY, config=CONFIG)
    with pytest.raises(TypeError, match="flow is a FlowMap"):
        fit_noise(fast, X, key=KEY)
    coupling = jaxflow.CouplingFlow(2, num_layers=2, width=4, key=KEY)
    others: tuple[Any, ...] = (fast, coupling)
    for other in others:
        with pytest.raises(TypeError, match=f"{type(other).__name__}.* CNF|CNF"):
            jaxflow.distil(other, X, key=KEY)


def test_an_objective_that_does_not_take_what_fit_passes_is_refused():
    flow = CNF(Linear(matrix=jnp.eye(2)), StandardNormal(2))

    def unweighted(flow, x, cond, key):
        return maximum_likelihood(flow, x, cond, key)

    fit(flow, X, key=KEY, config=CONFIG, objective=unweighted)
    with pytest.raises(
        TypeError, match=r"\(flow, x, cond, key\), .* cond, key, weights\), since fit"
    ):
        fit(flow, X, key=KEY, config=CONFIG, objective=unweighted, weights=np.ones(64))
    staged = Staged(((unweighted, 1.0), (maximum_likelihood, 1.0)))
    with pytest.raises(TypeError, match="since fit has weights"):
        fit(flow, X, key=KEY, config=CONFIG, objective=staged, weights=np.ones(64))
    with pytest.raises(
        TypeError, match=r"takes \(flow, x\), and is called with \(flow, x, cond, "
    ):
        fit(flow, X, key=KEY, config=CONFIG, objective=lambda flow, x: (jnp.ones(()), {}))
