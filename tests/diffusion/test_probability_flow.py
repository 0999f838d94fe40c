"""A diffusion model as a flow: its density, its ends, its traces."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import norm
from tests.diffusion.gaussian import MEAN, SCHEDULES, STD, Known, moments, slow_but

import jaxflow
from jaxflow.bases import DiagonalNormal, StandardNormal
from jaxflow.diffusion import (
    ClassifierFree,
    Denoiser,
    ProbabilityFlow,
    VarianceExploding,
    VariancePreserving,
    as_flow,
    denoiser_of,
    prior_gap,
)
from jaxflow.dynamics import MLP, OptionalCondition


@slow_but("variance preserving", "variance exploding", "straight")
def test_density_of_gaussian_data_at_every_moment(schedule):
    # The base is N(0, .) and misses the data's mean, alpha_1 MEAN, which the flow hands on: so a
    # base of that mean, which makes everything exact.
    alpha, _, std = moments(schedule, schedule.end)
    ode = jaxflow.ODE(solver="tsit5", rtol=1e-9, atol=1e-9, max_steps=20_000)
    field = ProbabilityFlow(Known(schedule))
    base = DiagonalNormal(jnp.full(2, alpha * MEAN), jnp.full(2, std))
    flow = jaxflow.CNF(field, base, trace="exact", ode_eval=ode)
    x = np.asarray([[0.9, 0.5], [0.0, 1.4]])
    for t in (1.0, 0.6):
        s = schedule.end + t * (schedule.start - schedule.end)
        alpha, _, std = map(float, moments(schedule, s))
        points = alpha * x
        wanted = norm.logpdf(points, alpha * MEAN, std).sum(axis=1)
        np.testing.assert_allclose(flow.log_prob_at(t, points), wanted, rtol=0, atol=1e-6)


def test_the_base_allows_for_the_data():
    network = MLP(2, width=8, depth=1, key=jax.random.key(0))
    exploding = as_flow(Denoiser(network, VarianceExploding(0.01, 2.0)), 2)
    np.testing.assert_allclose(exploding.base.scale, np.sqrt(5.0), rtol=1e-12)
    alone = as_flow(Denoiser(network, VarianceExploding(0.01, 2.0)), 2, data_std=0.0)
    np.testing.assert_allclose(alone.base.scale, 2.0, rtol=1e-12)
    assert isinstance(as_flow(Denoiser(network, VariancePreserving()), 2).base, StandardNormal)


@pytest.mark.parametrize("name", SCHEDULES)
def test_the_base_is_where_the_noised_data_end(name):
    schedule = SCHEDULES[name]
    base = as_flow(Known(schedule), 2, data_std=STD).base
    assert isinstance(base, DiagonalNormal)
    np.testing.assert_allclose(base.scale, moments(schedule, schedule.end)[2], rtol=1e-12)


def test_prior_gap_of_gaussian_data():
    for schedule in (VarianceExploding(0.01, 2.0), VariancePreserving()):
        x = MEAN + STD * np.asarray([[1.0, -1.0], [-1.0, 1.0]])
        for data_std in (1.0, STD):
            gap = prior_gap(as_flow(Known(schedule), 2, data_std=data_std), x)
            wanted = 2 * schedule.prior_mismatch(STD, MEAN, data_std=data_std)
            assert gap == pytest.approx(wanted, rel=1e-9, abs=1e-15)


def test_no_nan_at_either_end_or_beyond():
    for name in SCHEDULES:
        field = jax.jit(ProbabilityFlow(Known(SCHEDULES[name])))
        for t in (0.0, 1.0, -0.1, 1.1):
            for dtype in (jnp.float32, jnp.float64):
                value = field(jnp.asarray(t, dtype), jnp.ones(2, dtype))
                assert value.dtype == dtype
                assert bool(jnp.all(jnp.isfinite(value)))


@pytest.mark.parametrize("guided", [False, True])
def test_the_closed_trace_is_exact(guided):
    network = OptionalCondition(MLP(2, width=8, depth=2, cond_dim=4, key=jax.random.key(1)), 3)
    denoiser = Denoiser(network, VariancePreserving())
    field = ProbabilityFlow(ClassifierFree(denoiser, 2.0) if guided else denoiser)
    t, x, cond = jnp.asarray(0.7), jnp.asarray([0.3, -1.0]), jnp.asarray([0.0, 1.0, 0.0])
    assert field.with_trace is not None

    @jax.jit
    def both(x):
        closed = field.prepare().with_trace(t, x, cond)  # pyright: ignore
        return closed, field(t, x, cond), jnp.trace(jax.jacfwd(lambda x: field(t, x, cond))(x))

    (value, trace), plain, exact = both(x)
    np.testing.assert_allclose(value, plain, rtol=1e-10)
    np.testing.assert_allclose(trace, exact, rtol=1e-9)


@pytest.mark.slow
def test_without_a_closed_form_the_trace_is_computed():
    field = ProbabilityFlow(Known(VariancePreserving()))
    assert field.with_trace is None
    flow = as_flow(Known(VariancePreserving()), 2)
    assert flow.log_prob(jnp.ones((3, 2))).shape == (3,)


def test_saved_and_loaded(tmp_path):
    network = MLP(2, width=8, depth=1, key=jax.random.key(0))
    flow = as_flow(Denoiser(network, VariancePreserving(0.2, 15.0)), 2)
    jaxflow.save(tmp_path / "flow.safetensors", flow)
    again = jaxflow.load(tmp_path / "flow.safetensors")
    assert denoiser_of(again).schedule == VariancePreserving(0.2, 15.0)
    assert eqx.tree_equal(again, flow)


def test_other_flows_are_refused():
    with pytest.raises(TypeError, match="must be a Denoiser: write Denoiser"):
        as_flow(lambda s, x: x, 2)  # pyright: ignore[reportArgumentType]
    flow = jaxflow.CNF(MLP(2, width=8, depth=1, key=jax.random.key(0)), StandardNormal(2))
    with pytest.raises(TypeError, match="the field of this flow is MLP, not a diffusion model"):
        denoiser_of(flow)
