"""The interface of a noise schedule: `q(x_s | x_0) = N(alpha(s) x_0, sigma(s)^2 I)`.

Diffusion papers count time from data to noise, jaxflow from base to data. In this package alone
`s` is the diffusion's time, `s = 1 - t`: data at `s = 0`, noise at `s = 1`.

The process of a schedule is `dx = f(s) x ds + g(s) dw` with

    f = d log(alpha) / ds        g^2 = d(sigma^2) / ds - 2 f sigma^2

(Kingma et al. 2021, "Variational Diffusion Models", arXiv 2107.00630). Both come from automatic
differentiation: a schedule only defines `log_alpha` and `variance`.
"""

import abc
import math
import numbers
from collections.abc import Callable
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from jaxflow.runtime.checks import check_choice, check_count
from jaxflow.runtime.shapes import Event, Scalar

# Times at which `check_schedule` looks, and bisection steps of `time_of`.
NUM_CHECKED, NUM_BISECTIONS = 257, 60
SPACINGS = ("time", "log_snr", "karras")
# Exponent of the "karras" spacing (Karras et al. 2022, arXiv 2206.00364, eq. 5).
RHO = 7.0


class Schedule(abc.ABC):
    """`alpha` and `sigma` as functions of the diffusion's time `s`.

    A subclass is a frozen dataclass with `log_alpha(s)` and, unless variance is preserved,
    `variance(s)`. On [`start`, `end`] both must be smooth, `variance` positive, and the
    signal-to-noise ratio `alpha^2 / sigma^2` decreasing.

    ```python
    from dataclasses import dataclass
    from jaxflow.diffusion import Schedule
    @dataclass(frozen=True)
    class Quadratic(Schedule):
        start: float = 0.1

        def log_alpha(self, s):
            return -2 * s**2
    ```

    Attributes:
        start: first time at which the schedule is evaluated; `sigma(start) > 0`.
        end: last time at which it is evaluated; `alpha(end) > 0`.
    """

    start: ClassVar[float] = 0.0
    end: ClassVar[float] = 1.0

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            number = isinstance(value, numbers.Real) and not isinstance(value, bool)
            if not number and not callable(value):
                raise TypeError(f"{name}={value!r} must be a number")

    @abc.abstractmethod
    def log_alpha(self, s: Scalar) -> Scalar:
        """Return `log alpha(s)`."""

    def variance(self, s: Scalar) -> Scalar:
        """Return `sigma(s)^2`; by default `1 - alpha(s)^2`, which preserves a variance of 1."""
        return -jnp.expm1(2 * self.log_alpha(s))

    def alpha(self, s: ArrayLike) -> Scalar:
        """Return `alpha(s)`, the factor of the data."""
        return jnp.exp(self.log_alpha(as_array(s)))

    def sigma(self, s: ArrayLike) -> Scalar:
        """Return `sigma(s)`, the standard deviation of the noise."""
        return jnp.sqrt(self.variance(as_array(s)))

    def log_snr(self, s: ArrayLike) -> Scalar:
        """Return `log(alpha^2 / sigma^2)`."""
        s = as_array(s)
        return 2 * self.log_alpha(s) - jnp.log(self.variance(s))

    def drift(self, s: ArrayLike) -> Scalar:
        """Return `f(s) = d log(alpha) / ds`."""
        return _value_and_slope(self.log_alpha, as_array(s))[1]

    def diffusion_squared(self, s: ArrayLike) -> Scalar:
        """Return `g(s)^2 = d(sigma^2) / ds - 2 f sigma^2`."""
        s = as_array(s)
        variance, slope = _value_and_slope(self.variance, s)
        return slope - 2 * self.drift(s) * variance

    def noise_rate(self, s: ArrayLike) -> Scalar:
        """Return `g(s)^2 / (2 sigma)`, the factor of the noise in the ODE's `dx/ds`."""
        return 0.5 * self.diffusion_squared(s) / self.sigma(s)

    def noised(self, s: ArrayLike, x: Event, noise: Event) -> Event:
        """Return `alpha(s) x + sigma(s) noise`."""
        return self.alpha(s) * x + self.sigma(s) * noise

    def diffusion_time(self, t: Any) -> Any:
        """Convert jaxflow's time to the diffusion's: `end` at `t = 0`, `start` at `t = 1`."""
        return self.end - t * (self.end - self.start)

    def time_of(self, log_snr: ArrayLike) -> Float[Array, "..."]:
        """Return the time in [`start`, `end`] with this log-SNR, by bisection."""
        target = jnp.asarray(log_snr, float)
        log_snr_at = jnp.vectorize(self.log_snr)

        def halve(_: Array, span: tuple[Array, Array]) -> tuple[Array, Array]:
            low, high = span
            middle = 0.5 * (low + high)
            # The log-SNR decreases with time.
            late = log_snr_at(middle) < target
            return jnp.where(late, low, middle), jnp.where(late, middle, high)

        ends = jnp.full_like(target, self.start), jnp.full_like(target, self.end)
        low, high = jax.lax.fori_loop(0, NUM_BISECTIONS, halve, ends)
        return 0.5 * (low + high)

    def prior_std(self, data_std: float = 1.0) -> float:
        """Standard deviation of `x` at `end`: `sqrt(alpha^2 data_std^2 + sigma^2)`.

        Args:
            data_std: standard deviation of the data; 0 gives `sigma(end)`, the usual prior of
                variance-exploding models.

        Raises:
            ValueError: `data_std` is negative or not finite.
        """
        if not 0 <= data_std < math.inf:
            raise ValueError(f"data_std={data_std} must be non-negative and finite")
        alpha, sigma = self._coefficients(self.end)
        return math.hypot(alpha * data_std, sigma)

    def prior_mismatch(self, std: float, mean: float = 0.0, *, data_std: float = 1.0) -> float:
        """Divergence `KL(q(x_end) || prior)` for Gaussian data, in nats per entry.

        Args:
            std: standard deviation of the data.
            mean: mean of the data.
            data_std: standard deviation that the prior assumes, see `prior_std`.
        """
        alpha, _ = self._coefficients(self.end)
        return _gaussian_kl(self.prior_std(std), alpha * mean, self.prior_std(data_std))

    def start_mismatch(self, std: float, mean: float = 0.0) -> float:
        """Divergence `KL(data || q(x_start))` for Gaussian data, in nats per entry.

        It measures the effect of the noise that remains at `start`, which is larger for data with
        narrow regions.

        Args:
            std: standard deviation of the data.
            mean: mean of the data.

        Raises:
            ValueError: `std` is not positive and finite.
        """
        if not 0 < std < math.inf:
            raise ValueError(f"std={std} must be positive and finite")
        alpha, sigma = self._coefficients(self.start)
        return _gaussian_kl(std, (1 - alpha) * mean, math.hypot(alpha * std, sigma))

    def blur(self) -> float:
        """Standard deviation of the noise that remains at `start`, in units of the data."""
        alpha, sigma = self._coefficients(self.start)
        return sigma / alpha

    def _require(self, valid: bool, names: tuple[str, ...], must: str) -> None:
        """Raise unless `valid`; `must` says what is allowed."""
        if not valid:
            values = ", ".join(f"{name}={getattr(self, name)}" for name in names)
            raise ValueError(f"{values} must {must}")

    def _coefficients(self, s: float) -> tuple[float, float]:
        with jax.ensure_compile_time_eval():
            return float(self.alpha(s)), float(self.sigma(s))


