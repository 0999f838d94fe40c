"""Samplers on data whose score is known: moments, orders, modes, and what they refuse."""

from typing import Any

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tests.diffusion.gaussian import MEAN, SCHEDULES, STD, Known

from jaxflow.bases import GaussianMixture
from jaxflow.diffusion import (
    DDIM,
    Ancestral,
    Betas,
    Cosine,
    Custom,
    DPMSolver,
    EulerMaruyama,
    Heun,
    KnownDenoiser,
    Langevin,
    Move,
    PredictorCorrector,
    Straight,
    VarianceExploding,
    VariancePreserving,
    as_flow,
    draw,
    draw_sde,
)
from jaxflow.diffusion.schedule import SPACINGS
from jaxflow.transforms import Standardise

SCHEDULE = VariancePreserving()
# sampler, steps, spacing of the times, how far the deviation may be off
SAMPLERS = {
    "ancestral": (Ancestral(), 200, "time", 0.02),
    "upper": (Ancestral("upper"), 200, "time", 0.02),
    "euler-maruyama": (EulerMaruyama(), 400, "log_snr", 0.02),
    "ddim": (DDIM(), 200, "karras", 0.01),
    "ddim, eta": (DDIM(0.5), 200, "time", 0.02),
    "heun": (Heun(), 40, "karras", 0.01),
    "dpm-solver": (DPMSolver(), 30, "karras", 0.01),
    "annealed langevin": (Langevin(10, 0.4), 60, "log_snr", 0.03),
    "both": (PredictorCorrector(), 26, "log_snr", 0.01),
}


def gaussian_flow():
    return as_flow(Known(SCHEDULE), 1, data_std=STD)


@pytest.mark.quick("ancestral", "ddim", "heun", "dpm-solver", "annealed langevin")
@pytest.mark.parametrize("name", SAMPLERS)
def test_moments_of_gaussian_data(name, key):
    sampler, num_steps, spacing, slack = SAMPLERS[name]
    x = draw(gaussian_flow(), key, 8000, sampler=sampler, num_steps=num_steps, spacing=spacing)
    # Standard errors at 8000 samples: 0.0045 of the mean, 0.0032 of the deviation.
    assert float(x.mean()) == pytest.approx(MEAN, abs=0.012 + slack / 2)
    # The last evaluation takes the rest of the noise out, and a little more: sigma^2 / 2 STD.
    assert float(x.std()) == pytest.approx(STD, abs=0.008 + slack)


def test_orders_of_the_deterministic_rules():
    # One trajectory of dy/dr = e in closed form: y = MEAN + (y_1 - MEAN) std(s) / std(1).
    schedule = VarianceExploding(0.1, 5.0)
    denoiser = Known(schedule)
    start = jnp.asarray([3.0])
    scale = np.sqrt((STD**2 + 0.1**2) / (STD**2 + 25))
    end = MEAN + (3.0 - MEAN) * scale

    def errors(rule):
        @jax.jit
        def walk(num):
            def step(i, carry):
                times = 1 - i / num, 1 - (i + 1) / num
                return rule.step(Move(denoiser.noise, schedule, *times, jax.random.key(0)), *carry)

            return jax.lax.fori_loop(0, num, step, (start, rule.start(start)))[0][0]

        return [abs(float(walk(num)) - end) for num in (80, 160)]

    for rule, order in ((DDIM(), 1), (Heun(), 2), (DPMSolver(), 2)):
        coarse, fine = errors(rule)
        assert np.log2(coarse / fine) == pytest.approx(order, abs=0.25)


def test_ddim_of_full_eta_is_ancestral():
    denoiser = Known(SCHEDULE)
    u, s, x = jnp.asarray(0.5), jnp.asarray(0.45), jnp.asarray([0.3, -0.2])

    @jax.jit
    def ends(x):
        move = Move(denoiser.noise, SCHEDULE, u, s, jax.random.key(1))
        return DDIM(1.0).step(move, x, ())[0], Ancestral().step(move, x, ())[0]

    np.testing.assert_allclose(*ends(x), rtol=1e-8)


def test_the_textbooks_langevin_step_replayed():
    # Song and Ermon 2019, algorithm 1: x <- x + (a / 2) score(x) + sqrt(a) z with
    # a = eps sigma^2 / sigma_L^2.
    schedule, eps = VarianceExploding(0.1, 5.0), 2e-3
    denoiser, s, x = Known(schedule), jnp.asarray(0.3), jnp.asarray([0.3, -0.2])
    ratio = np.sqrt(eps / 2) / schedule.sigma_min
    key = jax.random.key(3)

    @jax.jit
    def replayed(x):
        move = Move(denoiser.noise, schedule, jnp.asarray(0.4), s, key)
        found = Langevin(steps=3, ratio=float(ratio), exact=False).step(move, x, ())[0]
        a = eps * schedule.sigma(s) ** 2 / schedule.sigma_min**2
        for i in range(3):
            z = jax.random.normal(jax.random.fold_in(key, i), x.shape)
            x = x + a / 2 * denoiser.score(s, x) + jnp.sqrt(a) * z
        return found, x

    np.testing.assert_allclose(*replayed(x), rtol=1e-14)


