"""Settings of the fits, with defaults chosen by `make bench-sbi`."""

from dataclasses import dataclass

from jaxflow.runtime.checks import check_count, check_share
from jaxflow.training import TrainConfig
from jaxflow.training.defaults import encoded_config


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Settings of `fit_posterior` and `fit_likelihood`, chosen by `make bench-sbi`.

    Attributes:
        members: number of flows to train, each with its own split, and to average
            (`jaxflow.Ensemble`).
        width: units of each hidden layer.
        depth: number of hidden layers.
        steps: largest number of updates.
        batch_size: rows of an update; None for 256, or 512 for more than 5,000 simulations.
        learning_rate: peak learning rate.
        weight_decay: decay rate of the weights, which keeps few simulations from being learned by
            heart; None for 0.3, or 0.1 for more than 5,000 simulations.
        validation: share of the simulations to hold out.
        max_seconds: stop training at the first validation after this many seconds, of each flow.
        progress: show a progress bar; None for only on a terminal.

    Raises:
        ValueError: a setting is out of range.
    """

    members: int = 1
    width: int = 128
    depth: int = 2
    steps: int = 4000
    batch_size: int | None = None
    learning_rate: float = 2e-3
    weight_decay: float | None = None
    validation: float = 0.1
    max_seconds: float | None = None
    progress: bool | None = None

    def __post_init__(self) -> None:
        for name in ("members", "width", "depth", "steps"):
            check_count(name, getattr(self, name))
        if self.batch_size is not None:
            check_count("batch_size", self.batch_size)
        check_share("validation", self.validation)

    def config(self, num_rows: int) -> TrainConfig:
        """Settings of the training on so many simulations."""
        return encoded_config(
            num_rows,
            steps=self.steps,
            batch_size=self.batch_size,
            learning_rate=self.learning_rate,
            weight_decay=self.weight_decay,
            max_seconds=self.max_seconds,
            validation_rows=2000,
            eval_every=max(1, min(200, self.steps // 10)),
        )
