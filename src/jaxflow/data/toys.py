"""Toy densities in the plane, each with exact samples, log-density and entropy.

The shapes are those of Grathwohl et al. 2019, "FFJORD" (arXiv:1810.01367). No model reaches a mean
negative log-likelihood below `entropy()` on them.
"""

import abc
from typing import ClassVar, final

import numpy as np
from jaxtyping import Float, Float32, Float64

Points = Float[np.ndarray, "*batch 2"]
Plane = Float64[np.ndarray, "n 2"]
LogDensity = Float64[np.ndarray, "*batch"]

# Rows that `log_prob` handles at once, to bound the memory.
_CHUNK = 1024


class Toy(abc.ABC):
    """A density in the plane with exact samples, log-density and entropy.

    ```python
    from jaxflow.data import EightGaussians

    toy = EightGaussians()
    gap = toy.log_prob(toy.sample(1000, seed=0)).mean() + toy.entropy()  # about 0
    ```
    """

    def sample(self, n: int, seed: int) -> Float32[np.ndarray, "n 2"]:
        """Draw independent points.

        Args:
            n: number of points.
            seed: seed of NumPy's default generator.

        Returns:
            Points, (n, 2).
        """
        return self._sample(np.random.default_rng(seed), n).astype(np.float32)

    def log_prob(self, x: Points) -> LogDensity:
        """Log-density `log p(x)` in nats, computed in float64.

        Args:
            x: points, (*batch, 2).

        Returns:
            One number a point, (*batch,): -inf where the density is 0, NaN where `x` has a NaN.
        """
        rows = x.reshape(-1, 2).astype(np.float64)
        out = np.empty(len(rows))
        for start in range(0, len(rows), _CHUNK):
            chunk = slice(start, start + _CHUNK)
            out[chunk] = self._log_prob(rows[chunk])
        return out.reshape(x.shape[:-1])

    @abc.abstractmethod
    def entropy(self) -> float:
        """Entropy `-E[log p(x)]` in nats."""

    @abc.abstractmethod
    def _sample(self, rng: np.random.Generator, n: int) -> Plane: ...

    @abc.abstractmethod
    def _log_prob(self, x: Plane) -> Float64[np.ndarray, " n"]: ...

    def _entropy_on_grid(self, radius: float, std: float, per_std: int) -> float:
        """`-integral p log p` of a density within `radius`, blurred by noise of `std`.

        The trapezoidal rule converges exponentially for a smooth density that vanishes at the
        border. The grid has `per_std` points per `std` and ends 9 `std` beyond `radius`.
        """
        spacing, half_width = std / per_std, radius + 9 * std
        axis = np.arange(-half_width, half_width, spacing)
        log_p = self.log_prob(np.stack(np.meshgrid(axis, axis), axis=-1))
        p = np.exp(log_p)
        return -float(np.sum(p * np.where(p > 0, log_p, 0.0))) * spacing**2


class Blurred(Toy):
    """Random centres within `reach` of the origin, plus Gaussian noise of `std`."""

    std: ClassVar[float]
    reach: ClassVar[float]
    per_std: ClassVar[int] = 4

    def entropy(self) -> float:
        """Entropy in nats, accurate to 1e-6."""
        return self._entropy_on_grid(self.reach, self.std, self.per_std)

    @abc.abstractmethod
    def _centres(self, rng: np.random.Generator, n: int) -> Plane: ...

    def _sample(self, rng: np.random.Generator, n: int) -> Plane:
        return self._centres(rng, n) + self.std * rng.standard_normal((n, 2))


@final
class EightGaussians(Blurred):
    """Eight round Gaussians, evenly spaced on a circle about the origin.

    `p(x) = 1/8 sum_k N(x; c_k, std^2 I)`, with centres at radius 4 and standard deviation
    0.5, both divided by 1.414.

    ```python
    from jaxflow.data import EightGaussians

    x = EightGaussians().sample(100, seed=0)
    ```
    """

    radius: ClassVar[float] = 4.0 / 1.414
    std: ClassVar[float] = 0.5 / 1.414
    reach: ClassVar[float] = radius
    per_std: ClassVar[int] = 8

    @property
    def centres(self) -> Float64[np.ndarray, "8 2"]:
        """The eight means, (8, 2)."""
        angles = 2 * np.pi * np.arange(8) / 8
        return self.radius * np.stack([np.cos(angles), np.sin(angles)], axis=-1)

    def _centres(self, rng: np.random.Generator, n: int) -> Plane:
        return self.centres[rng.integers(8, size=n)]

    def _log_prob(self, x: Plane) -> Float64[np.ndarray, " n"]:
        return log_mixture(x, self.centres, np.full(8, 1 / 8), self.std)


