"""Noise schedules: `q(x_s | x_0) = N(alpha(s) x_0, sigma(s)^2 I)`, the frame of all diffusions.

Diffusion papers count time from data to noise, jaxflow from base to data. Here, and in this
package alone, `s` is the diffusion's time: data at `s = 0`, noise at `s = 1`, so `s = 1 - t`.

The process behind a schedule is `dx = f(s) x ds + g(s) dw` with

    f = d log(alpha) / ds        g^2 = d(sigma^2) / ds - 2 f sigma^2

(Kingma et al. 2021, "Variational Diffusion Models", arXiv 2107.00630). Both are had by
differentiation, so that a schedule is its two functions and nothing else.
"""

import abc
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, final

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxflow.paths import log_alpha_of_betas

Scalar = Float[Array, ""]
# Moments at which a schedule's order is checked, and halvings of the span to invert it.
CHECKED, BISECTIONS = 257, 60


class Schedule(abc.ABC):
    """`alpha` and `sigma` as functions of the diffusion's time `s`.

    A subclass, a frozen dataclass, gives `log_alpha(s)` and `variance(s)`, both smooth on
    [start, end], where variance is positive and the signal-to-noise ratio falls.
    """

    # Where the schedule is evaluated: sigma is 0 before `start` in some, alpha after `end`.
    start: ClassVar[float] = 0.0
    end: ClassVar[float] = 1.0

    @abc.abstractmethod
    def log_alpha(self, s: Scalar) -> Scalar:
        """`log alpha(s)`."""

    @abc.abstractmethod
    def variance(self, s: Scalar) -> Scalar:
        """`sigma(s)^2`."""

    def alpha(self, s: Any) -> Scalar:
        """Share of the data."""
        return jnp.exp(self.log_alpha(_time(s)))

    def sigma(self, s: Any) -> Scalar:
        """Standard deviation of the noise."""
        return jnp.sqrt(self.variance(_time(s)))

    def log_snr(self, s: Any) -> Scalar:
        """`log(alpha^2 / sigma^2)`."""
        s = _time(s)
        return 2 * self.log_alpha(s) - jnp.log(self.variance(s))

    def drift(self, s: Any) -> Scalar:
        """`f(s) = d log(alpha) / ds`."""
        return _slope(self.log_alpha, _time(s))[1]

    def diffusion_squared(self, s: Any) -> Scalar:
        """`g(s)^2 = d(sigma^2) / ds - 2 f sigma^2`."""
        s = _time(s)
        variance, slope = _slope(self.variance, s)
        return slope - 2 * self.drift(s) * variance

    def time_of(self, log_snr: Any) -> Float[Array, "..."]:
        """The time of a log-SNR, within the schedule's span, by bisection."""
        wanted = jnp.asarray(log_snr, float)
        log_snr_at = jnp.vectorize(self.log_snr)

        def halve(_: Array, span: tuple[Array, Array]) -> tuple[Array, Array]:
            low, high = span
            middle = 0.5 * (low + high)
            # The log-SNR falls with time.
            late = log_snr_at(middle) < wanted
            return jnp.where(late, low, middle), jnp.where(late, middle, high)

        ends = jnp.full_like(wanted, self.start), jnp.full_like(wanted, self.end)
        low, high = jax.lax.fori_loop(0, BISECTIONS, halve, ends)
        return 0.5 * (low + high)

    def prior_std(self, data_std: float = 1.0) -> float:
        """Standard deviation of `x` at the end, for data of mean 0: `sqrt(alpha^2 v + sigma^2)`.

        With `data_std=0` it is `sigma(end)` alone, as papers on variance exploding draw it.

        Raises:
            ValueError: `data_std` is negative or not finite.
        """
        if not 0 <= data_std < math.inf:
            raise ValueError(f"data_std={data_std} must be 0 or a positive number")
        with jax.ensure_compile_time_eval():
            alpha, sigma = float(self.alpha(self.end)), float(self.sigma(self.end))
        return math.hypot(alpha * data_std, sigma)

    def prior_mismatch(self, std: float, mean: float = 0.0, *, data_std: float = 1.0) -> float:
        """What starting from the prior costs, nats an entry: `KL(q(x_end) || prior)`.

        Exact for Gaussian data, `N(mean, std^2)`.

        Args:
            std: standard deviation of the data.
            mean: their mean.
            data_std: what the prior takes it for; 0 for a prior of the noise alone.
        """
        with jax.ensure_compile_time_eval():
            alpha = float(self.alpha(self.end))
        scale = self.prior_std(data_std)
        ratio = (self.prior_std(std) / scale) ** 2
        return 0.5 * (ratio - 1 - math.log(ratio) + (alpha * mean / scale) ** 2)

    def blur(self) -> float:
        """Standard deviation of the noise that is left at `start`, in units of the data."""
        with jax.ensure_compile_time_eval():
            return float(self.sigma(self.start) / self.alpha(self.start))


