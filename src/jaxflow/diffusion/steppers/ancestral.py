"""Samplers of the stochastic reverse process: ancestral sampling and Euler-Maruyama."""

from dataclasses import dataclass
from typing import Any, ClassVar, final

import jax
import jax.numpy as jnp

from jaxflow.diffusion.ddpm import posterior, transition
from jaxflow.diffusion.steppers.rule import Move, Rule
from jaxflow.runtime.checks import check_choice
from jaxflow.runtime.shapes import Event


@final
@dataclass(frozen=True)
class Ancestral(Rule):
    """DDPM's ancestral sampler: draw from the posterior at the predicted data.

        x_s ~ q(x_s | x_u, x_0 = E[x_0 | x_u])

    (Ho et al. 2020, "Denoising Diffusion Probabilistic Models", arXiv 2006.11239, algorithm 2.)
    On `Betas(T)`, `draw(..., sampler=Ancestral(), num_steps=T)` is that algorithm.

    ```python
    from jaxflow.diffusion import Ancestral
    sampler = Ancestral(variance="upper")
    ```

    Attributes:
        variance: `"lower"`, the posterior's own, optimal for data at a single point; or
            `"upper"`, optimal for data of variance 1 (Ho et al. 2020, section 3.2: `beta-tilde`
            and `beta`).
    """

    spacing: ClassVar[str] = "log_snr"
    default_steps: ClassVar[int] = 200
    variance: str = "lower"

    def __post_init__(self) -> None:
        check_choice("variance", self.variance, ("lower", "upper"))

    def step(self, move: Move, x: Event, memory: Any) -> tuple[Event, Any]:
        """Draw the next point from the posterior."""
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
    """Euler-Maruyama steps of the reverse-time process, `dx = (f x - g^2 score) ds + g dw`.

    (Anderson 1982, "Reverse-time diffusion equation models"; Song et al. 2021, arXiv 2011.13456,
    eq. 6.) It needs more steps than `Ancestral`, which uses the exact posterior. For methods of
    higher order see `draw_sde`.

    ```python
    from jaxflow.diffusion import EulerMaruyama
    sampler = EulerMaruyama()
    ```
    """

    spacing: ClassVar[str] = "log_snr"
    default_steps: ClassVar[int] = 200

    def step(self, move: Move, x: Event, memory: Any) -> tuple[Event, Any]:
        """Take one Euler-Maruyama step."""
        schedule, u, span = move.schedule, move.u, move.u - move.s
        rate = schedule.diffusion_squared(u)
        score = -move.denoise(u, x) / schedule.sigma(u)
        noise = jax.random.normal(move.key, x.shape, x.dtype)
        drift = schedule.drift(u) * x - rate * score
        return x - span * drift + jnp.sqrt(rate * span) * noise, memory