@pytest.mark.parametrize("exact", [True, False])
def test_only_the_exact_step_leaves_a_gaussian_as_it_is(exact):
    # A step maps N(0, v) to variance (1 - h / v)^2 v + noise: v, or v + h^2 / v.
    schedule, s = VarianceExploding(0.1, 5.0), jnp.asarray(0.2)
    rule, key = Langevin(1, 0.9, data_std=STD, exact=exact), jax.random.key(3)

    @jax.jit
    def ends(zero_and_one):
        sigma = schedule.sigma(s)
        v = STD**2 + sigma**2
        move = Move(lambda s, x: schedule.sigma(s) * x / v, schedule, s, s, key)
        steps = jax.vmap(lambda x: rule.step(move, x, ())[0][0])(zero_and_one)
        return steps, jax.random.normal(jax.random.fold_in(key, 0), (1,))[0], sigma, v

    (zero, one), z, sigma, v = jax.tree.map(np.asarray, ends(jnp.asarray([[0.0], [1.0]])))
    noise = zero / z
    h = (0.9 * sigma) ** 2
    after = (one - zero) ** 2 * v + noise**2
    np.testing.assert_allclose(after, v if exact else v + h**2 / v, rtol=1e-12)


@pytest.mark.slow
def test_annealed_langevin_finds_the_weights_of_modes_where_plain_does_not(key):
    mixture = GaussianMixture(
        jnp.asarray([0.2, 0.8]),
        jnp.asarray([[-4.0, -4.0], [4.0, 4.0]]),
        jnp.stack([0.5 * jnp.eye(2)] * 2),
    )
    flow = as_flow(KnownDenoiser(mixture, VarianceExploding(0.05, 15.0)), 2, data_std=4.0)
    annealed = draw(flow, key, 4000, sampler=Langevin(6, 0.4), num_steps=80, spacing="log_snr")
    share = float(jnp.mean(annealed[:, 0] < 0))
    # Four standard errors of 4000 draws.
    assert share == pytest.approx(0.2, abs=0.025)
    # Plain Langevin: as many steps at the last level alone, from points spread evenly.
    narrow = Custom(lambda s: 1 + 0 * s, lambda s: 0.3 + 1e-3 * s, start=0.0)
    plain = as_flow(KnownDenoiser(mixture, narrow), 2, data_std=4.0)
    stuck = draw(plain, key, 4000, sampler=Langevin(6, 0.4), num_steps=80, spacing="log_snr")
    assert float(jnp.mean(stuck[:, 0] < 0)) > 0.4


@pytest.mark.slow
@pytest.mark.parametrize("schedule", [SCHEDULE, VarianceExploding(0.01, 10.0)], ids=["vp", "ve"])
def test_long_corrections_keep_the_weights_of_modes(schedule, key):
    # Mean 0 and variance 1 in the first column; noise joins the modes while steps are long.
    means = jnp.asarray([[-1.907, 0.0], [0.477, 0.0]])
    weights = jnp.asarray([0.2, 0.8])
    mixture = GaussianMixture(weights, means, jnp.stack([0.301 * jnp.eye(2)] * 2))
    flow = as_flow(KnownDenoiser(mixture, schedule), (2,))
    x = draw(flow, key, 10_000, sampler=PredictorCorrector(), num_steps=50)
    # Standard error 0.004; with Langevin's own noise it would be 0.23.
    assert float(jnp.mean(x[:, 0] < -0.7)) == pytest.approx(0.2, abs=0.016)


@pytest.mark.parametrize(
    "solver", [None, pytest.param(diffrax.ShARK(), marks=pytest.mark.slow, id="ShARK")]
)
def test_the_reverse_process_by_diffrax(solver, key):
    num_steps = 60
    x = draw_sde(gaussian_flow(), key, 1000, num_steps=num_steps, solver=solver)
    assert float(x.mean()) == pytest.approx(MEAN, abs=0.05)
    assert float(x.std()) == pytest.approx(STD, abs=0.04)


