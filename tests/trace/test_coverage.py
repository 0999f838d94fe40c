"""`value +- q trace_se` covers the exact trace, also where outcomes are few, rare or skewed."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import t as student

from jaxflow.trace import Hutchinson, HutchPlusPlus

NUM = 3000
D = 6
KEY = jax.random.key(3)
U = np.asarray(jax.random.normal(KEY, (D, D)))
PAIR = np.zeros((D, D))
PAIR[0, 1] = PAIR[1, 0] = 0.5
JACOBIANS = {
    "pair": PAIR,
    "pair over small": PAIR + 1e-3 * U,
    "block": np.kron(np.eye(D // 2), [[0.2, 0.5], [0.5, 0.2]]),
    "dense": U,
    "rank one": np.outer(U[0], U[0]),
    "ones": np.ones((D, D)),
    "rank two": U[:, :2] @ U[:, 2:4].T,
}
LAWS: list[Any] = ["rademacher", "gaussian", "orthogonal"]


def outcomes(trace, key) -> Any:
    """Values and standard errors for each Jacobian, (Jacobians, draws)."""
    matrices = np.stack(list(JACOBIANS.values()))

    def one(matrix, key):
        v = trace.draw(key, (D,), float)
        return trace.estimate(jnp.sum(v * (v @ matrix.T), axis=1), v, 1.0)

    each = jax.jit(jax.vmap(jax.vmap(one, in_axes=(None, 0)), in_axes=(0, None)))
    return each(matrices, jax.random.split(key, NUM))


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("k", [1, 2, 4, 8, 16])
def test_intervals_cover_the_trace_of_every_kind_of_jacobian(law, k, key):
    if law == "orthogonal" and k > D:
        return
    values, errors = outcomes(Hutchinson(k, law), key)
    if k == 1 or (law == "rademacher" and k < 8):
        assert errors is None
        return
    truth = np.asarray([np.trace(matrix) for matrix in JACOBIANS.values()])[:, None]
    width = student.ppf(0.975, k - 1) * np.asarray(errors)
    covered = np.mean(np.abs(np.asarray(values) - truth) <= width + 1e-12, axis=1)
    assert np.all(covered > 0.92), dict(zip(JACOBIANS, covered.tolist(), strict=True))


def test_the_probes_of_hutch_plus_plus_tell_their_error_by_the_same_rule(key):
    none = jnp.zeros((0, D))
    assert outcomes(HutchPlusPlus(none, num_probes=4), key)[1] is None
    values, errors = outcomes(HutchPlusPlus(none, num_probes=8), key)
    same = outcomes(Hutchinson(8), key)
    np.testing.assert_allclose(values, same[0], rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(errors, same[1], rtol=1e-9, atol=1e-12)


def test_a_standard_error_of_zero_is_known_to_be_exact():
    # Eight equal outcomes: a diagonal Jacobian, or signs that agree by chance.
    v = jnp.ones((8, 2))
    for equal in (jnp.ones(8), jnp.ones(8).at[0].add(1e-15)):
        _, error = Hutchinson(8).estimate(equal, v, 1.0)
        assert error == jnp.inf
    # One entry: v^2 = 1, from one probe on.
    for k in (1, 2, 8):
        _, error = Hutchinson(k).estimate(jnp.ones(k), jnp.ones((k, 1)), 1.0)
        assert error == 0
