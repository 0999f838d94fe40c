"""The stated error of a log-density covers the true one, on fields that fitted no constant."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tests.laws.fields import grown

from jaxflow import CNF, ODE, Hutchinson, StandardNormal
from jaxflow.dynamics import MLP, ConcatSquash, Linear
from jaxflow.ode.twice import solve_twice

EXACT = ODE(solver="dopri5", rtol=1e-11, atol=1e-11)
KEY = jax.random.key(8)


def wave(t, x):
    """A field without weights: a rotating shear, with a fast part in time."""
    turn = jnp.stack([x[1], -x[0]]) * (1 + 0.5 * jnp.sin(9 * t))
    return turn + jnp.sin(2 * x[::-1] + 3 * t)


FIELDS = {
    "tanh": (grown(MLP(3, width=12, key=KEY)), 3),
    "sin": (grown(MLP(2, width=8, activation="sin", key=KEY)), 2),
    "softplus": (grown(MLP(4, width=10, depth=1, activation="softplus", key=KEY)), 4),
    "concatsquash": (grown(ConcatSquash(3, width=8, key=KEY)), 3),
    "linear": (Linear(4, key=KEY), 4),
    "wave": (wave, 2),
}


# Each compiles for itself: some of them daily.
SLOW = ("sin", "tanh", "softplus", "concatsquash", "linear")


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.slow] * (n in SLOW)) for n in FIELDS]
)
def test_the_stated_error_covers_the_true_one(name):
    field, dim = FIELDS[name]
    flow = CNF(field, StandardNormal(dim), ode_eval=EXACT)
    x = 1.5 * jax.random.normal(KEY, (200, dim))
    truth = flow.log_prob(x)
    for tolerance in (1e-2, 1e-3, 1e-5):
        ode = ODE(rtol=tolerance, atol=tolerance)
        answer = dataclasses.replace(flow, ode_eval=ode).log_prob_with_error(x)
        assert answer.ode_error is not None
        assert answer.refined is not None
        true = np.abs(np.asarray(answer.value - truth))
        stated = np.asarray(answer.ode_error)
        assert np.mean(true <= stated) >= 0.99, tolerance
        assert np.median(stated / np.maximum(true, 1e-15)) < 12, tolerance
        assert np.median(np.abs(answer.refined - truth)) < 0.5 * np.median(true), tolerance


@pytest.mark.slow
def test_a_row_of_more_steps_than_are_kept_has_no_measure(monkeypatch):
    rates = jnp.linspace(0.1, 30.0, 60)

    def solve(max_steps):
        return solve_twice(
            lambda t, y, _, rate: (-rate * y[0], 0 * y[1]), (jnp.ones((60, 1)), jnp.zeros(60)),
            jnp.zeros(60), jnp.ones(60), None, rates,
            ode=ODE(rtol=1e-4, atol=1e-4, max_steps=max_steps),
        )  # fmt: skip

    whole, stats = solve(4000)
    taken = np.asarray(stats.num_accepted)
    most = int(np.median(taken))
    assert (taken == most).any()
    assert (taken > most).any()
    monkeypatch.setattr("jaxflow.ode.twice.MAX_NODES", most)
    short, _ = solve(4001)
    np.testing.assert_array_equal(short.y[0], whole.y[0])
    known = taken <= most
    np.testing.assert_array_equal(np.isfinite(short.refined[0][:, 0]), known)
    np.testing.assert_allclose(short.refined[0][known], whole.refined[0][known], rtol=1e-14)


def test_a_field_that_is_zero_has_no_error_and_few_evaluations():
    flow = CNF(lambda t, x: 0.0 * x, StandardNormal(2))
    x = jax.random.normal(KEY, (5, 2))
    answer = flow.log_prob_with_error(x)
    np.testing.assert_allclose(answer.value, jax.vmap(flow.base.log_prob)(x), rtol=1e-15)
    assert np.all(np.asarray(answer.ode_error) < 1e-13)
    assert np.all(np.asarray(answer.num_evals) < 150)


@pytest.mark.slow
def test_probes_and_steps_each_have_their_error():
    flow = CNF(
        FIELDS["tanh"][0],
        StandardNormal(3),
        trace=Hutchinson(8),
        ode_eval=ODE(rtol=1e-3, atol=1e-3),
    )
    x = jax.random.normal(KEY, (6, 3))
    answer = flow.log_prob_with_error(x, key=KEY)
    tight = dataclasses.replace(flow, ode_eval=EXACT).log_prob(x, key=KEY)
    assert np.all(np.abs(answer.value - tight) <= np.asarray(answer.ode_error))
    assert np.all(np.asarray(answer.trace_se) > np.asarray(answer.ode_error))


def test_fixed_steps_state_no_error():
    flow = CNF(FIELDS["tanh"][0], StandardNormal(3), ode_eval=ODE(solver="rk4", num_steps=4))
    answer = flow.log_prob_with_error(jnp.ones((2, 3)))
    assert answer.ode_error is None
    assert answer.refined is None


def test_a_row_that_fails_states_nothing():
    ode = ODE(rtol=1e-9, atol=1e-9, max_steps=3, throw=False)
    flow = CNF(FIELDS["tanh"][0], StandardNormal(3), ode_eval=ode)
    answer = flow.log_prob_with_error(jnp.ones((2, 3)))
    assert np.isnan(np.asarray(answer.ode_error)).all()
    assert np.all(answer.status != 0)


def kinked(t, x):
    """`1 + 3 max(x, 0)`."""
    return 1 + 3 * jnp.maximum(x, 0)


def jumping(t, x):
    return x * jnp.where(t > 0.37, 1.0, -1.0)


@pytest.mark.parametrize("field", [kinked, jumping])
def test_the_stated_error_covers_kinks_in_space_and_jumps_in_time(field):
    x = 1.5 * np.asarray(jax.random.normal(KEY, (400, 1)))[:, 0]
    # How long each row is on the steep side, on the way back.
    steep = np.minimum(np.log1p(3 * np.maximum(x, 0)) / 3, 1)
    z, gain = x * np.exp(-0.26), 0.26
    if field is kinked:
        z = np.where(
            steep < 1, np.minimum(x, 0) - (1 - steep), (np.expm1(-3) + 3 * x / np.e**3) / 3
        )
        gain = 3 * steep
    truth = -0.5 * z**2 - 0.5 * np.log(2 * np.pi) - gain
    answer = CNF(field, StandardNormal(1)).log_prob_with_error(x[:, None])
    true, stated = np.abs(np.asarray(answer.value) - truth), np.asarray(answer.ode_error)
    assert np.median(true) < 1e-3
    assert np.mean(true <= stated) >= 0.99


@pytest.mark.slow
def test_an_error_that_is_not_measured_is_unbounded(monkeypatch):
    monkeypatch.setattr("jaxflow.ode.twice.MAX_NODES", 4)
    ode = ODE(rtol=1e-6, atol=1e-6)
    x = jax.random.normal(KEY, (20, 2))
    answer = CNF(FIELDS["wave"][0], StandardNormal(2), ode_eval=ode).log_prob_with_error(x)
    assert np.all(np.asarray(answer.status) == 0)
    assert np.all(np.isposinf(np.asarray(answer.ode_error)))
