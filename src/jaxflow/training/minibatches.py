"""Minibatches: the rows of each step, from memory or from files that are read ahead.

They depend only on the key and the number of the step, so a resumed training continues with the
same ones.
"""

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
from jaxflow.training.prepare import Problem
from jaxflow.training.rows import Dataset
from jaxflow.training.stream import Stream

# Rows of several steps, by the range (start, stop) of the minibatch that a device holds.
Blocks = dict[tuple[Any, Any], np.ndarray]


def minibatch_indices(
    num_rows: int, config: TrainConfig, seed: tuple[int, ...], start: int, count: int
) -> Array:
    """Row indices of `count` minibatches from step `start` on, (eval_every, batch).

    Entries beyond `count` are 0. Each epoch is a new permutation; its remainder is left out.
    """
    size = min(config.batch_size, num_rows)
    per_epoch = num_rows // size
    indices = np.zeros((config.eval_every, size), np.int32)
    epoch, order = -1, np.empty(0, np.int64)
    for i in range(count):
        if (start + i) // per_epoch != epoch:
            epoch = (start + i) // per_epoch
            order = np.random.default_rng([*seed, epoch]).permutation(num_rows)
        first = ((start + i) % per_epoch) * size
        indices[i] = order[first : first + size]
    return jnp.asarray(indices)


class MemoryBatches:
    """Minibatches of rows that every device holds, or of the first `count` of them."""

    def __init__(
        self, rows: Dataset, seed: tuple[int, ...], mesh: Mesh | None, count: int | None = None
    ) -> None:
        self.rows = rows if mesh is None else put_on_mesh(rows, mesh)
        self.seed, self.count = seed, len(rows.x) if count is None else count

    def load(self, config: TrainConfig, step: int, count: int) -> tuple[Dataset, Array]:
        """All rows, and the indices of each of `count` minibatches among them."""
        return self.rows, minibatch_indices(self.count, config, self.seed, step, count)


class ShardBatches:
    """Minibatches of shards: the next ones are read while the last ones are trained on.

    On a mesh each process reads the rows of its own devices only.
    """

    def __init__(
        self, stream: Stream, problem: Problem, seed: tuple[int, ...], mesh: Mesh | None
    ) -> None:
        self.stream, self.problem, self.seed, self.mesh = stream, problem, seed, mesh
        self.pool = ThreadPoolExecutor(1, thread_name_prefix="rows")
        self.ahead: dict[tuple[TrainConfig, int], Future[list[Blocks]]] = {}

    def load(self, config: TrainConfig, step: int, count: int) -> tuple[Dataset, Array]:
        """The rows of each minibatch, (eval_every, batch, ...), and the minibatches' indices."""
        future = self.ahead.pop((config, step), None)
        blocks = self._read(config, step) if future is None else future.result()
        self.ahead = {(config, step + count): self.pool.submit(self._read, config, step + count)}
        sample, scaling = self.problem.train, self.problem.cond_scaling
        x = self._array(config, blocks[0], sample.x)
        cond = None
        if sample.cond is not None:
            cond = self._array(config, blocks[1], sample.cond)
            cond = cond if scaling is None else jax.vmap(jax.vmap(scaling))(cond)
        return Dataset(x, cond), jnp.arange(config.eval_every)

    def row_numbers(self, config: TrainConfig, step: int) -> np.ndarray:
        """Row numbers of the minibatches from `step` on, (eval_every, batch)."""
        count, size = self.stream.num_training, self._size(config)
        steps = step + np.arange(config.eval_every)
        epochs, within = np.divmod(steps, count // size)
        positions = within[:, None] * size + np.arange(size)
        order = np.empty_like(positions)
        for epoch in np.unique(epochs):
            here = epochs == epoch
            order[here] = shuffled(positions[here], count, (*self.seed, int(epoch)))
        return self.stream.training_rows(order)

    def _size(self, config: TrainConfig) -> int:
        return min(config.batch_size, self.stream.num_training)

    def _sharding(self, config: TrainConfig) -> NamedSharding | None:
        """How a minibatch is split among devices; None for one device."""
        if self.mesh is None:
            return None
        even = self._size(config) % self.mesh.size == 0
        return NamedSharding(
            self.mesh, Spec(None, tuple(self.mesh.axis_names)) if even else Spec()
        )

    def _read(self, config: TrainConfig, step: int) -> list[Blocks]:
        """Read samples and conditions for the devices of this process.

        Uses no jax: this runs in another thread, which does not have the caller's settings of jax.
        """
        numbers, sharding = self.row_numbers(config, step), self._sharding(config)
        ranges = [slice(None)]
        if sharding is not None:
            of_devices = sharding.addressable_devices_indices_map(numbers.shape).values()
            ranges = [index[1] for index in of_devices if index is not None]
        blocks: list[Blocks] = [{}, {}]
        for part in {_ends(part): part for part in ranges}.values():
            chosen = numbers[:, part]
            arrays = self.stream.shards.rows(chosen.ravel())
            for block, values in zip(blocks, arrays, strict=True):
                if values is not None:
                    block[_ends(part)] = values.reshape(*chosen.shape, -1)
        return blocks

    def _array(self, config: TrainConfig, blocks: Blocks, like: Array) -> Array:
        """The blocks as one array, with the dtype and event shape of `like`."""
        sharding = self._sharding(config)

        def of_device(index: Any) -> np.ndarray:
            values = blocks[_ends(index[1])]
            return np.asarray(values, like.dtype).reshape(*values.shape[:2], *like.shape[1:])

        if sharding is None:
            return jnp.asarray(of_device((None, slice(None))))
        shape = config.eval_every, self._size(config), *like.shape[1:]
        return jax.make_array_from_callback(shape, sharding, of_device)


def _ends(part: slice) -> tuple[Any, Any]:
    return part.start, part.stop


def minibatches_of(
    problem: Problem, seed: tuple[int, ...], mesh: Mesh | None
) -> MemoryBatches | ShardBatches:
    """The minibatches of a problem."""
    if problem.stream is None:
        return MemoryBatches(problem.train, seed, mesh)
    return ShardBatches(problem.stream, problem, seed, mesh)
