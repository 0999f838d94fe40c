"""What a network may predict, and how each prediction follows from another.

With `x = alpha x_0 + sigma e`, every prediction is a combination `p x_0 + q e`:

    name        value                           p              q
    noise       e                               0              1
    data        x_0                             1              0
    score       grad log q(x | x_0)             0              -1 / sigma
    velocity    (alpha e - sigma x_0) / r       -sigma / r     alpha / r
    flow        dx/dt                           -alpha'        -sigma'

with `r^2 = alpha^2 + sigma^2`. Given `x`, two unknowns and two equations: each follows from any
other. `velocity` is that of Salimans and Ho 2022 ("Progressive Distillation", arXiv 2202.00512);
`flow` is flow matching's, in jaxflow's time `t = 1 - s`.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxflow.diffusion.schedule import Schedule

PREDICTIONS = ("noise", "data", "score", "velocity", "flow")


def shares(prediction: str, schedule: Schedule, s: Float[Array, ""]) -> tuple[Array, Array]:
    """`p` and `q` of a prediction `p x_0 + q e`."""
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


def noise_shares(prediction: str, schedule: Schedule, s: Float[Array, ""]) -> tuple[Array, Array]:
    """`a` and `b` of the noise `e = a x + b value`, by a value of the prediction."""
    p, q = shares(prediction, schedule, s)
    determinant = schedule.alpha(s) * q - schedule.sigma(s) * p
    return -p / determinant, schedule.alpha(s) / determinant


def convert(
    value: Float[Array, "*event"],
    x: Float[Array, "*event"],
    s: Float[Array, ""],
    schedule: Schedule,
    *,
    given: str,
    to: str,
) -> Float[Array, "*event"]:
    """One prediction from another.

    Args:
        value: the prediction that is known.
        x: the noisy point.
        s: its time.
        schedule: alpha and sigma.
        given: what `value` predicts.
        to: what is wanted.

    Raises:
        ValueError: an unknown prediction.
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
