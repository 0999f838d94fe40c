"""Score matching: learn `grad log p` without knowing `p`.

The explicit loss `J = E_p |s(x) - grad log p(x)|^2 / 2` cannot be computed, as `grad log p` is
unknown. Expand the square. If `p s` vanishes at infinity, integration by parts gives the cross
term

    E_p [s . grad log p] = int s . grad p dx = -int p div(s) dx = -E_p [tr(ds/dx)]

Up to a constant in `s`

    J = E_p [|s(x)|^2 / 2 + tr(ds/dx)]                                  implicit

(Hyvarinen 2005, "Estimation of Non-Normalized Statistical Models by Score Matching"). The trace
is that of the continuity equation, and Hutchinson's probes estimate it as well:

    J = E_p E_v [|s(x)|^2 / 2 + v^T (ds/dx) v]                          sliced

(Song et al. 2019, arXiv 1905.07088). For noisy data, `x = alpha x_0 + sigma e`, no derivative is
needed. Since `p_s(x) = E q(x | x_0)`, the score is the mean of `grad log q(x | x_0) = -e / sigma`
over the `x_0` that may have produced `x`, a regression:

    J = E |s(x) + e / sigma|^2 / 2                                      denoising

(Vincent 2011, "A Connection Between Score Matching and Denoising Autoencoders"). Weighted by
`sigma^2` it is the squared error of the noise: the loss of NCSN, DDPM's `L_simple`, and
`jaxflow.objectives.Denoising`.

Each function returns the term of one sample; average it over samples.
"""

from collections.abc import Callable

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxflow.runtime.shapes import Event, Scalar
from jaxflow.trace import exact_trace, hutchinson_trace

Score = Callable[[Event], Event]


def explicit(score: Score, x: Event, known: Event) -> Scalar:
    """Return `|s(x) - grad log p(x)|^2 / 2`, with the `known` score `grad log p(x)`."""
    return 0.5 * jnp.sum((score(x) - known) ** 2)


def implicit(score: Score, x: Event) -> Scalar:
    """Return `|s(x)|^2 / 2 + tr(ds/dx)`, with the exact trace."""
    value, trace = exact_trace(lambda t, x: score(x), jnp.zeros((), x.dtype), x)
    return 0.5 * jnp.sum(value**2) + trace


def sliced(score: Score, x: Event, probes: Float[Array, "..."]) -> Scalar:
    """Return `|s(x)|^2 / 2 + v^T (ds/dx) v`, averaged over `probes` (*event) or (k, *event)."""
    value, trace = hutchinson_trace(lambda t, x: score(x), jnp.zeros((), x.dtype), x, probes)
    return 0.5 * jnp.sum(value**2) + trace


def denoising(
    score: Score, x: Event, noise: Event, alpha: float | Scalar, sigma: float | Scalar
) -> Scalar:
    """Return `|s(alpha x + sigma e) + e / sigma|^2 / 2`, for clean `x` and `noise` `e`."""
    return explicit(score, alpha * x + sigma * noise, -noise / sigma)
