"""Outside the support the log-density is -inf, in every face alike, and no other row suffers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxflow import CNF, ODE, CouplingFlow, StandardNormal, Status, fit
from jaxflow.dynamics import MLP
from jaxflow.flows.data_space import check_inside
from jaxflow.transforms import Bounded, Chain, Standardise

KEY = jax.random.key(0)
HALF_LINE = Bounded([0.0], [jnp.inf])


def still(t, x, cond=None):
    return jnp.zeros_like(x)


# Fixed steps compile quickly.
FIXED = ODE(solver="euler", num_steps=1)
LOG_NORMAL = CNF(still, StandardNormal(1), transform=HALF_LINE)
X = jnp.asarray([[1.0], [-0.5], [0.0], [2.0]])
EXPECTED = [
    -0.5 * np.log(2 * np.pi),
    -np.inf,
    -np.inf,
    -0.5 * np.log(2 * np.pi) - np.log(2) ** 2 / 2 - np.log(2),
]


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_a_row_outside_has_log_density_minus_infinity(dtype):
    x = X.astype(dtype)
    np.testing.assert_allclose(LOG_NORMAL.log_prob(x), EXPECTED, rtol=1e-6)
    np.testing.assert_allclose([LOG_NORMAL.log_prob(row) for row in x], EXPECTED, rtol=1e-6)


def test_every_face_says_the_same():
    calls = {
        "jit": jax.jit(lambda x: LOG_NORMAL.log_prob(x)),
        "rows": jax.jit(lambda x: LOG_NORMAL.log_prob_rows(x)[0]),
        "training": jax.jit(lambda x: LOG_NORMAL.log_prob_rows(x, training=True)[0]),
        "to a tolerance": lambda x: LOG_NORMAL.log_prob(x, atol_nats=1e-3),
        "verified": lambda x: LOG_NORMAL.log_prob(x, atol_nats=1e-3, verify=True),
        "at the end": lambda x: LOG_NORMAL.log_prob_at(1.0, x),
        "with error": lambda x: LOG_NORMAL.log_prob_with_error(x).value,
        "refined": lambda x: LOG_NORMAL.log_prob_with_error(x).refined,
    }
    for name, call in calls.items():
        np.testing.assert_allclose(call(X), EXPECTED, rtol=1e-6, err_msg=name)
    chained = Chain((HALF_LINE, Standardise.fit(np.asarray([[0.0], [1.0]]))))
    for transform in (HALF_LINE, chained):
        flow = CNF(still, StandardNormal(1), transform=transform, ode_eval=FIXED)
        assert list(np.isneginf(flow.log_prob(X))) == [False, True, True, False]
    square = Bounded([0.0, 0.0], [1.0, 1.0])
    coupling = CouplingFlow(2, width=4, num_layers=2, transform=square, key=KEY)
    x = jnp.asarray([[0.5, 0.5], [0.5, 1.0], [2.0, 0.5]])
    assert list(np.isneginf(coupling.log_prob(x))) == [False, True, True]


def test_a_status_says_so_and_the_error_is_0():
    answer = LOG_NORMAL.log_prob_with_error(X)
    inside, outside = int(Status.SUCCESS), int(Status.OUTSIDE)
    assert list(np.asarray(answer.status)) == [inside, outside, outside, inside]
    assert answer.ode_error is not None
    np.testing.assert_array_equal(answer.ode_error[1:3], 0.0)
    assert np.all(np.asarray(answer.ode_error) < 1e-6)


@pytest.mark.slow
def test_the_gradient_is_0_outside_and_others_keep_theirs():
    flow = CNF(MLP(1, width=4, depth=1, key=KEY), StandardNormal(1), transform=HALF_LINE)
    slope = jax.jit(jax.grad(lambda x: jnp.sum(jnp.exp(flow.log_prob(x)))))
    together = slope(X)
    np.testing.assert_array_equal(together[1:3], 0.0)
    np.testing.assert_allclose(together[:1], slope(X[:1]), rtol=1e-10)
    assert float(together[0, 0]) != 0.0


def test_no_point_of_the_base_belongs_to_a_row_outside():
    for call in (LOG_NORMAL.encode, lambda x: LOG_NORMAL.transport(x, 1.0, 0.5)):
        with pytest.raises(ValueError, match=r"outside the support .* 2 of 4 rows, first row 1"):
            call(X)
    np.testing.assert_array_equal(
        np.isnan(jax.jit(lambda x: LOG_NORMAL.encode(x))(X))[:, 0], [False, True, True, False]
    )


def test_a_row_outside_trains_nothing():
    flow = CNF(MLP(1, width=4, depth=1, key=KEY), StandardNormal(1), transform=HALF_LINE)
    with pytest.raises(ValueError, match=r"x lies outside the support .* 2 rows, first row 1"):
        fit(flow, X, validation=X[:1], key=KEY)
    with pytest.raises(ValueError, match=r"validation lies outside the support .* first row 0"):
        fit(flow, jnp.asarray([[1.0], [3.0]]), validation=X[1:], key=KEY)


def test_the_argument_that_lies_outside_is_named():
    with pytest.raises(ValueError, match=r"z lies outside .* 1 of 2 rows.*transform.check\(z\)"):
        check_inside(jnp.asarray([True, False]), "z")
