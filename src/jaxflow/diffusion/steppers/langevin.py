"""Samplers with Langevin steps: annealed Langevin dynamics and predictor-corrector."""

import math
from dataclasses import dataclass, field
from typing import Any, ClassVar, final

import jax
import jax.numpy as jnp
from jaxtyping import Array

from jaxflow.diffusion.steppers.ancestral import Ancestral
from jaxflow.diffusion.steppers.rule import Move, Rule
from jaxflow.runtime.checks import check_count, check_share
from jaxflow.runtime.shapes import Event


@final
@dataclass(frozen=True)
class Langevin(Rule):
    """Annealed Langevin dynamics: `steps` Langevin steps at every time.

        x <- x + h score(x) + sqrt(2 h - h^2 / v) noise,    h = (ratio sigma)^2
        x <- x + h score(x) + sqrt(2 h) noise               with exact=False

    The second line is the textbook's (Song and Ermon 2019, arXiv 1907.05600, algorithm 1, and its
    step sizes: `alpha_i = 2 h`, so `ratio = sqrt(epsilon / 2) / sigma_L`). Its noise widens every
    density when steps are long and shifts the weights of modes that noise connects. With
    `v = alpha^2 data_std^2 + sigma^2` a step of the first line leaves `N(0, v)` unchanged.

    ```python
    from jaxflow.diffusion import Langevin
    sampler = Langevin(steps=4, ratio=0.7)
    textbook = Langevin(steps=100, ratio=0.3, exact=False)
    ```

    Attributes:
        steps: Langevin steps at each time.
        ratio: `sqrt(h) / sigma`, in (0, 1). Small steps follow the density closely, large steps
            mix faster.
        data_std: standard deviation of the data in flow space; not used if `exact` is False.
        exact: whether a step leaves `N(0, v)` unchanged. False adds the textbook's noise of
            variance `2 h`.
    """

    spacing: ClassVar[str] = "log_snr"
    default_steps: ClassVar[int] = 100
    steps: int = 1
    ratio: float = 0.5
    data_std: float = 1.0
    exact: bool = True

    def __post_init__(self) -> None:
        check_count("steps", self.steps)
        check_share("ratio", self.ratio, 0.5)
        if not 0 <= self.data_std < math.inf:
            raise ValueError(f"data_std={self.data_std} must be non-negative and finite")

    @property
    def evals(self) -> int:
        """Network evaluations per time: `steps`."""
        return self.steps

    def step(self, move: Move, x: Event, memory: Any) -> tuple[Event, Any]:
        """Rescale the point to time `s`, then take the Langevin steps there."""
        # Keep x / alpha, the point in units of the data.
        ratio = move.schedule.alpha(move.s) / move.schedule.alpha(move.u)
        return self.correct(move, ratio * x), memory

    def correct(self, move: Move, x: Event) -> Event:
        """Take the Langevin steps from a point that is already at time `move.s`."""
        alpha, sigma = move.schedule.alpha(move.s), move.schedule.sigma(move.s)
        size = (self.ratio * sigma) ** 2
        less = size**2 / ((alpha * self.data_std) ** 2 + sigma**2) if self.exact else 0.0
        scale = jnp.sqrt(2 * size - less)

        def walk(i: Array, x: Event) -> Event:
            noise = jax.random.normal(jax.random.fold_in(move.key, i), x.shape, x.dtype)
            return x - (size / sigma) * move.denoise(move.s, x) + scale * noise

        return jax.lax.fori_loop(0, self.steps, walk, x)


@final
@dataclass(frozen=True)
class PredictorCorrector(Rule):
    """A step of another rule, then Langevin steps at the new time.

    (Song et al. 2021, arXiv 2011.13456, algorithm 1.) The corrector is worth its evaluations when
    its steps are long and the times are even in log-SNR, as by default.

    ```python
    from jaxflow.diffusion import DDIM, Langevin, PredictorCorrector
    sampler = PredictorCorrector(DDIM(), Langevin(steps=2, ratio=0.9))
    ```

    Attributes:
        predictor: any rule.
        corrector: the Langevin steps.
    """

    spacing: ClassVar[str] = "log_snr"
    default_steps: ClassVar[int] = 100
    predictor: Any = field(default_factory=Ancestral)
    corrector: Any = field(default_factory=lambda: Langevin(1, 0.9))

    def __post_init__(self) -> None:
        for name, kind in (("predictor", Rule), ("corrector", Langevin)):
            if not isinstance(getattr(self, name), kind):
                raise TypeError(f"{name}={getattr(self, name)!r} must be a {kind.__name__}(...)")

    @property
    def evals(self) -> int:
        """Network evaluations per step, of both parts."""
        return self.predictor.evals + self.corrector.evals

    def start(self, x: Event) -> Any:
        """Return the predictor's memory."""
        return self.predictor.start(x)

    def step(self, move: Move, x: Event, memory: Any) -> tuple[Event, Any]:
        """Take the predictor's step, then the corrector's."""
        predict_key, correct_key = jax.random.split(move.key)
        x, memory = self.predictor.step(move._replace(key=predict_key), x, memory)
        return self.corrector.correct(move._replace(key=correct_key), x), memory
