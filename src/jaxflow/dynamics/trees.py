"""A sum of regression trees, as arrays that jax can evaluate."""

from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int


class Trees(eqx.Module):
    """`sum_k tree_k(c)`: each tree sends a vector to one of its leaves.

    The trees describe the data: they are not trained (`jaxflow.trainable`), and their gradient
    is 0.

    ```python
    import jax.numpy as jnp
    import numpy as np
    from jaxflow.dynamics import Trees

    # One split: 10 where the first entry is at most 0.5, and 20 above.
    node = {"feature": [0, 0, 0], "threshold": [0.5, 0.0, 0.0], "left": [1, 1, 2]}
    node |= {"right": [2, 1, 2], "value": [0.0, 10.0, 20.0]}
    trees = Trees.stack([{name: np.asarray(part) for name, part in node.items()}])
    print(trees(jnp.asarray([0.7])))  # 20
    ```

    Attributes:
        feature: entry that a node compares, (trees, nodes).
        threshold: an entry at most this large goes left, (trees, nodes).
        left: index of the left child, (trees, nodes); a leaf is its own child.
        right: index of the right child, (trees, nodes).
        value: of a leaf, (trees, nodes).
        depth: steps from a root to its deepest leaf.
    """

    feature: Int[Array, "trees nodes"]
    threshold: Float[Array, "trees nodes"]
    left: Int[Array, "trees nodes"]
    right: Int[Array, "trees nodes"]
    value: Float[Array, "trees nodes"]
    depth: int = eqx.field(static=True)

    @classmethod
    def stack(cls, trees: Sequence[dict[str, Any]], dtype: Any = np.float32) -> "Trees":
        """Make the arrays from the nodes of each tree.

        Args:
            trees: for each tree the arrays `feature`, `threshold`, `left`, `right`, `value`, one
                entry a node, the root first.
            dtype: of thresholds and values. Thresholds are rounded down, so that entries of this
                dtype are sent the same way as by the exact thresholds.

        Returns:
            The trees.
        """
        count = max((len(tree["value"]) for tree in trees), default=1)

        def rows(name: str, dtype: Any) -> np.ndarray:
            out = np.zeros((len(trees), count), dtype)
            for row, tree in zip(out, trees, strict=True):
                row[: len(tree[name])] = tree[name]
            return out

        exact = rows("threshold", np.float64)
        rounded = exact.astype(dtype)
        down = np.nextafter(rounded, np.asarray(-np.inf, dtype), dtype=dtype)
        links = {name: rows(name, np.int32) for name in ("feature", "left", "right")}
        return cls(
            threshold=jnp.asarray(np.where(rounded > exact, down, rounded)),
            value=jnp.asarray(rows("value", dtype)),
            depth=_depth(links["left"], links["right"]),
            **{name: jnp.asarray(part) for name, part in links.items()},
        )

    def __call__(self, c: Float[Array, " entries"]) -> Float[Array, ""]:
        """The sum at one vector."""
        each, threshold = jnp.arange(len(self.value)), self.threshold.astype(c.dtype)

        def descend(_: Any, node: Array) -> Array:
            is_left = c[self.feature[each, node]] <= threshold[each, node]
            return jnp.where(is_left, self.left[each, node], self.right[each, node])

        leaf = lax.fori_loop(0, self.depth, descend, jnp.zeros(len(each), jnp.int32))
        return lax.stop_gradient(jnp.sum(self.value[each, leaf], dtype=self.value.dtype))


def _depth(left: np.ndarray, right: np.ndarray) -> int:
    """Largest number of steps from a root to a leaf, which is a node that is its own child."""
    reached, depth = np.zeros(left.shape, bool), 0
    reached[:, 0] = True
    while True:
        tree, node = np.nonzero(reached & (left != np.arange(left.shape[1])))
        if not len(tree):
            return depth
        reached = np.zeros(left.shape, bool)
        reached[tree, left[tree, node]] = reached[tree, right[tree, node]] = True
        depth += 1
