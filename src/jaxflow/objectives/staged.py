"""One objective after another: a cheap one first, the exact one to finish."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, final

from jaxflow.objectives.likelihood import maximum_likelihood
from jaxflow.objectives.matching import FlowMatching

Objective = Callable[..., Any]


@final
@dataclass(frozen=True)
class Staged:
    """Objectives in turn, each for its share of the training steps.

    ```python
    jaxflow.fit(flow, x, key=key, objective=Staged())
    ```
    By default flow matching, which solves no ODE, and then maximum likelihood, with the coarsest
    training solve whose value is within `TrainConfig.solver_error` of the evaluation's.

    Attributes:
        stages: pairs of an objective and its share; shares are taken relative to their sum.

    Raises:
        ValueError: no stages, or shares that are not positive.
    """

    stages: tuple[tuple[Objective, float], ...] = (
        (FlowMatching(), 0.8),
        (maximum_likelihood, 0.2),
    )

    def __post_init__(self) -> None:
        if not self.stages or not all(share > 0 for _, share in self.stages):
            raise ValueError(
                f"stages={self.stages} must be pairs of an objective and a positive share of the "
                "steps"
            )

    def at(self, step: int, steps: int) -> Objective:
        """The objective of a step, counted from 0, of so many."""
        total, done = sum(share for _, share in self.stages), 0.0
        for objective, share in self.stages:
            done += share / total * steps
            if step < round(done):
                return objective
        return self.stages[-1][0]

    def __call__(self, flow: Any, x: Any, cond: Any, key: Any, *weights: Any) -> Any:
        """The last objective's loss, by which the others are meant to serve."""
        return self.stages[-1][0](flow, x, cond, key, *weights)
