"""What was trained is never lost to a loss that is not finite."""

import math
import sys
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxflow import (
    CNF,
    CouplingFlow,
    StandardNormal,
    TrainConfig,
    TrainingError,
    distil,
    fit,
    fit_classifier,
    fit_noise,
)
from jaxflow.diffusion import Denoiser, VariancePreserving, as_flow
from jaxflow.dynamics import MLP, Linear, Residual
from jaxflow.objectives import maximum_likelihood
from jaxflow.transforms import Dequantise, propose

KEY = jax.random.key(6)
X = jnp.round(3 * jax.random.normal(KEY, (64, 2)))
QUICK: dict[str, Any] = {"key": KEY, "progress": False}
SMALL: dict[str, Any] = {"width": 4, "depth": 1}


def small(**settings):
    return CouplingFlow(2, num_layers=2, width=4, key=KEY, **settings)


def of_fit(config):
    return fit(small(), X + 0.1 * jnp.sin(7 * X), config=config, transform=None, **QUICK)[0]


def of_distil(config):
    flow = CNF(Linear(matrix=jnp.asarray([[0.3, -1.0], [1.0, 0.1]])), StandardNormal(2))
    return distil(flow, X, config=config, num_steps=1, num_samples=64, **SMALL, **QUICK).net


def of_noise(config):
    flow = small(transform=Dequantise([1.0, 1.0]))
    return fit_noise(flow, X, config=config, **SMALL, **QUICK).transform.noise


def of_classifier(config):
    flow = as_flow(Denoiser(MLP(2, **SMALL, key=KEY), VariancePreserving()), 2)
    classifier = Residual(2, outputs=2, **SMALL, key=KEY)
    return fit_classifier(classifier, flow, X, np.arange(64) % 2, config=config, **QUICK)


TRAINERS = {
    "fit": of_fit,
    "distil": of_distil,
    "fit_noise": of_noise,
    "fit_classifier": of_classifier,
}


# The rate tells the settings apart: what is compiled with broken losses is not used without.
RATES = {"whole": 0.0101, "broken": 0.0102, "hopeless": 0.0103}


def config(steps, name):
    return TrainConfig(
        steps=steps, batch_size=16, eval_every=1, ema=0.5, warmup=0.0, learning_rate=RATES[name]
    )


def break_losses(monkeypatch, share):
    """Make the losses of a share of the steps NaN, by each step's key."""
    module = sys.modules["jaxflow.training.step"]
    real = module.batch_loss

    def broken(*args):
        loss, metrics = real(*args)
        return jnp.where(jax.random.uniform(args[-1]) > 1 - share, jnp.nan, loss), metrics

    monkeypatch.setattr(module, "batch_loss", broken)


SLOW = pytest.mark.slow
# `fit_noise` stands for those that train without validation.
QUICK_FIRST = [
    name if name == "fit_noise" else pytest.param(name, marks=SLOW) for name in TRAINERS
]


@pytest.mark.slow
@pytest.mark.parametrize("name", QUICK_FIRST)
def test_the_weights_before_the_failure_are_kept(name, monkeypatch, caplog):
    train = TRAINERS[name]
    start = train(config(1, "whole"))
    break_losses(monkeypatch, 0.05)
    kept = train(config(60, "broken"))
    assert "is not finite at step" in caplog.text
    assert "training stops and keeps the best weights so far" in caplog.text
    step = int(caplog.text.split("is not finite at step ")[1].split(":")[0].split(",")[0])
    assert step > 2
    leaves = [jax.tree.leaves(eqx.filter(tree, eqx.is_inexact_array)) for tree in (start, kept)]
    assert all(bool(jnp.all(jnp.isfinite(leaf))) for leaf in leaves[1])
    # More than the one step of `start` was taken.
    moved = [float(jnp.max(jnp.abs(a - b))) for a, b in zip(*leaves, strict=True)]
    assert max(moved) > 1e-3


@pytest.mark.parametrize("name", QUICK_FIRST)
def test_a_failure_at_the_first_step_is_an_error(name, monkeypatch):
    break_losses(monkeypatch, 2.0)
    with pytest.raises(
        TrainingError, match=r"not finite at step 1.*lower learning_rate"
    ) as caught:
        TRAINERS[name](config(2, "hopeless"))
    assert caught.value.trained is None


@SLOW
def test_a_fit_without_a_validation_carries_the_flow():
    class Unknown:
        def __call__(self, *args):
            return maximum_likelihood(*args)

        def held_out(self, *args):
            return math.nan, 0.0

    flow = small()
    with pytest.raises(TrainingError, match="no validation value was finite") as caught:
        fit(
            flow, X + 0.1 * jnp.sin(7 * X), config=config(3, "whole"), objective=Unknown(), **QUICK
        )
    trained = caught.value.trained
    assert trained.transform is not None
    assert bool(jnp.all(jnp.isfinite(trained.log_prob(X))))
    assert not eqx.tree_equal(trained.layers, flow.layers)


def refuse(*args):
    raise AssertionError("training began")


GRID = Dequantise([1.0, 1.0])
REFUSED = {
    "off the grid": (X + 0.3, {}, r"x: column 0 has 64 values off the grid of step 1"),
    "of the flow": (X + 0.3, {"flow": small(transform=GRID), "transform": "auto"}, r"x: column 0"),
    "too large": (X + 2.0**60, {}, r"x: column 0 has values up to .* rounds too coarsely"),
    "validation": (X, {"validation": X + 0.3}, r"validation: column 0 has 64 values off the grid"),
    "proposal": (X + 0.3, {"transform": propose(jnp.tile(X, (20, 1)))}, r"x: column 0"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_rows_that_the_noise_refuses_are_refused_before_training(name):
    rows, settings, words = REFUSED[name]
    settings = {"flow": small(), "transform": GRID, "objective": refuse} | settings
    with pytest.raises(ValueError, match=words):
        fit(settings.pop("flow"), rows, config=config(2, "whole"), **settings, **QUICK)
