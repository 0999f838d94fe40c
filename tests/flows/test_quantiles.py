"""Quantiles and distribution functions compared with closed forms, densities and scipy."""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats
from tests.flows.conditional_normal import STEPS, conditional_normal

from jaxflow import (
    CNF,
    ODE,
    CouplingFlow,
    DiagonalNormal,
    GaussianMixture,
    SolveError,
    StandardNormal,
    cdf,
    quantile,
)
from jaxflow.runtime.precision import cast_floats
from jaxflow.transforms import Bounded, Chain, Dequantise, Standardise

LEVELS = np.concatenate([[0.001, 0.01], np.linspace(0.05, 0.95, 19), [0.99, 0.999]])


class Mirror(eqx.Module):
    """`u = -x / 3`, which falls."""

    event_shape: tuple[int, ...] = eqx.field(static=True, default=(1,))

    def forward(self, x):
        return -x / 3, jnp.asarray(-math.log(3), x.dtype)

    def inverse(self, u):
        return -3 * u, jnp.asarray(math.log(3), u.dtype)


class Uniform(eqx.Module):
    """Numbers of [0, 1] without a distribution function."""

    event_shape: tuple[int, ...] = eqx.field(static=True, default=(1,))

    def log_prob(self, x):
        return jnp.where((x[0] > 0) & (x[0] < 1), 0.0, -jnp.inf)

    def sample(self, key):
        return jax.random.uniform(key, (1,))


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("scale", [0.5, 1e-3])
def test_quantiles_of_a_conditional_normal_are_its_closed_form(dtype, scale):
    flow = cast_floats(conditional_normal(scale, ode_eval=ODE()), dtype)
    y = np.repeat([-1.5, 0.0, 2.0], len(LEVELS))[:, None]
    q = np.tile(LEVELS, 3)
    x = quantile(flow, q, y)
    exact = 2 * y[:, 0] + scale * stats.norm.ppf(q)
    assert x.dtype == np.float64
    # The weights are rounded to float32; each row's numbers are of size 4.
    rounding = 4e-7 if dtype == "float32" else 1e-8
    np.testing.assert_allclose(x[:, 0], exact, rtol=0, atol=10 * rounding)
    np.testing.assert_allclose(cdf(flow, x, y), q, rtol=0, atol=1e-5)
    assert cdf(flow, x, y).dtype == np.float64


BASES = {
    "normal": (StandardNormal(1), stats.norm()),
    "number": (StandardNormal(()), stats.norm()),
    "shifted": (DiagonalNormal(jnp.asarray([3.0]), jnp.asarray([0.1])), stats.norm(3, 0.1)),
    "mixture": (GaussianMixture([1.0, 3.0], [[-2.0], [4.0]], [[[0.3]], [[1.0]]]), None),
}


@pytest.mark.parametrize("name", BASES)
def test_the_base_carries_its_quantiles_and_the_way_back_gives_the_levels(name):
    base, truth = BASES[name]
    flow = CNF(lambda t, x: -0.7 * jnp.ones_like(x) + 0.4 * x, base, ode_eval=STEPS)
    x = quantile(flow, LEVELS)
    assert x.shape == (len(LEVELS), *base.event_shape)
    np.testing.assert_allclose(cdf(flow, x), LEVELS, rtol=0, atol=1e-7)
    assert (np.diff(x.reshape(-1)) > 0).all()
    if truth is not None:
        grow = math.exp(0.4)
        exact = grow * truth.ppf(LEVELS) - 0.7 * (grow - 1) / 0.4
        np.testing.assert_allclose(x.reshape(-1), exact, rtol=1e-6, atol=1e-7)


@pytest.mark.slow
def test_the_slope_of_the_cdf_is_the_density():
    def bend(t, x, cond):
        return jnp.sin(2 * x) * t + cond

    flow = CNF(bend, StandardNormal(1), ode_eval=STEPS)
    x, y, h = np.linspace(-2.0, 3.0, 9)[:, None], np.array([0.7]), 1e-3
    ends = cdf(flow, np.stack([x + h, x - h]), y)
    np.testing.assert_allclose(
        (ends[0] - ends[1]) / (2 * h), np.exp(flow.log_prob(x, y)), rtol=1e-5
    )
    middle = quantile(flow, ends.mean(axis=0), y)
    np.testing.assert_allclose(middle, x, rtol=0, atol=1e-5)


def test_a_transform_that_falls_turns_the_order_around():
    flow = conditional_normal(transform=Mirror())
    y = np.full((len(LEVELS), 1), 0.5)
    x = quantile(flow, LEVELS, y)
    np.testing.assert_allclose(x[:, 0], -3 + 1.5 * stats.norm.ppf(LEVELS), atol=1e-6)
    np.testing.assert_allclose(cdf(flow, x, y), LEVELS, atol=1e-7)


