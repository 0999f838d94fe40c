"""DDPM: the chain of noisy points, its posterior, and the bound on the likelihood.

The chain visits times `s_1 < ... < s_T`; between two of them, `s < u`,

    q(x_u | x_s) = N(a x_s, b)                  a = alpha_u / alpha_s
                                                b = sigma_u^2 - a^2 sigma_s^2
    q(x_s | x_u, x_0) = N(m, v)                 m = (a sigma_s^2 x_u + alpha_s b x_0) / sigma_u^2
                                                v = b sigma_s^2 / sigma_u^2

With DDPM's schedule `Betas(T)` at the times `i / T`, `b` is `beta_i` and `v` its `beta-tilde_i`
(Ho et al. 2020, arXiv 2006.11239, eqs. 6 and 7), and any other schedule may take its place.
"""

import math
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, PRNGKeyArray

from jaxflow.diffusion.denoiser import AbstractDenoiser
from jaxflow.diffusion.probability_flow import denoiser_of
from jaxflow.diffusion.schedules import Schedule
from jaxflow.diffusion.times import times_of
from jaxflow.model import accept, into_flow_space
from jaxflow.precision import in_full

Scalar = Float[Array, ""]


def transition(schedule: Schedule, s: Scalar, u: Scalar) -> tuple[Scalar, Scalar]:
    """`a` and `b` of `q(x_u | x_s) = N(a x_s, b)`, for `s < u`."""
    a = jnp.exp(schedule.log_alpha(u) - schedule.log_alpha(s))
    # -expm1 keeps the digits that the difference of two near variances would lose.
    gap = schedule.log_snr(u) - schedule.log_snr(s)
    return a, -schedule.variance(u) * jnp.expm1(gap)


def posterior(
    schedule: Schedule,
    s: Scalar,
    u: Scalar,
    x: Float[Array, "*event"],
    data: Float[Array, "*event"],
) -> tuple[Float[Array, "*event"], Scalar]:
    """Mean and variance of `q(x_s | x_u, x_0)`.

    Args:
        schedule: alpha and sigma.
        s: the earlier time.
        u: the later time.
        x: the point at `u`.
        data: `x_0`, or what a denoiser takes it for.
    """
    a, b = transition(schedule, s, u)
    before, after = schedule.variance(s), schedule.variance(u)
    mean = (a * before / after) * x + (schedule.alpha(s) * b / after) * data
    return mean, b * before / after


def step_loss(
    schedule: Schedule,
    s: Scalar,
    u: Scalar,
    x: Float[Array, "*event"],
    noise: Float[Array, "*event"],
    predicted: Float[Array, "*event"],
    form: str = "snr",
) -> Scalar:
    """`L_t = KL(q(x_s | x_u, x_0) || p(x_s | x_u))` in nats, both of the posterior's variance.

    Three ways to write one number:

    - `"mean"`: `|m(x_0) - m(predicted x_0)|^2 / (2 v)`.
    - `"noise"`: `b^2 / (2 v sigma_u^2 a^2) |e - predicted|^2` (Ho et al., eq. 12).
    - `"snr"`: `(SNR(s) - SNR(u)) / 2 |x_0 - predicted x_0|^2` (Kingma et al. 2021, eq. 13).

    Args:
        schedule: alpha and sigma.
        s: the earlier time.
        u: the later time.
        x: the point at `u`, `alpha x_0 + sigma noise`.
        noise: the noise in it.
        predicted: what a denoiser takes the noise for.
        form: which way.

    Raises:
        ValueError: an unknown form.
    """
    alpha, sigma = schedule.alpha(u), schedule.sigma(u)
    data, guess = ((x - sigma * e) / alpha for e in (noise, predicted))
    match form:
        case "mean":
            mean, variance = posterior(schedule, s, u, x, data)
            other, _ = posterior(schedule, s, u, x, guess)
            return 0.5 * jnp.sum((mean - other) ** 2) / variance
        case "noise":
            a, b = transition(schedule, s, u)
            variance = b * schedule.variance(s) / sigma**2
            weight = b**2 / (2 * variance * sigma**2 * a**2)
            return weight * jnp.sum((noise - predicted) ** 2)
        case "snr":
            gap = jnp.exp(schedule.log_snr(s)) - jnp.exp(schedule.log_snr(u))
            return 0.5 * gap * jnp.sum((data - guess) ** 2)
    raise ValueError(f"form={form!r} is unknown; choose 'mean', 'noise' or 'snr'")


class Bound(NamedTuple):
    """`-log p(x) <= L_0 + sum_t L_t + L_T`, in nats and the data's own units, one a row.

    Attributes:
        value: the bound on `log p(x)`, from below.
        first: `L_0`, of the data given the first noisy point.
        steps: the sum of all `L_t`.
        last: `L_T`, what the prior misses.
        se: standard error of the mean of `value` over rows and draws.
    """

    value: Float[Array, " rows"]
    first: Float[Array, " rows"]
    steps: Float[Array, " rows"]
    last: Float[Array, " rows"]
    se: float

    def bits_per_dim(self, size: int, bin_width: float = 1.0) -> float:
        """The mean as bits an entry, for data dequantised on a grid of such a width."""
        return bits_per_dim(self.value, size, bin_width)


