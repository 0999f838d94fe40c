"""Split the rows of shards into training and validation, in a random order."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxflow.data.permutation import shuffled
from jaxflow.data.shards import Shards
from jaxflow.runtime.checks import check_share
from jaxflow.training.config import TrainConfig

# Transforms are fitted to, and chosen by, this many rows at most.
SAMPLE_ROWS = 65_536


@dataclass(frozen=True)
class Stream:
    """The rows of shards in a random order, of which the first `num_validation` are held out."""

    shards: Shards
    num_validation: int
    seed: tuple[int, ...]

    @property
    def num_training(self) -> int:
        """Number of training rows."""
        return len(self.shards) - self.num_validation

    def training_rows(self, positions: np.ndarray) -> np.ndarray:
        """Row numbers of the training rows at these positions of the order."""
        return shuffled(positions + self.num_validation, len(self.shards), self.seed)

    def validation_rows(self) -> np.ndarray:
        """Row numbers of the validation rows."""
        return shuffled(np.arange(self.num_validation), len(self.shards), self.seed)


def num_validation_rows(num_rows: int, share: float, config: TrainConfig) -> int:
    """Number of rows to hold out: the share, at most as many as a validation uses."""
    return max(1, min(round(share * num_rows), config.validation_rows))


def split_shards(
    shards: Shards,
    cond: Any,
    weights: Any,
    validation: Any,
    seed: tuple[int, ...],
    config: TrainConfig,
) -> tuple[Stream, Any, Any, Any]:
    """A stream of shards, a sample of its training rows, their conditions, the validation data."""
    if cond is not None or weights is not None:
        raise ValueError(
            "x=Shards(...) already contains its conditions, Shards.open(folder, cond=[...]), and "
            "takes no weights: leave cond and weights out"
        )
    count = 0
    if isinstance(validation, float | int):
        check_share("validation", validation)
        count = num_validation_rows(len(shards), validation, config)
    if count >= len(shards):
        raise ValueError(
            f"x has {len(shards)} rows, and {count} are held out for validation: give more rows "
            "to train on"
        )
    stream = Stream(shards, count, seed)
    sample = stream.training_rows(np.arange(min(SAMPLE_ROWS, stream.num_training)))
    if count:
        validation = shards.rows(stream.validation_rows())
    return stream, *shards.rows(sample), validation
