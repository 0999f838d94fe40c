"""The discrete chain of DDPM: its transition, its posterior, and the loss of one step.

Between two times `s < u` of the chain

    q(x_u | x_s) = N(a x_s, b)                  a = alpha_u / alpha_s
                                                b = sigma_u^2 - a^2 sigma_s^2
    q(x_s | x_u, x_0) = N(m, v)                 m = (a sigma_s^2 x_u + alpha_s b x_0) / sigma_u^2
                                                v = b sigma_s^2 / sigma_u^2

With the schedule `Betas(T)` and the times `i / T`, `b` is DDPM's `beta_i` and `v` its
`beta-tilde_i` (Ho et al. 2020, arXiv 2006.11239, eqs. 6 and 7). Any other schedule works too.
"""

import jax.numpy as jnp

from jaxflow.diffusion.schedule import Schedule
from jaxflow.runtime.shapes import Event, Scalar


def transition(schedule: Schedule, s: Scalar, u: Scalar) -> tuple[Scalar, Scalar]:
    """Return `a` and `b` of `q(x_u | x_s) = N(a x_s, b)`, for `s <= u`."""
    a = jnp.exp(schedule.log_alpha(u) - schedule.log_alpha(s))
    # The difference of two close variances would lose digits, -expm1 keeps them.
    gap = schedule.log_snr(u) - schedule.log_snr(s)
    # Rounding must not turn b, a variance, negative where s and u are close.
    gap = jnp.minimum(gap, jnp.zeros_like(gap))
    return a, -schedule.variance(u) * jnp.expm1(gap)


def posterior(
    schedule: Schedule,
    s: Scalar,
    u: Scalar,
    x: Event,
    data: Event,
) -> tuple[Event, Scalar]:
    """Return mean and variance of `q(x_s | x_u, x_0)`, for `s < u`.

    Args:
        schedule: noise schedule.
        s: the earlier, less noisy time.
        u: the later time.
        x: `x_u`.
        data: `x_0`, or a prediction of it.
    """
    a, b = transition(schedule, s, u)
    before, after = schedule.variance(s), schedule.variance(u)
    mean = (a * before / after) * x + (schedule.alpha(s) * b / after) * data
    return mean, b * before / after


def step_loss(
    schedule: Schedule,
    s: Scalar,
    u: Scalar,
    x: Event,
    noise: Event,
    predicted: Event,
    form: str = "snr",
) -> Scalar:
    """Return `L_t = KL(q(x_s | x_u, x_0) || p(x_s | x_u))` in nats, for equal variances.

    Four forms of the same number:

    - `"mean"`: `|m(x_0) - m(predicted x_0)|^2 / (2 v)`.
    - `"noise"`: `b^2 / (2 v sigma_u^2 a^2) |e - predicted|^2` (Ho et al. 2020, eq. 12).
    - `"score"`: `b^2 / (2 v a^2) |score - predicted score|^2`, as `score = -e / sigma_u`.
    - `"snr"`: `(SNR(s) - SNR(u)) / 2 |x_0 - predicted x_0|^2` (Kingma et al. 2021, eq. 13).

    Args:
        schedule: noise schedule.
        s: the earlier, less noisy time.
        u: the later time.
        x: the point at `u`, `alpha x_0 + sigma noise`.
        noise: the noise in `x`.
        predicted: the noise that a denoiser predicts, for every `form`.
        form: `"mean"`, `"noise"`, `"score"` or `"snr"`.

    Raises:
        ValueError: unknown `form`.
    """
    alpha, sigma = schedule.alpha(u), schedule.sigma(u)
    data, prediction = ((x - sigma * e) / alpha for e in (noise, predicted))
    match form:
        case "mean":
            mean, variance = posterior(schedule, s, u, x, data)
            other, _ = posterior(schedule, s, u, x, prediction)
            return 0.5 * jnp.sum((mean - other) ** 2) / variance
        case "noise" | "score":
            a, b = transition(schedule, s, u)
            _, variance = posterior(schedule, s, u, x, data)
            weight = b**2 / (2 * variance * a**2)
            if form == "noise":
                return weight / sigma**2 * jnp.sum((noise - predicted) ** 2)
            return weight * jnp.sum((predicted / sigma - noise / sigma) ** 2)
        case "snr":
            gap = jnp.exp(schedule.log_snr(s)) - jnp.exp(schedule.log_snr(u))
            return 0.5 * gap * jnp.sum((data - prediction) ** 2)
    raise ValueError(f"form={form!r} is unknown; choose 'mean', 'noise', 'score' or 'snr'")
