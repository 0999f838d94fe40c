"""`TrainConfig`: the settings of a training."""

import math
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Settings of the optimiser, the validation and the stopping rules.

    The optimiser is AdamW with gradient clipping and a learning rate that rises linearly, then
    falls as a cosine to 1 % of its peak.

    ```python
    from jaxflow import TrainConfig

    config = TrainConfig(steps=1000, batch_size=256, learning_rate=1e-3)
    ```

    Attributes:
        steps: number of parameter updates.
        batch_size: minibatch size, in rows; all rows if there are fewer.
        learning_rate: peak learning rate.
        warmup: share of the steps in which the learning rate rises, in [0, 1).
        weight_decay: decay rate of AdamW.
        clip_norm: largest norm of a gradient; longer ones are scaled down.
        ema: decay of the exponential moving average of the weights, in [0, 1). The average is
            validated and returned; 0 turns averaging off.
        eval_every: steps between two validations, which run as one compiled call.
        patience: stop after this many validations without improvement, in the last stage of a
            `Staged` objective; earlier stages end after three validations in a row that are worse
            than the best by 0.02 nats. None to never stop early.
        validation_rows: largest number of rows in a validation.
        pilot: steps for which each candidate transform is trained before one is chosen.
        max_seconds: stop at the first validation after this many seconds; None for no limit.
        solver_error: largest allowed difference, in nats, between the validation values of the
            training and the evaluation solver. Above it, training continues with finer steps; inf
            to leave the training solver as it is.

    Raises:
        ValueError: a setting is out of range.
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
        """`pilot`, at most a fifth of `steps`, rounded up to a multiple of `eval_every`."""
        intervals = math.ceil(min(self.pilot, self.steps / 5) / self.eval_every)
        return min(intervals * self.eval_every, self.steps)
