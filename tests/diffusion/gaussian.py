"""Gaussian data, N(MEAN, STD^2) entry by entry, for which everything is in closed form."""

import equinox as eqx
import jax.numpy as jnp
import pytest

from jaxflow.diffusion import (
    AbstractDenoiser,
    Betas,
    Cosine,
    Custom,
    Schedule,
    Straight,
    SubVariancePreserving,
    VarianceExploding,
    VariancePreserving,
)
from jaxflow.diffusion.denoiser import clip_time

MEAN, STD = 0.7, 0.4
SCHEDULES = {
    "variance preserving": VariancePreserving(),
    "sub variance preserving": SubVariancePreserving(),
    "cosine": Cosine(),
    "variance exploding": VarianceExploding(0.01, 10.0),
    "betas": Betas(50, 1e-3, 0.2),
    "straight": Straight(),
    "custom": Custom(lambda s: 1 - s**2, lambda s: s, start=0.02, end=0.99),
}
each_schedule = pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES.keys())


def slow_but(*names):
    """Parametrise by all schedules; those that are not named are slow."""
    marks = {name: () if name in names else pytest.mark.slow for name in SCHEDULES}
    params = [pytest.param(SCHEDULES[name], marks=marks[name], id=name) for name in SCHEDULES]
    return pytest.mark.parametrize("schedule", params)


class Known(AbstractDenoiser):
    """The denoiser of Gaussian data, which compiles faster than that of a mixture of one."""

    schedule: Schedule = eqx.field(static=True)

    def noise(self, s, x, cond=None):
        alpha, sigma, std = moments(self.schedule, clip_time(self.schedule, s, x))
        return sigma * (x - alpha * MEAN) / std**2


def moments(schedule, s):
    """alpha, sigma, and the standard deviation of noisy points."""
    alpha, sigma = schedule.alpha(s), schedule.sigma(s)
    return alpha, sigma, jnp.sqrt(alpha**2 * STD**2 + sigma**2)
