"""The arrays of a flow that training changes, apart from the rest of it."""

from dataclasses import dataclass
from typing import Any

import equinox as eqx
import jax
from jaxtyping import Array


@dataclass(frozen=True)
class Slot:
    """The place of a trained array in a flow."""

    name: str


def partition_trainable(
    flow: Any, fixed: tuple[str, ...] = ("base", "transform", "trace")
) -> tuple[dict[str, Array], Any]:
    """What training changes, by name, and the flow with slots in its place.

    Every floating-point array is trained but those of the `fixed` parts.
    """
    trained: dict[str, Array] = {}

    def take(path: Any, leaf: Any) -> Any:
        if not eqx.is_inexact_array(leaf) or path[0].name in fixed:
            return leaf
        name = jax.tree_util.keystr(path)
        trained[name] = leaf
        return Slot(name)

    frozen = jax.tree_util.tree_map_with_path(take, flow)
    return trained, frozen


def combine_trainable(trained: dict[str, Array], frozen: Any) -> Any:
    """The flow from its trained arrays and the rest."""
    return jax.tree.map(
        lambda leaf: trained[leaf.name] if isinstance(leaf, Slot) else leaf, frozen
    )
