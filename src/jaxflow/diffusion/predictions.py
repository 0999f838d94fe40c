"""The quantities that a network may predict, and their conversions.

With `x = alpha x_0 + sigma e`, every prediction is a combination `p x_0 + q e`:

    name        value                           p              q
    noise       e                               0              1
    data        x_0                             1              0
    score       grad log q(x | x_0)             0              -1 / sigma
    velocity    (alpha e - sigma x_0) / r       -sigma / r     alpha / r
    flow        dx/dt                           -alpha'        -sigma'

with `r^2 = alpha^2 + sigma^2`. Given `x`, each determines all others. `velocity` is that of
Salimans and Ho 2022 ("Progressive Distillation", arXiv 2202.00512). `flow` is the target of flow
matching, in jaxflow's time `t = 1 - s`.
"""

import jax.numpy as jnp
from jaxtyping import Array

from jaxflow.diffusion.schedule import Schedule
from jaxflow.runtime.shapes import Event, Scalar

PREDICTIONS = ("noise", "data", "score", "velocity", "flow")
"""Quantities that a denoiser may predict: `Denoiser(net, schedule, prediction=...)`."""


def shares(prediction: str, schedule: Schedule, s: Scalar) -> tuple[Array, Array]:
    """Return `p` and `q` of `prediction = p x_0 + q e`, for a name in `PREDICTIONS`."""
    alpha, sigma = schedule.alpha(s), schedule.sigma(s)
    zero, one = jnp.zeros_like(alpha), jnp.ones_like(alpha)
    match prediction:
        case "noise":
            return zero, one
        case "data":
            return one, zero
        case "score":
            return zero, -1 / sigma
        case "velocity":
            r = jnp.hypot(alpha, sigma)
            return -sigma / r, alpha / r
        case "flow":
            drift = schedule.drift(s)
            # sigma' = f sigma + g^2 / (2 sigma).
            return -drift * alpha, -(drift * sigma + schedule.noise_rate(s))
    raise ValueError(f"prediction={prediction!r} is unknown; choose one of {PREDICTIONS}")


def noise_shares(prediction: str, schedule: Schedule, s: Scalar) -> tuple[Array, Array]:
    """Return `a` and `b` of `e = a x + b value`, for the value of a prediction."""
    p, q = shares(prediction, schedule, s)
    determinant = schedule.alpha(s) * q - schedule.sigma(s) * p
    return -p / determinant, schedule.alpha(s) / determinant


def convert(
    value: Event,
    x: Event,
    s: Scalar,
    schedule: Schedule,
    *,
    given: str,
    to: str,
) -> Event:
    """Convert one prediction to another.

    ```python
    import jax.numpy as jnp
    from jaxflow.diffusion import Cosine, convert
    noise, x, s = jnp.ones(2), jnp.asarray([0.3, -1.0]), jnp.asarray(0.5)
    score = convert(noise, x, s, Cosine(), given="noise", to="score")
    ```

    Args:
        value: the known prediction.
        x: the noisy point.
        s: its time.
        schedule: noise schedule.
        given: the name of the known prediction, one of `PREDICTIONS`.
        to: the name of the result.

    Raises:
        ValueError: unknown name.
    """
    if given == to:
        return value
    a, b = noise_shares(given, schedule, s)
    noise = a * x + b * value
    if to == "noise":
        return noise
    p, q = shares(to, schedule, s)
    # p x_0 + q e with x_0 = (x - sigma e) / alpha.
    ratio = p / schedule.alpha(s)
    return ratio * x + (q - ratio * schedule.sigma(s)) * noise
