"""Schedules: rates by differentiation, ends, inverses, and what they refuse."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import norm
from tests.diffusion.gaussian import MEAN, STD, each_schedule

from jaxflow.diffusion import (
    Betas,
    Cosine,
    Custom,
    Denoiser,
    Schedule,
    SubVariancePreserving,
    VarianceExploding,
    VariancePreserving,
    times_of,
)
from jaxflow.dynamics import Linear


@each_schedule
def test_rates_carry_the_moments(schedule):
    # d alpha = f alpha and d sigma^2 = 2 f sigma^2 + g^2, against central differences.
    # Away from the ends, and from the kinks of a table of betas.
    h = 1e-6

    @jax.jit
    @jax.vmap
    def values(s):
        names = ("alpha", "variance", "drift", "diffusion_squared")
        return {name: getattr(schedule, name)(s) for name in names}

    found = values(jnp.asarray([0.203, 0.503, 0.903, 0.503 - h, 0.503 + h]))
    found = jax.tree.map(np.asarray, found)
    at = {name: value[1] for name, value in found.items()}
    for name, wanted in (
        ("alpha", at["drift"] * at["alpha"]),
        ("variance", 2 * at["drift"] * at["variance"] + at["diffusion_squared"]),
    ):
        slope = (found[name][4] - found[name][3]) / (2 * h)
        np.testing.assert_allclose(slope, wanted, rtol=1e-7)
    assert (found["diffusion_squared"][:3] > 0).all()


@each_schedule
def test_finite_at_both_ends_in_either_precision(schedule):
    @jax.jit
    def values(time):
        names = ("alpha", "sigma", "log_snr", "drift", "diffusion_squared")
        return [getattr(schedule, name)(time) for name in names]

    for dtype in (jnp.float32, jnp.float64):
        for s in (schedule.start, schedule.end):
            found = values(jnp.asarray(s, dtype))
            assert all(v.dtype == dtype and np.isfinite(v) for v in found)


@each_schedule
def test_time_of_inverts_log_snr(schedule):
    for s in (0.1, 0.5, 0.9):
        np.testing.assert_allclose(schedule.time_of(schedule.log_snr(s)), s, atol=1e-12)


def test_variance_is_preserved_or_explodes():
    for schedule in (VariancePreserving(), Cosine(), Betas(20, 1e-3, 0.3)):
        alpha, sigma = schedule.alpha(0.37), schedule.sigma(0.37)
        np.testing.assert_allclose(alpha**2 + sigma**2, 1, rtol=1e-12)
    sub, full = SubVariancePreserving(), VariancePreserving()
    np.testing.assert_allclose(sub.sigma(0.3), full.sigma(0.3) ** 2, rtol=1e-12)
    exploding = VarianceExploding(0.01, 50.0)
    np.testing.assert_allclose(exploding.sigma(0.5), (0.01 * 50) ** 0.5, rtol=1e-12)


def test_betas_are_their_own_product():
    schedule = Betas(1000)
    betas = np.linspace(1e-4, 0.02, 1000)
    products = np.cumprod(1 - betas)
    for i in (1, 2, 500, 1000):
        np.testing.assert_allclose(schedule.alpha(i / 1000) ** 2, products[i - 1], rtol=1e-12)
    # Their limit in continuous time is the linear rate from 0.1 to 20.
    np.testing.assert_allclose(schedule.alpha(0.5), VariancePreserving().alpha(0.5), rtol=5e-3)


def test_prior_mismatch_is_the_divergence_of_the_prior():
    # KL(N(m, s^2 + S^2) || N(0, S^2)) in nats an entry, for alpha = 1.
    schedule = VarianceExploding(0.01, 2.0)
    ratio = (STD**2 + 4) / 4
    cost = 0.5 * (ratio - 1 - np.log(ratio) + MEAN**2 / 4)
    found = schedule.prior_mismatch(STD, MEAN, data_std=0.0)
    np.testing.assert_allclose(found, cost, rtol=1e-12)
    # A prior that knows the data's spread costs what their mean does, and no more.
    rest = schedule.prior_mismatch(STD, MEAN, data_std=STD)
    np.testing.assert_allclose(rest, 0.5 * MEAN**2 / (4 + STD**2), rtol=1e-12)
    assert VariancePreserving().prior_mismatch(1.0) == pytest.approx(0, abs=1e-12)


@each_schedule
def test_start_mismatch_is_the_divergence_of_remaining_noise(schedule):
    alpha, sigma = float(schedule.alpha(schedule.start)), float(schedule.sigma(schedule.start))
    x = np.linspace(MEAN - 9 * STD, MEAN + 9 * STD, 20_001)
    there = norm.logpdf(x, MEAN, STD)
    here = norm.logpdf(x, alpha * MEAN, np.hypot(alpha * STD, sigma))
    cost = np.trapezoid(np.exp(there) * (there - here), x)
    assert schedule.start_mismatch(STD, MEAN) == pytest.approx(cost, rel=1e-6, abs=1e-12)


@pytest.mark.parametrize("spacing", ["time", "log_snr", "karras"])
def test_times_fall_from_the_end_to_the_start(spacing):
    schedule = VarianceExploding(0.01, 10.0)
    times = times_of(schedule, 20, spacing)
    assert len(times) == 21
    assert (times[0], times[-1]) == (1.0, 0.0)
    assert (np.diff(times) < 0).all()
    if spacing == "karras":
        roots = np.asarray(jax.jit(jax.vmap(schedule.sigma))(times)) ** (1 / 7)
        np.testing.assert_allclose(np.diff(roots), np.diff(roots)[0], rtol=1e-6)
    with pytest.raises(ValueError, match="'even' is unknown; choose one of"):
        times_of(schedule, 20, "even")
    with pytest.raises(ValueError, match="num_steps=0 must be an integer"):
        times_of(schedule, 0, spacing)


def test_settings_must_be_numbers():
    for make in (VariancePreserving, lambda value: VarianceExploding(sigma_max=value)):
        for value in ("a", True, None):
            # The run-time check of annotations, in tests alone, is first for some.
            with pytest.raises(TypeError, match=rf"={value!r} must be a number|Type-check error"):
                make(value)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: VariancePreserving(beta_min=0.0), "beta_min=0.0"),
        (lambda: VariancePreserving(start=0.0), r"start=0.0 must lie in \(0, 1\)"),
        (lambda: VarianceExploding(1.0, 0.1), "sigma_min=1.0, sigma_max=0.1 must be positive"),
        (lambda: Cosine(-1.0, 1.0), "log_snr_max=-1.0 must be finite and in order"),
        (lambda: Betas(1), "num_steps=1 must be an integer >= 2"),
        (lambda: Betas(10, 0.5, 1.5), r"last=1.5 must lie in \(0, 1\)"),
        (lambda: Custom(lambda s: 1 - s, lambda s: s), r"alpha\(1\) = 0 must be positive"),
        (
            lambda: Custom(lambda s: 1 + s, lambda s: 0.1 + 0 * s),
            "log-SNR does not decrease from",
        ),
        (lambda: Custom(lambda s: 1 - s, lambda s: s - 0.5), r"alpha|sigma"),
        (lambda: Custom(lambda s: 1 + 0 * s, lambda s: -s - 0.1), r"sigma\(0.001\) = -0.101 must"),
        (lambda: Custom(lambda s: s - 1, lambda s: s, end=0.9), r"alpha\(0.001\) = -0.999 must"),
        (lambda: Custom(lambda s: 1 - s, lambda s: s, start=0.9, end=0.2), "start=0.9, end=0.2"),
    ],
)
def test_bad_schedules_are_refused(make, says):
    with pytest.raises(ValueError, match=says):
        make()


def test_a_denoiser_needs_a_schedule():
    with pytest.raises(TypeError, match="alpha_of=1 must be a function of s"):
        Custom(1, lambda s: s)  # pyright: ignore[reportArgumentType]
    with pytest.raises(TypeError, match="must be a Schedule: write VariancePreserving"):
        Denoiser(Linear(matrix=jnp.eye(2)), lambda s: (1.0, s))  # pyright: ignore[reportArgumentType]

    class Rising(VarianceExploding.__mro__[1]):
        def log_alpha(self, s):
            return jnp.zeros_like(s)

        def variance(self, s):
            return 2 - s

    assert issubclass(Rising, Schedule)
    with pytest.raises(ValueError, match="log-SNR does not decrease"):
        Denoiser(Linear(matrix=jnp.eye(2)), Rising())
