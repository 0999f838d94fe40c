"""Flows on manifolds: the integral over the surface, and rows as the manifold shows them."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from jaxflow.diagnostics.findings import to_host
from jaxflow.flows.data_space import to_flow_space, with_transform
from jaxflow.flows.flow import score_rows
from jaxflow.flows.importance import log_mean
from jaxflow.manifolds import Manifold, Sphere, Torus, quadrature

# Steps of two rules, whose difference is the error; uniform points where there is no rule.
COARSE, FINE, DRAWS = 48, 96, 8192


def surface_mass(
    flow: Any, manifold: Manifold, cond: Array | None, rng: np.random.Generator
) -> tuple[float, float, str, float | None, int] | str:
    """Integrate the density of a flow over the manifold of its field.

    Args:
        flow: a flow with an exact trace, whose solves do not raise.
        manifold: of its field.
        cond: one condition, or None.
        rng: for uniform points.

    Returns:
        The integral; the difference of two rules, or one standard error; the method in words; the
        effective number of draws, None for a rule; the number of failed points, counted as
        density 0. Or the reason why there is none.
    """
    if not math.isfinite(manifold.log_volume):
        return f"the volume of {manifold} is infinite"
    flow = with_transform(flow, None)

    def density(x: Any) -> tuple[np.ndarray, int]:
        each = None if cond is None else jnp.broadcast_to(cond, (len(x), *cond.shape))
        log_p = to_host(score_rows(flow, jnp.asarray(x), each)[0])
        failed = np.isnan(log_p)
        return np.where(failed, -np.inf, log_p), int(failed.sum())

    if isinstance(manifold, Sphere | Torus) and manifold.dim <= 2:
        values, failed = [], 0
        for num in (COARSE, FINE):
            points, weights = quadrature(manifold, num)
            log_p, failed = density(points)
            values.append(float(np.sum(weights * np.exp(log_p))))
        how = f"{len(points):,} points of a quadrature rule"
        return values[1], abs(values[1] - values[0]), how, None, failed
    keys = jax.random.split(jax.random.key(int(rng.integers(2**31))), DRAWS)
    uniform: Any = manifold
    log_p, failed = density(jax.vmap(uniform.uniform)(keys))
    log_value, relative, effective = log_mean(log_p + manifold.log_volume)
    how = f"{DRAWS:,} uniform points, {effective:,.0f} of them effective"
    value = float(np.exp(log_value))
    return value, relative * value, how, float(effective), failed


def as_seen(transform: Any, manifold: Manifold, x: Array) -> Array:
    """Rows in data units as fields on the manifold see them, without seams, (rows, ambient).

    Failed rows are NaN, as they were.
    """
    u, _ = to_flow_space(transform, x)
    failed = ~jnp.isfinite(x).all(axis=1, keepdims=True)
    # What is not finite would be shown as some point.
    return jnp.where(failed, jnp.nan, jax.vmap(manifold.embed)(u))
