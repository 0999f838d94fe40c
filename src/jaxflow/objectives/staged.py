"""Several objectives in turn: a cheap one first, the exact one to finish."""

from dataclasses import dataclass
from typing import Any, final

from jaxtyping import Array, PRNGKeyArray

from jaxflow.objectives.likelihood import maximum_likelihood
from jaxflow.objectives.matching import FlowMatching
from jaxflow.objectives.protocol import Loss, Objective, Weights


@final
@dataclass(frozen=True)
class Stage:
    """An objective for a share of the training steps.

    ```python
    from jaxflow.objectives import FlowMatching, Stage, Staged, maximum_likelihood

    first = Stage(FlowMatching(), 0.8, rate=2.0, ema=0.999)
    objective = Staged((first, Stage(maximum_likelihood, 0.2)))
    ```

    Attributes:
        objective: what the stage minimises.
        share: share of the steps, relative to those of the other stages.
        rate: factor for `TrainConfig.learning_rate`.
        ema: replaces `TrainConfig.ema`; None to keep it.

    Raises:
        ValueError: `share` or `rate` is not positive.
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
    """Minimise several objectives in turn, each for its share of the training steps.

    The default is flow matching, which solves no ODE, for 92 % of the steps, then maximum
    likelihood. `fit` ends a stage early where the held-out rows become less likely. It starts each
    stage from the best weights so far, with a learning-rate schedule of its own, and before
    likelihood refines the training solver until its validation value is
    within `TrainConfig.solver_error` of the evaluation solver's.

    ```python
    from jaxflow.objectives import FlowMatching, Staged, maximum_likelihood

    objective = Staged(((FlowMatching(), 3.0), (maximum_likelihood, 1.0)))
    ```

    Attributes:
        stages: the stages in order: `Stage` objects, or pairs `(objective, share)`.

    Raises:
        ValueError: there are no stages.
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
        """All stages as `Stage` objects."""
        return tuple(s if isinstance(s, Stage) else Stage(*s) for s in self.stages)

    @property
    def raw_conditions(self) -> bool:
        """Whether a stage needs conditions that are not standardised."""
        return any(getattr(stage.objective, "raw_conditions", False) for stage in self.parts)

    def check_transform(self, transform: Any) -> None:
        """Check a transform by each stage's own `check_transform`.

        Raises:
            ValueError: a stage cannot train with this transform.
        """
        for stage in self.parts:
            if hasattr(stage.objective, "check_transform"):
                stage.objective.check_transform(transform)

    def at(self, step: int, steps: int) -> tuple[Stage, int, int]:
        """Find the stage of a step, counted from 0, in a training of `steps` steps.

        Returns:
            The stage, its first step, and its number of steps.
        """
        shares = [stage.share for stage in self.parts]
        ends = [round(sum(shares[: i + 1]) / sum(shares) * steps) for i in range(len(shares))]
        i = next((i for i, end in enumerate(ends) if step < end), len(ends) - 1)
        first = ends[i - 1] if i else 0
        return self.parts[i], first, max(1, ends[i] - first)

    def __call__(
        self, flow: Any, x: Any, cond: Array | None, key: PRNGKeyArray, *weights: Weights
    ) -> Loss:
        """Compute the loss of the last stage, which the others prepare for."""
        return self.parts[-1].objective(flow, x, cond, key, *weights)
