"""Where the rows of each step come from."""

from typing import Any

from jax.sharding import Mesh
from jaxtyping import Array

from jaxflow.placement import put_everywhere
from jaxflow.training.config import TrainConfig
from jaxflow.training.prepare import Problem, Rows
from jaxflow.training.step import minibatches


class InMemory:
    """All rows on every device; a step is told their numbers."""

    def __init__(self, rows: Rows, seed: tuple[int, ...], mesh: Mesh | None) -> None:
        self.rows = rows if mesh is None else put_everywhere(rows, mesh)
        self.seed = seed

    def stretch(self, config: TrainConfig, step: int, count: int) -> tuple[Rows, Array]:
        """Rows, and which of them each step after `step` takes, (eval_every, batch)."""
        return self.rows, minibatches(len(self.rows.x), config, self.seed, step, count)


def source_of(problem: Problem, seed: tuple[int, ...], mesh: Mesh | None) -> Any:
    """The rows of a problem."""
    return InMemory(problem.train, seed, mesh)
