"""Steps from a noisier time to a less noisy one, each a rule of its own.

With `y = x / alpha` and `r = sigma / alpha` the probability-flow ODE of every schedule is

    dy / dr = e

(Song et al. 2021, "Denoising Diffusion Implicit Models", arXiv 2010.02502, eq. 14), which is what
the deterministic rules solve.
"""

import abc
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, final

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from jaxflow.diffusion.ddpm import posterior, transition
from jaxflow.diffusion.schedule import Schedule
from jaxflow.runtime.checks import check_count

Event = Float[Array, "*event"]


class Move(NamedTuple):
    """From where to where a step goes.

    Attributes:
        denoise: `(s, x) -> e`, the noise in a point.
        schedule: alpha and sigma.
        u: the time of the point.
        s: the time of the next one, less noisy.
        key: of this step.
    """

    denoise: Callable[[Array, Array], Array]
    schedule: Schedule
    u: Float[Array, ""]
    s: Float[Array, ""]
    key: PRNGKeyArray

    def data(self, x: Event, noise: Event) -> Event:
        """The clean point, by the noise in `x`."""
        return (x - self.schedule.sigma(self.u) * noise) / self.schedule.alpha(self.u)


@dataclass(frozen=True)
class Rule(abc.ABC):
    """One step of a sampler, for one sample; a frozen dataclass of its settings."""

    # How often a step asks for the noise.
    evals: ClassVar[int] = 1
    # The spacing of times that suits the rule, see `times_of`.
    spacing: ClassVar[str] = "karras"

    def start(self, x: Event) -> Any:
        """What the rule remembers before the first step."""
        return ()

    @abc.abstractmethod
    def step(self, move: Move, x: Event, memory: Any) -> tuple[Event, Any]:
        """The next point, and what is remembered of this step."""


@final
@dataclass(frozen=True)
class Ancestral(Rule):
    """DDPM's own sampler: a draw of `p(x_s | x_u)`, the posterior at the predicted data.

    Attributes:
        variance: `"lower"`, `beta-tilde`, right for data at one point; or `"upper"`, right for
            data of variance 1, `beta` where variance is preserved (Ho et al. 2020, section 3.2).

    Raises:
        ValueError: another variance.
    """

    spacing: ClassVar[str] = "log_snr"
    variance: str = "lower"

    def __post_init__(self) -> None:
        if self.variance not in ("lower", "upper"):
            raise ValueError(f"variance={self.variance!r} must be 'lower' or 'upper'")

    def step(self, move: Move, x: Event, memory: Any) -> tuple[Event, Any]:
        """One draw."""
        schedule, u, s = move.schedule, move.u, move.s
        data = move.data(x, move.denoise(u, x))
        mean, variance = posterior(schedule, s, u, x, data)
        if self.variance == "upper":
            a, b = transition(schedule, s, u)
            scale = schedule.alpha(s) ** 2 + schedule.variance(s)
            variance = b * scale / (a**2 * scale + b)
        noise = jax.random.normal(move.key, x.shape, x.dtype)
        return mean + jnp.sqrt(variance) * noise, memory


@final
@dataclass(frozen=True)
class EulerMaruyama(Rule):
    """A step of the reverse-time process, `dx = (f x - g^2 score) ds + g dw`.

    (Anderson 1982, "Reverse-time diffusion equation models"; Song et al. 2021, eq. 6.) It knows
    nothing of the posterior and wants more steps than `Ancestral`; diffrax has methods of higher
    order, see `draw_sde`.
    """

    spacing: ClassVar[str] = "log_snr"

    def step(self, move: Move, x: Event, memory: Any) -> tuple[Event, Any]:
        """One step."""
        schedule, u, span = move.schedule, move.u, move.u - move.s
        rate = schedule.diffusion_squared(u)
        score = -move.denoise(u, x) / schedule.sigma(u)
        noise = jax.random.normal(move.key, x.shape, x.dtype)
        back = schedule.drift(u) * x - rate * score
        return x - span * back + jnp.sqrt(rate * span) * noise, memory


@final
@dataclass(frozen=True)
class DDIM(Rule):
    """`x_s = alpha_s E[x_0 | x_u] + sqrt(sigma_s^2 - c^2) e + c noise` (Song et al. 2021, eq. 12).

    Attributes:
        eta: `c` over that of ancestral sampling; 0 is Euler's method for `dy/dr = e`.

    Raises:
        ValueError: `eta` out of [0, 1].
    """

    eta: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.eta <= 1:
            raise ValueError(f"eta={self.eta} must lie in [0, 1]")

    def step(self, move: Move, x: Event, memory: Any) -> tuple[Event, Any]:
        """One step."""
        schedule, u, s = move.schedule, move.u, move.s
        noise = move.denoise(u, x)
        _, b = transition(schedule, s, u)
        fresh = self.eta**2 * b * schedule.variance(s) / schedule.variance(u)
        kept = jnp.sqrt(jnp.maximum(schedule.variance(s) - fresh, 0))
        new = schedule.alpha(s) * move.data(x, noise) + kept * noise
        if self.eta:
            new = new + jnp.sqrt(fresh) * jax.random.normal(move.key, x.shape, x.dtype)
        return new, memory


