"""Importance sampling with a flow as proposal: normalising constant, weights and reliability."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from jaxflow.flows.flow import Flow
from jaxflow.runtime.checks import check_count

# Largest tail shape of reliable weights (Vehtari et al. 2024, section 3.2.4).
RELIABLE = 0.7
# The tail is a fifth of the samples; its fit needs 5.
LEAST_NUM = 25


class ImportanceSample(NamedTuple):
    """Samples of a flow `q`, weighted to represent a target `p`: see `importance_sample`.

    Attributes:
        x: samples, (n, *event).
        log_weights: log of the smoothed weights, which sum to 1, (n,); -inf where the target is
            0 or undefined.
        effective: effective sample size `(sum w)^2 / sum w^2` of the raw weights, from 1 to n.
        log_z: `log mean(p / q)` of the raw weights, the log of the target's normalising constant,
            in nats.
        log_z_se: standard error of `log_z`; inf where `pareto_k` exceeds 0.7, since such weights
            have no variance that a sample could show.
        pareto_k: shape of the tail of the positive weights. The estimates are reliable up to 0.7;
            the weights have a finite variance below 0.5. -inf if there is no tail, since the
            largest weight occurs many times; inf if the weights are too few to show one: fewer
            than 25 are positive, or fewer than 5 exceed the others.
        undefined: share of samples whose target is NaN or +inf; their weight is 0.
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
        """Whether the target is defined at all samples, and the tail light: `pareto_k <= 0.7`.

        It speaks for the part of the target that the samples reach: see `importance_sample` on
        missing modes.
        """
        return self.pareto_k <= RELIABLE and not self.undefined


def importance_sample(
    flow: Flow,
    target: Callable[..., Array],
    num: int,
    *,
    key: PRNGKeyArray,
    cond: Any = None,
) -> ImportanceSample:
    """Draw samples of the flow `q` and weight them by the target, `p / q`.

    ```
    w_i = p(x_i) / q(x_i),    Z = mean(w),    E_p[h] = sum(w h) / sum(w)
    ```
    The largest weights are replaced by quantiles of a generalised Pareto distribution fitted to
    them, whose shape shows whether the estimates are reliable (Vehtari, Simpson, Gelman, Yao and
    Gabry 2024, "Pareto smoothed importance sampling", JMLR 25).

    **A missing mode does not show.** Where the flow has no samples, no weight can say that the
    target has mass: weights, `log_z_se` and `reliable` look right while `log_z` is too small by
    the log of the share that is missed. What can show it: several starts of the training with
    different keys, whose `log_z` should agree; training on tempered targets, `log p(x) / T` with
    T falling to 1; a wider proposal, such as a flow trained at T > 1; and data of the target, if
    there are any, by `jaxflow.diagnostics.diagnose(flow, data, key=key)`.

    ```python
    import jax
    import jax.numpy as jnp
    from jaxflow import CouplingFlow, importance_sample

    key = jax.random.key(0)
    flow = CouplingFlow(2, width=8, key=key)  # a trained flow in practice
    result = importance_sample(flow, lambda x: -jnp.sum((x - 0.3) ** 2), 1000, key=key)
    print(result.log_z, result.log_z_se)  # log(pi) = 1.14
    if result.reliable:
        mean = jnp.exp(result.log_weights) @ result.x  # E_p[x]
    ```

    Args:
        flow: the proposal.
        target: log-density `log p(x)` of one sample in data units, up to a constant; with `cond`,
            `log p(x, cond)`.
        num: number of samples, at least 25.
        key: random key.
        cond: one condition, for all samples.

    Returns:
        An `ImportanceSample` of `num` samples.

    Raises:
        ValueError: `num` is below 25, or `target` is finite at no sample.
    """
    check_count("num", num, LEAST_NUM)
    x, log_q = flow.sample_and_log_prob(key, num, cond)
    args = () if cond is None else (jnp.asarray(cond),)
    log_p = np.asarray(jax.jit(jax.vmap(lambda x: target(x, *args)))(x), np.float64)
    return weigh(x, log_p, np.asarray(log_q, np.float64))


def weigh(
    x: Float[Array, "n *event"],
    log_p: Float[np.ndarray, " n"],
    log_q: Float[np.ndarray, " n"],
) -> ImportanceSample:
    """Weight samples of a density `q` to represent a target `p`, known up to a constant.

    Log-densities are in nats. Raises ValueError if the target is finite at no sample.
    """
    undefined = np.isnan(log_p) | np.isposinf(log_p)
    raw = np.where(undefined, -np.inf, log_p - log_q)
    if not np.isfinite(raw).any():
        raise ValueError(
            f"target is finite at none of {len(x)} samples: check target, or train the flow first"
        )
    log_z, log_z_se, effective = log_mean(raw)
    smoothed, k = pareto_smoothed(raw)
    return ImportanceSample(
        x=x,
        log_weights=smoothed,
        effective=effective,
        log_z=log_z,
        log_z_se=log_z_se if k <= RELIABLE else np.inf,
        pareto_k=k,
        undefined=float(undefined.mean()),
    )


