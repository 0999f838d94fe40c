"""Which rows of shards are trained on, which are held out, and which stand for all."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxflow.data.permutation import shuffled
from jaxflow.data.shards import Shards
from jaxflow.training.config import TrainConfig

# Rows by which transforms are fitted and chosen.
SAMPLE = 65_536


@dataclass(frozen=True)
class Stream:
    """The training rows of shards: all but those that are held out, in a random order.

    Attributes:
        shards: the files.
        held: how many rows are held out.
        seed: of the order.
    """

    shards: Shards
    held: int
    seed: tuple[int, ...]

    @property
    def count(self) -> int:
        """How many rows are trained on."""
        return len(self.shards) - self.held

    def training_rows(self, places: np.ndarray) -> np.ndarray:
        """Numbers of rows at places among those that are trained on."""
        return shuffled(places + self.held, len(self.shards), self.seed)

    def held_rows(self) -> np.ndarray:
        """Numbers of the rows that are held out."""
        return shuffled(np.arange(self.held), len(self.shards), self.seed)


def held_count(count: int, part: float, config: TrainConfig) -> int:
    """How many rows of so many are held out: no more than are looked at."""
    return max(1, min(round(part * count), config.validation_rows))


def sampled(
    shards: Shards,
    cond: Any,
    weights: Any,
    validation: Any,
    seed: tuple[int, ...],
    config: TrainConfig,
) -> tuple[Stream, Any, Any, Any]:
    """The stream of shards, a sample of its rows and their conditions, and what is held out.

    Raises:
        ValueError: conditions or weights beside the shards; nothing left to train on.
    """
    if cond is not None or weights is not None:
        raise ValueError(
            "x=Shards(...) brings its conditions itself, Shards.open(folder, cond=[...]), and "
            "takes no weights: leave cond and weights out"
        )
    held = 0
    if isinstance(validation, float | int):
        if not 0 < validation < 1:
            raise ValueError(f"validation={validation} must lie between 0 and 1")
        held = held_count(len(shards), validation, config)
    if held >= len(shards):
        raise ValueError(f"x has {len(shards)} rows, which leaves none beside {held} held out")
    stream = Stream(shards, held, seed)
    sample = stream.training_rows(np.arange(min(SAMPLE, stream.count)))
    return stream, *shards.rows(sample), shards.rows(stream.held_rows()) if held else validation
