"""Ways to make an estimator's fit quick to compile."""

import sys
from functools import partial

import jax.numpy as jnp
import pytest


@pytest.fixture(scope="module")
def patch():
    """A monkeypatch that lasts for a module."""
    with pytest.MonkeyPatch.context() as patch:
        yield patch


@pytest.fixture(scope="module")
def two_steps(patch):
    """Solves of two steps."""
    from jaxflow import CNF, ODE
    from jaxflow.estimator import arguments

    ode = ODE(solver="euler", num_steps=2, gradient="direct")
    patch.setattr(arguments, "CNF", partial(CNF, ode_eval=ode))


@pytest.fixture(scope="module")
def no_updates(patch):
    """All of a fit but the updates of the weights, which compile longest."""

    def leave(inputs, state):
        return state, jnp.zeros(len(inputs[1])), 0.0

    patch.setattr(sys.modules["jaxflow.training.run"], "train_steps", leave)
