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
from jaxflow.runtime.mesh import put_on_mesh
from jaxflow.training.config import TrainConfig
from jaxflow.training.prepare import Problem, Rows
from jaxflow.training.step import minibatches
from jaxflow.training.stream import Stream

# Rows of several steps by the part of the minibatch that a device has.
Blocks = dict[tuple[Any, Any], np.ndarray]


class InMemory:
    """All rows on every device; a step is told their numbers."""

    def __init__(self, rows: Rows, seed: tuple[int, ...], mesh: Mesh | None) -> None:
        self.rows = rows if mesh is None else put_on_mesh(rows, mesh)
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
        self.ahead: dict[tuple[TrainConfig, int], Future[list[Blocks]]] = {}

    def stretch(self, config: TrainConfig, step: int, count: int) -> tuple[Rows, Array]:
        """The rows of each step, (eval_every, batch, ...), and the steps' numbers among them."""
        known = self.ahead.pop((config, step), None)
        blocks = self._read(config, step) if known is None else known.result()
        self.ahead = {(config, step + count): self.pool.submit(self._read, config, step + count)}
        sample, scaling = self.problem.train, self.problem.scaling
        x = self._array(config, blocks[0], sample.x)
        cond = None
        if sample.cond is not None:
            cond = self._array(config, blocks[1], sample.cond)
            cond = cond if scaling is None else jax.vmap(jax.vmap(scaling))(cond)
        return Rows(x, cond), jnp.arange(config.eval_every)

    def numbers(self, config: TrainConfig, step: int) -> np.ndarray:
        """Numbers of the rows of the steps from `step` on, (eval_every, batch)."""
        count, size = self.stream.count, self._size(config)
        steps = step + np.arange(config.eval_every)
        epochs, within = np.divmod(steps, count // size)
        places = within[:, None] * size + np.arange(size)
        found = np.empty_like(places)
        for epoch in np.unique(epochs):
            here = epochs == epoch
            found[here] = shuffled(places[here], count, (*self.seed, int(epoch)))
        return self.stream.training_rows(found)

    def _size(self, config: TrainConfig) -> int:
        return min(config.batch_size, self.stream.count)

    def _split(self, config: TrainConfig) -> NamedSharding | None:
        """Which rows of a minibatch each device has; None where there is one."""
        if self.mesh is None:
            return None
        even = self._size(config) % self.mesh.size == 0
        return NamedSharding(
            self.mesh, Spec(None, tuple(self.mesh.axis_names)) if even else Spec()
        )

    def _read(self, config: TrainConfig, step: int) -> list[Blocks]:
        """Events, and conditions, of this process's devices; nothing here is jax's own work.

        Its settings, such as float64, are a thread's own, and this is another one.
        """
        numbers, split = self.numbers(config, step), self._split(config)
        parts = [slice(None)]
        if split is not None:
            of_devices = split.addressable_devices_indices_map(numbers.shape).values()
            parts = [index[1] for index in of_devices if index is not None]
        blocks: list[Blocks] = [{}, {}]
        for part in parts:
            if _ends(part) not in blocks[0]:
                chosen = numbers[:, part]
                for block, values in zip(
                    blocks, self.stream.shards.rows(chosen.ravel()), strict=True
                ):
                    if values is not None:
                        block[_ends(part)] = values.reshape(*chosen.shape, -1)
        return blocks

    def _array(self, config: TrainConfig, blocks: Blocks, like: Array) -> Array:
        split = self._split(config)

        def of_device(index: Any) -> np.ndarray:
            values = blocks[_ends(index[1])]
            return np.asarray(values, like.dtype).reshape(*values.shape[:2], *like.shape[1:])

        if split is None:
            return jnp.asarray(of_device((None, slice(None))))
        shape = config.eval_every, self._size(config), *like.shape[1:]
        return jax.make_array_from_callback(shape, split, of_device)


def _ends(part: slice) -> tuple[Any, Any]:
    return part.start, part.stop


def source_of(problem: Problem, seed: tuple[int, ...], mesh: Mesh | None) -> InMemory | Streamed:
    """The rows of a problem."""
    if problem.stream is None:
        return InMemory(problem.train, seed, mesh)
    return Streamed(problem.stream, problem, seed, mesh)