def bits_per_dim(log_p: Float[Array, " rows"], size: int, bin_width: float = 1.0) -> float:
    """Mean log-density as bits an entry: `-mean / (size log 2) - log2(bin_width)`.

    Args:
        log_p: log-densities, nats.
        size: entries of an event.
        bin_width: of the grid that the data were dequantised on, in their own units.
    """
    return -float(jnp.mean(log_p)) / (size * math.log(2)) - math.log2(bin_width)


def elbo(
    flow: Any,
    x: Any,
    cond: Any = None,
    *,
    key: PRNGKeyArray,
    num_steps: int = 1000,
    num_draws: int = 1,
    spacing: str = "log_snr",
    data_std: float = 1.0,
) -> Bound:
    """The variational bound of a diffusion model's ancestral chain of `num_steps` steps.

    With data `x_0`, noisy points at `s_1 = start, ..., s_T = end` and a decoder
    `p(x_0 | x_1) = N(E[x_0 | x_1], (sigma_1 / alpha_1)^2)`

        L_0 = -E log p(x_0 | x_1)      L_T = KL(q(x_T | x_0) || N(0, prior_std^2))

    Every `L_t` is computed, each with its own noise, as `step_loss` has it.

    Args:
        flow: a flow by `as_flow`, fitted or not.
        x: rows, (n, *event).
        cond: their conditions, (n, *condition).
        key: for the noise.
        num_steps: T.
        num_draws: draws of the noise a row, averaged.
        spacing: of the times, as `times_of` has it; `"time"` is DDPM's chain, whose bound is
            looser at the same number of steps.
        data_std: as for `as_flow`.

    Raises:
        TypeError: the flow is no diffusion model.
        ValueError: rows or numbers out of range.
    """
    for name, value, least in (("num_steps", num_steps, 2), ("num_draws", num_draws, 1)):
        if not isinstance(value, int) or value < least:
            raise ValueError(f"{name}={value!r} must be a whole number of at least {least}")
    denoiser_of(flow)
    flow, rows, cond, _ = accept(flow, x, cond, "x")
    schedule = flow.field.denoiser.schedule
    prior = schedule.prior_std(data_std)
    times = tuple(times_of(schedule, num_steps - 1, spacing)[::-1].tolist())
    parts = [
        _elbo(flow, rows, cond, each, times, prior) for each in jax.random.split(key, num_draws)
    ]
    first, steps, last, log_det = (
        jnp.mean(jnp.stack(a), axis=0) for a in zip(*parts, strict=True)
    )
    value = log_det - first - steps - last
    se = float(jnp.std(value)) / math.sqrt(len(value))
    return Bound(value, first - log_det, steps, last, se)


@eqx.filter_jit
@in_full
def _elbo(
    flow: Any,
    x: Array,
    cond: Array | None,
    key: PRNGKeyArray,
    grid: tuple[float, ...],
    prior: float,
) -> tuple[Array, Array, Array, Array]:
    u, log_det = into_flow_space(flow.transform, x)
    denoiser: AbstractDenoiser = flow.field.denoiser.prepare()
    schedule = denoiser.schedule
    times = jnp.asarray(grid, u.dtype)
    axes = (None, 0, None if cond is None else 0)
    axis = tuple(range(1, u.ndim))

    def noised(s: Array, key: PRNGKeyArray) -> tuple[Array, Array, Array]:
        noise = jax.random.normal(key, u.shape, u.dtype)
        noisy = schedule.alpha(s) * u + schedule.sigma(s) * noise
        return noisy, noise, jax.vmap(denoiser.noise, axes)(s, noisy, cond)

    def add(total: Array, i: Array) -> tuple[Array, None]:
        s, later = times[i], times[i + 1]
        noisy = noised(later, jax.random.fold_in(key, i + 1))
        losses = jax.vmap(step_loss, (None, None, None, 0, 0, 0))(schedule, s, later, *noisy)
        return total + losses, None

    steps, _ = lax.scan(add, jnp.zeros(len(u), u.dtype), jnp.arange(len(grid) - 1))
    # L_0: the decoder's error is (sigma / alpha)(e - predicted).
    _, noise, predicted = noised(times[0], jax.random.fold_in(key, 0))
    size, blur = u[0].size, schedule.sigma(times[0]) / schedule.alpha(times[0])
    first = 0.5 * jnp.sum((noise - predicted) ** 2, axis=axis)
    first = first + size * (jnp.log(blur) + 0.5 * math.log(2 * math.pi))
    # L_T.
    ratio = schedule.variance(times[-1]) / prior**2
    square = jnp.sum((schedule.alpha(times[-1]) * u / prior) ** 2, axis=axis)
    last = 0.5 * (square + size * (ratio - 1 - jnp.log(ratio)))
    return first, steps, last, log_det
