"""What was trained is not lost to an error in its report, and no failure is a number."""

import math
import sys
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxflow import (
    CNF,
    Hutchinson,
    SolveError,
    StandardNormal,
    TrainConfig,
    TrainingError,
    distil,
    fit,
)
from jaxflow.dynamics import MLP, Linear
from jaxflow.flows.flow_map import FlowMap
from jaxflow.objectives import ReverseKL, maximum_likelihood
from jaxflow.training.checkpoints import FileStore

KEY = jax.random.key(6)
MODULE = sys.modules["jaxflow.training.distil"]
CONFIG = TrainConfig(steps=4, batch_size=32, eval_every=2)
SIZES = {"num_steps": 2, "num_samples": 64, "width": 4, "depth": 1, "config": CONFIG}
X = np.random.default_rng(0).normal(size=(64, 2))


def turning(**settings):
    return CNF(
        Linear(matrix=jnp.asarray([[0.3, -1.0], [1.0, 0.1]])), StandardNormal(2), **settings
    )


def distilled(flow, x=X):
    return distil(flow, x, key=KEY, **SIZES)


@pytest.mark.slow
def test_a_stochastic_trace_is_distilled_against_the_exact_one():
    exact, stochastic = (distilled(turning(trace=t)) for t in ("exact", Hutchinson(1)))
    assert stochastic.error == exact.error
    assert stochastic.exact.trace == Hutchinson(1)


@pytest.mark.slow
def test_an_error_of_the_report_keeps_the_map(monkeypatch, caplog):
    def broken(self, *args, **settings):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(FlowMap, "log_prob", broken)
    fast = distilled(turning())
    assert fast.error is None
    assert "error of the map could not be measured: out of memory" in caplog.text
    assert fast.sample(KEY, 3).shape == (3, 2)


@pytest.mark.parametrize("x", [np.zeros((0, 2)), np.zeros(2), np.zeros((3, 4, 2))])
def test_rows_that_measure_nothing_are_refused_before_training(x, monkeypatch):
    monkeypatch.setattr(MODULE, "minimise", None)
    with pytest.raises(ValueError, match=r"give rows of shape \(n, 2\) with n at least 1"):
        distilled(turning(), x)


def test_a_reference_that_cannot_be_solved_comes_before_training(monkeypatch):
    monkeypatch.setattr(MODULE, "minimise", None)
    flow = turning()
    flow = replace(flow, ode_eval=replace(flow.ode_eval, max_steps=1))
    with pytest.raises(SolveError):
        distilled(flow)


@pytest.mark.slow
def test_a_target_that_is_finite_nowhere_has_no_value():
    nowhere = ReverseKL(target=lambda x: jnp.full((), -jnp.inf), num_samples=8)
    value, left_out = nowhere.held_out(turning(), None, KEY)
    assert math.isnan(value)
    assert left_out == 1
    flow = CNF(MLP(2, width=4, depth=1, key=KEY), StandardNormal(2))
    with pytest.raises(
        TrainingError, match=r"no validation value was finite in 4 steps: the target of Reverse"
    ):
        fit(flow, None, key=KEY, config=CONFIG, objective=nowhere)


def test_a_last_checkpoint_that_cannot_be_written_keeps_the_flow(tmp_path, monkeypatch, caplog):
    real = FileStore.save

    def full(self, state, best, extra, to_host):
        if extra["step"] == CONFIG.steps:
            raise OSError("No space left on device")
        real(self, state, best, extra, to_host)

    monkeypatch.setattr(FileStore, "save", full)
    settings = {"key": KEY, "config": CONFIG, "transform": None}
    _, history = fit(turning(), X, checkpoint=tmp_path / "state", **settings)
    assert history["step"][-1] == CONFIG.steps
    assert "could not be written: No space left" in caplog.text


def test_a_validation_that_cannot_be_solved_does_not_end_the_training():
    calls = []

    class Sometimes:
        def __call__(self, *args):
            return maximum_likelihood(*args)

        def held_out(self, flow, cond, key, weights=None):
            calls.append(1)
            if len(calls) > 1:
                raise SolveError("too steep")
            return 1.5, 0.0

    flow = CNF(MLP(2, width=4, depth=1, key=KEY), StandardNormal(2))
    config = replace(CONFIG, steps=6)
    settings = {"key": KEY, "config": config, "transform": None}
    _, history = fit(flow, X, objective=Sometimes(), **settings)
    np.testing.assert_array_equal(history["validation"], [1.5, np.nan, np.nan])
    with pytest.raises(TrainingError, match=r"no validation value .* in 6 steps: too steep"):
        fit(flow, X, objective=Sometimes(), **settings)
