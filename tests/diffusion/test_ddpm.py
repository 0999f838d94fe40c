"""DDPM's chain, its posterior, its losses three ways, and the bound on the likelihood."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tests.diffusion.gaussian import MEAN, STD, Known, each_schedule, moments, slow_but

from jaxflow.diffusion import (
    Ancestral,
    Betas,
    Move,
    VariancePreserving,
    as_flow,
    bits_per_dim,
    draw,
    elbo,
    posterior,
    step_loss,
    times_of,
    transition,
)
from jaxflow.transforms import Standardise

EARLY, LATE = jnp.asarray(0.41), jnp.asarray(0.43)


def test_betas_give_ddpms_transition_and_posterior():
    schedule, T = Betas(100, 1e-3, 0.2), 100
    betas = np.linspace(1e-3, 0.2, T)
    bars = np.cumprod(1 - betas)
    i = 37
    a, b = transition(schedule, jnp.asarray((i - 1) / T), jnp.asarray(i / T))
    np.testing.assert_allclose(a, np.sqrt(1 - betas[i - 1]), rtol=1e-10)
    np.testing.assert_allclose(b, betas[i - 1], rtol=1e-9)
    x, x0 = jnp.asarray([0.2, -0.4]), jnp.asarray([1.0, 0.5])
    mean, variance = posterior(schedule, jnp.asarray((i - 1) / T), jnp.asarray(i / T), x, x0)
    before, after, beta = bars[i - 2], bars[i - 1], betas[i - 1]
    np.testing.assert_allclose(variance, beta * (1 - before) / (1 - after), rtol=1e-9)
    wanted = np.sqrt(before) * beta / (1 - after) * x0
    wanted += np.sqrt(1 - beta) * (1 - before) / (1 - after) * x
    np.testing.assert_allclose(mean, wanted, rtol=1e-9)


@each_schedule
def test_posterior_is_bayes(schedule):
    # log q(x_u | x_s) + log q(x_s | x_0) as a quadratic in x_s.
    @jax.jit
    def found(x, x0):
        both = transition(schedule, EARLY, LATE), posterior(schedule, EARLY, LATE, x, x0)
        return *both, (schedule.alpha(EARLY), schedule.sigma(EARLY), schedule.sigma(LATE))

    x, x0 = np.asarray([0.2]), np.asarray([1.0])
    (a, b), (mean, variance), scales = jax.tree.map(np.asarray, found(x, x0))
    alpha, sigma, late = scales
    precision = a**2 / b + 1 / sigma**2
    np.testing.assert_allclose(variance, 1 / precision, rtol=1e-8)
    np.testing.assert_allclose(mean, (a * x / b + alpha * x0 / sigma**2) / precision, rtol=1e-8)
    # And the chain's marginal is the schedule's: sigma_u^2 = a^2 sigma_s^2 + b.
    np.testing.assert_allclose(a**2 * sigma**2 + b, late**2, rtol=1e-10)


@each_schedule
def test_four_ways_to_write_one_loss(schedule):
    @jax.jit
    def losses_of(x0, noise):
        x = schedule.alpha(LATE) * x0 + schedule.sigma(LATE) * noise
        return [
            step_loss(schedule, EARLY, LATE, x, noise, noise + 0.3, form)
            for form in ("mean", "noise", "score", "snr")
        ]

    noise = jnp.asarray([0.5, -0.7, 1.9])
    losses = losses_of(jnp.asarray([1.0, -0.2, 0.3]), noise)
    np.testing.assert_allclose(losses, np.full(4, losses[0]), rtol=1e-7)
    with pytest.raises(ValueError, match="form='eps' is unknown"):
        step_loss(schedule, EARLY, LATE, noise, noise, noise, "eps")


def test_the_weight_of_a_score_is_beta_squared_over_twice_the_variance_and_alpha():
    # beta^2 / (2 sigma_t^2 alpha_t) |score - predicted|^2 with alpha_t = 1 - beta_t.
    T, i = 100, 37
    betas = np.linspace(1e-3, 0.2, T)
    bars = np.cumprod(1 - betas)
    beta, spread = betas[i - 1], np.sqrt(1 - bars[i - 1])
    variance = beta * (1 - bars[i - 2]) / (1 - bars[i - 1])
    noise, predicted = np.asarray([0.5, -0.7]), np.asarray([0.1, 0.4])
    gap = np.sum((noise - predicted) ** 2) / spread**2
    loss = step_loss(
        Betas(T, 1e-3, 0.2),
        jnp.asarray((i - 1) / T),
        jnp.asarray(i / T),
        jnp.asarray([0.2, -0.4]),
        jnp.asarray(noise),
        jnp.asarray(predicted),
        form="score",
    )
    wanted = beta**2 / (2 * variance * (1 - beta)) * gap
    np.testing.assert_allclose(loss, wanted, rtol=1e-9)


class Chain:
    """Algorithm 2 of Ho et al. 2020 for data N(MEAN, STD^2), line by line in NumPy.

    The noise of x_t is known, so a step is `x <- factor_t x + shift_t + sigma_t z`.
    """

    def __init__(self, T, first, last, variance):
        betas = np.linspace(first, last, T)
        bars = np.cumprod(1 - betas)
        before = np.append(1.0, bars[:-1])
        # epsilon(x_t) = sqrt(1 - bar) (x_t - sqrt(bar) MEAN) / (bar STD^2 + 1 - bar).
        push = betas / (bars * STD**2 + 1 - bars)
        self.factor = (1 - push) / np.sqrt(1 - betas)
        self.shift = push * np.sqrt(bars) * MEAN / np.sqrt(1 - betas)
        lower = betas * (1 - before) / (1 - bars)
        self.sigma = np.sqrt(lower if variance == "lower" else betas)
        self.sigma[0] = 0.0  # z = 0 at t = 1

    def walk(self, x, z):
        """x_0 from x_T and the noise z_T, ..., z_1."""
        for t, z_t in zip(reversed(range(len(self.sigma))), z, strict=True):
            x = self.factor[t] * x + self.shift[t] + self.sigma[t] * z_t
        return x

    def moments(self):
        """Mean and variance of x_0 by their recursion from N(0, 1)."""
        mean, variance = 0.0, 1.0
        for t in reversed(range(len(self.sigma))):
            mean = self.factor[t] * mean + self.shift[t]
            variance = self.factor[t] ** 2 * variance + self.sigma[t] ** 2
        return mean, variance


def replayed(key, n, steps, dtype=float):
    """The start and the noise of `draw(flow, key, n)` in one dimension: (n,), (steps, n)."""

    @jax.jit
    @jax.vmap
    def numbers(key):
        stream = jax.random.fold_in(key, 1)
        keys = jax.vmap(lambda i: jax.random.fold_in(stream, i))(jnp.arange(steps))
        noise = jax.vmap(lambda key: jax.random.normal(key, (1,), dtype))(keys)
        return jax.random.normal(key, (1,), dtype)[0], noise[:, 0]

    start, noise = numbers(jax.random.split(key, n))
    return np.asarray(start), np.asarray(noise).T


each_variance = pytest.mark.parametrize(
    "variance", ["lower", pytest.param("upper", marks=pytest.mark.slow)]
)


@each_variance
def test_a_draw_of_t_steps_on_a_ladder_of_t_is_ddpms_chain(variance, key):
    T, n = 100, 64
    schedule, chain = Betas(T, 1e-3, 0.2), Chain(T, 1e-3, 0.2, variance)
    flow = as_flow(Known(schedule), 1)
    x = draw(flow, key, n, sampler=Ancestral(variance), num_steps=T)[:, 0]
    np.testing.assert_allclose(x, chain.walk(*replayed(key, n, T)), rtol=0, atol=1e-12)


@each_variance
def test_mean_and_variance_of_ddpms_chain_by_their_recursion(variance, key):
    # A step is affine in the point and in its noise: two points and two noises give it whole.
    T = 100
    schedule, chain = Betas(T, 1e-3, 0.2), Chain(T, 1e-3, 0.2, variance)
    denoiser, keys = Known(schedule), jax.random.split(key)

    def step(i, key, x):
        move = Move(denoiser.noise, schedule, i / T, (i - 1) / T, key)
        return Ancestral(variance).step(move, x, ())[0][0]

    @jax.jit
    def known(steps, keys, x):
        grid = jax.vmap(jax.vmap(step, (None, None, 0)), (None, 0, None))
        # The last step is the prediction of the data.
        last = jax.vmap(lambda x: denoiser.data(jnp.asarray(1 / T), x)[0])(x)
        z = jax.vmap(lambda key: jax.random.normal(key, (1,))[0])(keys)
        return jax.vmap(grid, (0, None, None))(steps, keys, x), z, last

    results = known(jnp.arange(2.0, T + 1), keys, jnp.asarray([[0.0], [1.0]]))
    steps, (z, z_other), (start, total) = jax.tree.map(np.asarray, results)
    (zero, one), other = np.moveaxis(steps, 0, -1)
    sigma = (zero - other[0]) / (z - z_other)
    factor, shift = one - zero, zero - sigma * z
    mean, var = 0.0, 1.0
    for i in reversed(range(T - 1)):
        mean, var = factor[i] * mean + shift[i], factor[i] ** 2 * var + sigma[i] ** 2
    mean, var = (total - start) * mean + start, (total - start) ** 2 * var
    np.testing.assert_allclose([mean, var], chain.moments(), rtol=0, atol=1e-12)


def test_ddpms_chain_in_float32(key):
    with jax.enable_x64(False):
        T, n = 1000, 16
        flow = as_flow(Known(Betas(T)), 1)
        x = draw(flow, key, n, sampler=Ancestral(), num_steps=T)[:, 0]
        start, noise = replayed(key, n, T, jnp.float32)
        assert x.dtype == jnp.float32
    np.testing.assert_allclose(x, Chain(T, 1e-4, 0.02, "lower").walk(start, noise), atol=2e-4)


@slow_but("variance preserving", "variance exploding")
def test_bound_of_gaussian_data_term_by_term(schedule, key):
    # With the exact denoiser every expectation over x_0 and e is known.
    T = 40 if not isinstance(schedule, Betas) else schedule.num_steps
    flow = as_flow(Known(schedule), (2,), data_std=STD)
    x = MEAN + STD * jax.random.normal(key, (4000, 2))
    bound = elbo(flow, x, key=key, num_steps=T)
    times = jnp.asarray(times_of(schedule, T - 1, "log_snr")[::-1])

    def error(s):  # E |e - E[e | x]|^2 of both entries
        alpha, _, std = moments(schedule, s)
        return 2 * alpha**2 * STD**2 / std**2

    @jax.jit
    def known(times):
        each = jax.vmap(schedule.log_snr)(times), jax.vmap(error)(times)
        return *each, moments(schedule, times[-1])

    log_snr, errors, scales = jax.tree.map(np.asarray, known(times))
    snr = np.exp(log_snr)
    steps = float(np.sum(0.5 * (snr[:-1] - snr[1:]) * errors[1:] / snr[1:]))
    first = float(0.5 * errors[0] + np.log(2 * np.pi / snr[0]))
    alpha, sigma, std = scales
    ratio = sigma**2 / std**2
    last = ratio - 1 - np.log(ratio) + alpha**2 * (MEAN**2 + STD**2) / std**2
    assert float(bound.first.mean()) == pytest.approx(first, abs=0.06)
    assert float(bound.steps.mean()) == pytest.approx(steps, rel=0.03)
    assert float(bound.last.mean()) == pytest.approx(float(last), rel=0.05, abs=1e-4)
    # The exact likelihood is above the bound, and the flow's own is exact up to its blur.
    entropy = 2 * (0.5 * np.log(2 * np.pi * np.e) + np.log(STD))
    assert float(bound.value.mean()) <= -entropy + 3 * bound.se


def test_a_bound_in_the_datas_own_units(key):
    schedule = VariancePreserving()
    plain = as_flow(Known(schedule), (2,))
    scaled = as_flow(Known(schedule), (2,), transform=Standardise(jnp.ones(2), jnp.full(2, 5.0)))
    x = MEAN + STD * jax.random.normal(key, (50, 2))
    a = elbo(plain, x, key=key, num_steps=20)
    b = elbo(scaled, 1 + 5 * x, key=key, num_steps=20)
    np.testing.assert_allclose(a.value - b.value, 2 * np.log(5), rtol=1e-8)
    np.testing.assert_allclose(b.value, -b.first - b.steps - b.last, rtol=1e-10)
    inside = jax.jit(lambda x: elbo(plain, x, key=key, num_steps=20))(x)
    np.testing.assert_allclose(inside.value, a.value, rtol=1e-9)
    np.testing.assert_allclose(inside.se, np.std(a.value, ddof=1) / np.sqrt(50), rtol=1e-9)


def test_bits_of_uniform_noise_on_a_grid_are_those_of_the_grid():
    # 17 levels, all as likely: log2(17) bits whatever the units.
    for width in (1.0, 1 / 16):
        log_p = jnp.full(3, -4 * np.log(17 * width))
        assert bits_per_dim(log_p, 4, width) == pytest.approx(np.log2(17))


def test_bad_arguments_are_named(key):
    flow = as_flow(Known(VariancePreserving()), (2,))
    x = jnp.zeros((3, 2))
    for name, value in (("num_steps", 1), ("num_draws", 0)):
        with pytest.raises(ValueError, match=f"{name}={value} must be an integer"):
            elbo(flow, x, key=key, **{name: value})  # pyright: ignore[reportArgumentType]
    with pytest.raises(TypeError, match="not a diffusion model: write as_flow"):
        elbo(lambda x: x, x, key=key)