@final
@dataclass(frozen=True)
class Heun(Rule):
    """The trapezoidal rule for `dy/dr = e`, of second order (Karras et al. 2022, algorithm 1)."""

    evals: ClassVar[int] = 2

    def step(self, move: Move, x: Event, memory: Any) -> tuple[Event, Any]:
        """One step."""
        schedule, u, s = move.schedule, move.u, move.s
        before, after = (schedule.sigma(time) / schedule.alpha(time) for time in (u, s))
        y, slope = x / schedule.alpha(u), move.denoise(u, x)
        guess = y + (after - before) * slope
        other = move.denoise(s, schedule.alpha(s) * guess)
        return schedule.alpha(s) * (y + 0.5 * (after - before) * (slope + other)), memory


@final
@dataclass(frozen=True)
class DPMSolver(Rule):
    """DPM-Solver++(2M): second order at one evaluation a step.

    The predicted data are extrapolated from the last two steps in `l = log(alpha / sigma)`

        x_s = (sigma_s / sigma_u) x_u + alpha_s (1 - exp(l_u - l_s)) D
        D = data_u + (data_u - data_before) (l_s - l_u) / (2 (l_u - l_before))

    (Lu et al. 2022, "DPM-Solver++", arXiv 2211.01095, algorithm 2); the first step has no last
    one and is of first order.
    """

    def start(self, x: Event) -> Any:
        """The last step's predicted data, and its `l`; infinitely far away at first."""
        return jnp.zeros_like(x), jnp.asarray(-jnp.inf, x.dtype)

    def step(self, move: Move, x: Event, memory: Any) -> tuple[Event, Any]:
        """One step."""
        schedule, u, s = move.schedule, move.u, move.s
        data = move.data(x, move.denoise(u, x))
        last, l_before = memory
        l_u, l_s = 0.5 * schedule.log_snr(u), 0.5 * schedule.log_snr(s)
        extrapolated = data + (data - last) * (l_s - l_u) / (2 * (l_u - l_before))
        grown = -schedule.alpha(s) * jnp.expm1(l_u - l_s)
        return (schedule.sigma(s) / schedule.sigma(u)) * x + grown * extrapolated, (data, l_u)


@final
@dataclass(frozen=True)
class Langevin(Rule):
    """`x <- x + h score(x) + sqrt(2 h - h^2 / v) noise` at the new time, so many times.

    With it alone a ladder of times is annealed Langevin dynamics (Song and Ermon 2019, arXiv
    1907.05600, algorithm 1); `h = (ratio sigma)^2`, their step sizes. Their noise has variance
    `2 h`, by which long steps widen every density, and shift the weights of modes while noise
    joins them. With `v = alpha^2 data_std^2 + sigma^2` a step keeps `N(0, v)` as it is.

    Attributes:
        steps: steps at each time.
        ratio: `sqrt(h) / sigma`. Small steps follow the density, large ones mix faster.
        data_std: standard deviation of the data in flow space.

    Raises:
        ValueError: a number out of range.
    """

    spacing: ClassVar[str] = "log_snr"
    steps: int = 1
    ratio: float = 0.5
    data_std: float = 1.0

    def __post_init__(self) -> None:
        check_count("steps", self.steps)
        if not 0 < self.ratio < 1:
            raise ValueError(f"ratio={self.ratio} must lie in (0, 1)")
        if not 0 <= self.data_std < math.inf:
            raise ValueError(f"data_std={self.data_std} must be 0 or a positive number")

    @property
    def evals(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        """One a step."""
        return self.steps

    def step(self, move: Move, x: Event, memory: Any) -> tuple[Event, Any]:
        """The steps at time `s`."""
        # The point keeps its place among the data, in the units of the new time.
        ratio = move.schedule.alpha(move.s) / move.schedule.alpha(move.u)
        return self.correct(move, ratio * x), memory

    def correct(self, move: Move, x: Event) -> Event:
        """The steps, from a point that is at time `s` already."""
        alpha, sigma = move.schedule.alpha(move.s), move.schedule.sigma(move.s)
        size = (self.ratio * sigma) ** 2
        scale = jnp.sqrt(2 * size - size**2 / ((alpha * self.data_std) ** 2 + sigma**2))

        def walk(i: Array, x: Event) -> Event:
            noise = jax.random.normal(jax.random.fold_in(move.key, i), x.shape, x.dtype)
            return x - (size / sigma) * move.denoise(move.s, x) + scale * noise

        return jax.lax.fori_loop(0, self.steps, walk, x)


@final
@dataclass(frozen=True)
class PredictorCorrector(Rule):
    """A predictor's step, then Langevin steps at the new time (Song et al. 2021, algorithm 1).

    The corrector pays for its half of the evaluations where its steps are long and times are even
    in log-SNR, as here.

    Attributes:
        predictor: another rule.
        corrector: Langevin steps.

    Raises:
        TypeError: parts that are no such rules.
    """

    spacing: ClassVar[str] = "log_snr"
    predictor: Any = Ancestral()
    corrector: Any = Langevin(1, 0.9)

    def __post_init__(self) -> None:
        for name, kind in (("predictor", Rule), ("corrector", Langevin)):
            if not isinstance(getattr(self, name), kind):
                raise TypeError(f"{name}={getattr(self, name)!r} must be a {kind.__name__}(...)")

    @property
    def evals(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Those of both."""
        return self.predictor.evals + self.corrector.evals

    def start(self, x: Event) -> Any:
        """The predictor's."""
        return self.predictor.start(x)

    def step(self, move: Move, x: Event, memory: Any) -> tuple[Event, Any]:
        """Predict, then correct."""
        predict_key, correct_key = jax.random.split(move.key)
        x, memory = self.predictor.step(move._replace(key=predict_key), x, memory)
        return self.corrector.correct(move._replace(key=correct_key), x), memory
