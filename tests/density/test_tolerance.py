"""Log-densities to a tolerance in nats: reached, or said to be out of reach."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tests.density.test_accuracy import EXACT, FIELDS, KEY

from jaxflow import CNF, ODE, Hutchinson, SolveError, StandardNormal, Status
from jaxflow.density.error import CHECKED, UNCHECKED
from jaxflow.dynamics import Linear

FLOW = CNF(FIELDS["wave"][0], StandardNormal(2), ode_eval=ODE(rtol=1e-1, atol=1e-1))
X = 1.5 * jax.random.normal(KEY, (200, 2))

SLOW = pytest.mark.slow


@pytest.fixture(scope="module")
def truth():
    return np.asarray(dataclasses.replace(FLOW, ode_eval=EXACT).log_prob(X))


@pytest.mark.parametrize("verify", [False, True])
def test_every_row_is_within_its_tolerance(truth, verify):
    assert np.max(np.abs(FLOW.log_prob(X, atol_nats=1e-3, verify=verify) - truth)) <= 1e-3


@pytest.mark.parametrize("atol_nats", [1e-3, pytest.param(0.1, marks=SLOW)])
@pytest.mark.parametrize("k", [pytest.param(4.0, marks=SLOW), 8.0, pytest.param(14.0, marks=SLOW)])
@pytest.mark.slow
def test_small_states_are_within_it_however_much_they_grow(k, atol_nats):
    # States of size exp(-k), where the tolerance of a step may exceed the state itself.
    z = np.random.default_rng(1).normal(size=(100, 2))
    flow = CNF(Linear(matrix=-k * np.eye(2), key=KEY), StandardNormal(2))
    expected = (k - 0.5 * z**2 - 0.5 * np.log(2 * np.pi)).sum(axis=1)
    error = np.abs(flow.log_prob(z * np.exp(-k), atol_nats=atol_nats) - expected)
    assert np.max(error) <= atol_nats


@pytest.mark.slow
def test_a_tolerance_in_nats_is_a_share_of_it_for_the_solver():
    # Twenty times as exact where nothing is verified; see `jaxflow.density.error`.
    def by(share):
        return dataclasses.replace(FLOW, ode_eval=ODE(rtol=0.0, atol=1e-3 * share))

    once = FLOW.log_prob(X[:4], atol_nats=1e-3)
    np.testing.assert_allclose(once, by(UNCHECKED).log_prob(X[:4]), rtol=1e-12)
    verified = FLOW.log_prob_with_error(X[:4], atol_nats=1e-3)
    np.testing.assert_allclose(
        verified.value, by(CHECKED).log_prob_with_error(X[:4]).value, rtol=1e-12
    )


@SLOW
def test_rows_that_miss_are_solved_again(truth, monkeypatch):
    # A first tolerance so loose that rows miss.
    monkeypatch.setattr("jaxflow.density.error.CHECKED", 10.0)
    answer = FLOW.log_prob_with_error(X, atol_nats=1e-3)
    assert np.all(np.asarray(answer.status) == Status.SUCCESS)
    assert np.all(np.abs(answer.value - truth) <= 1e-3)
    assert np.all(np.asarray(answer.ode_error) <= 1e-3)
    # Their evaluations add up, those of rows that were right at once stay few.
    evals = np.asarray(answer.num_evals)
    assert np.max(evals) > 2 * np.min(evals)


@SLOW
def test_a_row_out_of_reach_is_named_and_the_error_is_stated():
    # |z|^2 / 2 is 2e6 nats here, whose rounding in float32 is a tenth of a nat.
    far = jnp.asarray([[0.0, 1.0], [2000.0, 0.0]], jnp.float32)
    flow = CNF(lambda t, x: 0.0 * x, StandardNormal(2))
    answer = flow.log_prob_with_error(far, atol_nats=1e-3)
    np.testing.assert_array_equal(answer.status, [Status.SUCCESS, Status.INACCURATE])
    assert answer.ode_error is not None
    assert answer.ode_error[1] > 0.1
    with pytest.raises(SolveError, match=r"log_prob failed in row 1 .*solve in float64"):
        flow.log_prob(far, atol_nats=1e-3)
    with pytest.raises(SolveError, match=r"log_prob failed in row 1 .*solve in float64"):
        flow.log_prob(far, atol_nats=1e-3, verify=True)
    quiet = dataclasses.replace(flow, ode_eval=ODE(throw=False))
    log_p = quiet.log_prob(far, atol_nats=1e-3)
    np.testing.assert_array_equal(np.isnan(log_p), [False, True])


@SLOW
def test_a_tolerance_works_under_jit():
    inside = jax.jit(lambda x: FLOW.log_prob(x, atol_nats=1e-3))(X[:5])
    np.testing.assert_allclose(inside, FLOW.log_prob(X[:5], atol_nats=1e-3), rtol=1e-12)
    with pytest.raises(ValueError, match=r"solves again the rows that miss it.*under jit"):
        jax.jit(lambda x: FLOW.log_prob(x, atol_nats=1e-3, verify=True))(X[:5])


@SLOW
def test_probes_have_a_tolerance_too():
    flow = dataclasses.replace(FLOW, trace=Hutchinson(2))
    answer = flow.log_prob_with_error(X[:5], key=KEY, atol_nats=1e-3)
    tight = dataclasses.replace(flow, ode_eval=EXACT).log_prob(X[:5], key=KEY)
    assert np.all(np.abs(answer.value - tight) <= 1e-3)


BAD = {
    "negative": (FLOW, {"atol_nats": -1.0}, r"atol_nats=-1.0 must be positive"),
    "zero": (FLOW, {"atol_nats": 0.0}, r"atol_nats=0.0 must be positive"),
    "rounding": (FLOW, {"atol_nats": 1e-16}, r"the best that float64 can do: .*float64"),
    "nothing": (FLOW, {"verify": True}, r"verify=True needs a target: give atol_nats"),
    "fixed": (
        dataclasses.replace(FLOW, ode_eval=ODE(num_steps=4)),
        {"atol_nats": 1e-3},
        r"atol_nats=0.001 chooses the steps .*leave num_steps and dt out",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_tolerance_is_refused_before_anything_is_solved(name):
    flow, arguments, words = BAD[name]
    with pytest.raises(ValueError, match=words):
        flow.log_prob(X, **arguments)
