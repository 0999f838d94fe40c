"""The arrays to train: a tree of booleans, and a module split by it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array

from jaxflow.bases import SeededBase
from jaxflow.dynamics import ConditionScaling, GaussianVelocity, Regression, RobustScaling
from jaxflow.flows.ensemble import Ensemble
from jaxflow.flows.flow import Flow
from jaxflow.flows.flow_map import FlowMap
from jaxflow.flows.summary import words
from jaxflow.transforms import Bounded, Dequantise, LevelScores

# Attributes of a flow that are not its field.
OTHERS = ("base", "transform", "trace", "exact")
NAMES = ("field", "base", "transform")
# Never trained: descriptions of the data (units of conditions, regressions on them, a covariance,
# limits, grids and levels of columns), and distributions of other libraries, whose arrays depend
# on one another, such as a scale and its inverse.
FACTS = (
    *(ConditionScaling, RobustScaling, Regression, GaussianVelocity),
    *(Bounded, Dequantise, LevelScores, SeededBase),
)


def trainable(flow: Any, train: Sequence[str] = ("field",)) -> Any:
    """Mark the arrays of a flow that are trained: a tree of its structure with True or False.

    `fit` trains by this tree. In a loop of your own it serves `eqx.partition`, `optax.masked`,
    weight decay and averages of the weights:

    ```python
    import equinox as eqx
    import jax
    import jaxflow

    key = jax.random.key(0)
    flow = jaxflow.CNF(jaxflow.dynamics.MLP(2, key=key), jaxflow.StandardNormal(2))
    params, static = eqx.partition(flow, jaxflow.trainable(flow))
    flow = eqx.combine(params, static)
    ```

    Args:
        flow: a `CNF`, a `CouplingFlow` or another `Flow`; of an `Ensemble`, the arrays of its
            flows, not its weights.
        train: parts of the flow: `"field"` (for a `CouplingFlow` its layers), `"base"`,
            `"transform"`.

    Returns:
        The tree, with True for the floating-point arrays of these parts. Scalings of conditions,
        `Bounded`, `Dequantise`, `LevelScores` and `GaussianVelocity` describe the data and have
        False, as do distributions of distrax and TFP (`SeededBase`); `eqx.tree_at` changes an
        entry.

    Raises:
        ValueError: a name is unknown, or its part has no arrays to train.
    """
    if isinstance(flow, Ensemble):
        marked = flow.with_flows([trainable(each, train) for each in flow.flows])
        return eqx.tree_at(lambda tree: tree.weights, marked, False)
    trees = []
    for name in checked_names(train):
        tree = arrays_where(flow, lambda part, name=name: name == _name_of(part))
        if not any(leaf.size for leaf in jax.tree.leaves(eqx.filter(flow, tree))):
            raise ValueError(_nothing_to_train(flow, name))
        trees.append(tree)
    return jax.tree.map(lambda *each: any(each), *trees)


def check_flow(flow: Any) -> None:
    """Raise TypeError unless rows can train a flow."""
    if isinstance(flow, FlowMap):
        raise TypeError(
            "flow is a FlowMap, which learns the solves of its flow and not rows: train "
            "flow.exact instead, then write jaxflow.distil(flow, x, key=key)"
        )
    if isinstance(flow, Ensemble):
        raise TypeError(
            "flow is an Ensemble, and fit trains one flow: write Ensemble([jaxflow.fit(each, x, "
            "key=key)[0] for each in flow.flows])"
        )
    if not isinstance(flow, Flow):
        raise TypeError(f"flow={flow!r} must be a CNF, a CouplingFlow or another jaxflow Flow")


def checked_names(train: Any) -> tuple[str, ...]:
    """The names of the parts to train; raises ValueError for none and unknown ones."""
    names = (train,) if isinstance(train, str) else tuple(train)
    if not names or any(name not in NAMES for name in names):
        raise ValueError(
            f"train={train!r} must name parts of the flow, out of {', '.join(NAMES)}: write "
            'train=("field", "base"), or give a tree as jaxflow.trainable(flow) makes it'
        )
    return names


def checked_train(flow: Any, train: Any) -> Any:
    """The argument `train` of `fit`, names or a tree, before the transform is known."""
    if not isinstance(train, Flow):
        names = checked_names(train)
        known = [name for name in names if name != "transform" or flow.transform is not None]
        if known:
            trainable(flow, known)
        return names
    if jax.tree.structure(train) != jax.tree.structure(flow):
        raise ValueError(
            "train has another structure than the flow: write train=jaxflow.trainable(flow), and "
            "change its entries by eqx.tree_at"
        )
    leaves = jax.tree_util.tree_leaves_with_path(train)
    for (path, chosen), leaf in zip(leaves, jax.tree.leaves(flow), strict=True):
        if not isinstance(chosen, bool) or (chosen and not eqx.is_inexact_array(leaf)):
            raise TypeError(
                f"train has {eqx.tree_pformat(chosen)} at {jax.tree_util.keystr(path)}, where the "
                f"flow has {eqx.tree_pformat(leaf)}: give True or False, and True for arrays of "
                "floating-point numbers alone"
            )
    if not any(jax.tree.leaves(train)):
        raise ValueError("train is False everywhere: write train=jaxflow.trainable(flow)")
    return train


def trains(train: Any, part: str) -> bool:
    """Whether names, or a tree, include arrays of the flow's `part`."""
    if isinstance(train, tuple):
        return part in train
    return any(jax.tree.leaves(getattr(train, part, None)))


