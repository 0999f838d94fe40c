"""Toy densities that are curves in the plane, blurred: moons, a Swiss roll, two spirals.

Each is `p(x) = int_0^1 w(u) k(x - c(u)) du` for a curve `c` and a smooth kernel `k`; the integral
is by Gauss and Legendre, with enough nodes to be exact to rounding.
"""

from typing import ClassVar, final

import numpy as np
from jaxtyping import Float64

from jaxflow.data.toys import LogDensity, Points, Sample, entropy_on_grid, log_mean_exp

# Points scored at once, to bound the memory.
_CHUNK = 2048


@final
class Moons:
    """Two half circles that reach into each other, blurred by Gaussian noise.

    A point is `2 c + (-1, -0.2) + std e`: `c` uniform on the half circle `(cos a, sin a)` or on
    `(1 - cos a, 1/2 - sin a)`, `a` in [0, pi], `e` standard normal, std 0.2.
    """

    std: ClassVar[float] = 0.2

    def sample(self, n: int, seed: int) -> Sample:
        """Draw n independent points, (n, 2)."""
        rng = np.random.default_rng(seed)
        centres = self._curves(rng.uniform(size=n))[rng.integers(2, size=n), np.arange(n)]
        return (centres + self.std * rng.standard_normal((n, 2))).astype(np.float32)

    def log_prob(self, x: Points) -> LogDensity:
        """Log-density in nats of points (*batch, 2), computed in float64."""
        u, weights = _nodes(200)
        centres = self._curves(u).reshape(-1, 2)
        return _blurred(x, centres, np.tile(weights / 2, 2), self.std)

    def entropy(self) -> float:
        """`-E[log p(x)]` in nats, to better than 1e-6."""
        return entropy_on_grid(self.log_prob, 3.5, self.std, per_std=4)

    def _curves(self, u: np.ndarray) -> Float64[np.ndarray, "2 n 2"]:
        a = np.pi * u
        upper = np.stack([np.cos(a), np.sin(a)], axis=-1)
        lower = np.stack([1 - np.cos(a), 0.5 - np.sin(a)], axis=-1)
        return 2 * np.stack([upper, lower]) + np.array([-1.0, -0.2])


@final
class Swissroll:
    """A spiral of one and a half turns, blurred by Gaussian noise.

    A point is `t (cos t, sin t) / 5 + std e`, `t` uniform in [1.5 pi, 4.5 pi], `e` standard
    normal, std 0.2.
    """

    std: ClassVar[float] = 0.2

    def sample(self, n: int, seed: int) -> Sample:
        """Draw n independent points, (n, 2)."""
        rng = np.random.default_rng(seed)
        centres = self._curve(rng.uniform(size=n))
        return (centres + self.std * rng.standard_normal((n, 2))).astype(np.float32)

    def log_prob(self, x: Points) -> LogDensity:
        """Log-density in nats of points (*batch, 2), computed in float64."""
        u, weights = _nodes(500)
        return _blurred(x, self._curve(u), weights, self.std)

    def entropy(self) -> float:
        """`-E[log p(x)]` in nats, to better than 1e-6."""
        return entropy_on_grid(self.log_prob, 4.5 * np.pi / 5, self.std, per_std=4)

    def _curve(self, u: np.ndarray) -> Float64[np.ndarray, "n 2"]:
        t = 1.5 * np.pi * (1 + 2 * u)
        return t[:, None] * np.stack([np.cos(t), np.sin(t)], axis=-1) / 5


@final
class TwoSpirals:
    """Two spirals of one and a half turns, one the other turned by half a circle.

    A point is `+-s (-cos s, sin s) / 3 + std e` with `s = 3 pi sqrt(u)`, `u` uniform in [0, 1],
    `e` standard normal, std 0.1, both signs as likely.
    """

    std: ClassVar[float] = 0.1

    def sample(self, n: int, seed: int) -> Sample:
        """Draw n independent points, (n, 2)."""
        rng = np.random.default_rng(seed)
        curve = self._curve(np.sqrt(rng.uniform(size=n)))
        centres = (2.0 * rng.integers(2, size=(n, 1)) - 1) * curve
        return (centres + self.std * rng.standard_normal((n, 2))).astype(np.float32)

    def log_prob(self, x: Points) -> LogDensity:
        """Log-density in nats of points (*batch, 2), computed in float64."""
        # In v = sqrt(u), du = 2 v dv.
        v, weights = _nodes(600)
        curve = self._curve(v)
        return _blurred(x, np.concatenate([curve, -curve]), np.tile(v * weights, 2), self.std)

    def entropy(self) -> float:
        """`-E[log p(x)]` in nats, to better than 1e-6."""
        return entropy_on_grid(self.log_prob, np.pi, self.std, per_std=4)

    def _curve(self, v: np.ndarray) -> Float64[np.ndarray, "n 2"]:
        s = 3 * np.pi * v
        return s[:, None] * np.stack([-np.cos(s), np.sin(s)], axis=-1) / 3


def _nodes(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Nodes and weights of Gauss and Legendre on [0, 1]."""
    nodes, weights = np.polynomial.legendre.leggauss(count)
    return (nodes + 1) / 2, weights / 2


def _blurred(x: Points, centres: np.ndarray, weights: np.ndarray, std: float) -> LogDensity:
    """Log-density of `sum_k weight_k N(centre_k, std^2 I)`."""
    flat = x.reshape(-1, 2).astype(np.float64)
    out = np.empty(len(flat))
    for start in range(0, len(flat), _CHUNK):
        part = flat[start : start + _CHUNK, None]
        exponents = -0.5 * np.sum(((part - centres) / std) ** 2, axis=-1)
        # The mean of n w_k e_k is their sum; a node's weight is far above underflow.
        out[start : start + _CHUNK] = log_mean_exp(exponents + np.log(weights * len(weights)))
    return (out - np.log(2 * np.pi * std**2)).reshape(x.shape[:-1])
