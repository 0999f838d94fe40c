"""The noise schedules that papers use, and one of your own functions."""

import math
from dataclasses import dataclass
from typing import Any, final

import jax
import jax.numpy as jnp
import numpy as np

from jaxflow.density.paths import log_alpha_of_betas
from jaxflow.diffusion.schedule import Scalar, Schedule, check_schedule, scalar
from jaxflow.runtime.checks import check_count


@dataclass(frozen=True)
class _LinearRate(Schedule):
    """`alpha = exp(-s^2 (beta_max - beta_min) / 4 - s beta_min / 2)`, sigma 0 at `s = 0`."""

    beta_min: float = 0.1
    beta_max: float = 20.0
    start: float = 1e-3  # pyright: ignore[reportIncompatibleVariableOverride]

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.beta_min <= self.beta_max < math.inf:
            raise ValueError(
                f"beta_min={self.beta_min}, beta_max={self.beta_max} must be positive and in order"
            )
        if not 0 < self.start < 1:
            raise ValueError(f"start={self.start} must lie in (0, 1): sigma is 0 at s = 0")

    def log_alpha(self, s: Scalar) -> Scalar:
        """`log alpha(s)`."""
        return log_alpha_of_betas(s, self.beta_min, self.beta_max)


@final
@dataclass(frozen=True)
class VariancePreserving(_LinearRate):
    """`alpha = exp(-s^2 (beta_max - beta_min) / 4 - s beta_min / 2)`, `sigma^2 = 1 - alpha^2`.

    DDPM's process in continuous time (Song et al. 2021, arXiv 2011.13456, eq. 33).

    Attributes:
        beta_min: rate of noise at the data.
        beta_max: rate of noise at the end.
        start: first time that is evaluated; at 1e-3 the data have a blur of 0.01.

    Raises:
        ValueError: rates or a start out of range.
    """

    def variance(self, s: Scalar) -> Scalar:
        """`sigma(s)^2`."""
        return -jnp.expm1(2 * self.log_alpha(s))


@final
@dataclass(frozen=True)
class SubVariancePreserving(_LinearRate):
    """`alpha` of `VariancePreserving` and `sigma = 1 - alpha^2` (Song et al. 2021, eq. 35).

    Attributes:
        beta_min: rate of noise at the data.
        beta_max: rate of noise at the end.
        start: first time that is evaluated; at 0.01 the data have a blur of 0.002.

    Raises:
        ValueError: rates or a start out of range.
    """

    start: float = 1e-2

    def variance(self, s: Scalar) -> Scalar:
        """`sigma(s)^2`."""
        return jnp.expm1(2 * self.log_alpha(s)) ** 2


@final
@dataclass(frozen=True)
class Cosine(Schedule):
    """`alpha^2 = sigmoid(L)`, `sigma^2 = sigmoid(-L)`, `L = -2 log tan(a + s (b - a))`.

    The cosine schedule (Nichol and Dhariwal 2021, arXiv 2102.09672) cut at a largest and a
    smallest log-SNR, so that neither end is singular.

    Attributes:
        log_snr_max: at the data; 10 leaves a blur of 0.007.
        log_snr_min: at the end.

    Raises:
        ValueError: limits out of order.
    """

    log_snr_max: float = 10.0
    log_snr_min: float = -10.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.log_snr_min < self.log_snr_max < math.inf or self.log_snr_min == -math.inf:
            raise ValueError(
                f"log_snr_max={self.log_snr_max} must be above log_snr_min={self.log_snr_min}, "
                "both finite"
            )

    def log_alpha(self, s: Scalar) -> Scalar:
        """`log alpha(s)`."""
        return 0.5 * jax.nn.log_sigmoid(self._log_snr(s))

    def variance(self, s: Scalar) -> Scalar:
        """`sigma(s)^2`."""
        return jax.nn.sigmoid(-self._log_snr(s))

    def _log_snr(self, s: Scalar) -> Scalar:
        first, last = (math.atan(math.exp(-x / 2)) for x in (self.log_snr_max, self.log_snr_min))
        return -2 * jnp.log(jnp.tan(first + s * (last - first)))


@final
@dataclass(frozen=True)
class VarianceExploding(Schedule):
    """`alpha = 1`, `sigma = sigma_min (sigma_max / sigma_min)^s`: NCSN's ladder of noise.

    (Song and Ermon 2019, arXiv 1907.05600; Song et al. 2021, eq. 31.)

    Attributes:
        sigma_min: at the data.
        sigma_max: at the end, as large as the largest distance within the data.

    Raises:
        ValueError: noise that is not positive and in order.
    """

    sigma_min: float = 0.01
    sigma_max: float = 10.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.sigma_min < self.sigma_max < math.inf:
            raise ValueError(
                f"sigma_min={self.sigma_min}, sigma_max={self.sigma_max} must be positive, finite "
                "and in order"
            )

    def log_alpha(self, s: Scalar) -> Scalar:
        """0."""
        return jnp.zeros_like(s)

    def variance(self, s: Scalar) -> Scalar:
        """`sigma(s)^2`."""
        ratio = math.log(self.sigma_max / self.sigma_min)
        return self.sigma_min**2 * jnp.exp(2 * ratio * s)


