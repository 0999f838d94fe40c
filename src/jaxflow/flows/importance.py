"""Importance sampling with a flow as proposal: log Z, effective samples, and how far to trust."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from jaxflow.flows.flow import Flow

# Beyond this shape the tail of the weights is too heavy (Vehtari et al. 2024, 3.2.4).
RELIABLE = 0.7


class ImportanceSample(NamedTuple):
    """Samples of a flow `q`, weighted as samples of a target `p`.

    Attributes:
        x: samples, (n, *event).
        log_weights: smoothed, normalised to sum to 1, (n,); -inf where the target is 0 or
            undefined.
        effective: effective sample size `(sum w)^2 / sum w^2` of the raw weights.
        log_z: `log mean(p / q)` of the raw weights, the log of the target's constant, nats.
        log_z_se: its standard error.
        pareto_k: shape of the weights' tail; at most 0.7 where the estimates can be trusted,
            below 0.5 where the weights have a variance.
        undefined: share of samples at which the target is NaN or +inf; counted as weight 0.
    """

    x: Float[Array, "n *event"]
    log_weights: Float[np.ndarray, " n"]
    effective: float
    log_z: float
    log_z_se: float
    pareto_k: float
    undefined: float

    @property
    def reliable(self) -> bool:
        """Whether the tail of the weights allows to trust the estimates."""
        return self.pareto_k <= RELIABLE


def importance_sample(
    flow: Flow,
    target: Callable[..., Array],
    num: int,
    *,
    key: PRNGKeyArray,
    cond: Any = None,
) -> ImportanceSample:
    """Draw from the flow and weight by `p / q`.

    ```
    w_i = p(x_i) / q(x_i),    Z = mean(w),    E_p[h] = sum(w h) / sum(w)
    ```
    The largest weights are replaced by quantiles of a generalised Pareto distribution fitted to
    them (Vehtari, Simpson, Gelman, Yao and Gabry 2024, "Pareto smoothed importance sampling",
    JMLR 25), which also tells whether there are enough of them.

    Args:
        flow: the proposal.
        target: `log p(x)` of one sample in data units, up to a constant; with a condition
            `log p(x, cond)`.
        num: samples to draw, at least 25.
        key: random key.
        cond: one condition, for all samples.

    Raises:
        ValueError: too few samples, or a target that is finite at none of them.
    """
    if num < 25:
        raise ValueError(f"num={num} must be at least 25, to tell the tail of the weights")
    x, log_q = flow.sample_and_log_prob(key, num, cond)
    given = () if cond is None else (jax.numpy.asarray(cond),)
    log_p = np.asarray(jax.jit(jax.vmap(lambda x: target(x, *given)))(x), np.float64)
    undefined = np.isnan(log_p) | np.isposinf(log_p)
    raw = np.where(undefined, -np.inf, log_p - np.asarray(log_q, np.float64))
    if not np.isfinite(raw).any():
        raise ValueError(
            f"target is finite at none of {num} samples: check it, or train the flow on it first"
        )
    log_z, log_z_se, effective = log_mean(raw)
    smoothed, k = pareto_smoothed(raw)
    return ImportanceSample(
        x=x,
        log_weights=smoothed,
        effective=effective,
        log_z=log_z,
        log_z_se=log_z_se,
        pareto_k=k,
        undefined=float(undefined.mean()),
    )


def log_mean(log_weights: Float[np.ndarray, " n"]) -> tuple[float, float, float]:
    """`log mean(w)`, its standard error, and the effective number `(sum w)^2 / sum w^2`.

    At least one weight must not be 0.
    """
    top = log_weights.max()
    w = np.exp(log_weights - top)
    se = w.std(ddof=1) / (w.mean() * np.sqrt(len(w)))
    return float(top + np.log(w.mean())), float(se), float(w.sum() ** 2 / np.sum(w**2))


def pareto_smoothed(log_weights: Float[np.ndarray, " n"]) -> tuple[Float[np.ndarray, " n"], float]:
    """Log-weights with a smoothed tail, normalised, and the shape of the tail.

    The tail is the largest `min(n / 5, 3 sqrt(n))` weights.
    """
    n = len(log_weights)
    out = log_weights - log_weights.max()
    size = int(min(n / 5, 3 * np.sqrt(n)))
    order = np.argsort(out)
    tail = order[-size:]
    cut = max(out[order[-size - 1]], np.log(np.finfo(float).tiny))
    excess = np.exp(out[tail]) - np.exp(cut)
    if excess[-1] <= 0 or not (excess > 0).sum() > 4:
        # All weights are equal, or there is no tail to speak of.
        return out - np.log(np.exp(out).sum()), -np.inf if np.ptp(out) == 0 else np.inf
    k, sigma = generalised_pareto(excess)
    p = (np.arange(size) + 0.5) / size
    quantiles = sigma * np.expm1(-k * np.log1p(-p)) / k if k else -sigma * np.log1p(-p)
    out[tail] = np.minimum(np.log(quantiles + np.exp(cut)), 0.0)
    return out - np.log(np.exp(out).sum()), float(k)


def generalised_pareto(excess: Float[np.ndarray, " m"]) -> tuple[float, float]:
    """Shape and scale of a generalised Pareto distribution for sorted positive numbers.

    The quasi-Bayesian estimate of Zhang and Stephens 2009, "A new and efficient estimation
    method for the generalized Pareto distribution", Technometrics 51, with the weakly
    informative prior of Vehtari et al. on the shape.
    """
    m = len(excess)
    count = 30 + int(np.sqrt(m))
    quartile = excess[int(m / 4 + 0.5) - 1]
    b = 1 / excess[-1] + (1 - np.sqrt(count / (np.arange(1, count + 1) - 0.5))) / (3 * quartile)
    shape = np.mean(np.log1p(-b[:, None] * excess), axis=1)
    profile = m * (np.log(-b / shape) - shape - 1)
    b = np.average(b, weights=np.exp(profile - profile.max()))
    k = np.mean(np.log1p(-b * excess))
    sigma = -k / b
    return float((m * k + 5) / (m + 10)), float(sigma)
