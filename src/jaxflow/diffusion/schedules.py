"""The noise schedules of the literature, and one from your own functions."""

import math
from dataclasses import dataclass
from typing import Any, final

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jaxflow.density.paths import log_alpha_of_betas
from jaxflow.diffusion.schedule import Schedule, as_array, check_schedule
from jaxflow.runtime.checks import check_count
from jaxflow.runtime.shapes import Scalar


@dataclass(frozen=True)
class _LinearBeta(Schedule):
    """`log alpha = -s^2 (beta_max - beta_min) / 4 - s beta_min / 2`, the rate linear in `s`."""

    beta_min: float = 0.1
    beta_max: float = 20.0
    start: float = 1e-3  # pyright: ignore[reportIncompatibleVariableOverride]

    def __post_init__(self) -> None:
        super().__post_init__()
        in_order = 0 < self.beta_min <= self.beta_max < math.inf
        self._require(in_order, ("beta_min", "beta_max"), "be positive, finite and in order")
        self._require(0 < self.start < 1, ("start",), "lie in (0, 1): sigma is 0 at s = 0")

    def log_alpha(self, s: Scalar) -> Scalar:
        """Return `log alpha(s)`."""
        return log_alpha_of_betas(s, self.beta_min, self.beta_max)


@final
@dataclass(frozen=True)
class VariancePreserving(_LinearBeta):
    """Variance preserving: `sigma^2 = 1 - alpha^2`, DDPM in continuous time.

        alpha = exp(-s^2 (beta_max - beta_min) / 4 - s beta_min / 2)

    (Song et al. 2021, arXiv 2011.13456, eq. 33.)

    ```python
    from jaxflow.diffusion import VariancePreserving
    print(VariancePreserving().blur())
    ```

    Attributes:
        beta_min: rate of the noise at `s = 0`.
        beta_max: rate of the noise at `s = 1`.
        start: first time that is evaluated, in (0, 1). At 1e-3, noise of standard deviation 0.01
            remains in the data.
    """


@final
@dataclass(frozen=True)
class SubVariancePreserving(_LinearBeta):
    """`alpha` of `VariancePreserving`, and `sigma = 1 - alpha^2`.

    (Song et al. 2021, arXiv 2011.13456, eq. 35.)

    ```python
    from jaxflow.diffusion import SubVariancePreserving
    print(SubVariancePreserving().sigma(0.5))
    ```

    Attributes:
        beta_min: as for `VariancePreserving`.
        beta_max: as for `VariancePreserving`.
        start: as for `VariancePreserving`. At 0.01, noise of standard deviation 0.002 remains.
    """

    start: float = 1e-2

    def variance(self, s: Scalar) -> Scalar:
        """Return `sigma(s)^2`."""
        return jnp.expm1(2 * self.log_alpha(s)) ** 2


@final
@dataclass(frozen=True)
class Cosine(Schedule):
    """The cosine schedule, truncated at a largest and a smallest log-SNR.

        alpha^2 = sigmoid(L),  sigma^2 = sigmoid(-L),  L = -2 log tan(a + s (b - a))

    (Nichol and Dhariwal 2021, arXiv 2102.09672.) The truncation keeps both ends regular.

    ```python
    from jaxflow.diffusion import Cosine
    print(Cosine().log_snr(0.5))
    ```

    Attributes:
        log_snr_max: log-SNR at `s = 0`. At 10, noise of standard deviation 0.007 remains.
        log_snr_min: log-SNR at `s = 1`.
    """

    log_snr_max: float = 10.0
    log_snr_min: float = -10.0

    def __post_init__(self) -> None:
        super().__post_init__()
        in_order = -math.inf < self.log_snr_min < self.log_snr_max < math.inf
        self._require(in_order, ("log_snr_min", "log_snr_max"), "be finite and in order")

    def log_alpha(self, s: Scalar) -> Scalar:
        """Return `log alpha(s)`."""
        return 0.5 * jax.nn.log_sigmoid(self._log_snr(s))

    def variance(self, s: Scalar) -> Scalar:
        """Return `sigma(s)^2`."""
        return jax.nn.sigmoid(-self._log_snr(s))

    def _log_snr(self, s: Scalar) -> Scalar:
        first, last = (math.atan(math.exp(-x / 2)) for x in (self.log_snr_max, self.log_snr_min))
        return -2 * jnp.log(jnp.tan(first + s * (last - first)))