def test_a_sample_depends_on_its_key_alone_and_comes_in_data_units(key):
    flow = gaussian_flow()
    options: dict[str, Any] = {"sampler": DPMSolver(), "num_steps": 5}
    x = draw(flow, key, (2, 3), **options)
    assert x.shape == (2, 3, 1)
    np.testing.assert_array_equal(x, draw(flow, key, (2, 3), **options))
    scaled = as_flow(
        Known(SCHEDULE), 1, data_std=STD, transform=Standardise(jnp.ones(1), jnp.full(1, 5.0))
    )
    expected = 1 + 5 * np.asarray(x)
    np.testing.assert_allclose(draw(scaled, key, (2, 3), **options), expected, rtol=1e-10)
    assert draw(flow, key, 0, **options).shape == (0, 1)


def test_a_draw_evaluates_the_network_once_a_level(key):
    seen = []

    class Counting(Known):
        def noise(self, s, x, cond=None):
            jax.debug.callback(lambda s: seen.append(float(s)), s)
            return super().noise(s, x, cond)

    flow = as_flow(Counting(Betas(10, 1e-2, 0.5)), 1)
    cases = ((10, True, 10), (10, False, 9), (4, True, 4), (1, True, 1))
    for num_steps, denoise, evaluated in cases:
        seen.clear()
        draw(flow, key, 1, sampler=DDIM(), num_steps=num_steps, denoise=denoise)
        jax.effects_barrier()
        times = sorted(set(seen), reverse=True)
        assert len(times) == evaluated
        if num_steps == 10:
            np.testing.assert_allclose(times, np.arange(10, 10 - evaluated, -1) / 10, rtol=1e-12)
    # Another spacing is taken if asked for.
    seen.clear()
    draw(flow, key, 1, sampler=DDIM(), num_steps=10, spacing="log_snr")
    jax.effects_barrier()
    assert abs(sorted(set(seen))[1] - 0.2) > 0.02


def test_numbers_of_steps_share_one_compilation(key):
    traced = []

    class Counting(Known):
        def noise(self, s, x, cond=None):
            traced.append(s)
            return super().noise(s, x, cond)

    flow = as_flow(Counting(SCHEDULE), 1, data_std=STD)
    draw(flow, key, 8, num_steps=3)
    before = len(traced)
    for num_steps in (4, 7, 100):
        draw(flow, key, 8, num_steps=num_steps)
    assert len(traced) == before


def test_bad_arguments_are_named(key):
    flow = gaussian_flow()
    for options, says in (
        ({"num_steps": 0}, "num_steps=0 must be an integer >= 1"),
        ({"num_steps": 1, "denoise": False}, "num_steps=1 must be an integer >= 2"),
        ({"shape": -1}, "shape=-1 must not be negative"),
    ):
        with pytest.raises(ValueError, match=says):
            draw(flow, key, **options)  # pyright: ignore[reportArgumentType]
    with pytest.raises(TypeError, match=r"must be a Rule: write DPMSolver\(\)"):
        draw(flow, key, 2, sampler=DDIM)  # pyright: ignore[reportArgumentType]
    for make, says in (
        (lambda: Ancestral("middle"), "variance='middle'"),  # pyright: ignore
        (lambda: DDIM(2.0), "eta=2.0"),
        (lambda: Langevin(0), "steps=0"),
        (lambda: Langevin(1, 1.5), "ratio=1.5"),
    ):
        with pytest.raises(ValueError, match=says):
            make()


# Schedules near the ends of what float32 holds.
EXTREME = {
    "straight": Straight(start=1e-5, end=1 - 1e-6),
    "variance preserving": VariancePreserving(start=1e-6),
    "cosine": Cosine(15.0, -15.0),
    "variance exploding": VarianceExploding(1e-4, 100.0),
    "betas": Betas(4000),
}


def finite_in_float32(schedule, name, key):
    with jax.enable_x64(False):
        flow = as_flow(Known(schedule), 1, data_std=STD)
        for spacing in SPACINGS:
            # Two times of some spacings round to the same number.
            for num_steps in (100, 1000):
                options: dict[str, Any] = {"num_steps": num_steps, "spacing": spacing}
                x = draw(flow, key, 8, sampler=SAMPLERS[name][0], **options)
                assert x.dtype == jnp.float32
                assert np.isfinite(x).all(), (name, spacing, num_steps)


@pytest.mark.quick("dpm-solver", "ancestral")
@pytest.mark.parametrize("name", ["dpm-solver", "ancestral", "ddim, eta"])
def test_times_that_round_to_the_same_number_do_no_harm(name, key):
    finite_in_float32(EXTREME["straight"], name, key)


@pytest.mark.slow
@pytest.mark.parametrize("schedule", [*SCHEDULES, *(f"extreme {name}" for name in EXTREME)])
def test_many_steps_in_float32_are_finite(schedule, key):
    extreme = schedule.removeprefix("extreme ")
    for name in SAMPLERS:
        finite_in_float32(
            EXTREME[extreme] if extreme != schedule else SCHEDULES[schedule], name, key
        )
