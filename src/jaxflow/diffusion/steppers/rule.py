"""The interface of a sampler's step.

With `y = x / alpha` and `r = sigma / alpha`, the probability-flow ODE of every schedule is

    dy / dr = e

(Song et al. 2021, "Denoising Diffusion Implicit Models", arXiv 2010.02502, eq. 14). Deterministic
rules solve this equation.
"""

import abc
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

from jaxtyping import Array, Float, PRNGKeyArray

from jaxflow.diffusion.schedule import Schedule

Event = Float[Array, "*event"]


class Move(NamedTuple):
    """The inputs of one step, from time `u` to the less noisy time `s < u`.

    Attributes:
        denoise: `(s, x) -> E[e | x]`, the predicted noise.
        schedule: noise schedule.
        u: time of the current point.
        s: time of the next point.
        key: random key of this step.
    """

    denoise: Callable[[Array, Array], Array]
    schedule: Schedule
    u: Float[Array, ""]
    s: Float[Array, ""]
    key: PRNGKeyArray

    def data(self, x: Event, noise: Event) -> Event:
        """Predict the clean data: `x_0 = (x - sigma_u noise) / alpha_u`.

        Args:
            x: the point at time `u`.
            noise: the predicted noise in `x`.
        """
        return (x - self.schedule.sigma(self.u) * noise) / self.schedule.alpha(self.u)


@dataclass(frozen=True)
class Rule(abc.ABC):
    """One step of a sampler, for one sample. Subclasses are frozen dataclasses of settings.

    A subclass defines `step`, and `start` if it carries a memory from step to step.

    ```python
    from dataclasses import dataclass
    import jax
    from jaxflow.bases import GaussianMixture
    from jaxflow.diffusion import KnownDenoiser, Rule, VariancePreserving, as_flow, draw

    @dataclass(frozen=True)
    class Euler(Rule):
        def step(self, move, x, memory):
            noise = move.denoise(move.u, x)
            data = move.data(x, noise)
            return move.schedule.alpha(move.s) * data + move.schedule.sigma(move.s) * noise, memory

    mixture = GaussianMixture(jax.numpy.ones(1), jax.numpy.zeros((1, 2)), jax.numpy.eye(2)[None])
    flow = as_flow(KnownDenoiser(mixture, VariancePreserving()), 2)
    x = draw(flow, jax.random.key(0), 5, sampler=Euler(), num_steps=10)
    ```
    """

    # Spacing of times that suits the rule, see `times_of`.
    spacing: ClassVar[str] = "karras"
    # Steps that give good samples of simple densities.
    default_steps: ClassVar[int] = 50

    @property
    def evals(self) -> int:
        """Network evaluations per step."""
        return 1

    def start(self, x: Event) -> Any:
        """Return the memory before the first step; an empty tuple for rules without memory.

        Args:
            x: the initial point.
        """
        return ()

    @abc.abstractmethod
    def step(self, move: Move, x: Event, memory: Any) -> tuple[Event, Any]:
        """Advance one sample by one step.

        Args:
            move: the step's times, schedule, denoiser and key.
            x: the point at time `move.u`.
            memory: a pytree: the value of `start`, or of the previous step.

        Returns:
            The point at time `move.s`, and the memory for the next step.
        """
