"""Objectives in turn, and weights of rows, as `fit` takes them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxflow import CNF, ODE, StandardNormal, TrainConfig, fit
from jaxflow.dynamics import MLP
from jaxflow.objectives import (
    Denoising,
    FlowMatching,
    MaximumLikelihood,
    Reflow,
    ReverseKL,
    Staged,
    maximum_likelihood,
)
from jaxflow.objectives.weights import weighted_mean
from jaxflow.training.phases import Phase
from jaxflow.transforms import Standardise

KEY = jax.random.key(6)
RNG = np.random.default_rng(2)
X = RNG.normal(size=(400, 2)) * [1.0, 3.0] + [2.0, -1.0]


def flow():
    return CNF(
        MLP(2, width=8, depth=1, key=KEY), StandardNormal(2), ode=ODE(solver="rk4", num_steps=2)
    )


def test_stages_share_the_steps():
    staged = Staged(((FlowMatching(), 3.0), (maximum_likelihood, 1.0)))
    for step in (0, 74):
        stage, first, count = staged.at(step, 100)
        assert isinstance(stage.objective, FlowMatching)
        assert (first, count) == (0, 75)
    for step in (75, 99, 200):
        stage, first, count = staged.at(step, 100)
        assert stage.objective is maximum_likelihood
        assert (first, count) == (75, 25)
    # A stage for which no step is left takes none.
    assert Staged().at(0, 1)[0].objective == FlowMatching()
    with pytest.raises(ValueError, match=r"share=0.0 and rate=1.0 must be positive"):
        Staged(((FlowMatching(), 0.0),))
    with pytest.raises(ValueError, match="is empty"):
        Staged(())


def test_fit_goes_from_one_to_the_next():
    config = TrainConfig(steps=60, eval_every=20, learning_rate=1e-2, batch_size=128)
    staged = Staged(((FlowMatching(), 2.0), (maximum_likelihood, 1.0)))
    trained, history = fit(flow(), X, key=KEY, config=config, objective=staged)
    # Matching is judged by the evaluation alone, likelihood by its training solve too.
    assert history["step"] == [20, 40, 60]
    assert history["coarse"][:2] == history["validation"][:2]
    assert history["coarse"][2] != history["validation"][2]
    # The last stage's loss is a negative log-density, as the validation is, and each stage's
    # learning rate comes down by itself.
    assert abs(history["loss"][2] - history["validation"][2]) < 0.5
    assert history["learning_rate"][0] > 1e-3
    assert history["learning_rate"][1:] == pytest.approx([1e-4, 1e-4], rel=1.0)
    assert np.isfinite(trained.log_prob(X[:4])).all()


@pytest.mark.slow
def test_rows_of_weight_zero_teach_nothing():
    # Half of the rows lie elsewhere and do not count: training is that of the others alone.
    rows = np.concatenate([X, X + 50.0])
    weights = np.concatenate([np.ones(400), np.zeros(400)])
    config = TrainConfig(steps=20, eval_every=20, batch_size=800)
    # Matching would draw pairs for them all the same.
    settings = {"key": KEY, "config": config, "transform": Standardise.fit(X)}
    settings["objective"] = maximum_likelihood
    held = X[:100]
    weighted, _ = fit(flow(), rows, weights=weights, validation=held, **settings)
    alone, _ = fit(flow(), X, validation=held, **settings)
    np.testing.assert_allclose(weighted.log_prob(held), alone.log_prob(held), rtol=1e-6)
    # In the validation too.
    _, some = fit(flow(), X, validation=(rows, None, weights), **settings)
    _, all_of_them = fit(flow(), X, validation=X, **settings)
    np.testing.assert_allclose(some["validation"], all_of_them["validation"], rtol=1e-9)


@pytest.mark.parametrize(
    ("weights", "words"),
    [
        (np.ones(3), r"weights of x must have shape \(400,\), one a row: got \(3,\)"),
        (np.zeros(400), "must not be zero in every row"),
        (np.where(np.arange(400) == 7, -1.0, 1.0), r"row 7 has -1.0 \(1 such rows\)"),
    ],
)
def test_bad_weights_are_refused(weights, words):
    with pytest.raises(ValueError, match=words):
        fit(flow(), X, weights=weights, key=KEY)


def test_only_the_ratios_of_weights_count():
    values, weights = jnp.asarray([1.0, 3.0]), jnp.asarray([1.0, 3.0])
    for scale in (1e-9, 0.1, 100.0):
        assert float(weighted_mean(values, scale * weights)) == pytest.approx(2.5, rel=1e-12)
    assert float(weighted_mean(values, 0 * weights)) == 0


def test_any_function_is_an_objective():
    def moments(flow, x, cond, key):
        drawn = jax.vmap(flow.base.sample)(jax.random.split(key, len(x)))
        moved = jax.vmap(lambda z: flow.field(jnp.asarray(0.5), z))(drawn)
        return jnp.mean(moved**2), {}

    config = TrainConfig(steps=20, eval_every=20)
    _, history = fit(flow(), X, key=KEY, config=config, objective=moments)
    assert len(history["step"]) == 1


def test_which_objectives_need_the_training_solver():
    pairs = Reflow(jnp.zeros((2, 1)), jnp.zeros((2, 1)))
    for objective in (FlowMatching(), Denoising(), pairs):
        assert not Phase(objective, TrainConfig(), 0).solves
    for objective in (MaximumLikelihood(), ReverseKL(target=jnp.sum)):
        assert Phase(objective, TrainConfig(), 0).solves
