"""DDPM: the chain of noisy points, its posterior, and the loss of one step.

The chain visits times `s_1 < ... < s_T`; between two of them, `s < u`,

    q(x_u | x_s) = N(a x_s, b)                  a = alpha_u / alpha_s
                                                b = sigma_u^2 - a^2 sigma_s^2
    q(x_s | x_u, x_0) = N(m, v)                 m = (a sigma_s^2 x_u + alpha_s b x_0) / sigma_u^2
                                                v = b sigma_s^2 / sigma_u^2

With DDPM's schedule `Betas(T)` at the times `i / T`, `b` is `beta_i` and `v` its `beta-tilde_i`
(Ho et al. 2020, arXiv 2006.11239, eqs. 6 and 7), and any other schedule may take its place.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxflow.diffusion.schedule import Schedule

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
            _, variance = posterior(schedule, s, u, x, data)
            weight = b**2 / (2 * variance * sigma**2 * a**2)
            return weight * jnp.sum((noise - predicted) ** 2)
        case "snr":
            gap = jnp.exp(schedule.log_snr(s)) - jnp.exp(schedule.log_snr(u))
            return 0.5 * gap * jnp.sum((data - guess) ** 2)
    raise ValueError(f"form={form!r} is unknown; choose 'mean', 'noise' or 'snr'")
