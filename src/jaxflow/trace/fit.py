"""Fit the subspace and the reference of Hutch++ to Jacobians of a few rows."""

import math

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxflow.runtime.checks import check_count


def fit_sketch(
    jacobians: Float[Array, "rows ..."], num_products: int, rank: int | None, *, reference: bool
) -> tuple[Array, Array | None, int]:
    """Subspace, reference and number of probes; see `HutchPlusPlus.from_jacobians`."""
    rows, shape = jacobians.shape[0], jacobians.shape[1:]
    event = shape[: len(shape) // 2]
    size = math.prod(event)
    if shape != event + event or rows < 2:
        raise ValueError(
            f"jacobians has shape {jacobians.shape}; give (rows, *event, *event) with two "
            "rows or more, as flow.integrated_jacobian(x) does"
        )
    check_count("num_products", num_products)
    most = min(size, num_products - 1)
    if rank is not None and (not isinstance(rank, int) or not 0 <= rank <= most):
        raise ValueError(
            f"rank={rank!r} must be an integer from 0 to {most}: at least one of "
            f"num_products={num_products} is a probe"
        )

    def fit(s: Array) -> tuple[Array, Array]:
        mean = jnp.mean(s, axis=0) if reference else jnp.zeros_like(s[0])
        return mean, _leading(s - mean[None])

    s = jacobians.reshape(rows, size, size)
    s = s + jnp.swapaxes(s, 1, 2)
    if rank is None:
        mean, q = fit(s[::2])
        left = [
            float(_variance(q[:, :r], s[1::2] - mean[None])) / (num_products - r)
            for r in range(most + 1)
        ]
        rank = int(np.argmin(left))
    subspace = fit(s)[1][:, :rank].T.reshape(rank, *event)
    known = jnp.mean(jacobians, axis=0) if reference else None
    return subspace, known, num_products - rank


def _leading(s: Float[Array, "rows size size"]) -> Float[Array, "size size"]:
    """Eigenvectors of the mean of `S^2` as columns, in decreasing order of eigenvalue."""
    return jnp.linalg.eigh(jnp.einsum("nij,njk->ik", s, s) / len(s))[1][:, ::-1]


def _variance(q: Float[Array, "size rank"], s: Float[Array, "rows size size"]) -> Array:
    """Mean over rows of the variance of one Rademacher probe on the complement of Q."""
    away = jnp.eye(len(q), dtype=q.dtype) - q @ q.T
    rest = jnp.einsum("ij,njk,kl->nil", away, s, away)
    return jnp.mean(jnp.sum(jnp.triu(rest, 1) ** 2, axis=(1, 2)))