@final
@dataclass(frozen=True)
class Betas(Schedule):
    """DDPM's ladder: `alpha(i / T)^2 = prod_{j <= i} (1 - beta_j)`, betas linear in `j`.

    Between the steps `log alpha` is interpolated linearly (Ho et al. 2020, "Denoising Diffusion
    Probabilistic Models", arXiv 2006.11239).

    Attributes:
        num_steps: T.
        first: `beta_1`.
        last: `beta_T`.

    Raises:
        ValueError: steps or betas out of range.
    """

    num_steps: int = 1000
    first: float = 1e-4
    last: float = 0.02

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count("num_steps", self.num_steps, 2)
        if not 0 < self.first <= self.last < 1:
            raise ValueError(
                f"first={self.first}, last={self.last} must lie in (0, 1) and be in order"
            )

    @property
    def start(self) -> float:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The first step, `1 / T`."""
        return 1 / self.num_steps

    def log_alpha(self, s: Scalar) -> Scalar:
        """`log alpha(s)`."""
        betas = np.linspace(self.first, self.last, self.num_steps)
        logs = 0.5 * np.concatenate([[0.0], np.cumsum(np.log1p(-betas))])
        steps = np.arange(self.num_steps + 1) / self.num_steps
        return jnp.interp(s, jnp.asarray(steps, s.dtype), jnp.asarray(logs, s.dtype))

    def variance(self, s: Scalar) -> Scalar:
        """`sigma(s)^2`."""
        return -jnp.expm1(2 * self.log_alpha(s))


@final
@dataclass(frozen=True)
class Straight(Schedule):
    """`alpha = 1 - s`, `sigma = s`: the path of flow matching, counted from the data.

    Attributes:
        start: first time that is evaluated, which leaves a blur of as much.
        end: last one, short of 1, where nothing is left of the data.

    Raises:
        ValueError: times that are not in (0, 1) and in order.
    """

    start: float = 1e-2  # pyright: ignore[reportIncompatibleVariableOverride]
    end: float = 0.999  # pyright: ignore[reportIncompatibleVariableOverride]

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.start < self.end < 1:
            raise ValueError(
                f"start={self.start}, end={self.end} must lie in (0, 1) and be in order"
            )

    def log_alpha(self, s: Scalar) -> Scalar:
        """`log alpha(s)`."""
        return jnp.log1p(-s)

    def variance(self, s: Scalar) -> Scalar:
        """`sigma(s)^2`."""
        return s**2


@final
@dataclass(frozen=True)
class Custom(Schedule):
    """A schedule by functions of your own, which jax can differentiate.

    ```python
    schedule = Custom(alpha_of=lambda s: 1 - s**2, sigma_of=lambda s: s, start=1e-2, end=0.999)
    ```
    Functions are not written to files: a flow that is to be saved has one of the other schedules.

    Attributes:
        alpha_of: share of the data, falling or constant.
        sigma_of: standard deviation of the noise.
        start: first time that is evaluated, with `sigma_of(start) > 0`.
        end: last one, with `alpha_of(end) > 0`.

    Raises:
        TypeError: no functions.
        ValueError: a share or noise that is not positive, or a signal-to-noise ratio that rises.
    """

    alpha_of: Any
    sigma_of: Any
    start: float = 1e-3  # pyright: ignore[reportIncompatibleVariableOverride]
    end: float = 1.0  # pyright: ignore[reportIncompatibleVariableOverride]

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("alpha_of", "sigma_of"):
            if not callable(getattr(self, name)):
                raise TypeError(f"{name}={getattr(self, name)!r} must be a function of s")
        if not 0 <= self.start < self.end <= 1:
            raise ValueError(
                f"start={self.start}, end={self.end} must lie in [0, 1] and be in order"
            )
        check_schedule(self)

    def alpha(self, s: Any) -> Scalar:
        """Share of the data, by its function; a sign is not lost in it."""
        s = scalar(s)
        return jnp.asarray(self.alpha_of(s), s.dtype)

    def sigma(self, s: Any) -> Scalar:
        """Standard deviation of the noise, likewise."""
        s = scalar(s)
        return jnp.asarray(self.sigma_of(s), s.dtype)

    def log_alpha(self, s: Scalar) -> Scalar:
        """`log alpha(s)`."""
        return jnp.log(self.alpha(s))

    def variance(self, s: Scalar) -> Scalar:
        """`sigma(s)^2`."""
        return self.sigma(s) ** 2
