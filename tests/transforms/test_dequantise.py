"""Columns on a grid: noise, rounding and the probability of a value."""

from dataclasses import replace

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import kstest, norm, truncnorm

from jaxflow import (
    CNF,
    DiagonalNormal,
    Ensemble,
    StandardNormal,
    TrainConfig,
    fit,
    fit_noise,
    load,
    log_mass,
    save,
    transforms,
)
from jaxflow.dynamics import MLP, Linear
from jaxflow.objectives import FlowMatching
from jaxflow.transforms import (
    Bounded,
    CellNoise,
    Chain,
    Dequantise,
    Standardise,
    TruncatedNormal,
    without_noise,
)

RNG = np.random.default_rng(4)


def test_quantise_takes_the_noise_back(key):
    grid = Dequantise([1.0, 0.0, 0.25], [0.0, 0.0, 0.125])
    x = jnp.asarray(RNG.integers(-5, 5, (200, 3)) * [1.0, 0.3, 0.25] + [0.0, 0.0, 0.125])
    spread = jax.jit(jax.vmap(grid.spread))(x, jax.random.split(key, 200))
    np.testing.assert_array_equal(jax.jit(jax.jacrev(grid.spread))(x[0], key), np.eye(3))
    np.testing.assert_allclose(jax.jit(jax.vmap(grid.quantise))(spread), x, atol=1e-12)
    np.testing.assert_array_equal(spread[:, 1], x[:, 1])
    noise = (spread - x)[:, [0, 2]] / jnp.asarray([[1.0, 0.25]])
    assert abs(noise).max() <= 0.5
    assert noise.std() == pytest.approx(12**-0.5, rel=0.1)
    grid.check(x)
    with pytest.raises(
        ValueError, match=r"column 2 has 1 values off the grid of step 0.25.*row 0"
    ):
        grid.check(x.at[0, 2].add(0.1))


def test_a_value_outside_the_limits_has_probability_0(key):
    limits = Chain((Dequantise([1.0]), Bounded([-0.5], [10.5])))
    flow = CNF(Linear(matrix=jnp.eye(1)), StandardNormal(1), transform=limits)
    log_p, error = log_mass(flow, jnp.asarray([[20.0], [3.0]]), key, num_draws=3)
    assert (log_p[0], error[0]) == (-np.inf, 0)
    assert np.isfinite([log_p[1], error[1]]).all()
    assert transforms.log_mass is log_mass


def test_forward_counts_the_cell_and_inverse_rounds():
    grid = Dequantise([2.0, 0.0])
    u, log_det = grid.forward(jnp.asarray([4.0, 0.3]))
    np.testing.assert_array_equal(u, [4.0, 0.3])
    assert float(log_det) == pytest.approx(np.log(2))
    x, back = grid.inverse(jnp.asarray([4.7, 0.3]))
    np.testing.assert_array_equal(x, [4.0, 0.3])
    assert float(back) == pytest.approx(-np.log(2))


def test_noise_never_reaches_the_edge_of_a_cell(key):
    # Rounding would carry 255 + 0.4999999 to 255.5, on the limit of Bounded(-0.5, 255.5).
    x = jnp.asarray([[0.0], [255.0]], jnp.float32)
    noise = CellNoise(x, width=2, depth=1, key=key)
    for v in (-0.5, 0.5):
        far = eqx.tree_at(lambda n: n.network[-1].bias, noise, jnp.asarray([200.0 * v, 0.0]))
        grid = Dequantise([1.0]).with_noise(far)
        grid = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), grid)
        spread = jax.jit(jax.vmap(grid.spread))(x, jax.random.split(key, 2))
        assert np.all(np.abs(spread - x) > 0.4999)
        assert np.all((spread > x - 0.5) & (spread < x + 0.5))
        np.testing.assert_array_equal(jax.jit(jax.vmap(grid.quantise))(spread), x)