def log_mean(log_weights: Float[np.ndarray, " n"]) -> tuple[float, float, float]:
    """`log_means` of one sample, as floats."""
    log_z, se, effective = map(float, log_means(log_weights))
    return log_z, se, effective


def log_means(log_weights: Float[np.ndarray, "*rows n"]) -> tuple[Any, Any, Any]:
    """`log mean(w)`, its standard error, and the effective sample size `(sum w)^2 / sum w^2`.

    Over the last axis, each (*rows,); -inf, 0 and 0 where all weights are 0.
    """
    top = log_weights.max(axis=-1, keepdims=True)
    w = np.exp(log_weights - np.where(np.isneginf(top), 0.0, top))
    zero = top[..., 0] == -np.inf
    mean, total = w.mean(axis=-1), w.sum(axis=-1)
    se = w.std(axis=-1, ddof=1) / np.where(zero, 1.0, mean * np.sqrt(w.shape[-1]))
    log_z = top[..., 0] + np.log(np.where(zero, 1.0, mean))
    return log_z, se, total**2 / np.where(zero, 1.0, np.sum(w**2, axis=-1))


def pareto_smoothed(log_weights: Float[np.ndarray, " n"]) -> tuple[Float[np.ndarray, " n"], float]:
    """Smooth the tail of the m positive weights, the largest `min(m / 5, 3 sqrt(m))` of them.

    Weights of 0 stay 0: the others are those of a proposal confined to the target's support. At
    least one weight must be positive.

    Returns:
        Normalised log-weights, (n,), and the tail's shape k. Where no tail can be fitted, the
        weights are as they were: k is -inf if the weights at the tail's start equal the largest,
        inf if fewer than 25 are positive or fewer than 5 of the tail exceed the others.
    """
    out = log_weights - log_weights.max()
    order = np.argsort(out)[-np.isfinite(out).sum() :]
    size = int(min(len(order) / 5, 3 * np.sqrt(len(order))))
    k = np.inf
    if len(order) >= LEAST_NUM:
        cut = np.exp(max(out[order[-size - 1]], np.log(np.finfo(float).tiny)))
        excess = np.exp(out[order[-size:]]) - cut
        # Those that tie with the tail's start are no part of it.
        excess = excess[excess > 0]
        k = np.inf if len(excess) else -np.inf
        if len(excess) > 4:
            k, sigma = generalised_pareto(excess)
            p = (np.arange(len(excess)) + 0.5) / len(excess)
            quantiles = sigma * np.expm1(-k * np.log1p(-p)) / k if k else -sigma * np.log1p(-p)
            # Equal weights stay equal.
            tie = np.unique(excess, return_inverse=True)[1]
            quantiles = (np.bincount(tie, quantiles) / np.bincount(tie))[tie]
            out[order[-len(excess) :]] = np.minimum(np.log(quantiles + cut), 0.0)
    return out - np.log(np.exp(out).sum()), float(k)


def generalised_pareto(excess: Float[np.ndarray, " m"]) -> tuple[float, float]:
    """Fit the shape k and scale of a generalised Pareto distribution to sorted positive numbers.

    The quasi-Bayesian estimate of Zhang and Stephens 2009, "A new and efficient estimation
    method for the generalized Pareto distribution", Technometrics 51, with the weakly
    informative prior on k of Vehtari et al. 2024.
    """
    m = len(excess)
    count = 30 + int(np.sqrt(m))
    quartile = excess[int(m / 4 + 0.5) - 1]
    b = 1 / excess[-1] + (1 - np.sqrt(count / (np.arange(1, count + 1) - 0.5))) / (3 * quartile)
    # b = 0, the exponential distribution, is the limit of k = 0: 0 / 0 below.
    b = np.where(b == 0, np.finfo(float).eps / excess[-1], b)
    shape = np.mean(np.log1p(-b[:, None] * excess), axis=1)
    profile = m * (np.log(-b / shape) - shape - 1)
    b = np.average(b, weights=np.exp(profile - profile.max()))
    k = np.mean(np.log1p(-b * excess))
    sigma = -k / b
    return float((m * k + 5) / (m + 10)), float(sigma)
