"""Score matching: how the gradient of a log-density is learned without knowing the density.

The goal is the explicit loss, `J = E_p |s(x) - grad log p(x)|^2 / 2`. It cannot be computed, since
`grad log p` is what is sought. Expand the square: the cross term is

    E_p [s . grad log p] = int s . grad p dx = -int p div(s) dx = -E_p [tr(ds/dx)]

by parts, if `p s` vanishes far out. So up to a constant that does not depend on `s`

    J = E_p [|s(x)|^2 / 2 + tr(ds/dx)]                                  implicit

(Hyvarinen 2005, "Estimation of Non-Normalized Statistical Models by Score Matching"). The trace
is the same as in the continuity equation, and Hutchinson's probe estimates it as well:

    J = E_p E_v [|s(x)|^2 / 2 + v^T (ds/dx) v]                          sliced

(Song et al. 2019, arXiv 1905.07088). With noise in the data, `x = alpha x_0 + sigma e`, there is
no need of a derivative: since `p_s(x) = E q(x | x_0)`, `grad log p_s(x)` is the mean of
`grad log q(x | x_0) = -e / sigma` over the `x_0` that may be behind `x`, a regression:

    J = E |s(x) + e / sigma|^2 / 2                                      denoising

(Vincent 2011, "A Connection Between Score Matching and Denoising Autoencoders"). Weighed by
`sigma^2` it is the squared error of the noise, NCSN's choice and DDPM's `L_simple` in one; it is
`jaxflow.objectives.Denoising`.

The functions here give the term of one sample; a mean over samples is the loss.
"""

from collections.abc import Callable

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxflow.trace import exact_trace, hutchinson_trace

Score = Callable[[Float[Array, "*event"]], Float[Array, "*event"]]


def explicit(
    score: Score, x: Float[Array, "*event"], known: Float[Array, "*event"]
) -> Float[Array, ""]:
    """`|s(x) - grad log p(x)|^2 / 2`, where the score is known."""
    return 0.5 * jnp.sum((score(x) - known) ** 2)


def implicit(score: Score, x: Float[Array, "*event"]) -> Float[Array, ""]:
    """`|s(x)|^2 / 2 + tr(ds/dx)`, by an exact trace."""
    value, trace = exact_trace(_field(score), jnp.zeros((), x.dtype), x)
    return 0.5 * jnp.sum(value**2) + trace


def sliced(
    score: Score, x: Float[Array, "*event"], probes: Float[Array, "..."]
) -> Float[Array, ""]:
    """`|s(x)|^2 / 2 + v^T (ds/dx) v`, a mean over probes, (*event) or (k, *event)."""
    value, trace = hutchinson_trace(_field(score), jnp.zeros((), x.dtype), x, probes)
    return 0.5 * jnp.sum(value**2) + trace


def denoising(
    score: Score,
    x: Float[Array, "*event"],
    noise: Float[Array, "*event"],
    alpha: float | Float[Array, ""],
    sigma: float | Float[Array, ""],
) -> Float[Array, ""]:
    """`|s(alpha x + sigma e) + e / sigma|^2 / 2`, for clean `x` and noise `e`."""
    return explicit(score, alpha * x + sigma * noise, -noise / sigma)


def _field(score: Score) -> Callable[[Array, Array], Array]:
    return lambda t, x: score(x)