def test_values_too_large_for_noise_in_their_precision_are_refused(key):
    x = 1e8 + np.arange(0.0, 800.0, 8.0)[:, None]
    grid = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), Dequantise([1.0]))
    rows = jnp.asarray(x, jnp.float32)
    words = (
        r"column 0 has values up to 1.00001e\+08, which float32 .* steps of 1: write x - 1e\+08"
    )
    with pytest.raises(ValueError, match=words):
        grid.check(rows)
    # Where nothing can raise, the noise is NaN, not 0.
    assert np.isnan(jax.jit(jax.vmap(grid.spread))(rows, jax.random.split(key, 100))).all()
    for near in (rows - 1e8, jnp.asarray(x)):
        grid.check(near)
        moved = jax.jit(jax.vmap(grid.spread))(near, jax.random.split(key, 100)) - near
        assert moved.std() == pytest.approx(12**-0.5, rel=0.2)


def test_bad_grids_are_refused():
    with pytest.raises(ValueError, match="must be positive, or 0"):
        Dequantise([-1.0])
    with pytest.raises((ValueError, TypeError), match="origin has shape"):
        Dequantise([1.0], [0.0, 1.0])


@pytest.mark.slow
def test_a_fit_to_integers_gives_probabilities(key):
    # Binomial(4, 1/2), five values: log P by the flow against the counts.
    x = np.random.default_rng(3).binomial(4, 0.5, (6000, 1)).astype(np.float32)
    flow = CNF(MLP(1, width=32, key=key), StandardNormal(1))
    config = TrainConfig(steps=600, batch_size=256, learning_rate=1e-2, eval_every=200, pilot=1)
    transform = Chain((Dequantise([1.0]), Standardise.fit(x)))
    fitted, _ = fit(flow, x, key=key, config=config, objective=FlowMatching(), transform=transform)
    values = jnp.arange(5.0, dtype=jnp.float32)[:, None]
    mass, error = log_mass(fitted, values, key, num_draws=256)
    truth = np.array([1, 4, 6, 4, 1]) / 16
    np.testing.assert_allclose(np.exp(mass), truth, atol=0.05)
    assert np.exp(mass).sum() == pytest.approx(1.0, abs=0.02)
    assert (error < 0.1).all()
    # The midpoint rule of log_prob is rougher.
    np.testing.assert_allclose(np.exp(fitted.log_prob(values)), truth, atol=0.1)
    drawn = fitted.sample(key, 500)
    np.testing.assert_array_equal(drawn, jnp.round(drawn))


def test_without_noise_leaves_the_rest_of_the_chain():
    grid, scale = Dequantise([1.0]), Standardise(jnp.zeros(1), jnp.ones(1))
    assert without_noise(Chain((grid, scale))).parts == (scale,)
    assert without_noise(grid) is None
    assert without_noise(scale) is scale


def test_noise_starts_uniform_and_its_density_is_that_of_its_draws(key):
    x = jnp.asarray(RNG.integers(0, 4, (30, 2)), float)
    noise = CellNoise(x, width=8, depth=1, key=key)
    keys = jax.random.split(key, 20_000)
    v, log_q = jax.jit(jax.vmap(lambda k: noise.draw(x[0], k)))(keys)
    np.testing.assert_allclose(log_q, 0.0, atol=1e-12)
    assert np.abs(np.asarray(v)).max() < 0.5
    assert v.var() == pytest.approx(1 / 12, rel=0.03)
    bias = jnp.asarray([0.7, -1.0, 0.4, -0.3])
    skewed = eqx.tree_at(lambda n: n.network[-1].bias, noise, bias)
    v, log_q = jax.jit(jax.vmap(lambda k: skewed.draw(x[0], k)))(keys)
    # E_q[g / q] is the integral of g over the cell.
    found = jnp.mean((v + 0.5) ** 2 * jnp.exp(-log_q), axis=0)
    np.testing.assert_allclose(found, 1 / 3, rtol=0.05)