@final
@dataclass(frozen=True)
class VarianceExploding(Schedule):
    """Variance exploding: `alpha = 1`, `sigma = sigma_min (sigma_max / sigma_min)^s` (NCSN).

    (Song and Ermon 2019, arXiv 1907.05600; Song et al. 2021, arXiv 2011.13456, eq. 31.)

    ```python
    from jaxflow.diffusion import VarianceExploding
    print(VarianceExploding(0.01, 50.0).sigma(0.5))
    ```

    Attributes:
        sigma_min: standard deviation of the noise at `s = 0`.
        sigma_max: at `s = 1`; choose the largest distance between two data points.
    """

    sigma_min: float = 0.01
    sigma_max: float = 10.0

    def __post_init__(self) -> None:
        super().__post_init__()
        in_order = 0 < self.sigma_min < self.sigma_max < math.inf
        self._require(in_order, ("sigma_min", "sigma_max"), "be positive, finite and in order")

    def log_alpha(self, s: Scalar) -> Scalar:
        """Return 0."""
        return jnp.zeros_like(s)

    def variance(self, s: Scalar) -> Scalar:
        """Return `sigma(s)^2`."""
        ratio = math.log(self.sigma_max / self.sigma_min)
        return self.sigma_min**2 * jnp.exp(2 * ratio * s)


@final
@dataclass(frozen=True)
class Betas(Schedule):
    """DDPM's discrete schedule: `alpha(i / T)^2 = prod_{j <= i} (1 - beta_j)`, `beta` linear.

    Between two steps `log alpha` is interpolated linearly (Ho et al. 2020, "Denoising Diffusion
    Probabilistic Models", arXiv 2006.11239).

    ```python
    from jaxflow.diffusion import Betas
    print(Betas(100, first=1e-3, last=0.2).alpha(0.5))
    ```

    Attributes:
        num_steps: T, at least 2.
        first: `beta_1`.
        last: `beta_T`.
    """

    num_steps: int = 1000
    first: float = 1e-4
    last: float = 0.02

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count("num_steps", self.num_steps, 2)
        in_order = 0 < self.first <= self.last < 1
        self._require(in_order, ("first", "last"), "lie in (0, 1) and be in order")

    @property
    def start(self) -> float:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The first step, `1 / T`."""
        return 1 / self.num_steps

    def log_alpha(self, s: Scalar) -> Scalar:
        """Return `log alpha(s)`."""
        betas = np.linspace(self.first, self.last, self.num_steps)
        logs = 0.5 * np.concatenate([[0.0], np.cumsum(np.log1p(-betas))])
        steps = np.arange(self.num_steps + 1) / self.num_steps
        return jnp.interp(s, jnp.asarray(steps, s.dtype), jnp.asarray(logs, s.dtype))


@final
@dataclass(frozen=True)
class Straight(Schedule):
    """`alpha = 1 - s`, `sigma = s`: the path of flow matching, `jaxflow.density.paths.Linear`.

    ```python
    from jaxflow.diffusion import Straight
    print(Straight().log_snr(0.5))
    ```

    Attributes:
        start: first time that is evaluated, about the standard deviation of the noise that
            remains in the data.
        end: last time that is evaluated; at 1 `alpha` would be 0.
    """

    start: float = 1e-2  # pyright: ignore[reportIncompatibleVariableOverride]
    end: float = 0.999  # pyright: ignore[reportIncompatibleVariableOverride]

    def __post_init__(self) -> None:
        super().__post_init__()
        in_order = 0 < self.start < self.end < 1
        self._require(in_order, ("start", "end"), "lie in (0, 1) and be in order")

    def log_alpha(self, s: Scalar) -> Scalar:
        """Return `log alpha(s)`."""
        return jnp.log1p(-s)

    def variance(self, s: Scalar) -> Scalar:
        """Return `sigma(s)^2`."""
        return s**2


@final
@dataclass(frozen=True)
class Custom(Schedule):
    """A schedule from your own functions. A flow with this schedule cannot be saved.

    ```python
    from jaxflow.diffusion import Custom
    schedule = Custom(alpha_of=lambda s: 1 - s**2, sigma_of=lambda s: s, start=1e-2, end=0.999)
    ```

    Attributes:
        alpha_of: `s -> alpha(s)`, positive and not increasing; jax must be able to differentiate
            it.
        sigma_of: `s -> sigma(s)`, positive; jax must be able to differentiate it.
        start: first time that is evaluated, where `sigma_of` is positive.
        end: last time that is evaluated, where `alpha_of` is positive.
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
        in_order = 0 <= self.start < self.end <= 1
        self._require(in_order, ("start", "end"), "lie in [0, 1] and be in order")
        check_schedule(self)

    # Not from log_alpha and variance, which would hide a negative sign from check_schedule.
    def alpha(self, s: ArrayLike) -> Scalar:
        """Return `alpha_of(s)`."""
        s = as_array(s)
        return jnp.asarray(self.alpha_of(s), s.dtype)

    def sigma(self, s: ArrayLike) -> Scalar:
        """Return `sigma_of(s)`."""
        s = as_array(s)
        return jnp.asarray(self.sigma_of(s), s.dtype)

    def log_alpha(self, s: Scalar) -> Scalar:
        """Return `log alpha(s)`."""
        return jnp.log(self.alpha(s))

    def variance(self, s: Scalar) -> Scalar:
        """Return `sigma(s)^2`."""
        return self.sigma(s) ** 2
