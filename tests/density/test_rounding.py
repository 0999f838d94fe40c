"""In float32 the stated error covers the rounding: of the solve, the transform and the base."""

import warnings
from dataclasses import replace

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from jaxflow import CNF, ODE, DiagonalNormal, StandardNormal, StudentT
from jaxflow.dynamics import MLP
from jaxflow.transforms import Standardise, Whiten

RNG = np.random.default_rng(3)
N = 600
EXACT = ODE(solver="dopri8", rtol=1e-11, atol=1e-11)


def still(t, x):
    return 0 * x


class Pull(eqx.Module):
    """`-rate (x - 1)`: errors of 1 in its last place grow by `exp(rate)` on the way back."""

    rate: jax.Array

    def __call__(self, t, x, cond=None):
        return -self.rate * (x - 1)


def single(tree):
    """In float32, exactly as a user without float64 has it."""
    return jax.tree.map(
        lambda leaf: leaf.astype(jnp.float32) if eqx.is_inexact_array(leaf) else leaf, tree
    )


def judge(flow, x, truth):
    """Coverage and the median of stated over true errors, in float32."""
    with jax.enable_x64(False):
        answer = single(flow).log_prob_with_error(jnp.asarray(x))
    assert answer.value.dtype == answer.ode_error.dtype == jnp.float32
    true = np.abs(np.asarray(answer.value, float) - truth)
    stated = np.asarray(answer.ode_error, float)
    return np.mean(true <= stated), np.median(stated / np.maximum(true, 1e-12))


def exact(flow, x):
    """By a float64 solve at 1e-11 of the same float32 numbers."""
    wide = jax.tree.map(
        lambda leaf: leaf.astype(float) if eqx.is_inexact_array(leaf) else leaf, single(flow)
    )
    return np.asarray(replace(wide, ode_eval=EXACT).log_prob(np.asarray(x, float)))


def pulled(rates, rows=N):
    """Samples of a flow that contracts, in float32, and their log-densities."""
    rates = np.asarray(rates, np.float32).astype(float)
    x = (1 + (RNG.normal(size=(rows, 2)) - 1) * np.exp(-rates)).astype(np.float32)
    z = 1 + (x.astype(float) - 1) * np.exp(rates)
    truth = -0.5 * np.sum(z**2, axis=1) - np.log(2 * np.pi) + np.sum(rates * np.ones(2))
    return CNF(Pull(jnp.asarray(rates * np.ones(2))), StandardNormal(2)), x, truth


@pytest.mark.parametrize("rate", [2.0, 5.0, 8.0, 10.0, 12.0])
def test_a_field_that_contracts(rate):
    coverage, ratio = judge(*pulled(rate))
    assert coverage >= 0.99
    assert ratio < 20


def test_a_field_that_contracts_one_way_and_expands_another():
    coverage, ratio = judge(*pulled([-9.0, 9.0]))
    assert coverage >= 0.99
    assert ratio < 50


@pytest.mark.parametrize("growth", [1.0, pytest.param(-1.0, marks=pytest.mark.slow)])
def test_a_field_that_is_steep_in_time_feels_the_rounding_of_times(growth):
    end = 1 + 2.0**-10
    x = (RNG.normal(size=(N, 1)) * (1.0 if growth > 0 else 1e-3)).astype(np.float32)
    change = growth * np.log(end / (end - 1))
    truth = stats.norm.logpdf(x.astype(float)[:, 0] * np.exp(-change)) - change
    flow = CNF(lambda t, x: growth * x / (end - t), StandardNormal(1))
    coverage, _ = judge(flow, x, truth)
    assert coverage >= 0.99


def test_a_transform_that_is_ill_conditioned():
    axes = np.linalg.qr(RNG.normal(size=(4, 4)))[0] * np.logspace(0, -4, 4)
    x = (RNG.normal(size=(N, 4)) @ axes.T + 1).astype(np.float32)
    field = jax.tree.map(
        lambda w: w + 0.2 if eqx.is_inexact_array(w) else w, MLP(4, width=8, key=jax.random.key(3))
    )
    flow = CNF(field, StandardNormal(4), transform=Whiten.fit(x))
    coverage, ratio = judge(flow, x, exact(flow, x))
    assert coverage >= 0.99
    assert ratio < 20


