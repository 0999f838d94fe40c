"""Flows on manifolds: the integral over the surface, and rows as embedded points."""

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
from jaxflow.runtime.checks import finite_rows

# Steps of two quadrature rules, whose difference is the error.
COARSE, FINE = 48, 96
# Draws of importance sampling, and the share of them from the base. The others are around KERNELS
# points, with WIDER times the best width.
DRAWS, SHARE, KERNELS, WIDER = 8192, 0.2, 1000, 1.3


def surface_mass(
    flow: Any,
    manifold: Manifold,
    points: Array,
    cond: Array | None,
    rng: np.random.Generator,
) -> tuple[float, float, str, float | None, int]:
    """Integrate the density of a flow with an exact trace over the manifold of its field.

    On circles, spheres and tori of up to two dimensions it uses a quadrature rule, whose error is
    the difference to a coarser one. Elsewhere it uses importance sampling, with draws from the
    base and from kernels around `points`, data in data units. Failed points count as density 0.
    Returns the fields of a `Mass` but the last.
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
    known = points[finite_rows(points)]
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
    """Draws from the base and from kernels around points, and their log-densities."""
    # Wider than the best kernels: the tails of the proposal must not be too light.
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


def embed_rows(transform: Any, manifold: Manifold, x: Array) -> Array:
    """Rows in data units as embedded points, which have no seams, (rows, ambient).

    Failed rows stay NaN.
    """
    u, _ = to_flow_space(transform, x)
    failed = ~jnp.isfinite(x).all(axis=1, keepdims=True)
    # The embedding of a NaN may be a finite point.
    return jnp.where(failed, jnp.nan, jax.vmap(manifold.embed)(u))
