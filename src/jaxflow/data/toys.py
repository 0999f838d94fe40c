"""Toy densities in the plane, each with samples, its exact log-density and its entropy.

The shapes are those of Grathwohl et al. 2019, "FFJORD". The best mean negative log-likelihood
that any model can reach on them is `entropy()`.
"""

from collections.abc import Callable
from typing import ClassVar, final

import numpy as np
from jaxtyping import Float, Float32, Float64

Points = Float[np.ndarray, "*batch 2"]
LogDensity = Float64[np.ndarray, "*batch"]
Sample = Float32[np.ndarray, "n 2"]


@final
class EightGaussians:
    """Eight round Gaussians, evenly spaced on a circle about the origin.

    `p(x) = 1/8 sum_k N(x; c_k, std^2 I)`, with centres at radius 4 and standard deviation
    0.5, both divided by 1.414.
    """

    radius: ClassVar[float] = 4.0 / 1.414
    std: ClassVar[float] = 0.5 / 1.414

    @property
    def centres(self) -> Float64[np.ndarray, "8 2"]:
        """The eight means, (8, 2)."""
        angles = 2 * np.pi * np.arange(8) / 8
        return self.radius * np.stack([np.cos(angles), np.sin(angles)], axis=-1)

    def sample(self, n: int, seed: int) -> Sample:
        """Draw n independent points, (n, 2)."""
        rng = np.random.default_rng(seed)
        centres = self.centres[rng.integers(8, size=n)]
        return (centres + self.std * rng.standard_normal((n, 2))).astype(np.float32)

    def log_prob(self, x: Points) -> LogDensity:
        """Log-density in nats of points (*batch, 2), computed in float64."""
        offsets = x.astype(np.float64)[..., None, :] - self.centres
        exponents = -0.5 * np.sum((offsets / self.std) ** 2, axis=-1)
        return np.asarray(log_mean_exp(exponents) - np.log(2 * np.pi * self.std**2))

    def entropy(self) -> float:
        """`-E[log p(x)]` in nats, to better than 1e-6."""
        return entropy_on_grid(self.log_prob, self.radius, self.std)


@final
class Rings:
    """Four concentric circles, of equal weight, blurred by Gaussian noise.

    A point is `r_k (cos a, sin a) + std e`, `a` uniform and `e` standard normal, so that
    `p(x) = 1/4 sum_k exp(-(|x|^2 + r_k^2) / (2 std^2)) I0(|x| r_k / std^2) / (2 pi std^2)`
    with the modified Bessel function I0; radii 0.75, 1.5, 2.25, 3 and std 0.08.
    """

    radii: ClassVar[tuple[float, ...]] = (0.75, 1.5, 2.25, 3.0)
    std: ClassVar[float] = 0.08

    def sample(self, n: int, seed: int) -> Sample:
        """Draw n independent points, (n, 2)."""
        rng = np.random.default_rng(seed)
        radius = np.asarray(self.radii)[rng.integers(4, size=n)]
        angle = rng.uniform(0.0, 2 * np.pi, size=n)
        circle = radius[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=-1)
        return (circle + self.std * rng.standard_normal((n, 2))).astype(np.float32)

    def log_prob(self, x: Points) -> LogDensity:
        """Log-density in nats of points (*batch, 2), computed in float64."""
        radii, variance = np.asarray(self.radii), self.std**2
        norm = np.hypot(x[..., 0], x[..., 1], dtype=np.float64)[..., None]
        # I0(z) = exp(z) I0e(z), and the two exponents together are one square.
        exponents = -0.5 * (norm - radii) ** 2 / variance + _log_i0e(norm * radii / variance)
        return np.asarray(log_mean_exp(exponents) - np.log(2 * np.pi * variance))

    def entropy(self) -> float:
        """`-E[log p(x)]` in nats, to better than 1e-6."""
        return entropy_on_grid(self.log_prob, max(self.radii), self.std)


