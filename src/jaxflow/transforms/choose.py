"""Choose candidate transforms by held-out likelihood."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxflow.transforms.gaussianise import Gaussianise
from jaxflow.transforms.protocol import Transform
from jaxflow.transforms.standardise import Standardise

# Nats by which the splines must beat plain scaling to be worth their extra freedom.
MARGIN = 0.01


def candidate_transforms(
    x: Float[Array, "n *event"], held_out: Float[Array, "m *event"]
) -> dict[str, Standardise | Gaussianise]:
    """`Standardise`, and `Gaussianise` if it raises the held-out likelihood of a Gaussian.

    Each transform is fitted to `x`, with a Gaussian of full covariance in flow space. Which one is
    better for a flow only training can show, since a flow is more flexible than a Gaussian. Events
    that are not vectors only get `Standardise`.
    """
    candidates: dict[str, Standardise | Gaussianise] = {"Standardise": Standardise.fit(x)}
    if x.ndim == 2:
        splines, num = Gaussianise.fit(x), len(x)
        u, log_det = forward(splines, jnp.concatenate([x, held_out]))
        gain = _gaussian_score(u[:num], u[num:], log_det[num:])
        # Scaling does not change what a Gaussian makes of the rows.
        gain -= _gaussian_score(x, held_out, 0.0)
        if gain > MARGIN:
            candidates["Gaussianise"] = splines
    return candidates


@eqx.filter_jit
def forward(transform: Transform, x: Array) -> tuple[Array, Array]:
    """Apply a transform to rows: the rows, and their log-determinants."""
    return jax.vmap(transform.forward)(x)


def _gaussian_score(x: Any, held_out: Any, log_det: Any) -> float:
    """Mean log-density of the held-out rows under a Gaussian fitted to `x`, in nats."""
    x, held_out, log_det = (np.asarray(part, np.float64) for part in (x, held_out, log_det))
    mean, scale = x.mean(axis=0), x.std(axis=0)
    # The ridge keeps the covariance regular if columns are linearly dependent.
    cov = np.atleast_2d(np.cov((x - mean) / scale, rowvar=False)) + 1e-6 * np.eye(len(scale))
    scaled = (held_out - mean) / scale
    mahalanobis = np.sum(scaled * np.linalg.solve(cov, scaled.T).T, axis=1)
    log_norm = np.linalg.slogdet(cov)[1] + len(scale) * np.log(2 * np.pi)
    return float(np.mean(log_det - np.log(scale).sum() - 0.5 * (mahalanobis + log_norm)))
