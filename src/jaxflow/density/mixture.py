"""The log-density of a mixture, and its error, from those of its components.

With weights `w_k`, terms `a_k = log w_k + log p_k` and responsibilities `r_k = w_k p_k / p`,

```
log p   = logsumexp_k(a_k)
error  <= logsumexp_k(a_k + e_k) - logsumexp_k(a_k)
```
where `e_k` is the error of `log p_k`. For small errors the bound is `sum_k r_k e_k`; components
that hardly matter may have large ones. `logsumexp` is convex, so errors downwards change it by no
more than the same errors upwards.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxflow.density.error import LogDensity
from jaxflow.ode import Status
from jaxflow.ode.status import failed
from jaxflow.runtime.lanes import per_row

# Of the sum, in units of rounding.
ROUNDING = 2.0


def mix(
    log_p: Float[Array, "rows parts"], weights: Float[Array, " parts"], *, grouped: bool = True
) -> Float[Array, " rows"]:
    """`log sum_k w_k p_k` in nats, with weights divided by their sum.

    It is -inf, with gradient 0, where every component is -inf, and NaN where one is NaN. A single
    component is returned as it is. `grouped`: rows have the same bits in any batch (`per_row`).
    """
    if log_p.shape[1] == 1:
        return log_p[:, 0]
    log_weights = _logs(weights, log_p.dtype)
    return per_row(lambda log_p: _log_sum(log_weights + log_p), log_p, grouped=grouped)


def mix_with_error(
    parts: LogDensity, weights: Float[Array, " parts"], *, atol_nats: float | None = None
) -> LogDensity:
    """Log-density of a mixture with its error, from fields of (rows, parts).

    `ode_error` is the bound of this module plus the rounding of the sum. `trace_se` is `sqrt(sum_k
    (r_k se_k)^2)`, right for small standard errors of components with probes of their own.
    `status` is the worst failure of a component, `OUTSIDE` where all of them are, and `INACCURATE`
    where `ode_error` exceeds `atol_nats`; evaluations are summed.
    """
    if parts.value.shape[1] == 1:
        return jax.tree.map(lambda leaf: leaf[:, 0], parts)
    log_weights = _logs(weights, parts.value.dtype)
    return per_row(partial(_mix_row, log_weights, atol_nats), parts)


def _logs(weights: Float[Array, " parts"], dtype: Any) -> Float[Array, " parts"]:
    weights = weights.astype(dtype)
    return jnp.log(weights / jnp.sum(weights))


def _log_sum(terms: Float[Array, " parts"]) -> Float[Array, ""]:
    nowhere = jnp.all(jnp.isneginf(terms))
    total = jax.nn.logsumexp(jnp.where(nowhere, jnp.zeros_like(terms), terms))
    return jnp.where(nowhere, -jnp.inf, total)


def _mix_row(
    log_weights: Float[Array, " parts"], atol_nats: float | None, parts: LogDensity
) -> LogDensity:
    terms = log_weights + parts.value
    value = _log_sum(terms)
    share = jnp.exp(jnp.where(jnp.isneginf(terms), -jnp.inf, terms - value))
    status = _worst(parts.status)
    trace_se = ode_error = refined = None
    if parts.trace_se is not None:
        trace_se = jnp.linalg.norm(jnp.where(share == 0, 0.0, share * parts.trace_se))
    if parts.ode_error is not None and parts.refined is not None:
        ode_error = _error(terms, value, parts.ode_error)
        refined = _log_sum(log_weights + parts.refined)
        if atol_nats is not None:
            missed = (status == Status.SUCCESS) & ~(ode_error <= atol_nats)
            status = jnp.where(missed, int(Status.INACCURATE), status)
    return LogDensity(value, trace_se, ode_error, refined, status, jnp.sum(parts.num_evals))


def _error(
    terms: Float[Array, " parts"], value: Float[Array, ""], errors: Float[Array, " parts"]
) -> Float[Array, ""]:
    """Bound of the error: infinite where that of a component is, 0 where there is no density."""
    matters = ~jnp.isneginf(terms)
    known = jnp.isfinite(errors)
    upper = _log_sum(terms + jnp.where(known & matters, errors, 0.0)) - value
    eps = float(jnp.finfo(value.dtype).eps)
    upper = upper + ROUNDING * eps * (jnp.abs(value) + len(terms))
    upper = jnp.where(jnp.any(matters & ~known), jnp.inf, upper)
    upper = jnp.where(jnp.any(matters), upper, 0.0)
    return jnp.where(jnp.isnan(value), jnp.nan, upper)


def _worst(status: Int[Array, " parts"]) -> Int[Array, ""]:
    """The status of a mixture; whether components are inaccurate shows in the error."""
    wrong = failed(status) & (status != Status.INACCURATE)
    worst = jnp.max(jnp.where(wrong, status, int(Status.SUCCESS)))
    return jnp.where(jnp.all(status == Status.OUTSIDE), int(Status.OUTSIDE), worst)
