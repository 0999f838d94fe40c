"""Denoising: its loss in closed form, its weights and times, and its errors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tests.diffusion.gaussian import MEAN, SCHEDULES, STD, Known

import jaxflow
from jaxflow.diffusion import (
    Betas,
    ClassifierFree,
    Denoiser,
    VarianceExploding,
    VariancePreserving,
    as_flow,
    denoiser_of,
    draw,
)
from jaxflow.dynamics import MLP, OptionalCondition, Residual
from jaxflow.objectives import Denoising, balanced, likelihood_weight, simple
from jaxflow.objectives.denoising import noise_errors
from jaxflow.training.defaults import default_objective

SCHEDULE = VariancePreserving()


def small(cond_dim=0):
    network = MLP(2, width=8, depth=1, cond_dim=cond_dim, key=jax.random.key(0))
    return as_flow(Denoiser(network, SCHEDULE), 2)


def test_the_loss_of_exact_denoisers_is_what_noise_leaves_open(key):
    # E |e - E[e | x]|^2 an entry is alpha^2 STD^2 / (alpha^2 STD^2 + sigma^2), a mean over times.
    flow = as_flow(Known(SCHEDULE), 2)
    x = MEAN + STD * jax.random.normal(key, (20_000, 2))
    loss, metrics = jax.jit(lambda x: Denoising(weight=simple)(flow, x, None, key))(x)
    scales = jax.jit(jax.vmap(lambda s: (SCHEDULE.alpha(s), SCHEDULE.sigma(s))))
    alpha, sigma = map(np.asarray, scales(np.linspace(SCHEDULE.start, 1, 2001)))
    left = np.mean(2 * alpha**2 * STD**2 / (alpha**2 * STD**2 + sigma**2))
    np.testing.assert_allclose(loss, left, rtol=0.05)
    assert loss == metrics["noise"]


@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES.keys())
def test_weights(schedule):
    h = 1e-5

    @jax.jit
    def values(s):
        weights = [weight(schedule, s) for weight in (simple, balanced, likelihood_weight)]
        slope = (schedule.log_snr(s + h) - schedule.log_snr(s - h)) / (2 * h)
        return weights, (schedule.alpha(s), schedule.sigma(s)), slope

    (one, even, likely), (alpha, sigma), slope = jax.tree.map(float, values(jnp.asarray(0.503)))
    assert one == 1
    # The velocity's error is that of the noise over alpha / sqrt(alpha^2 + sigma^2).
    np.testing.assert_allclose(even, (alpha**2 + sigma**2) / alpha**2, rtol=1e-9)
    np.testing.assert_allclose(likely, -slope / 2, rtol=1e-6)


def test_ncsn_is_this_loss_on_its_schedule(key):
    # sigma^2 |score - (x_0 - x) / sigma^2|^2, Song and Ermon 2019, eq. 5 times two.
    schedule = VarianceExploding(0.1, 3.0)
    network = MLP(2, width=8, depth=1, key=jax.random.key(0))
    denoiser = Denoiser(network, schedule, prediction="score")
    x, noise = jax.random.normal(key, (2, 5, 2))

    @jax.jit
    def errors(x, noise):
        s = jnp.linspace(0, 1, 5)
        sigma = jax.vmap(schedule.sigma)(s)[:, None]
        noisy = x + sigma * noise
        scores = jax.vmap(denoiser.score)(s, noisy)
        wanted = sigma[:, 0] ** 2 * jnp.sum((scores - (x - noisy) / sigma**2) ** 2, axis=1)
        return noise_errors(denoiser, s, x, noise), wanted

    np.testing.assert_allclose(*errors(x, noise), rtol=1e-9)


def times_seen(schedule, key, **settings):
    """The times at which a batch of 60 rows is noised."""
    seen = []

    def weight(schedule, s):
        jax.debug.callback(lambda s: seen.append(float(s)), s)
        return jnp.ones_like(s)

    flow = as_flow(Known(schedule), 2)
    objective = Denoising(weight=weight, **settings)
    jax.jit(lambda x: objective(flow, x, None, key))(jnp.zeros((60, 2)))
    jax.effects_barrier()
    return np.asarray(seen)


def test_a_ladder_visits_its_times_alone(key):
    rungs = SCHEDULE.start + np.arange(4) / 3 * (1 - SCHEDULE.start)
    seen = times_seen(SCHEDULE, key, num_steps=4)
    np.testing.assert_allclose(sorted({round(s, 9) for s in seen}), rungs, rtol=1e-6)


@pytest.mark.parametrize("first", [1, 2, 3])
def test_the_steps_of_ddpm_are_uniform_from_the_first_to_the_last(first, key):
    T = 6
    steps = T * times_seen(Betas(T, 0.01, 0.3), key, num_steps=T, first_step=first)
    np.testing.assert_allclose(steps, np.round(steps), rtol=1e-9)
    counts = np.bincount(np.round(steps).astype(int), minlength=T + 1)
    # 60 stratified rows over T - first + 1 steps.
    assert counts[:first].sum() == 0
    np.testing.assert_allclose(counts[first:], 60 / (T - first + 1), atol=1)


def test_weights_of_rows_are_repetitions(key):
    # With the exact denoiser at one time, whose loss is a function of the row alone.
    flow, x = small(), jnp.asarray([[0.0, 1.0], [2.0, 0.0], [5.0, 5.0]])
    loss = jax.jit(lambda weights: Denoising(num_steps=2)(flow, x, None, key, weights)[0])
    weights = ([1.0, 1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0])
    one, alone, other = (float(loss(jnp.asarray(each))) for each in weights)
    assert np.isfinite(one)
    np.testing.assert_allclose(one, 0.5 * (alone + other), rtol=1e-9)


@pytest.mark.slow
def test_a_fitted_model_and_its_guidance(key):
    # Two classes at (-1, 0) and (1, 0), of deviation 0.2.
    labels = np.arange(2000) % 2
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2000, 2)) * 0.2
    x[:, 0] += 2 * labels - 1
    one_hot = np.eye(2)[labels]
    network = OptionalCondition(Residual(2, width=32, depth=1, cond_dim=3, key=key), 2)
    flow = as_flow(Denoiser(network, SCHEDULE), 2)
    flow, _ = jaxflow.fit(
        flow,
        x.astype(np.float32),
        one_hot.astype(np.float32),
        key=key,
        objective=Denoising(drop=0.2),
        config=jaxflow.TrainConfig(steps=400, eval_every=400, validation_rows=20, ema=0.98),
        transform=None,
        progress=False,
    )
    guided = as_flow(ClassifierFree(denoiser_of(flow), 2.0), 2)
    for label in (0, 1):
        drawn = draw(guided, key, 200, np.eye(2)[label], num_steps=20)
        right = jnp.mean((jnp.sign(drawn[:, 0]) == 2 * label - 1).astype(float))
        assert float(right) >= 0.99
    without = draw(flow, key, 400, num_steps=20)
    assert float(jnp.mean((without[:, 0] > 0).astype(float))) == pytest.approx(0.5, abs=0.15)


def test_it_is_what_a_diffusion_model_is_trained_by(key):
    network = OptionalCondition(MLP(2, width=8, depth=1, cond_dim=3, key=key), 2)
    for flow, cond, drop in (
        (small(), None, 0.0),
        (as_flow(Denoiser(network, SCHEDULE), 2), 1, 0.1),
    ):
        assert default_objective(flow, cond).at(0, 9)[0].objective == Denoising(drop=drop)


def test_bad_settings_are_named(key):
    for settings, says in (
        ({"num_steps": 1}, "num_steps=1 must be an integer >= 2"),
        ({"num_steps": 4, "first_step": 0}, "first_step=0 must be an integer >= 1"),
        ({"num_steps": 4, "first_step": 4}, "first_step=4 must be below num_steps=4"),
        ({"first_step": 2}, r"num_steps=None: write Denoising\(num_steps=T, first_step=2\)"),
        ({"drop": 1.0}, r"drop=1.0 must lie in \[0, 1\)"),
    ):
        with pytest.raises(ValueError, match=says):
            Denoising(**settings)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match=r"drop=0.1 leaves conditions out, and the network needs"):
        Denoising(drop=0.1)(small(2), jnp.zeros((3, 2)), jnp.zeros((3, 2)), key)
    network = OptionalCondition(MLP(2, width=8, depth=1, cond_dim=3, key=key), 2)
    with pytest.raises(ValueError, match=r"drop=0.1 leaves conditions out, and there are none"):
        Denoising(drop=0.1)(as_flow(Denoiser(network, SCHEDULE), 2), jnp.zeros((3, 2)), None, key)
    flow = jaxflow.CNF(MLP(2, width=8, depth=1, key=key), jaxflow.StandardNormal(2))
    with pytest.raises(TypeError, match="the field of this flow is MLP, not a diffusion model"):
        Denoising()(flow, jnp.zeros((3, 2)), None, key)
