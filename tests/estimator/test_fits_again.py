"""A fit whose weights are updated, and another one like it."""

import logging

import jax
import numpy as np

from jaxflow.estimator import FlowDensity

X = np.random.default_rng(0).normal((1.0, -20.0), (0.5, 30.0), size=(60, 2))


def test_a_second_fit_compiles_nothing(two_steps, caplog):
    settings = {"width": 8, "depth": 1, "steps": 4, "objective": "matching"}
    one = FlowDensity(**settings, scaling="standardise", random_state=0).fit(X)
    with jax.log_compiles(), caplog.at_level(logging.WARNING):
        two = FlowDensity(**settings, scaling="standardise", random_state=1).fit(X + 1.0)
    assert "XLA compilation" not in caplog.text
    assert one.history_["step"][-1] == 4
    assert one.history_["loss"] != two.history_["loss"]
