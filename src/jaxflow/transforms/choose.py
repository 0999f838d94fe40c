"""Choose candidate transforms by held-out likelihood."""

import equinox as eqx
import jax
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
        splines = Gaussianise.fit(x)
        gain = _gaussian_score(splines, x, held_out)
        gain -= _gaussian_score(candidates["Standardise"], x, held_out)
        if gain > MARGIN:
            candidates["Gaussianise"] = splines
    return candidates


@eqx.filter_jit
def forward(transform: Transform, x: Array) -> tuple[Array, Array]:
    """Apply a transform to rows: the rows, and their log-determinants."""
    return jax.vmap(transform.forward)(x)


def _gaussian_score(transform: Transform, x: Array, held_out: Array) -> float:
    """Mean log-density of the held-out rows under a Gaussian in flow space, in nats."""
    u = np.asarray(forward(transform, x)[0], np.float64)
    v, log_det = (np.asarray(part, np.float64) for part in forward(transform, held_out))
    # The ridge keeps the covariance regular if columns are linearly dependent.
    cov = np.cov(u, rowvar=False).reshape(u.shape[1], u.shape[1]) + 1e-6 * np.eye(u.shape[1])
    centred = v - u.mean(axis=0)
    mahalanobis = np.sum(centred * np.linalg.solve(cov, centred.T).T, axis=1)
    log_norm = np.linalg.slogdet(cov)[1] + u.shape[1] * np.log(2 * np.pi)
    return float(np.mean(log_det - 0.5 * (mahalanobis + log_norm)))
