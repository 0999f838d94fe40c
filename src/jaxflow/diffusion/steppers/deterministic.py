"""Samplers that solve the probability-flow ODE: DDIM, Heun, DPM-Solver++."""

from dataclasses import dataclass
from typing import Any, ClassVar, final

import jax
import jax.numpy as jnp

from jaxflow.diffusion.ddpm import transition
from jaxflow.diffusion.steppers.rule import Move, Rule
from jaxflow.runtime.shapes import Event


@final
@dataclass(frozen=True)
class DDIM(Rule):
    """DDIM: first-order steps of the ODE, optionally with noise.

        x_s = alpha_s E[x_0 | x_u] + sqrt(sigma_s^2 - c^2) e + c noise

    (Song et al. 2021, "Denoising Diffusion Implicit Models", arXiv 2010.02502, eq. 12.)

    ```python
    from jaxflow.diffusion import DDIM
    sampler = DDIM(eta=0.5)
    ```

    Attributes:
        eta: `c` relative to ancestral sampling, in [0, 1]. 0 is deterministic (Euler's method for
            `dy/dr = e`), 1 is `Ancestral()`.
    """

    eta: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.eta <= 1:
            raise ValueError(f"eta={self.eta} must lie in [0, 1]")

    def step(self, move: Move, x: Event, memory: Any) -> tuple[Event, Any]:
        """Take one DDIM step."""
        schedule, u, s = move.schedule, move.u, move.s
        noise = move.denoise(u, x)
        _, b = transition(schedule, s, u)
        added = self.eta**2 * b * schedule.variance(s) / schedule.variance(u)
        remaining = jnp.sqrt(jnp.maximum(schedule.variance(s) - added, 0))
        new = schedule.alpha(s) * move.data(x, noise) + remaining * noise
        if self.eta:
            new = new + jnp.sqrt(added) * jax.random.normal(move.key, x.shape, x.dtype)
        return new, memory


@final
@dataclass(frozen=True)
class Heun(Rule):
    """Heun's second-order method for `dy/dr = e`, two evaluations per step.

    (Karras et al. 2022, "Elucidating the Design Space", arXiv 2206.00364, algorithm 1.)

    ```python
    from jaxflow.diffusion import Heun
    sampler = Heun()
    ```
    """

    default_steps: ClassVar[int] = 20

    @property
    def evals(self) -> int:
        """Network evaluations per step: 2."""
        return 2

    def step(self, move: Move, x: Event, memory: Any) -> tuple[Event, Any]:
        """Take one step of the trapezoidal rule."""
        schedule, u, s = move.schedule, move.u, move.s
        before, after = (schedule.sigma(time) / schedule.alpha(time) for time in (u, s))
        y, slope = x / schedule.alpha(u), move.denoise(u, x)
        euler = y + (after - before) * slope
        end_slope = move.denoise(s, schedule.alpha(s) * euler)
        return schedule.alpha(s) * (y + 0.5 * (after - before) * (slope + end_slope)), memory


@final
@dataclass(frozen=True)
class DPMSolver(Rule):
    """DPM-Solver++(2M): second order at one evaluation per step.

    It extrapolates the predicted data from the last two steps in `l = log(alpha / sigma)`:

        x_s = (sigma_s / sigma_u) x_u + alpha_s (1 - exp(l_u - l_s)) D
        D = data_u + (data_u - data_before) (l_s - l_u) / (2 (l_u - l_before))

    (Lu et al. 2022, "DPM-Solver++", arXiv 2211.01095, algorithm 2.) The first step is of first
    order.

    ```python
    from jaxflow.diffusion import DPMSolver
    sampler = DPMSolver()
    ```
    """

    default_steps: ClassVar[int] = 25

    def start(self, x: Event) -> Any:
        """Return the previous data and its `l`; `l = -inf` makes the first step first order."""
        return jnp.zeros_like(x), jnp.asarray(-jnp.inf, x.dtype)

    def step(self, move: Move, x: Event, memory: Any) -> tuple[Event, Any]:
        """Take one step and remember its predicted data."""
        schedule, u, s = move.schedule, move.u, move.s
        data = move.data(x, move.denoise(u, x))
        last, l_before = memory
        l_u, l_s = 0.5 * schedule.log_snr(u), 0.5 * schedule.log_snr(s)
        # Where l rounds to the same number twice, two points have no slope: first order.
        gap = l_u - l_before
        gap = jnp.where(gap > 0, gap, jnp.inf)
        extrapolated = data + (data - last) * (l_s - l_u) / (2 * gap)
        weight = -schedule.alpha(s) * jnp.expm1(l_u - l_s)
        return (schedule.sigma(s) / schedule.sigma(u)) * x + weight * extrapolated, (data, l_u)
