"""Flows on manifolds: the integral over the surface, and rows as the manifold shows them."""

import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.nn import logsumexp
from jaxtyping import Array, Float, PRNGKeyArray

from jaxflow.density.kernels import best_width, log_kernel_density
from jaxflow.diagnostics.findings import to_host
from jaxflow.flows.data_space import to_flow_space, with_transform
from jaxflow.flows.flow import score_rows
from jaxflow.flows.importance import log_mean
from jaxflow.manifolds import Manifold, Sphere, Torus, quadrature

# Steps of two rules, whose difference is the error.
COARSE, FINE = 48, 96
# Draws of importance sampling, of which a share is from the base; kernels that the others are
# around, and how much wider than the best ones they are.
DRAWS, SHARE, KERNELS, WIDER = 8192, 0.2, 1000, 1.3


def surface_mass(
    flow: Any,
    manifold: Manifold,
    points: Array,
    cond: Array | None,
    rng: np.random.Generator,
) -> tuple[float, float, str, float | None, int]:
    """Integrate the density of a flow with an exact trace over the manifold of its field.

    By a quadrature rule on circles, spheres and tori of two dimensions; elsewhere by importance
    sampling from kernels around `points`, data in data units, with a share of draws from the base.
    Returns the entries of a `Mass`; a rule's error is the difference to a coarser one. Failed
    points count as density 0.
    """
    transform, flow = flow.transform, with_transform(flow, None)

    def density(x: Any) -> tuple[np.ndarray, int]:
        each = None if cond is None else jnp.broadcast_to(cond, (len(x), *cond.shape))
        log_p = to_host(score_rows(flow, jnp.asarray(x), each)[0])
        failed = np.isnan(log_p)
        return np.where(failed, -np.inf, log_p), int(failed.sum())

    if isinstance(manifold, Sphere | Torus) and manifold.dim <= 2:
        values, failed = [], 0
        for num in (COARSE, FINE):
            nodes, weights = quadrature(manifold, num)
            log_p, failed = density(nodes)
            values.append(float(np.sum(weights * np.exp(log_p))))
        how = f"{len(nodes):,} points of a quadrature rule"
        return values[1], abs(values[1] - values[0]), how, None, failed
    known = points[np.asarray(jnp.isfinite(points).all(axis=1))]
    u = to_flow_space(transform, known[rng.permutation(len(known))[:KERNELS]])[0]
    key = jax.random.key(int(rng.integers(2**31)))
    draws, log_q = _propose(flow.base, manifold, u, best_width(manifold, u), key)
    log_p, failed = density(draws)
    log_value, relative, effective = log_mean(log_p - to_host(log_q))
    how = f"importance sampling, {effective:,.0f} effective of {DRAWS:,} draws"
    value = float(np.exp(log_value))
    return value, relative * value, how, float(effective), failed


@eqx.filter_jit
def _propose(
    base: Any, manifold: Any, kernels: Float[Array, "k n"], width: Array, key: PRNGKeyArray
) -> tuple[Float[Array, "draws n"], Float[Array, " draws"]]:
    """Draws of kernels around points and of the base, and their log-densities."""
    # Wider than the best kernels: the tails of a proposal must not be too light.
    width = jnp.minimum(WIDER * width, getattr(manifold, "most_scale", math.inf))
    num_base = round(SHARE * DRAWS)
    base_key, choice_key, step_key = jax.random.split(key, 3)
    from_base = jax.vmap(base.sample)(jax.random.split(base_key, num_base))
    centres = kernels[jax.random.randint(choice_key, (DRAWS - num_base,), 0, len(kernels))]
    keys = jax.random.split(step_key, len(centres))
    steps = jax.vmap(manifold.normal, (0, 0, None))(keys, centres, width)
    draws = jnp.concatenate([from_base.astype(kernels.dtype), steps])
    each = jnp.stack(
        [
            math.log(SHARE) + jax.vmap(base.log_prob)(draws),
            math.log1p(-SHARE) + log_kernel_density(manifold, kernels, draws, width),
        ]
    )
    return draws, logsumexp(each, axis=0)


def as_points(transform: Any, x: Array) -> Float[Array, "rows n"]:
    """Rows in data units as points of the manifold; failed rows are NaN, as they were."""
    u, _ = to_flow_space(transform, x)
    failed = ~jnp.isfinite(x).all(axis=1, keepdims=True)
    # What is not finite would be some point.
    return jnp.where(failed, jnp.nan, u)
