"""Split a flow into the arrays that are trained and the rest."""

from dataclasses import dataclass
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array

from jaxflow.dynamics import ConditionScaling


@dataclass(frozen=True)
class Slot:
    """Marks the position of a trained array in a flow."""

    name: str


def partition_trainable(
    flow: Any, fixed: tuple[str, ...] = ("base", "transform", "trace")
) -> tuple[dict[str, Array], Any]:
    """Take the trained arrays out of a flow.

    Args:
        flow: any module.
        fixed: attributes of the flow that are not trained.

    Returns:
        The floating-point arrays outside `fixed` and outside scalings of conditions, by name, and
        the flow with a `Slot` for each.

    Raises:
        ValueError: there are none, so nothing would be trained.
    """
    trained: dict[str, Array] = {}

    def take(path: Any, leaf: Any) -> Any:
        if not eqx.is_inexact_array(leaf) or (path and getattr(path[0], "name", None) in fixed):
            return leaf
        name = jax.tree_util.keystr(path)
        trained[name] = jnp.asarray(leaf)
        return Slot(name)

    frozen = jax.tree_util.tree_map_with_path(
        take, flow, is_leaf=lambda node: isinstance(node, ConditionScaling)
    )
    if not any(array.size for array in trained.values()):
        raise ValueError(
            f"{getattr(flow, 'field', flow)!r} has no arrays to train, and weights that a "
            "function closes over are constants: write jax.tree_util.Partial(apply, params) in "
            "place of the function, with apply(params, t, x, ...)"
        )
    return trained, frozen


def combine_trainable(trained: dict[str, Array], frozen: Any) -> Any:
    """Put the trained arrays back: the inverse of `partition_trainable`."""
    return jax.tree.map(
        lambda leaf: trained[leaf.name] if isinstance(leaf, Slot) else leaf, frozen
    )