def arrays_where(module: Any, chosen: Callable[[str], bool]) -> Any:
    """True for the floating-point arrays under the attributes `chosen`, except in `FACTS`."""

    def mark(path: Any, node: Any) -> Any:
        part = getattr(path[0], "name", "") if path else ""
        inside = not isinstance(node, FACTS) and chosen(part)
        return jax.tree.map(lambda leaf: inside and eqx.is_inexact_array(leaf), node)

    return jax.tree_util.tree_map_with_path(
        mark, module, is_leaf=lambda node: isinstance(node, FACTS)
    )


def _name_of(attribute: str) -> str:
    return attribute if attribute in OTHERS else "field"


def _nothing_to_train(flow: Any, name: str) -> str:
    if name != "field":
        return (
            f"train names the {name}, and {name}={getattr(flow, name, None)!r} has no arrays to "
            "train: leave it out"
        )
    return (
        f"field={words(getattr(flow, 'field', flow))} has no arrays to train, and weights that a "
        "function or a bound method holds are constants: write jax.tree_util.Partial(apply, "
        "params) in its place, with apply(params, t, x, ...), or give the module itself if it is "
        "a pytree (equinox, flax.nnx)"
    )


@dataclass(frozen=True)
class Slot:
    """Marks the position of a trained array in a module."""

    name: str


def partition_trainable(module: Any, tree: Any = None) -> tuple[dict[str, Array], Any]:
    """The trained arrays of a module by name, and the module with a `Slot` for each.

    `tree` is True for the arrays to take; None for `trainable(module)`. Raises ValueError for
    none.
    """
    tree = trainable(module) if tree is None else tree
    trained: dict[str, Array] = {}

    def take(path: Any, leaf: Any, chosen: bool) -> Any:
        if not chosen:
            return leaf
        name = jax.tree_util.keystr(path)
        trained[name] = jnp.asarray(leaf)
        return Slot(name)

    frozen = jax.tree_util.tree_map_with_path(take, module, tree)
    if not any(array.size for array in trained.values()):
        raise ValueError(_nothing_to_train(module, "field"))
    return trained, frozen


def combine_trainable(trained: dict[str, Array], frozen: Any) -> Any:
    """Put the trained arrays back: the inverse of `partition_trainable`."""
    return jax.tree.map(
        lambda leaf: trained[leaf.name] if isinstance(leaf, Slot) else leaf, frozen
    )
