"""Stated errors of rows: which miss what was asked for, and what they need."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxflow import CNF, ODE, Hutchinson, StandardNormal
from jaxflow.diagnostics.findings import Quantiles
from jaxflow.diagnostics.solves import check_atol, measure_solves, without_raising
from jaxflow.dynamics import Linear

KEY = jax.random.key(0)


def flow(ode, dtype=jnp.float64, **settings):
    matrix = jnp.asarray([[0.4, 0.5], [-0.2, 0.1]], dtype)
    return without_raising(CNF(Linear(matrix=matrix), StandardNormal(2), ode_eval=ode, **settings))


@pytest.mark.slow
def test_rows_that_miss_need_a_tighter_tolerance_or_float64():
    ode = ODE(solver="bosh3", rtol=1e-2, atol=1e-2)
    x = np.random.default_rng(0).normal(size=(100, 2)).astype(np.float32)
    # |z|^2 / 2 is about 1000 here, and 3 eps of it more than 1e-4.
    x[[7, 60]] = [[30.0, 40.0], [0.0, 50.0]]
    found = measure_solves(
        flow(ode, jnp.float32), jnp.asarray(x), None, np.arange(100), key=KEY, atol_nats=1e-4
    )
    assert found.failed == {}
    assert found.ode_error is not None
    assert found.ode_errors is not None
    assert found.ode_error.p99 == np.sort(found.ode_errors)[98] > 1e-4
    assert found.missed == tuple(np.flatnonzero(found.ode_errors > 1e-4).tolist())
    assert found.tried == found.missed
    assert found.inaccurate == (7, 60)
    first, second, third = found.findings()
    assert first.grade == second.grade == third.grade == "bad"
    assert first.text.startswith(f"log-densities are good to {found.ode_error.p99:.2g} nats only")
    assert second.text == "2 rows (rows 7, 60) need float64 to come within 0.0001 nats"
    assert third.text.startswith(f"{len(found.missed) - 2} rows (rows ")
    assert "; flow.log_prob(x, atol_nats=0.0001, verify=True) reaches it" in third.text
    # In float64 nothing would help them.
    assert "at any tolerance" in found._replace(single=False).findings()[1].text


def test_a_stochastic_trace_is_reported():
    ode = ODE(solver="euler", num_steps=2)
    stochastic = flow(ode, trace=Hutchinson(16))
    x = jnp.ones((50, 2))
    found = measure_solves(stochastic, x, None, np.arange(50), key=KEY, atol_nats=1e-3)
    # With f = A x one probe has the variance (A_12 + A_21)^2 = 0.09.
    assert found.trace_se is not None
    assert 0.05 < found.trace_se.p90 < 0.3
    unstated, trace = found.findings()
    assert unstated.text.startswith("these solves estimate no error of their steps")
    assert (unstated.grade, trace.grade) == ("unknown", "bad")
    assert "dataclasses.replace(flow, trace='exact')" in trace.text
    one = found._replace(one_probe=True, trace_se=None).findings()[-1]
    assert (one.grade, one.text[:22]) == ("unknown", "so few probes per row ")


def test_a_row_that_states_no_error_counts_as_the_worst():
    ode = ODE(solver="euler", num_steps=2)
    found = measure_solves(
        flow(ode), jnp.ones((50, 2)), None, np.arange(50), key=KEY, atol_nats=1e-3
    )
    errors = np.where(np.arange(50) < 3, np.nan, 1e-6)
    found = found._replace(ode_errors=errors, ode_error=Quantiles(1e-6, 1e-6, np.inf, np.inf))
    assert found.findings()[0].text == "3 rows took too many steps to estimate their error"
    slow = found._replace(num_evals=Quantiles(2e3, 3e3, 3e3, 3e3)).findings()[-1]
    assert slow.grade == "bad"
    assert slow.text.startswith("a log-density takes 2,000 evaluations of the field (median; ")


def test_an_error_out_of_reach_is_refused_at_once():
    x = jnp.ones((2, 2), jnp.float32)
    with pytest.raises(
        ValueError, match=r"atol_nats=1e-07 is below .* nats, the best that float32 can"
    ):
        check_atol(flow(ODE(), jnp.float32), x, 1e-7)
    with pytest.raises(ValueError, match=r"atol_nats=-1.0 must be positive"):
        check_atol(flow(ODE(solver="rk4", num_steps=3)), x, -1.0)
