"""Where the state of a training is kept: one file, or a folder of several, written in parts."""

import abc
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxflow.data.shards import Shards
from jaxflow.io.checkpoint import load_extra, load_leaves, save_leaves
from jaxflow.runtime.checks import check_count
from jaxflow.runtime.extras import import_extra

Move = Callable[[Any], Any]


@dataclass(frozen=True)
class Checkpoints:
    """A folder of checkpoints, written by orbax while training goes on.

    Each device writes its own part of the arrays, so that weights that are split among devices
    are never brought together. A checkpoint is complete or not there at all.

    ```python
    jaxflow.fit(flow, x, key=key, checkpoint=jaxflow.training.Checkpoints("states"), resume=True)
    ```

    Attributes:
        folder: where; made if need be. With several hosts, on a disk that all of them see.
        keep: how many of the newest stay.

    Raises:
        ValueError: to keep none.
    """

    folder: str | Path
    keep: int = 2

    def __post_init__(self) -> None:
        check_count("keep", self.keep)


class Store(abc.ABC):
    """What both kinds share: a state is not gone on from with other data.

    `home` and `placed` are the training's: they bring its arrays from the mesh, and back.

    Args:
        name: for messages.
        data: the data's fingerprint.
    """

    def __init__(self, name: str, data: str) -> None:
        self.name, self.data = name, data

    @abc.abstractmethod
    def exists(self) -> bool:
        """Whether there is a state."""

    @abc.abstractmethod
    def save(self, state: Any, extra: dict[str, Any], home: Move) -> None:
        """Keep a state and what belongs to it."""

    @abc.abstractmethod
    def load(self, like: Any, home: Move, placed: Move) -> Any:
        """The newest state."""

    @abc.abstractmethod
    def wait(self) -> None:
        """Until what was saved is on the disk."""

    @abc.abstractmethod
    def _extra(self) -> dict[str, Any]: ...

    def read_extra(self) -> dict[str, Any]:
        """What was kept beside the newest state.

        Raises:
            ValueError: it is of other data.
        """
        extra = self._extra()
        if extra.get("data", self.data) != self.data:
            raise ValueError(
                f"checkpoint={self.name!r} is of a training on other rows, conditions, weights or "
                "validation rows, or by another key; resume with the same, or start in another "
                "file"
            )
        return extra


class OneFile(Store):
    """A safetensors file, replaced in one step."""

    def __init__(self, path: Path, data: str) -> None:
        super().__init__(str(path), data)
        self.path = path

    def exists(self) -> bool:
        """Whether there is a state."""
        return self.path.exists()

    def save(self, state: Any, extra: dict[str, Any], home: Move) -> None:
        """Keep a state and what belongs to it."""
        whole = home(state[0]), state[1]
        if jax.process_index() == 0:
            save_leaves(self.path, whole, extra={**extra, "data": self.data})

    def load(self, like: Any, home: Move, placed: Move) -> Any:
        """The state."""
        state, best = load_leaves(self.path, (home(like[0]), like[1]))
        return placed(state), best

    def wait(self) -> None:
        """A file is on the disk when it is saved."""

    def _extra(self) -> dict[str, Any]:
        return load_extra(self.path)


class Folder(Store):
    """Checkpoints by orbax."""

    def __init__(self, settings: Checkpoints, data: str) -> None:
        super().__init__(str(settings.folder), data)
        orbax = _import_orbax()
        options = orbax.CheckpointManagerOptions(max_to_keep=settings.keep, create=True)
        folder = Path(settings.folder).absolute()
        self.manager, self.args = orbax.CheckpointManager(folder, options=options), orbax.args

    def exists(self) -> bool:
        """Whether there is a state."""
        return self.manager.latest_step() is not None

    def save(self, state: Any, extra: dict[str, Any], home: Move) -> None:
        """Keep a state and what belongs to it, while training goes on."""
        kept = {
            "state": self.args.StandardSave(_named(state[0])),
            # Arrays of this process alone are none of orbax's.
            "best": self.args.StandardSave(jax.tree.map(np.asarray, state[1])),
            "extra": self.args.JsonSave({**extra, "data": self.data}),
        }
        if not self.manager.save(extra["step"], args=self.args.Composite(**kept)):
            raise OSError(f"checkpoint={self.name!r} did not take the state of {extra['step']}")

    def load(self, like: Any, home: Move, placed: Move) -> Any:
        """The newest state, split as `like` is."""
        wanted = {
            "state": self.args.StandardRestore(_named(like[0])),
            "best": self.args.StandardRestore(jax.tree.map(np.asarray, like[1])),
        }
        found = self.manager.restore(self._newest(), args=self.args.Composite(**wanted))
        leaves, structure = jax.tree.flatten(like[0])
        state = jax.tree.unflatten(structure, [found["state"][str(i)] for i in range(len(leaves))])
        return state, jax.tree.map(jnp.asarray, found["best"])

    def wait(self) -> None:
        """Until what was saved is on the disk."""
        self.manager.wait_until_finished()

    def _newest(self) -> int:
        step = self.manager.latest_step()
        assert step is not None
        return step

    def _extra(self) -> dict[str, Any]:
        wanted = self.args.Composite(extra=self.args.JsonRestore())
        return self.manager.restore(self._newest(), args=wanted)["extra"]


def _named(tree: Any) -> dict[str, Any]:
    return {str(i): leaf for i, leaf in enumerate(jax.tree.leaves(tree))}


def _import_orbax() -> Any:
    need = "Checkpoints needs orbax (a file name as checkpoint does not)"
    return import_extra("orbax.checkpoint", "many", need)


def fingerprint(*arrays: Any) -> str:
    """A word that other data, or another key, would not have, whatever the precision."""
    digest = hashlib.sha256()
    for i, array in enumerate(arrays):
        digest.update(f"{i} ".encode())
        if isinstance(array, Shards):
            digest.update(array.fingerprint().encode())
        elif isinstance(array, jax.Array) and jnp.issubdtype(array.dtype, jax.dtypes.prng_key):
            digest.update(np.asarray(jax.random.key_data(array)).data)
        elif array is not None:
            with np.errstate(over="ignore"):
                values = np.ascontiguousarray(array, np.float32)
            digest.update(str(values.shape).encode())
            digest.update(values.data)
    return digest.hexdigest()[:16]


def store_of(
    checkpoint: str | Path | Checkpoints | None, data: str, *, resume: bool
) -> Store | None:
    """The store of a checkpoint argument.

    Raises:
        FileExistsError: a folder that holds the states of another fit, which is not resumed.
    """
    if checkpoint is None:
        return None
    if isinstance(checkpoint, Checkpoints):
        store = Folder(checkpoint, data)
        if store.exists() and not resume:
            raise FileExistsError(
                f"checkpoint={store.name!r} holds the states of a fit: go on with it by "
                "resume=True, or choose another folder"
            )
        return store
    return OneFile(Path(checkpoint), data)
