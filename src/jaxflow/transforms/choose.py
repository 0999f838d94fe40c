"""Which transforms are worth a try, by held-out likelihood."""

from typing import Any

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Array, Float

from jaxflow.transforms.gaussianise import Gaussianise
from jaxflow.transforms.standardise import Standardise

# Nats by which the splines must beat plain scaling, before their extra freedom is worth a try.
MARGIN = 0.01


def candidate_transforms(
    x: Float[Array, "n *event"], held_out: Float[Array, "m *event"]
) -> dict[str, Standardise | Gaussianise]:
    """`Standardise`, and `Gaussianise` where the columns' shapes speak for it.

    Each is fitted to `x` and followed by a Gaussian of full covariance, fitted there too; the
    mean log-density of `held_out` tells whether the splines gain anything. Whether they help
    the flow, which sees more than a Gaussian does, only training can tell: splines that
    Gaussianise the columns of separate clusters bend the clusters. Events that are not vectors
    are standardised.

    Args:
        x: training rows.
        held_out: other rows of the same kind.

    Raises:
        ValueError: a constant column, named.
    """
    candidates: dict[str, Standardise | Gaussianise] = {"Standardise": Standardise.fit(x)}
    if x.ndim == 2:
        splines = Gaussianise.fit(x)
        gain = _gaussian_score(splines, x, held_out)
        gain -= _gaussian_score(candidates["Standardise"], x, held_out)
        if gain > MARGIN:
            candidates["Gaussianise"] = splines
    return candidates


@eqx.filter_jit
def _forward(transform: Any, x: Array) -> tuple[Array, Array]:
    return jax.vmap(transform.forward)(x)


def _gaussian_score(transform: Any, x: Array, held_out: Array) -> float:
    """Mean log-density of the held-out rows by a Gaussian behind the transform, nats."""
    u = np.asarray(_forward(transform, x)[0], np.float64)
    v, log_det = (np.asarray(part, np.float64) for part in _forward(transform, held_out))
    # A little of the identity keeps the covariance regular where columns depend on each other.
    cov = np.cov(u, rowvar=False).reshape(u.shape[1], u.shape[1]) + 1e-6 * np.eye(u.shape[1])
    centred = v - u.mean(axis=0)
    mahalanobis = np.sum(centred * np.linalg.solve(cov, centred.T).T, axis=1)
    log_norm = np.linalg.slogdet(cov)[1] + u.shape[1] * np.log(2 * np.pi)
    return float(np.mean(log_det - 0.5 * (mahalanobis + log_norm)))