def check_schedule(schedule: Any) -> None:
    """Check `alpha`, `sigma` and the log-SNR on [`start`, `end`].

    Raises:
        TypeError: not a `Schedule`.
        ValueError: `alpha` or `sigma` not positive and finite, or a log-SNR that increases.
    """
    if not isinstance(schedule, Schedule):
        raise TypeError(
            f"schedule={schedule!r} must be a Schedule: write VariancePreserving(), or "
            "Custom(alpha_of=..., sigma_of=...)"
        )
    times = np.linspace(schedule.start, schedule.end, NUM_CHECKED)
    with jax.ensure_compile_time_eval():
        s = jnp.asarray(times)
        values = {
            name: np.asarray(jax.vmap(getattr(schedule, name))(s), float)
            for name in ("alpha", "sigma", "log_snr")
        }
    for name in ("alpha", "sigma"):
        valid = np.isfinite(values[name]) & (values[name] > 0)
        if not valid.all():
            i = int(np.argmin(valid))
            raise ValueError(
                f"{name}({times[i]:.4g}) = {values[name][i]:.4g} must be positive and finite: "
                "choose start after which sigma > 0, and end before which alpha > 0"
            )
    rises = np.diff(values["log_snr"]) >= 0
    if rises.any():
        i = int(np.argmax(rises))
        a, b = times[i : i + 2]
        raise ValueError(
            f"the log-SNR does not decrease from s = {a:.4g} ({values['log_snr'][i]:.4g}) to "
            f"{b:.4g} ({values['log_snr'][i + 1]:.4g}): alpha / sigma must decrease from data "
            "(s = 0) to noise (s = 1)"
        )


def times_of(schedule: Schedule, num_steps: int, spacing: str) -> Float[np.ndarray, " times"]:
    """Return `num_steps + 1` times from the schedule's `end` to its `start`.

    Args:
        schedule: noise schedule.
        num_steps: number of intervals.
        spacing: the quantity with equal steps: `"time"`, `"log_snr"`, or `"karras"` for
            `(sigma / alpha)^(1 / 7)` (Karras et al. 2022, arXiv 2206.00364, eq. 5).

    Raises:
        ValueError: unknown `spacing`, or `num_steps` below 1.
    """
    check_count("num_steps", num_steps)
    check_choice("spacing", spacing, SPACINGS)
    even = np.linspace(0.0, 1.0, num_steps + 1)
    if spacing == "time":
        return schedule.end + even * (schedule.start - schedule.end)
    with jax.ensure_compile_time_eval():
        noisy, clean = (float(schedule.log_snr(s)) for s in (schedule.end, schedule.start))
        if spacing == "log_snr":
            log_snr = noisy + even * (clean - noisy)
        else:
            first, last = (math.exp(-0.5 * snr / RHO) for snr in (noisy, clean))
            log_snr = -2 * RHO * np.log(first + even * (last - first))
        times = np.array(schedule.time_of(jnp.asarray(log_snr)), float)
    # Bisection ends a rounding error away from them.
    times[[0, -1]] = schedule.end, schedule.start
    return times


def as_array(s: ArrayLike) -> Array:
    """A time as an array, in the default dtype if it is a Python number."""
    return jnp.asarray(s, float) if isinstance(s, int | float) else jnp.asarray(s)


def _gaussian_kl(std: float, mean: float, scale: float) -> float:
    """`KL(N(mean, std^2) || N(0, scale^2))`."""
    ratio = (std / scale) ** 2
    return 0.5 * (ratio - 1 - math.log(ratio) + (mean / scale) ** 2)


def _value_and_slope(f: Callable[[Array], Array], s: Array) -> tuple[Array, Array]:
    return jax.jvp(f, (s,), (jnp.ones_like(s),))