@pytest.mark.slow
def test_learned_noise_tightens_the_bound_and_leaves_the_density(key, tmp_path):
    # A Gaussian half as wide as its cells: uniform noise wastes most of its points.
    field = Linear(matrix=jnp.asarray([[float(np.log(0.25))]]))
    flow = CNF(field, StandardNormal((1,)), transform=Dequantise([1.0]))
    x = jnp.asarray(RNG.integers(-1, 2, (400, 1)), float)
    config = TrainConfig(steps=300, batch_size=100, learning_rate=0.02, eval_every=300)
    learned = fit_noise(flow, x, key=key, width=8, depth=1, config=config, progress=False)
    rows = jnp.asarray([[-1.0], [0.0], [1.0]])
    np.testing.assert_array_equal(learned.log_prob(rows), flow.log_prob(rows))
    exact = np.log(np.diff(norm.cdf([-1.5, -0.5, 0.5, 1.5], scale=0.25)))
    even, _ = log_mass(flow, rows, key)
    better, error = log_mass(learned, rows, key)
    np.testing.assert_allclose(better, exact, atol=5 * error.max())
    assert np.abs(better - exact).max() < 0.2 * np.abs(even - exact).max()
    # The bound: the mean over the noise of log p - log q, below log P by little.
    keys = jax.random.split(key, 3000)
    grid = learned.transform
    inside, log_q = jax.jit(jax.vmap(grid.spread_with_log_prob))(jnp.resize(rows, (3000, 1)), keys)
    bound = np.asarray(learned.log_prob(inside) - log_q).reshape(-1, 3).mean(axis=0)
    assert np.all(bound < exact + 0.02)
    assert np.all(bound > exact - 0.1)
    save(tmp_path / "flow.safetensors", learned)
    again = load(tmp_path / "flow.safetensors")
    np.testing.assert_array_equal(log_mass(again, rows, key)[0], better)
    with pytest.raises(ValueError, match="does not start with a Dequantise"):
        fit_noise(replace(flow, transform=None), x, key=key)
    with pytest.raises(ValueError, match="off the grid"):
        fit_noise(flow, x + 0.3, key=key)


def test_integers_are_spread_like_their_floats(key):
    transform = Dequantise(jnp.asarray([1.0, 2.0]))
    x = jnp.asarray([3, 4])
    np.testing.assert_array_equal(transform.spread(x, key), transform.spread(x.astype(float), key))


@pytest.mark.quick("2.0")
@pytest.mark.parametrize("shift", [None, 2.0])
def test_rounded_samples_come_with_their_own_log_prob(shift, key):
    transform = Dequantise([1.0])
    if shift:
        transform = Chain([transform, Standardise(jnp.asarray([shift]), jnp.asarray([0.5]))])
    flow = CNF(lambda t, x: 0 * x, DiagonalNormal([3.0], [2.0]), transform=transform)
    for each in (flow, Ensemble([flow, flow])):
        x, log_p = each.sample_and_log_prob(key, (4, 5))
        np.testing.assert_array_equal(x, np.round(x))
        np.testing.assert_array_equal(log_p, each.log_prob(x))
    x, log_p = flow.sample_and_log_prob(key)
    assert x.shape == (1,)
    assert log_p == flow.log_prob(x)


@pytest.mark.parametrize("scale", [0.1, 0.5, 3.0])
def test_truncated_normal_noise_states_its_own_density(scale, key):
    grid = Dequantise(jnp.asarray([2.0, 0.0]), noise=TruncatedNormal(scale))
    x = jnp.asarray([4.0, 0.3])
    spread, log_q = jax.jit(jax.vmap(lambda k: grid.spread_with_log_prob(x, k)))(
        jax.random.split(key, 4000)
    )
    v = (spread[:, 0] - 4.0) / 2.0
    assert float(jnp.abs(v).max()) < 0.5
    np.testing.assert_array_equal(spread[:, 1], 0.3)
    bounds = -0.5 / scale, 0.5 / scale
    np.testing.assert_allclose(log_q, truncnorm.logpdf(v, *bounds, scale=scale), atol=1e-9)
    assert kstest(v, truncnorm(*bounds, scale=scale).cdf).pvalue > 1e-3


def test_noise_of_no_width_is_refused():
    with pytest.raises(ValueError, match=r"scale=0\.0 must be a positive number"):
        TruncatedNormal(0.0)
