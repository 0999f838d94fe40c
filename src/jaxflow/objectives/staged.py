"""One objective after another: a cheap one first, the exact one to finish."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, final

from jaxflow.objectives.likelihood import maximum_likelihood
from jaxflow.objectives.matching import FlowMatching

Objective = Callable[..., Any]


@final
@dataclass(frozen=True)
class Stage:
    """An objective for a share of the training.

    Attributes:
        objective: what the stage minimises.
        share: of the steps, relative to the other stages' shares.
        rate: what `TrainConfig.learning_rate` is multiplied by.
        ema: in the place of `TrainConfig.ema`; None for that.

    Raises:
        ValueError: a share or rate that is not positive.
    """

    objective: Objective
    share: float
    rate: float = 1.0
    ema: float | None = None

    def __post_init__(self) -> None:
        if not (self.share > 0 and self.rate > 0):
            raise ValueError(f"share={self.share} and rate={self.rate} must be positive")


@final
@dataclass(frozen=True)
class Staged:
    """Objectives in turn, each for its share of the training steps.

    ```python
    jaxflow.fit(flow, x, key=key, objective=Staged())
    ```
    By default flow matching, which solves no ODE, for nine tenths of the steps, and then maximum
    likelihood, with the coarsest training solve whose value is within `TrainConfig.solver_error`
    of the evaluation's. Each stage has a schedule of its own, and begins with the best weights
    so far.

    Attributes:
        stages: what is done in turn; pairs of an objective and its share will do.

    Raises:
        ValueError: no stages.
    """

    stages: tuple[Stage | tuple[Objective, float], ...] = (
        Stage(FlowMatching(), 0.92, rate=2.5, ema=0.999),
        Stage(maximum_likelihood, 0.08, rate=0.5),
    )

    def __post_init__(self) -> None:
        if not self.parts:
            raise ValueError("stages=() is empty: give an objective and its share")

    @property
    def parts(self) -> tuple[Stage, ...]:
        """The stages, pairs made into such."""
        return tuple(s if isinstance(s, Stage) else Stage(*s) for s in self.stages)

    @property
    def raw_conditions(self) -> bool:
        """Whether a stage takes conditions as they are given."""
        return any(getattr(stage.objective, "raw_conditions", False) for stage in self.parts)

    def check_transform(self, transform: Any) -> None:
        """Refuse a transform that a stage refuses."""
        for stage in self.parts:
            if hasattr(stage.objective, "check_transform"):
                stage.objective.check_transform(transform)

    def at(self, step: int, steps: int) -> tuple[Stage, int, int]:
        """The stage of a step, counted from 0, of so many; its first step, and how many it has."""
        shares = [stage.share for stage in self.parts]
        ends = [round(sum(shares[: i + 1]) / sum(shares) * steps) for i in range(len(shares))]
        i = next((i for i, end in enumerate(ends) if step < end), len(ends) - 1)
        first = ends[i - 1] if i else 0
        return self.parts[i], first, max(1, ends[i] - first)

    def __call__(self, flow: Any, x: Any, cond: Any, key: Any, *weights: Any) -> Any:
        """The last objective's loss, by which the others are meant to serve."""
        return self.parts[-1].objective(flow, x, cond, key, *weights)