@final
class Checkerboard:
    """Uniform on eight squares, of one colour, of a 4 x 4 board over [-4, 4]^2.

    `p(x) = 1/32` where `floor(x_0 / 2) + floor(x_1 / 2)` is even, on the board, else 0.
    """

    side: ClassVar[float] = 2.0

    def sample(self, n: int, seed: int) -> Sample:
        """Draw n independent points, (n, 2)."""
        rng = np.random.default_rng(seed)
        column = rng.integers(-2, 2, size=n)
        row = 2 * rng.integers(-1, 1, size=n) + column % 2
        # Odd multiples of 2^-22 are exact in float32 below 4 and never fall on an edge.
        inside = (2 * rng.integers(2**22, size=(n, 2)) + 1) * 2.0**-22
        return (self.side * np.stack([column, row], axis=-1) + inside).astype(np.float32)

    def log_prob(self, x: Points) -> LogDensity:
        """Log-density in nats of points (*batch, 2): -log 32, and -inf off the squares."""
        square = np.floor(np.clip(x / self.side, -3, 3))
        on_board = np.all((square >= -2) & (square < 2), axis=-1)
        on_colour = np.sum(square, axis=-1) % 2 == 0
        log_p = np.where(on_board & on_colour, -self.entropy(), -np.inf)
        return np.where(np.isnan(x).any(axis=-1), np.nan, log_p)

    def entropy(self) -> float:
        """`-E[log p(x)] = log 32` in nats."""
        return float(np.log(8 * self.side**2))


@final
class LongGaussian:
    """One Gaussian, far from the origin and twenty times as long as wide.

    Mean (3, -2), standard deviations 2 and 0.1, its long axis at 30 degrees.
    """

    mean: ClassVar[tuple[float, float]] = (3.0, -2.0)
    stds: ClassVar[tuple[float, float]] = (2.0, 0.1)

    @property
    def axes(self) -> Float64[np.ndarray, "2 2"]:
        """The directions of the two standard deviations, a row each."""
        c, s = np.cos(np.pi / 6), np.sin(np.pi / 6)
        return np.array([[c, s], [-s, c]])

    def sample(self, n: int, seed: int) -> Sample:
        """Draw n independent points, (n, 2)."""
        z = np.random.default_rng(seed).standard_normal((n, 2)) * self.stds
        return (np.asarray(self.mean) + z @ self.axes).astype(np.float32)

    def log_prob(self, x: Points) -> LogDensity:
        """Log-density in nats of points (*batch, 2), computed in float64."""
        z = (x.astype(np.float64) - self.mean) @ self.axes.T / self.stds
        return np.asarray(-0.5 * np.sum(z**2, axis=-1) - np.log(2 * np.pi * np.prod(self.stds)))

    def entropy(self) -> float:
        """`log(2 pi e) + log(2 * 0.1)` in nats."""
        return float(np.log(2 * np.pi * np.e * np.prod(self.stds)))


def log_mean_exp(exponents: np.ndarray) -> np.ndarray:
    """`log(mean(exp(exponents)))` over the last axis."""
    largest = exponents.max(axis=-1, keepdims=True)
    shift = np.where(np.isfinite(largest), largest, 0.0)
    with np.errstate(divide="ignore"):  # the density of a point at infinity is zero
        log_mean = np.log(np.mean(np.exp(exponents - shift), axis=-1))
    return np.asarray(shift[..., 0] + log_mean)


def _log_i0e(z: np.ndarray) -> np.ndarray:
    """`log(exp(-z) I0(z))` for z >= 0 (Abramowitz and Stegun 1964, 9.7.1, for large z)."""
    # np.i0 overflows near 700; from 500 on the omitted terms are below 1e-16.
    small, large = np.minimum(z, 500.0), np.maximum(z, 500.0)
    u = 1 / (8 * large)
    series = 1 + u * (1 + u * (9 / 2 + u * (225 / 6 + u * 11025 / 24)))
    asymptotic = np.log(series) - 0.5 * np.log(2 * np.pi * large)
    return np.where(z < 500.0, np.log(np.i0(small)) - small, asymptotic)


def entropy_on_grid(
    log_prob: Callable[..., np.ndarray], radius: float, std: float, per_std: int = 8
) -> float:
    """`-integral p log p` of a density within `radius`, blurred by noise of `std`.

    The trapezoidal rule converges exponentially for a smooth density that vanishes at the
    border of the box: `per_std` points a standard deviation, and 9 of them beyond `radius`.
    """
    spacing, half_width = std / per_std, radius + 9 * std
    axis = np.arange(-half_width, half_width, spacing)
    total = 0.0
    for value in axis:  # a line of the grid at a time bounds the memory
        log_p = log_prob(np.stack([np.full_like(axis, value), axis], axis=-1))
        p = np.exp(log_p)
        total -= float(np.sum(p * np.where(p > 0, log_p, 0.0)))
    return total * spacing**2
