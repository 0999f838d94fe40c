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
import numbers
from collections.abc import Callable
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

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

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            number = isinstance(value, numbers.Real) and not isinstance(value, bool)
            if not number and not callable(value):
                raise TypeError(f"{name}={value!r} must be a number")

    @abc.abstractmethod
    def log_alpha(self, s: Scalar) -> Scalar:
        """`log alpha(s)`."""

    @abc.abstractmethod
    def variance(self, s: Scalar) -> Scalar:
        """`sigma(s)^2`."""

    def alpha(self, s: Any) -> Scalar:
        """Share of the data."""
        return jnp.exp(self.log_alpha(scalar(s)))

    def sigma(self, s: Any) -> Scalar:
        """Standard deviation of the noise."""
        return jnp.sqrt(self.variance(scalar(s)))

    def log_snr(self, s: Any) -> Scalar:
        """`log(alpha^2 / sigma^2)`."""
        s = scalar(s)
        return 2 * self.log_alpha(s) - jnp.log(self.variance(s))

    def drift(self, s: Any) -> Scalar:
        """`f(s) = d log(alpha) / ds`."""
        return _slope(self.log_alpha, scalar(s))[1]

    def diffusion_squared(self, s: Any) -> Scalar:
        """`g(s)^2 = d(sigma^2) / ds - 2 f sigma^2`."""
        s = scalar(s)
        variance, slope = _slope(self.variance, s)
        return slope - 2 * self.drift(s) * variance

    def noise_rate(self, s: Any) -> Scalar:
        """`g(s)^2 / (2 sigma)`, the share of the noise in the probability-flow ODE's `dx/ds`."""
        return 0.5 * self.diffusion_squared(s) / self.sigma(s)

    def noised(
        self, s: Any, x: Float[Array, "*event"], noise: Float[Array, "*event"]
    ) -> Float[Array, "*event"]:
        """`alpha(s) x + sigma(s) noise`."""
        return self.alpha(s) * x + self.sigma(s) * noise

    def diffusion_time(self, t: Any) -> Any:
        """`s` of jaxflow's time `t`: the schedule's end at `t = 0`, its start at `t = 1`."""
        return self.end - t * (self.end - self.start)

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
        return _divergence(self.prior_std(std), alpha * mean, self.prior_std(data_std))

    def start_mismatch(self, std: float, mean: float = 0.0) -> float:
        """What the rest of noise at `start` costs, nats an entry: `KL(data || q(x_start))`.

        Exact for Gaussian data, `N(mean, std^2)`; narrower parts of other data cost more.

        Raises:
            ValueError: `std` is not positive and finite.
        """
        if not 0 < std < math.inf:
            raise ValueError(f"std={std} must be a positive number")
        with jax.ensure_compile_time_eval():
            alpha, sigma = float(self.alpha(self.start)), float(self.sigma(self.start))
        return _divergence(std, (1 - alpha) * mean, math.hypot(alpha * std, sigma))

    def blur(self) -> float:
        """Standard deviation of the noise that is left at `start`, in units of the data."""
        with jax.ensure_compile_time_eval():
            return float(self.sigma(self.start) / self.alpha(self.start))


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


def scalar(s: Any) -> Array:
    """A time as an array."""
    return jnp.asarray(s, float) if isinstance(s, int | float) else s


def _divergence(std: float, mean: float, scale: float) -> float:
    """`KL(N(mean, std^2) || N(0, scale^2))`."""
    ratio = (std / scale) ** 2
    return 0.5 * (ratio - 1 - math.log(ratio) + (mean / scale) ** 2)


def _slope(f: Callable[[Array], Array], s: Array) -> tuple[Array, Array]:
    return jax.jvp(f, (s,), (jnp.ones_like(s),))