@final
class Rings(Blurred):
    """Four concentric circles of equal weight, blurred by Gaussian noise.

    A point is `r_k (cos a, sin a) + std e` with `a` uniform and `e` standard normal:
    `p(x) = 1/4 sum_k exp(-(|x|^2 + r_k^2) / (2 std^2)) I0(|x| r_k / std^2) / (2 pi std^2)`
    with the modified Bessel function I0, radii 0.75, 1.5, 2.25, 3 and std 0.08.

    ```python
    from jaxflow.data import Rings

    x = Rings().sample(100, seed=0)
    ```
    """

    radii: ClassVar[tuple[float, ...]] = (0.75, 1.5, 2.25, 3.0)
    std: ClassVar[float] = 0.08
    reach: ClassVar[float] = radii[-1]
    per_std: ClassVar[int] = 8

    def _centres(self, rng: np.random.Generator, n: int) -> Plane:
        radius = np.asarray(self.radii)[rng.integers(4, size=n)]
        angle = rng.uniform(0.0, 2 * np.pi, size=n)
        return radius[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=-1)

    def _log_prob(self, x: Plane) -> Float64[np.ndarray, " n"]:
        from scipy.special import i0e, logsumexp

        radii, variance = np.asarray(self.radii), self.std**2
        norm = np.hypot(x[:, 0], x[:, 1])[:, None]
        with np.errstate(divide="ignore"):  # the density is 0 at infinity
            log_i0e = np.log(i0e(norm * radii / variance))
        # I0(z) = exp(z) i0e(z): the two exponents complete the square.
        exponents = -0.5 * (norm - radii) ** 2 / variance + log_i0e
        return logsumexp(exponents, axis=1) - np.log(4 * 2 * np.pi * variance)


@final
class Checkerboard(Toy):
    """Uniform on the eight squares of one colour of a 4 x 4 board over [-4, 4]^2.

    `p(x) = 1/32` where `floor(x_0 / 2) + floor(x_1 / 2)` is even, on the board, else 0.

    ```python
    from jaxflow.data import Checkerboard

    x = Checkerboard().sample(100, seed=0)
    ```
    """

    side: ClassVar[float] = 2.0

    def entropy(self) -> float:
        """Entropy `log 32` in nats."""
        return float(np.log(8 * self.side**2))

    def _sample(self, rng: np.random.Generator, n: int) -> Plane:
        column = rng.integers(-2, 2, size=n)
        row = 2 * rng.integers(-1, 1, size=n) + column % 2
        # Odd multiples of 2^-22 are exact in float32 below 4 and never fall on an edge.
        inside = (2 * rng.integers(2**22, size=(n, 2)) + 1) * 2.0**-22
        return self.side * np.stack([column, row], axis=-1) + inside

    def _log_prob(self, x: Plane) -> Float64[np.ndarray, " n"]:
        square = np.floor(np.clip(x / self.side, -3, 3))
        on_board = np.all((square >= -2) & (square < 2), axis=1)
        on_colour = np.sum(square, axis=1) % 2 == 0
        log_p = np.where(on_board & on_colour, -self.entropy(), -np.inf)
        return np.where(np.isnan(x).any(axis=1), np.nan, log_p)


@final
class LongGaussian(Toy):
    """One Gaussian, far from the origin and twenty times as long as wide.

    Mean (3, -2), standard deviations 2 and 0.1, the long axis at 30 degrees.

    ```python
    from jaxflow.data import LongGaussian

    x = LongGaussian().sample(100, seed=0)
    ```
    """

    mean: ClassVar[tuple[float, float]] = (3.0, -2.0)
    stds: ClassVar[tuple[float, float]] = (2.0, 0.1)

    @property
    def axes(self) -> Float64[np.ndarray, "2 2"]:
        """Unit vectors along the two standard deviations, one a row."""
        c, s = np.cos(np.pi / 6), np.sin(np.pi / 6)
        return np.array([[c, s], [-s, c]])

    def entropy(self) -> float:
        """Entropy `log(2 pi e) + log(2 * 0.1)` in nats."""
        return float(np.log(2 * np.pi * np.e * np.prod(self.stds)))

    def _sample(self, rng: np.random.Generator, n: int) -> Plane:
        return np.asarray(self.mean) + (rng.standard_normal((n, 2)) * self.stds) @ self.axes

    def _log_prob(self, x: Plane) -> Float64[np.ndarray, " n"]:
        z = (x - self.mean) @ self.axes.T / self.stds
        return -0.5 * np.sum(z**2, axis=1) - np.log(2 * np.pi * np.prod(self.stds))


def log_mixture(
    x: Plane,
    centres: Float64[np.ndarray, "k 2"],
    weights: Float64[np.ndarray, " k"],
    std: float,
) -> Float64[np.ndarray, " n"]:
    """`log sum_k weights_k N(x; centres_k, std^2 I)` of each row."""
    from scipy.special import logsumexp

    exponents = -0.5 * np.sum(((x[:, None] - centres) / std) ** 2, axis=-1)
    return logsumexp(exponents, b=weights, axis=1) - np.log(2 * np.pi * std**2)
