"""Checkpoints of a training: one file, or a folder that each device writes its part of."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxflow.io.checkpoint import load_extra, load_leaves, save_leaves
from jaxflow.runtime.checks import check_count
from jaxflow.runtime.extras import import_extra

Move = Callable[[Any], Any]


@dataclass(frozen=True)
class Checkpoints:
    """A folder of checkpoints, written by orbax in the background.

    Each device writes its own part of the arrays, so split weights are never gathered. A crash
    leaves no incomplete checkpoint.

    ```python
    from jaxflow.training import Checkpoints

    checkpoint = Checkpoints("states", keep=3)  # for fit(..., checkpoint=checkpoint, resume=True)
    ```

    Attributes:
        folder: where to write; created if needed. Several hosts need a disk that all of them see.
        keep: how many of the newest checkpoints to keep.

    Raises:
        ValueError: `keep` is less than 1.
    """

    folder: str | Path
    keep: int = 2

    def __post_init__(self) -> None:
        check_count("keep", self.keep)


class FileStore:
    """A checkpoint in one safetensors file; `data` is the fingerprint of the training's data."""

    def __init__(self, path: Path, data: str) -> None:
        self.name, self.data, self.path = str(path), data, path

    def exists(self) -> bool:
        """Whether there is a checkpoint."""
        return self.path.exists()

    def save(self, state: Any, best: Any, extra: dict[str, Any], to_host: Move) -> None:
        """Write the state, the best weights, and `extra` as JSON."""
        trees = to_host(state), best
        if jax.process_index() == 0:
            save_leaves(self.path, trees, extra={**extra, "data": self.data})

    def load(self, state: Any, best: Any, to_host: Move, on_mesh: Move) -> tuple[Any, Any]:
        """Read state and best weights, with the structure of these."""
        state, best = load_leaves(self.path, (to_host(state), best))
        return on_mesh(state), best

    def extra(self) -> dict[str, Any]:
        """Read `extra`; raises ValueError if the checkpoint belongs to other data."""
        return _check_data(load_extra(self.path), self)

    def wait(self) -> None:
        """Do nothing: a file is on disk once it is saved."""


class FolderStore:
    """Checkpoints in a folder, written by orbax, with the methods of `FileStore`."""

    def __init__(self, settings: Checkpoints, data: str) -> None:
        need = "Checkpoints needs orbax (a file name as checkpoint does not)"
        orbax = import_extra("orbax.checkpoint", "many", need)
        options = orbax.CheckpointManagerOptions(max_to_keep=settings.keep, create=True)
        folder = Path(settings.folder).absolute()
        self.name, self.data = str(settings.folder), data
        self.manager, self.args = orbax.CheckpointManager(folder, options=options), orbax.args

    def exists(self) -> bool:
        """Whether there is a checkpoint."""
        return self.manager.latest_step() is not None

    def save(self, state: Any, best: Any, extra: dict[str, Any], to_host: Move) -> None:
        """Start to write a checkpoint in the background."""
        parts = {
            "state": self.args.StandardSave(_by_number(state)),
            # orbax writes no arrays that belong to this process only.
            "best": self.args.StandardSave(jax.tree.map(np.asarray, best)),
            "extra": self.args.JsonSave({**extra, "data": self.data}),
        }
        if not self.manager.save(extra["step"], args=self.args.Composite(**parts)):
            raise OSError(f"checkpoint={self.name!r} could not be written at step {extra['step']}")

    def load(self, state: Any, best: Any, to_host: Move, on_mesh: Move) -> tuple[Any, Any]:
        """Read the newest checkpoint, split among devices as `state` is."""
        parts = {
            "state": self.args.StandardRestore(_by_number(state)),
            "best": self.args.StandardRestore(jax.tree.map(np.asarray, best)),
        }
        stored = self.manager.restore(None, args=self.args.Composite(**parts))
        leaves = [stored["state"][name] for name in _by_number(state)]
        state = jax.tree.unflatten(jax.tree.structure(state), leaves)
        return state, jax.tree.map(jnp.asarray, stored["best"])

    def extra(self) -> dict[str, Any]:
        """Read `extra` of the newest checkpoint."""
        parts = self.args.Composite(extra=self.args.JsonRestore())
        return _check_data(self.manager.restore(None, args=parts)["extra"], self)

    def wait(self) -> None:
        """Return once all saves are on disk."""
        self.manager.wait_until_finished()


Store = FileStore | FolderStore


def _check_data(extra: dict[str, Any], store: Store) -> dict[str, Any]:
    if "config" in extra and "flow" not in extra:
        raise ValueError(
            f"checkpoint={store.name!r} was written by an earlier jaxflow, which did not record "
            "the objective and the flow: finish it with that version, or start in another file"
        )
    if extra.get("data", store.data) != store.data:
        raise ValueError(
            f"checkpoint={store.name!r} cannot be resumed with different data: its rows, "
            "conditions, weights, validation rows or key were others; pass the same ones, or "
            "another checkpoint"
        )
    return extra


def _by_number(tree: Any) -> dict[str, Any]:
    return {str(i): leaf for i, leaf in enumerate(jax.tree.leaves(tree))}


def open_store(
    checkpoint: str | Path | Checkpoints | None, data: str, *, resume: bool
) -> Store | None:
    """Open the `checkpoint` argument of `fit`; raises FileExistsError where there is one."""
    if checkpoint is None:
        return None
    store: Store
    if isinstance(checkpoint, Checkpoints):
        store, kind = FolderStore(checkpoint, data), "folder"
    else:
        store, kind = FileStore(Path(checkpoint), data), "file"
    if store.exists() and not resume:
        raise FileExistsError(
            f"checkpoint={store.name!r} exists: continue its fit with resume=True, choose another "
            f"{kind}, or delete it"
        )
    return store
