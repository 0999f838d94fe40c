"""Proposals of importance sampling: kernels around points, and a wide tail or the base.

In flow space, with whitened points `v_i = L^{-1} (u_i - mean)` and `a = sqrt(1 - h^2)`

```
q(v) = (1 - w) mean_i N(v; a v_i, h^2 I) + w t_5(v)
```
Shrinking the centres by `a` keeps the covariance of the points for every width `h` (West 1993,
"Approximating posterior distributions by mixtures", JRSS B 55): `h = 1` is one Gaussian, a small
`h` follows clusters. Student's t with 5 degrees of freedom bounds the weights `p / q` (a
defensive mixture: Hesterberg 1995, Technometrics 37). On a manifold the base replaces it.
"""

import math
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from jaxflow.density.kernels import log_kernel_density
from jaxflow.manifolds import Manifold

# Candidate widths `h`.
WIDTHS = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.99)
# Degrees of freedom and weight of the tail.
FREEDOM, WEIGHT = 5.0, 0.1
# On a manifold, the share of draws from the base, and the factor of the best width of kernels.
SHARE, WIDER = 0.2, 1.3
# Relative ridge of the covariance, for columns that depend on each other.
_RIDGE = 1e-9
# Rows of distances in memory at once.
_CHUNK = 1024

Points = Float[np.ndarray, "m d"]


class Proposal(NamedTuple):
    """Kernels around whitened points, and a tail.

    Attributes:
        centres: the shrunken points `a v_i`, (n, d).
        width: h.
        mean: mean of the points, (d,).
        scale: L, the lower Cholesky factor of their covariance, (d, d).
    """

    centres: Float[np.ndarray, "n d"]
    width: float
    mean: Float[np.ndarray, " d"]
    scale: Float[np.ndarray, "d d"]

    @classmethod
    def fit(cls, u: Points, rng: np.random.Generator) -> "Proposal":
        """Choose the width with which one half of the points best explains the other half."""
        dim = u.shape[1]
        mean = u.mean(axis=0)
        cov = np.cov(u, rowvar=False).reshape(dim, dim)
        scale = np.linalg.cholesky(cov + _RIDGE * (np.trace(cov) / dim or 1.0) * np.eye(dim))
        v = rng.permutation(np.linalg.solve(scale, (u - mean).T).T)
        half, other = v[::2], v[1::2]
        width = max(
            WIDTHS, key=lambda h: float(_kernels(other, math.sqrt(1 - h**2) * half, h).mean())
        )
        return cls(math.sqrt(1 - width**2) * v, width, mean, scale)

    def sample(self, num: int, rng: np.random.Generator) -> Points:
        """Draw `num` points."""
        dim = len(self.mean)
        noise = rng.standard_normal((num, dim))
        v = self.centres[rng.integers(len(self.centres), size=num)] + self.width * noise
        tail = noise * np.sqrt(FREEDOM / rng.chisquare(FREEDOM, size=(num, 1)))
        v = np.where(rng.uniform(size=(num, 1)) < WEIGHT, tail, v)
        return v @ self.scale.T + self.mean

    def log_prob(self, u: Points) -> Float[np.ndarray, " m"]:
        """Return the log-density of points, in nats."""
        v = np.linalg.solve(self.scale, (u - self.mean).T).T
        mixed = np.logaddexp(
            math.log1p(-WEIGHT) + _kernels(v, self.centres, self.width),
            math.log(WEIGHT) + _student(v),
        )
        return np.asarray(mixed - np.sum(np.log(np.diagonal(self.scale))))


def _kernels(
    v: Points, centres: Float[np.ndarray, "n d"], width: float
) -> Float[np.ndarray, " m"]:
    """`log mean_i N(v; c_i, width^2 I)`."""
    from scipy.special import logsumexp

    squares = np.sum(centres**2, axis=1)
    parts = []
    for start in range(0, len(v), _CHUNK):
        some = v[start : start + _CHUNK]
        distance = np.sum(some**2, axis=1)[:, None] + squares - 2 * some @ centres.T
        parts.append(logsumexp(-0.5 * np.maximum(distance, 0.0) / width**2, axis=1))
    log_norm = v.shape[1] * math.log(width * math.sqrt(2 * math.pi)) + math.log(len(centres))
    return np.concatenate(parts) - log_norm


def _student(v: Points) -> Float[np.ndarray, " m"]:
    """`log t_5(v)` of unit scale."""
    dim, half = v.shape[1], (FREEDOM + v.shape[1]) / 2
    log_norm = math.lgamma(FREEDOM / 2) - math.lgamma(half) + dim / 2 * math.log(FREEDOM * math.pi)
    return -half * np.log1p(np.sum(v**2, axis=1) / FREEDOM) - log_norm


@eqx.filter_jit
def propose_on_manifold(
    base: Any,
    manifold: Manifold,
    kernels: Float[Array, "k n"],
    width: Array,
    num: int,
    key: PRNGKeyArray,
) -> tuple[Float[Array, "num n"], Float[Array, " num"]]:
    """Draws from the base and from kernels around points, and their log-densities."""
    # Wider than the best kernels: the tails of the proposal must not be too light.
    width = jnp.minimum(WIDER * width, getattr(manifold, "most_scale", math.inf))
    num_base = round(SHARE * num)
    base_key, choice_key, step_key = jax.random.split(key, 3)
    from_base = jax.vmap(base.sample)(jax.random.split(base_key, num_base))
    centres = kernels[jax.random.randint(choice_key, (num - num_base,), 0, len(kernels))]
    keys = jax.random.split(step_key, len(centres))
    steps = jax.vmap(manifold.normal, (0, 0, None))(keys, centres, width)
    draws = jnp.concatenate([from_base.astype(kernels.dtype), steps])
    log_base = math.log(SHARE) + jax.vmap(base.log_prob)(draws)
    log_kernels = math.log1p(-SHARE) + log_kernel_density(manifold, kernels, draws, width)
    return draws, jax.nn.logsumexp(jnp.stack([log_base, log_kernels]), axis=0)
