"""A field that moves for a short time only is met, or the error says that it was not."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.scipy.stats import norm
from scipy import stats

from jaxflow import CNF, ODE, StandardNormal

BASE = StandardNormal(2)
X = 1.5 * np.asarray(jax.random.normal(jax.random.key(0), (60, 2)))


class Bump(eqx.Module):
    """Its numbers are arrays, so that all bumps have one program."""

    time: jax.Array
    width: jax.Array
    drift: jax.Array

    def __call__(self, t, x):
        return x * (norm.pdf(t, self.time, self.width) + self.drift)


def bump(time, width, drift=0.0, **settings):
    """`v = x (N(t; time, width) + drift)` and its log-density at `X` in closed form."""

    moved = np.diff(stats.norm.cdf([0.0, 1.0], time, width))[0] + drift
    truth = stats.norm.logpdf(X * np.exp(-moved)).sum(axis=1) - 2 * moved
    field = Bump(jnp.asarray(time), jnp.asarray(width), jnp.asarray(drift))
    return CNF(field, BASE, ode_eval=ODE(**settings)), truth


@pytest.mark.parametrize("time", [0.13, 0.37])
@pytest.mark.parametrize("width", [0.05, 0.03])
@pytest.mark.parametrize("drift", [0.0, 1.0])
def test_the_stated_error_covers_a_bump_in_time(time, width, drift):
    flow, truth = bump(time, width, drift)
    answer = flow.log_prob_with_error(X)
    true, stated = np.abs(np.asarray(answer.value) - truth), np.asarray(answer.ode_error)
    assert np.mean(true <= stated) >= 0.99
    # Most rows meet it with the tolerance that they have.
    assert np.median(true) < 1e-4


def test_what_the_second_solve_alone_sees_is_no_number():
    # Narrow enough to be stepped over: either right, or of an unbounded error.
    flow, truth = bump(0.37, 0.01, drift=0.5)
    answer = flow.log_prob_with_error(X)
    true, stated = np.abs(np.asarray(answer.value) - truth), np.asarray(answer.ode_error)
    assert np.all(true <= stated)
    assert np.all((stated > 1e30) | (true < 1e-3))


@pytest.mark.slow
def test_a_limit_on_the_step_meets_a_change_of_a_known_length():
    # A width of 0.003: the field moves for about 0.02, four steps long.
    for time in (0.37, 0.61):
        flow, truth = bump(time, 0.003, drift=0.5, max_step=0.02)
        np.testing.assert_allclose(flow.log_prob(X), truth, atol=1e-3)
    # Without a limit the last one is stepped over by some rows.
    free = dataclasses.replace(flow, ode_eval=ODE())
    assert np.max(np.abs(np.asarray(free.log_prob(X)) - truth)) > 0.1
