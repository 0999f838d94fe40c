"""Phases of a training: consecutive steps with the same objective and settings."""

import math
from dataclasses import dataclass, replace

from jaxflow.objectives import Staged
from jaxflow.objectives.protocol import Objective
from jaxflow.training.config import TrainConfig

# Most evenly spaced validations of a phase whose steps solve no ODE: each takes as long as many
# of its steps.
MAX_VALIDATIONS = 8


@dataclass(frozen=True)
class Phase:
    """Consecutive steps with the same objective and settings.

    Attributes:
        objective: the objective of these steps.
        config: their settings; `config.steps` is the length of the phase.
        first: the first step, counted from 0 over the entire training.
        least: steps before its first validation.
        stage: number of the stage of a `Staged` objective, from 0.
    """

    objective: Objective
    config: TrainConfig
    first: int
    least: int = 1
    stage: int = 0

    @property
    def end(self) -> int:
        """The step after its last one."""
        return self.first + self.config.steps

    def next_validation(self, step: int) -> int:
        """The step after `step` at which to validate.

        A phase without solves is validated at doubling steps first, to see early where it
        over-trains.
        """
        if self.solves:
            return min(step + self.config.eval_every, self.end)
        done, every = step - self.first, self.config.eval_every
        doubled = self.least * 2 ** (done // self.least).bit_length()
        even = done + every - done % every
        return min(self.first + (min(doubled, even) if done < every else even), self.end)

    @property
    def solves(self) -> bool:
        """Whether its steps use the training solver."""
        return not getattr(self.objective, "simulation_free", False)


def phase_at(objective: Objective, config: TrainConfig, step: int) -> Phase:
    """The phase that contains a step: a stage of a `Staged` objective, or the entire training."""
    if not isinstance(objective, Staged):
        return Phase(objective, config, 0)
    stage, first, count = objective.at(step, config.steps)
    settings = replace(
        config,
        steps=count,
        learning_rate=stage.rate * config.learning_rate,
        ema=config.ema if stage.ema is None else stage.ema,
    )
    number = objective.parts.index(stage)
    phase = Phase(stage.objective, settings, first, stage=number)
    if phase.solves:
        return phase
    every = max(config.eval_every, math.ceil(count / MAX_VALIDATIONS))
    return replace(phase, config=replace(settings, eval_every=every), least=config.eval_every)
