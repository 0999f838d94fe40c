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

from jaxtyping import Array, PRNGKeyArray

from jaxflow.diffusion.schedule import Schedule
from jaxflow.runtime.shapes import Event, Scalar


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
    u: Scalar
    s: Scalar
    key: PRNGKeyArray

    def data(self, x: Event, noise: Event) -> Event:
        """Predict the data from the noise in `x`: `x_0 = (x - sigma_u noise) / alpha_u`."""
        return (x - self.schedule.sigma(self.u) * noise) / self.schedule.alpha(self.u)


@dataclass(frozen=True)
class Rule(abc.ABC):
    """One step of a sampler, for one sample. Subclasses are frozen dataclasses of settings.

    A subclass defines `step`, and `start` if it carries a memory from step to step.

    ```python
    from dataclasses import dataclass
    from jaxflow.diffusion import Rule

    @dataclass(frozen=True)
    class Euler(Rule):
        def step(self, move, x, memory):
            noise = move.denoise(move.u, x)
            return move.schedule.noised(move.s, move.data(x, noise), noise), memory
    ```
    """

    # Spacing of times that suits the rule, see `times_of`.
    spacing: ClassVar[str] = "karras"
    # `num_steps` of `draw` that gives good samples of simple densities.
    default_steps: ClassVar[int] = 50

    @property
    def evals(self) -> int:
        """Network evaluations per step."""
        return 1

    def start(self, x: Event) -> Any:
        """Return the memory for the first step from `x`; rules without memory inherit this."""
        return ()

    @abc.abstractmethod
    def step(self, move: Move, x: Event, memory: Any) -> tuple[Event, Any]:
        """Advance `x` from time `move.u` to `move.s`; return it and the memory for the next step.

        `memory` is the pytree that `start` or the previous step returned.
        """
