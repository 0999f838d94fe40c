"""Toy densities along a curve in the plane: moons, a Swiss roll, two spirals.

Each is `p(x) = int_0^1 w(u) N(x; c(u), std^2 I) du` for a curve `c`. Gauss-Legendre quadrature has
enough nodes to make the integral exact to rounding.
"""

import functools
from typing import ClassVar, final

import numpy as np
from jaxtyping import Float64

from jaxflow.data.toys import Blurred, Plane, log_mixture


@final
class Moons(Blurred):
    """Two interleaved half circles, blurred by Gaussian noise.

    A point is `2 c + (-1, -0.2) + std e`: `c` uniform on the half circle `(cos a, sin a)` or on
    `(1 - cos a, 1/2 - sin a)`, `a` in [0, pi], `e` standard normal, std 0.2.

    ```python
    from jaxflow.data import Moons

    x = Moons().sample(100, seed=0)
    ```
    """

    std: ClassVar[float] = 0.2
    reach: ClassVar[float] = 3.5

    def _centres(self, rng: np.random.Generator, n: int) -> Plane:
        return self._curves(rng.uniform(size=n))[rng.integers(2, size=n), np.arange(n)]

    def _log_prob(self, x: Plane) -> Float64[np.ndarray, " n"]:
        u, weights = _nodes(200)
        return log_mixture(x, self._curves(u).reshape(-1, 2), np.tile(weights / 2, 2), self.std)

    def _curves(self, u: Float64[np.ndarray, " n"]) -> Float64[np.ndarray, "2 n 2"]:
        a = np.pi * u
        upper = np.stack([np.cos(a), np.sin(a)], axis=-1)
        lower = np.stack([1 - np.cos(a), 0.5 - np.sin(a)], axis=-1)
        return 2 * np.stack([upper, lower]) + np.array([-1.0, -0.2])


@final
class Swissroll(Blurred):
    """A spiral of one and a half turns, blurred by Gaussian noise.

    A point is `t (cos t, sin t) / 5 + std e` with `t` uniform in [1.5 pi, 4.5 pi], `e` standard
    normal and std 0.2.

    ```python
    from jaxflow.data import Swissroll

    x = Swissroll().sample(100, seed=0)
    ```
    """

    std: ClassVar[float] = 0.2
    reach: ClassVar[float] = 4.5 * np.pi / 5

    def _centres(self, rng: np.random.Generator, n: int) -> Plane:
        return self._curve(rng.uniform(size=n))

    def _log_prob(self, x: Plane) -> Float64[np.ndarray, " n"]:
        u, weights = _nodes(500)
        return log_mixture(x, self._curve(u), weights, self.std)

    def _curve(self, u: Float64[np.ndarray, " n"]) -> Plane:
        t = 1.5 * np.pi * (1 + 2 * u)
        return t[:, None] * np.stack([np.cos(t), np.sin(t)], axis=-1) / 5


@final
class TwoSpirals(Blurred):
    """Two spirals of one and a half turns, each the other turned by half a circle.

    A point is `+-s (-cos s, sin s) / 3 + std e` with `s = 3 pi sqrt(u)`, `u` uniform in [0, 1],
    `e` standard normal, std 0.1, both signs equally likely.

    ```python
    from jaxflow.data import TwoSpirals

    x = TwoSpirals().sample(100, seed=0)
    ```
    """

    std: ClassVar[float] = 0.1
    reach: ClassVar[float] = np.pi

    def _centres(self, rng: np.random.Generator, n: int) -> Plane:
        curve = self._curve(np.sqrt(rng.uniform(size=n)))
        return (2.0 * rng.integers(2, size=(n, 1)) - 1) * curve

    def _log_prob(self, x: Plane) -> Float64[np.ndarray, " n"]:
        # In v = sqrt(u), du = 2 v dv; each spiral has half of the weight.
        v, weights = _nodes(600)
        curve = self._curve(v)
        return log_mixture(x, np.concatenate([curve, -curve]), np.tile(v * weights, 2), self.std)

    def _curve(self, v: Float64[np.ndarray, " n"]) -> Plane:
        s = 3 * np.pi * v
        return s[:, None] * np.stack([-np.cos(s), np.sin(s)], axis=-1) / 3


@functools.cache
def _nodes(count: int) -> tuple[Float64[np.ndarray, " count"], Float64[np.ndarray, " count"]]:
    """Nodes and weights of Gauss-Legendre quadrature on [0, 1]."""
    nodes, weights = np.polynomial.legendre.leggauss(count)
    return (nodes + 1) / 2, weights / 2