@pytest.mark.slow
def test_a_base_far_from_0():
    base = DiagonalNormal(jnp.full(2, 100.0), jnp.full(2, 2.0**-10))
    flow = CNF(Pull(jnp.full(2, -0.25)), base)
    x = (1 + (100 + 2.0**-10 * RNG.normal(size=(N, 2)) - 1) * np.exp(0.25)).astype(np.float32)
    coverage, ratio = judge(flow, x, exact(flow, x))
    assert coverage >= 0.99
    assert ratio < 20


@pytest.mark.parametrize("df", [0.7, 3.0, 30.0])
def test_a_base_with_heavy_tails(df):
    df = float(np.float32(df))
    x = RNG.standard_t(df, (N, 8)).astype(np.float32)
    flow = CNF(still, StudentT(df, 8))
    coverage, ratio = judge(flow, x, stats.t.logpdf(x.astype(float), df).sum(axis=1))
    assert coverage >= 0.99
    assert ratio < 30


def test_offsets_are_subtracted_before_rows_are_rounded():
    x = 3e6 + RNG.normal(size=(N, 1))
    truth = -0.5 * (x[:, 0] - 3e6) ** 2 - 0.9189385332046727
    with jax.enable_x64(False):
        flow = single(
            CNF(
                still,
                StandardNormal(1),
                transform=Standardise(jnp.asarray([3e6]), jnp.ones(1)),
            )
        )
        for given in (x, x.tolist()):
            np.testing.assert_allclose(flow.log_prob(given), truth, atol=1e-5)
        np.testing.assert_allclose(flow.log_prob_with_error(x).value, truth, atol=1e-5)
        np.testing.assert_allclose(flow.encode(x)[:, 0], x[:, 0] - 3e6, atol=1e-6)
        np.testing.assert_allclose(flow.log_prob_at(0.5, x), truth, atol=1e-5)
        # Without a transform the rounding is said, by column.
        plain = single(CNF(still, StandardNormal(1)))
        with pytest.warns(UserWarning, match=r"float32 is coarse for columns \[0\] of x"):
            plain.log_prob(x)


def test_conditions_that_float32_rounds_coarsely_are_said_too():
    times = 1.7e9 + 30 * RNG.normal(size=(4, 1))
    with jax.enable_x64(False):
        flow = CNF(lambda t, x, cond: 0 * (x + cond), StandardNormal(1))
        with pytest.warns(UserWarning, match=r"float32 is coarse for columns \[0\] of cond"):
            flow.log_prob(np.zeros((4, 1)), times)
        flow.log_prob(np.zeros((4, 1)), times - 1.7e9)


@pytest.mark.slow
@pytest.mark.parametrize("verify", [True, False])
def test_a_tolerance_is_met_or_refused(verify):
    flow, x, truth = pulled(8.0)
    # float32 itself cannot hold -1e6 to 1e-4.
    x[0] = 1 + 1500 * np.exp(-8.0)
    with jax.enable_x64(False):
        flow = replace(single(flow), ode_eval=ODE(throw=False))
        answer = flow.log_prob(jnp.asarray(x), atol_nats=1e-4, verify=verify)
    true = np.abs(np.asarray(answer, float) - truth)
    assert np.isnan(true[0])
    assert np.mean(true[1:] <= 1e-4) >= 0.999


@pytest.mark.slow
def test_gradients_of_a_transform_are_those_of_float32():
    flow = single(CNF(Pull(jnp.asarray([0.5, -0.7])), StandardNormal(2)))
    x = jnp.asarray(RNG.normal(size=(5, 2)), jnp.float32)
    moved = Standardise(jnp.asarray([3.0, 1.0]), jnp.asarray([2.0, 0.5]))
    with jax.enable_x64(False), warnings.catch_warnings():
        warnings.simplefilter("error")
        shifted = replace(flow, transform=single(moved))
        slope = jax.grad(lambda x: shifted.log_prob(x).sum())(x)
        u = (x - jnp.asarray([[3.0, 1.0]])) / jnp.asarray([[2.0, 0.5]])
        inside = jax.grad(lambda u: flow.log_prob(u).sum())(u)
    np.testing.assert_allclose(slope, np.asarray(inside) / [2.0, 0.5], rtol=1e-4)


def test_values_that_float32_cannot_tell_apart_are_no_constant():
    seconds = 1.7e9 + 100 * RNG.normal(size=(N, 1))
    with (
        jax.enable_x64(False),
        pytest.raises(ValueError, match=r"float32 cannot tell .* columns \[0\]"),
    ):
        Standardise.fit(seconds)
    assert Standardise.fit(seconds).scale.dtype == jnp.float64
