"""The pinwheel: five Gaussian arms, bent by a rotation that depends on the radius."""

from typing import ClassVar, final

import numpy as np

from jaxflow.data.toys import LogDensity, Points, Sample, entropy_on_grid

# Points scored at once, and the grid on which roots are bracketed.
_CHUNK, _GRID = 1024, 1500


@final
class Pinwheel:
    """`x = 2 R(2 pi k / 5 + exp(a) / 4) (a, b)`: `a ~ N(1, 0.3^2)`, `b ~ N(0, 0.1^2)`.

    `R` rotates by an angle, `k` is one of 0 to 4, all as likely. Since `|(a, b)| = |x| / 2`,
    each root `a` of one equation gives a point `(a, b)`; its density is divided by
    `|det dx/d(a, b)| = 4 |1 - b exp(a) / 4|`.
    """

    arms: ClassVar[int] = 5
    mean: ClassVar[float] = 1.0
    radial: ClassVar[float] = 0.3
    tangential: ClassVar[float] = 0.1
    rate: ClassVar[float] = 0.25

    def sample(self, n: int, seed: int) -> Sample:
        """Draw n independent points, (n, 2)."""
        rng = np.random.default_rng(seed)
        a = self.mean + self.radial * rng.standard_normal(n)
        b = self.tangential * rng.standard_normal(n)
        angle = 2 * np.pi * rng.integers(self.arms, size=n) / self.arms
        angle = angle + self.rate * np.exp(a)
        x = np.cos(angle) * a - np.sin(angle) * b
        y = np.sin(angle) * a + np.cos(angle) * b
        return (2 * np.stack([x, y], axis=-1)).astype(np.float32)

    def log_prob(self, x: Points) -> LogDensity:
        """Log-density in nats of points (*batch, 2), computed in float64."""
        flat = x.reshape(-1, 2).astype(np.float64) / 2
        out = np.where(np.isnan(flat).any(axis=1), np.nan, -np.inf)
        near = np.flatnonzero(np.hypot(*flat.T) < self._largest)
        for start in range(0, len(near), _CHUNK):
            part = near[start : start + _CHUNK]
            with np.errstate(divide="ignore"):  # no root, no density
                out[part] = np.log(self._density(flat[part]))
        return out.reshape(x.shape[:-1])

    def entropy(self) -> float:
        """`-E[log p(x)]` in nats, to better than 1e-5."""
        return entropy_on_grid(
            self.log_prob, 2 * (self._largest - 0.9), 2 * self.tangential, per_std=4
        )

    @property
    def _largest(self) -> float:
        """A radius beyond which there is no mass that float64 could tell."""
        return self.mean + 8.5 * self.radial

    def _density(self, y: np.ndarray) -> np.ndarray:
        """Density at points `y = x / 2`, (n, 2)."""
        radius, angle = np.hypot(*y.T), np.arctan2(y[:, 1], y[:, 0])
        # The angles of y against each arm's start, (n, arms).
        starts = 2 * np.pi * np.arange(self.arms) / self.arms
        turn = angle[:, None] - starts
        grid = np.linspace(2 * self.mean - self._largest, self._largest, _GRID)
        below = radius[:, None, None] * np.cos(turn[..., None] - self._bend(grid)) < grid
        point, arm, cell = np.nonzero(below[..., 1:] != below[..., :-1])
        a, r, turn = (grid[cell] + grid[cell + 1]) / 2, radius[point], turn[point, arm]
        for _ in range(8):
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
        """The angle by which a point at `a` is turned; its slope is the same."""
        return self.rate * np.exp(a)