def test_beyond_the_support_the_cdf_is_zero_or_one():
    for transform, law in (
        (Bounded(jnp.asarray([0.0]), jnp.asarray([jnp.inf])), stats.lognorm(0.5)),
        (Bounded(jnp.asarray([-jnp.inf]), jnp.asarray([0.0])), None),
    ):
        flow = conditional_normal(slope=0.0, transform=transform)
        p = cdf(flow, [[-1.0], [0.0], [1.0]], [0.0])
        if law is not None:
            np.testing.assert_allclose(p, [0.0, 0.0, 0.5], atol=1e-7)
            np.testing.assert_allclose(quantile(flow, LEVELS, [0.0])[:, 0], law.ppf(LEVELS), 1e-6)
        else:
            np.testing.assert_allclose(p, [0.5, 1.0, 1.0], atol=1e-7)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize(("step", "origin"), [(1.0, 0.0), (0.1, 0.05)])
def test_on_a_grid_both_are_those_of_the_rounded_numbers(step, origin, dtype):
    grid = Dequantise([step], [origin])
    scaling = Standardise(jnp.asarray([3.1 * step]), jnp.asarray([4 * step]))
    flow = cast_floats(conditional_normal(slope=0.0, transform=Chain([grid, scaling])), dtype)
    law = stats.norm(3.1 * step, 2 * step)
    k = np.arange(-4, 11)
    points = origin + step * k
    p = law.cdf(points + step / 2)
    np.testing.assert_allclose(cdf(flow, points[:, None], [0.0]), p, atol=3e-7)
    # Between two points, the probability is that of the lower one.
    between = cdf(flow, points[:, None] + 0.4 * step, [0.0])
    np.testing.assert_allclose(between, p, atol=3e-7)
    x = quantile(flow, LEVELS, [0.0])[:, 0]
    np.testing.assert_allclose(x, origin + step * np.round((x - origin) / step), rtol=3e-7)
    np.testing.assert_allclose(x, points[np.searchsorted(p, LEVELS)], rtol=3e-7)


def test_float32_keeps_the_digits_beside_a_large_offset():
    scaling = Standardise(jnp.asarray([1.7e9]), jnp.asarray([10.0]))
    flow = cast_floats(conditional_normal(slope=0.0, transform=scaling), "float32")
    offset = float(flow.transform.mean[0])
    with jax.enable_x64(False):
        x = quantile(flow, LEVELS, [0.0])
        np.testing.assert_allclose(x[:, 0] - offset, 5 * stats.norm.ppf(LEVELS), atol=1e-5)
        np.testing.assert_allclose(cdf(flow, x, [0.0]), LEVELS, atol=1e-6)


def test_shapes_follow_the_levels_and_the_rows():
    flow, y = conditional_normal(), np.zeros((2, 3, 1))
    q = np.linspace(0.1, 0.6, 6).reshape(2, 3)
    x = quantile(flow, q, y)
    assert x.shape == (2, 3, 1)
    np.testing.assert_array_equal(x[1, 2], quantile(flow, 0.6, [0.0]))
    assert cdf(flow, x, y).shape == (2, 3)
    assert cdf(flow, [0.0], [0.0]).shape == ()
    assert quantile(flow, np.zeros(0), np.zeros((0, 1))).shape == (0, 1)
    assert cdf(flow, np.zeros((0, 1)), np.zeros((0, 1))).shape == (0,)


def test_what_has_no_quantiles_is_refused_by_name(key):
    flow = conditional_normal()
    with pytest.raises(TypeError, match="flow=CouplingFlow may not keep the order of numbers"):
        quantile(CouplingFlow(2, num_layers=1, width=4, key=key), 0.5)
    plane = CNF(lambda t, x: -x, StandardNormal(2))
    for call in (lambda: quantile(plane, 0.5), lambda: cdf(plane, [0.0, 0.0])):
        with pytest.raises(ValueError, match=r"events of shape \(2,\); quantiles and cdf are"):
            call()
    no_cdf = conditional_normal(base=Uniform())
    for call in (lambda: quantile(no_cdf, 0.5), lambda: cdf(no_cdf, [0.0], [0.0])):
        with pytest.raises(ValueError, match="has no distribution function, which quantiles need"):
            call()
    for q, text in ((0.0, "q holds 0"), ([0.5, 1.0], "q holds 1"), (float("nan"), "q holds nan")):
        with pytest.raises(ValueError, match=f"{text}; a level must lie strictly between 0 and 1"):
            quantile(flow, q, [0.0])
    for q in (["a"], [[0.1], [0.2, 0.3]]):
        with pytest.raises(TypeError, match="must be a number in"):
            quantile(flow, q, [0.0])
    with pytest.raises(ValueError, match="x has NaN or infinity in 1 of 2 rows: rows 1"):
        cdf(flow, [[0.0], [np.nan]], np.zeros((2, 1)))
    with pytest.raises(ValueError, match="unknown under jit"):
        jax.jit(lambda q: quantile(flow, q, jnp.zeros(1)))(jnp.asarray(0.5))
    flat = eqx.tree_at(lambda t: t.scale, Standardise(jnp.zeros(1), jnp.ones(1)), jnp.zeros(1))
    with pytest.raises(ValueError, match="a transform of one column must rise or fall"):
        quantile(conditional_normal(transform=flat), 0.5, [0.0])


def test_a_solve_that_fails_gives_no_number():
    flow = CNF(lambda t, x: x**3, StandardNormal(1), ode_eval=STEPS)
    with pytest.raises(SolveError, match="decode"):
        quantile(flow, 0.99)
