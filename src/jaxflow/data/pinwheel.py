"""The pinwheel: five Gaussian arms, bent by a rotation that depends on the radius."""

from typing import ClassVar, final

import numpy as np
from jaxtyping import Float64

from jaxflow.data.toys import Plane, Toy

# Points of the grid on which `_density` brackets roots.
_GRID = 1500


@final
class Pinwheel(Toy):
    """Five Gaussian arms, bent by a rotation that grows with the radius.

    `x = 2 R(2 pi k / 5 + exp(a) / 4) (a, b)` with `a ~ N(1, 0.3^2)`, `b ~ N(0, 0.1^2)`, `R` the
    rotation by an angle and `k` uniform on 0 to 4. Since `|(a, b)| = |x| / 2`, the preimages of
    `x` are the roots `a` of one equation. The density of each is divided by
    `|det dx/d(a, b)| = 4 |1 - b exp(a) / 4|`.

    ```python
    from jaxflow.data import Pinwheel

    x = Pinwheel().sample(100, seed=0)
    ```
    """

    arms: ClassVar[int] = 5
    mean: ClassVar[float] = 1.0
    radial: ClassVar[float] = 0.3
    tangential: ClassVar[float] = 0.1
    rate: ClassVar[float] = 0.25

    def entropy(self) -> float:
        """Entropy in nats, accurate to 1e-5."""
        return self._entropy_on_grid(2 * (self._largest - 0.9), 2 * self.tangential, per_std=4)

    def _sample(self, rng: np.random.Generator, n: int) -> Plane:
        a = self.mean + self.radial * rng.standard_normal(n)
        b = self.tangential * rng.standard_normal(n)
        angle = 2 * np.pi * rng.integers(self.arms, size=n) / self.arms + self._bend(a)
        x = np.cos(angle) * a - np.sin(angle) * b
        y = np.sin(angle) * a + np.cos(angle) * b
        return 2 * np.stack([x, y], axis=-1)

    def _log_prob(self, x: Plane) -> Float64[np.ndarray, " n"]:
        out = np.where(np.isnan(x).any(axis=1), np.nan, -np.inf)
        near = np.hypot(*x.T) < 2 * self._largest
        with np.errstate(divide="ignore"):  # the density is 0 where there is no root
            out[near] = np.log(self._density(x[near] / 2))
        return out

    @property
    def _largest(self) -> float:
        """A radius beyond which the density rounds to 0 in float64."""
        return self.mean + 8.5 * self.radial

    def _density(self, y: np.ndarray) -> np.ndarray:
        """Density at points `y = x / 2`, (n, 2)."""
        radius, angle = np.hypot(*y.T), np.arctan2(y[:, 1], y[:, 0])
        # Angle from the start of each arm, (n, arms).
        starts = 2 * np.pi * np.arange(self.arms) / self.arms
        turn = angle[:, None] - starts
        grid = np.linspace(2 * self.mean - self._largest, self._largest, _GRID)
        below = radius[:, None, None] * np.cos(turn[..., None] - self._bend(grid)) < grid
        point, arm, cell = np.nonzero(below[..., 1:] != below[..., :-1])
        a, r, turn = (grid[cell] + grid[cell + 1]) / 2, radius[point], turn[point, arm]
        for _ in range(8):  # Newton's method
            b = r * np.sin(turn - self._bend(a))
            slope = b * self._bend(a) - 1
            a = np.clip(a - (r * np.cos(turn - self._bend(a)) - a) / slope, grid[0], grid[-1])
        b = r * np.sin(turn - self._bend(a))
        exponent = ((a - self.mean) / self.radial) ** 2 + (b / self.tangential) ** 2
        gaussian = np.exp(-exponent / 2) / (2 * np.pi * self.radial * self.tangential)
        # 4 for the factor of 2 in x.
        each = gaussian / (4 * self.arms * np.abs(1 - b * self._bend(a)))
        return np.bincount(point, weights=each, minlength=len(y))

    def _bend(self, a: np.ndarray) -> np.ndarray:
        """Rotation of a point at `a`; also the derivative of that rotation."""
        return self.rate * np.exp(a)
