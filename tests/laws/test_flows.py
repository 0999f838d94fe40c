"""Laws of a flow with any field: inverse, Jacobian, agreement of its functions."""

import jax
import numpy as np
import pytest
from tests.laws.fields import FIELDS, Case

from jaxflow import CNF, ODE, StandardNormal

# One of each kind; their traces are tested one by one in `test_traces`.
NAMES = ["mlp, depth 3", "mlp, matrix events", "concatsquash, condition"]
# Fixed steps are quick to compile with their derivatives; their error is below 1e-7.
ODE_EVAL = ODE(solver="rk4", num_steps=120, gradient="direct")


@pytest.fixture(params=NAMES, scope="module")
def case(request) -> Case:
    return FIELDS[request.param]


@pytest.fixture(scope="module")
def flow(case):
    return CNF(case.field, StandardNormal(case.event_shape), ode_eval=ODE_EVAL)


@pytest.fixture(scope="module")
def x(case):
    # Not as many as entries of the condition, which would be ambiguous.
    return jax.random.normal(jax.random.key(8), (4, *case.event_shape))


def test_encode_and_decode_undo_each_other(flow, case, x):
    z = flow.encode(x, case.cond)
    assert np.max(np.abs(np.asarray(z) - np.asarray(x))) > 1e-2
    np.testing.assert_allclose(flow.decode(z, case.cond), x, atol=1e-7)


def test_log_prob_is_that_of_the_dense_jacobian(flow, case, x):
    event = x[0]
    size = event.size

    def encode(flat):
        z = flow.encode(flat.reshape(event.shape), case.cond).reshape(size)
        return z, z

    jacobian, z = jax.jit(jax.jacfwd(encode, has_aux=True))(event.reshape(size))
    _, log_det = np.linalg.slogdet(jacobian)
    expected = flow.base.log_prob(z.reshape(event.shape)) + log_det
    together = flow.log_prob(x, case.cond)
    assert together.shape == (4,)
    assert float(together[0]) == pytest.approx(float(expected), abs=1e-6)


def test_samples_come_with_their_log_prob(flow, case):
    key = jax.random.key(2)
    x, log_p = flow.sample_and_log_prob(key, 4, case.cond)
    np.testing.assert_allclose(flow.log_prob(x, case.cond), log_p, atol=1e-6)
