"""Where the rows of each step come from: memory, or files that are read ahead."""

from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as Spec
from jaxtyping import Array

from jaxflow.data.permutation import shuffled
from jaxflow.placement import put_everywhere
from jaxflow.training.config import TrainConfig
from jaxflow.training.prepare import Problem, Rows
from jaxflow.training.step import minibatches
from jaxflow.training.stream import Stream


class InMemory:
    """All rows on every device; a step is told their numbers."""

    def __init__(self, rows: Rows, seed: tuple[int, ...], mesh: Mesh | None) -> None:
        self.rows = rows if mesh is None else put_everywhere(rows, mesh)
        self.seed = seed

    def stretch(self, config: TrainConfig, step: int, count: int) -> tuple[Rows, Array]:
        """All rows, and the numbers of each step's, (eval_every, batch)."""
        return self.rows, minibatches(len(self.rows.x), config, self.seed, step, count)


class Streamed:
    """The minibatches of a stretch of steps, while the next ones are read.

    On a mesh each process reads the rows of its own devices alone.
    """

    def __init__(
        self, stream: Stream, problem: Problem, seed: tuple[int, ...], mesh: Mesh | None
    ) -> None:
        self.stream, self.problem, self.seed, self.mesh = stream, problem, seed, mesh
        self.pool = ThreadPoolExecutor(1, thread_name_prefix="rows")
        self.ahead: dict[tuple[TrainConfig, int], Future[Rows]] = {}

    def stretch(self, config: TrainConfig, step: int, count: int) -> tuple[Rows, Array]:
        """The rows of each step, (eval_every, batch, ...), and the steps' numbers among them."""
        known = self.ahead.pop((config, step), None)
        rows = self._read(config, step) if known is None else known.result()
        self.ahead = {(config, step + count): self.pool.submit(self._read, config, step + count)}
        return rows, jnp.arange(config.eval_every)

    def numbers(self, config: TrainConfig, step: int) -> np.ndarray:
        """Numbers of the rows of the steps from `step` on, (eval_every, batch)."""
        count = self.stream.count
        size = min(config.batch_size, count)
        steps = step + np.arange(config.eval_every)
        epochs, within = np.divmod(steps, count // size)
        places = within[:, None] * size + np.arange(size)
        found = np.empty_like(places)
        for epoch in np.unique(epochs):
            here = epochs == epoch
            found[here] = shuffled(places[here], count, (*self.seed, int(epoch)))
        return self.stream.training_rows(found)

    def _read(self, config: TrainConfig, step: int) -> Rows:
        numbers = self.numbers(config, step)
        sample = self.problem.train
        x = self._array(numbers, sample.x, 0)
        cond = None if sample.cond is None else self._array(numbers, sample.cond, 1)
        scaling = self.problem.scaling
        if cond is not None and scaling is not None:
            cond = jax.vmap(jax.vmap(scaling))(cond)
        return Rows(x, cond)

    def _array(self, numbers: np.ndarray, like: Array, part: int) -> Array:
        shape = *numbers.shape, *like.shape[1:]

        def read(chosen: np.ndarray) -> np.ndarray:
            values = self.stream.shards.rows(chosen.ravel())[part]
            assert values is not None
            return np.asarray(values, like.dtype).reshape(*chosen.shape, *like.shape[1:])

        if self.mesh is None:
            return jnp.asarray(read(numbers))
        even = numbers.shape[1] % self.mesh.size == 0
        spec = Spec(None, tuple(self.mesh.axis_names)) if even else Spec()

        def of_device(index: Any) -> np.ndarray:
            return read(numbers[index[:2]])

        return jax.make_array_from_callback(shape, NamedSharding(self.mesh, spec), of_device)


def source_of(problem: Problem, seed: tuple[int, ...], mesh: Mesh | None) -> InMemory | Streamed:
    """The rows of a problem."""
    if problem.stream is None:
        return InMemory(problem.train, seed, mesh)
    return Streamed(problem.stream, problem, seed, mesh)
