"""Kernel densities on manifolds: wrapped normals of one width around points."""

import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.nn import logsumexp
from jaxtyping import Array, Float

# Widths that are tried, in the units of the manifold's distances; rows that choose one, and the
# most kernels then.
WIDTHS = tuple(np.geomspace(0.005, 1.0, 12).tolist())
CHOOSING, KERNELS = 200, 4000
# Points that are scored by all kernels at a time.
CHUNK = 32


@eqx.filter_jit
def log_kernel_density(
    manifold: Any, kernels: Float[Array, "k n"], x: Float[Array, "m n"], width: Array
) -> Float[Array, " m"]:
    """Log-density at `x` of the mean of wrapped normals of standard deviation `width`, in nats.

    With respect to the surface measure of the manifold.
    """

    def score(x: Array) -> Array:
        each = jax.vmap(lambda loc: manifold.log_normal(loc, x, width))(kernels)
        return logsumexp(each) - math.log(len(kernels))

    return jax.lax.map(score, x, batch_size=CHUNK)


def best_width(manifold: Any, points: Float[Array, "k n"]) -> Array:
    """Kernel width with the highest mean log-density of held-out points.

    `points` are at least 2, in random order.
    """
    chosen, rest = points[:CHOOSING], points[CHOOSING : CHOOSING + KERNELS]
    if len(rest) < CHOOSING:
        chosen, rest = points[::2], points[1::2]
    widths = jnp.asarray(WIDTHS, points.dtype)
    scores = [log_kernel_density(manifold, rest, chosen, width).mean() for width in widths]
    return widths[jnp.argmax(jnp.stack(scores))]
