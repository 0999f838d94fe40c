"""The settings of a training."""

import math
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """How to train.

    Attributes:
        steps: parameter updates.
        batch_size: rows of a minibatch; all rows where there are fewer.
        learning_rate: peak of a schedule that rises linearly and falls as a cosine.
        warmup: part of the steps in which the learning rate rises.
        weight_decay: AdamW's.
        clip_norm: largest norm of a gradient; a longer one is scaled down.
        ema: decay of the exponential moving average of the weights, which is what is
            validated and returned; 0 for the weights themselves.
        eval_every: steps between two validations; they run in one compiled call.
        patience: validations without a better value after which training stops, in the last
            stage of a `Staged` objective; None for never.
        validation_rows: validation rows scored at each validation, at most.
        pilot: steps for which each candidate transform is trained before one is chosen.
        max_seconds: stop at the first validation after this time; None for no limit.
        solver_error: nats by which the validation value may depend on the training solver's
            steps; where it depends more, training goes on with finer ones.

    Raises:
        ValueError: a setting out of range.
    """

    steps: int = 4000
    batch_size: int = 512
    learning_rate: float = 2e-3
    warmup: float = 0.05
    weight_decay: float = 0.0
    clip_norm: float = 5.0
    ema: float = 0.99
    eval_every: int = 100
    patience: int | None = 10
    validation_rows: int = 4096
    pilot: int = 200
    max_seconds: float | None = None
    solver_error: float = 0.01

    def __post_init__(self) -> None:
        positive = ("steps", "batch_size", "learning_rate", "clip_norm", "eval_every", "pilot")
        for name in (*positive, "validation_rows", "solver_error"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name}={getattr(self, name)} must be positive")
        for name in ("patience", "max_seconds"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"{name}={value} must be positive, or None")
        for name in ("warmup", "ema"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must lie in [0, 1)")
        if self.weight_decay < 0:
            raise ValueError(f"weight_decay={self.weight_decay} must not be negative")

    @property
    def pilot_steps(self) -> int:
        """Whole stretches between validations, at most about a fifth of the training."""
        stretches = math.ceil(min(self.pilot, self.steps / 5) / self.eval_every)
        return min(stretches * self.eval_every, self.steps)