@final
@dataclass(frozen=True)
class VariancePreserving(Schedule):
    """`alpha = exp(-s^2 (beta_max - beta_min) / 4 - s beta_min / 2)`, `sigma^2 = 1 - alpha^2`.

    DDPM's process in continuous time (Song et al. 2021, arXiv 2011.13456, eq. 33).

    Attributes:
        beta_min: rate of noise at the data.
        beta_max: rate of noise at the end.
        start: first time that is evaluated; at 1e-3 the data have a blur of 0.01.

    Raises:
        ValueError: rates or a start out of range.
    """

    beta_min: float = 0.1
    beta_max: float = 20.0
    start: float = 1e-3  # pyright: ignore[reportIncompatibleVariableOverride]

    def __post_init__(self) -> None:
        _check_betas(self.beta_min, self.beta_max)
        _check_start(self.start)

    def log_alpha(self, s: Scalar) -> Scalar:
        """`log alpha(s)`."""
        return log_alpha_of_betas(s, self.beta_min, self.beta_max)

    def variance(self, s: Scalar) -> Scalar:
        """`sigma(s)^2`."""
        return -jnp.expm1(2 * self.log_alpha(s))


@final
@dataclass(frozen=True)
class SubVariancePreserving(Schedule):
    """`alpha` of `VariancePreserving` and `sigma = 1 - alpha^2` (Song et al. 2021, eq. 35).

    Attributes:
        beta_min: rate of noise at the data.
        beta_max: rate of noise at the end.
        start: first time that is evaluated; at 0.01 the data have a blur of 0.002.

    Raises:
        ValueError: rates or a start out of range.
    """

    beta_min: float = 0.1
    beta_max: float = 20.0
    start: float = 1e-2  # pyright: ignore[reportIncompatibleVariableOverride]

    def __post_init__(self) -> None:
        _check_betas(self.beta_min, self.beta_max)
        _check_start(self.start)

    def log_alpha(self, s: Scalar) -> Scalar:
        """`log alpha(s)`."""
        return log_alpha_of_betas(s, self.beta_min, self.beta_max)

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
        if not isinstance(self.num_steps, int) or self.num_steps < 2:
            raise ValueError(f"num_steps={self.num_steps} must be a whole number of at least 2")
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
        for name in ("alpha_of", "sigma_of"):
            if not callable(getattr(self, name)):
                raise TypeError(f"{name}={getattr(self, name)!r} must be a function of s")
        if not 0 <= self.start < self.end <= 1:
            raise ValueError(
                f"start={self.start}, end={self.end} must lie in [0, 1] and be in order"
            )
        check_schedule(self)

    def log_alpha(self, s: Scalar) -> Scalar:
        """`log alpha(s)`."""
        return jnp.log(jnp.asarray(self.alpha_of(s), s.dtype))

    def variance(self, s: Scalar) -> Scalar:
        """`sigma(s)^2`."""
        return jnp.asarray(self.sigma_of(s), s.dtype) ** 2


def check_schedule(schedule: Any) -> None:
    """Refuse a schedule whose noise does not win.

    Raises:
        TypeError: no schedule.
        ValueError: alpha or sigma that is not positive and finite on the schedule's span, or a
            log-SNR that rises.
    """
    if not isinstance(schedule, Schedule):
        raise TypeError(
            f"schedule={schedule!r} is none: write VariancePreserving(), or "
            "Custom(alpha_of=..., sigma_of=...)"
        )
    times = np.linspace(schedule.start, schedule.end, CHECKED)
    with jax.ensure_compile_time_eval():
        s = jnp.asarray(times)
        values = {
            name: np.asarray(jax.vmap(getattr(schedule, name))(s), float)
            for name in ("alpha", "sigma", "log_snr")
        }
    for name in ("alpha", "sigma"):
        good = np.isfinite(values[name]) & (values[name] > 0)
        if not good.all():
            i = int(np.argmin(good))
            raise ValueError(
                f"{name}({times[i]:.4g}) = {values[name][i]:.4g} must be positive and finite: "
                "choose start after which sigma > 0, and end before which alpha > 0"
            )
    rises = np.diff(values["log_snr"]) >= 0
    if rises.any():
        i = int(np.argmax(rises))
        a, b = times[i : i + 2]
        raise ValueError(
            f"the log-SNR does not fall from s = {a:.4g} ({values['log_snr'][i]:.4g}) to "
            f"{b:.4g} ({values['log_snr'][i + 1]:.4g}): alpha / sigma must fall all the way from "
            "data (s = 0) to noise (s = 1)"
        )


def _time(s: Any) -> Array:
    return jnp.asarray(s, float) if isinstance(s, int | float) else s


def _slope(f: Callable[[Array], Array], s: Array) -> tuple[Array, Array]:
    return jax.jvp(f, (s,), (jnp.ones_like(s),))


def _check_betas(beta_min: float, beta_max: float) -> None:
    if not 0 < beta_min <= beta_max < math.inf:
        raise ValueError(f"beta_min={beta_min}, beta_max={beta_max} must be positive and in order")


def _check_start(start: float) -> None:
    if not 0 < start < 1:
        raise ValueError(f"start={start} must lie in (0, 1): sigma is 0 at s = 0")
