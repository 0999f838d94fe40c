"""The log-density of a mixture and the bound of its error, by hand."""

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

from jaxflow import Status
from jaxflow.density import mixture
from jaxflow.density.error import LogDensity
from jaxflow.density.mixture import mix

logsumexp: Any = special.logsumexp
mix_with_error: Any = mixture.mix_with_error

WEIGHTS = jnp.asarray([0.2, 0.5, 0.3])
LOGS = np.log(np.asarray(WEIGHTS))
VALUES = jnp.asarray([[-1.0, -2.0, 0.5], [-3.0, -1000.0, -jnp.inf], [-700.0, -710.0, -720.0]])
TERMS = np.asarray(VALUES) + LOGS
OUTSIDE = jnp.full((1, 3), -jnp.inf)


def answers(values, errors, trace_se=None, status=None):
    zeros = jnp.zeros(values.shape, jnp.int32)
    return LogDensity(
        values, trace_se, errors, values, zeros if status is None else status, zeros + 7
    )


def test_mixture_is_the_logarithm_of_the_weighted_sum():
    np.testing.assert_allclose(mix(VALUES, WEIGHTS), logsumexp(TERMS, axis=1), rtol=1e-15)
    np.testing.assert_array_equal(mix(OUTSIDE, WEIGHTS), [-np.inf])
    assert np.isnan(mix(VALUES.at[0, 1].set(jnp.nan), WEIGHTS)[0])
    # Weights count relative to their sum.
    np.testing.assert_allclose(mix(VALUES, 5 * WEIGHTS), mix(VALUES, WEIGHTS), rtol=1e-15)


def test_gradient_is_the_responsibility_and_0_without_a_density():
    slope = jax.grad(lambda values: mix(values, WEIGHTS, grouped=False).sum())
    share = np.exp(TERMS - logsumexp(TERMS, axis=1, keepdims=True))
    np.testing.assert_allclose(slope(VALUES), share, rtol=1e-12, atol=1e-300)
    np.testing.assert_array_equal(slope(OUTSIDE), np.zeros((1, 3)))


@pytest.mark.parametrize("size", [1e-6, 0.1, 5.0])
def test_error_is_that_of_the_worst_combination_of_errors(size):
    errors = size * jnp.asarray([[1.0, 3.0, 2.0]])
    stated = mix_with_error(answers(VALUES[:1], errors), WEIGHTS).ode_error
    signs = np.asarray(list(itertools.product((-1.0, 0.0, 1.0), repeat=3)))
    truth = logsumexp(TERMS[0])
    worst = np.abs(logsumexp(TERMS[:1] + signs * np.asarray(errors), axis=1) - truth).max()
    np.testing.assert_allclose(stated, [worst], rtol=1e-8)
    assert float(stated[0]) >= worst
    if size < 1e-3:
        share = np.exp(TERMS[0] - truth)
        np.testing.assert_allclose(stated, [share @ np.asarray(errors[0])], rtol=1e-5)


def test_errors_of_components_without_a_share_do_not_count():
    errors = jnp.asarray([[1e-3, 10.0, jnp.inf]])
    row = mix_with_error(answers(VALUES[1:2], errors), WEIGHTS)
    np.testing.assert_allclose(row.ode_error, [1e-3], rtol=1e-9)
    # An unbounded error of a component that has a share, however small, is unbounded.
    unbounded = errors.at[0, 1].set(jnp.inf)
    assert np.isinf(mix_with_error(answers(VALUES[1:2], unbounded), WEIGHTS).ode_error[0])
    nowhere = mix_with_error(answers(OUTSIDE, jnp.zeros((1, 3)), jnp.zeros((1, 3))), WEIGHTS)
    assert (nowhere.value[0], nowhere.ode_error[0], nowhere.trace_se[0]) == (-jnp.inf, 0.0, 0.0)


def test_float32_rounding_is_within_the_stated_error():
    rng = np.random.default_rng(0)
    values = jnp.asarray(rng.normal(size=(4000, 3)) * [1.0, 30.0, 3000.0], jnp.float32)
    stated = mix_with_error(answers(values, jnp.zeros_like(values)), WEIGHTS.astype(jnp.float32))
    assert stated.value.dtype == stated.ode_error.dtype == jnp.float32
    weights = np.asarray(WEIGHTS.astype(jnp.float32), np.float64)
    truth = logsumexp(np.asarray(values, np.float64), axis=1, b=weights / weights.sum())
    error = np.abs(np.asarray(stated.value, np.float64) - truth)
    assert np.all(error <= np.asarray(stated.ode_error))
    assert np.median(error) > 0


def test_standard_errors_add_up_as_squares_of_their_shares():
    se = jnp.asarray([[0.1, 0.2, 0.05]])
    row = mix_with_error(answers(VALUES[:1], jnp.zeros((1, 3)), se), WEIGHTS)
    share = np.exp(TERMS[0] - float(row.value[0]))
    np.testing.assert_allclose(
        row.trace_se, [np.sqrt(np.sum((share * np.asarray(se[0])) ** 2))], rtol=1e-14
    )
    # Infinite where nothing is known of a component, which has no share in the second row.
    lost = mix_with_error(
        answers(VALUES[:2], None, jnp.asarray([[0.1, 0.2, jnp.inf]] * 2)), WEIGHTS
    )
    assert np.isinf(lost.trace_se[0])
    np.testing.assert_allclose(lost.trace_se[1], 0.1, rtol=1e-12)
    assert lost.ode_error is lost.refined is None
    np.testing.assert_array_equal(lost.num_evals, [21, 21])


def test_status_is_that_of_the_worst_component():
    success, outside, inaccurate, steps, finite = (
        int(each)
        for each in (
            Status.SUCCESS,
            Status.OUTSIDE,
            Status.INACCURATE,
            Status.MAX_STEPS,
            Status.NON_FINITE,
        )
    )
    status = jnp.asarray(
        [
            [success, outside, inaccurate],
            [outside, outside, outside],
            [outside, steps, finite],
            [success, success, inaccurate],
        ],
        jnp.int32,
    )
    values = jnp.asarray([[0.0, -jnp.inf, 0.0], [-jnp.inf] * 3, [jnp.nan] * 3, [0.0, 0.0, 0.0]])
    errors = jnp.asarray([[1e-6, 0.0, 1e-4], [0.0] * 3, [jnp.nan] * 3, [1e-6, 1e-6, 0.5]])
    row = mix_with_error(answers(values, errors, None, status), WEIGHTS, atol_nats=1e-2)
    np.testing.assert_array_equal(row.status, [success, outside, finite, inaccurate])
    assert np.isnan(row.ode_error[2])
    row = mix_with_error(answers(values, errors, None, status), WEIGHTS)
    np.testing.assert_array_equal(row.status, [success, outside, finite, success])
