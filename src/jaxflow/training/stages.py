"""Which objective a step has, and with which settings."""

import math
from dataclasses import dataclass, replace

from jaxflow.objectives import Staged
from jaxflow.training.config import TrainConfig
from jaxflow.training.step import Objective

# Validations of a stage whose steps solve nothing: each takes as long as many such steps.
VALIDATIONS = 8


@dataclass(frozen=True)
class Span:
    """A stretch of training with one objective.

    Attributes:
        objective: what its steps minimise.
        config: their settings; `config.steps` counts the span's own.
        first: the first of its steps, counted from 0 over the whole training.
    """

    objective: Objective
    config: TrainConfig
    first: int

    @property
    def end(self) -> int:
        """The step after its last one."""
        return self.first + self.config.steps

    @property
    def solves(self) -> bool:
        """Whether its steps have a use for the training solve."""
        return not getattr(self.objective, "simulation_free", False)


def span_at(objective: Objective, config: TrainConfig, step: int) -> Span:
    """The span that a step belongs to."""
    if not isinstance(objective, Staged):
        return Span(objective, config, 0)
    stage, first, count = objective.at(step, config.steps)
    own = replace(
        config,
        steps=count,
        learning_rate=stage.rate * config.learning_rate,
        ema=config.ema if stage.ema is None else stage.ema,
    )
    span = Span(stage.objective, own, first)
    if span.solves:
        return span
    every = max(config.eval_every, math.ceil(count / VALIDATIONS))
    return replace(span, config=replace(own, eval_every=every))
