"""A field computed in lower precision than the states it moves."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array

from jaxflow.dynamics.wrapper import AbstractWrapper, Run
from jaxflow.runtime.checks import check_choice
from jaxflow.runtime.precision import cast_floats

DTYPES = ("bfloat16", "float16", "float32")


class Rounded(AbstractWrapper):
    """`f(t, x)` computed in low precision, which accelerators multiply faster.

    Weights are stored in full precision and rounded at each use, as activations are, so small
    updates are not lost (Micikevicius et al. 2018, "Mixed Precision Training", arXiv 1710.03740).
    States and sums of log-densities keep their precision. bfloat16 has 8 significant bits: train
    with it, and report likelihoods of the full-precision field, `unrounded(flow)`.

    ```python
    import jax
    from jaxflow import CNF, StandardNormal
    from jaxflow.dynamics import MLP, Rounded, unrounded

    flow = CNF(Rounded(MLP(2, key=jax.random.key(0))), StandardNormal(2))
    # ... train, then evaluate in full precision:
    flow = unrounded(flow)
    ```

    Attributes:
        field: a field or function `f(t, x, cond=None)`.
        dtype: `"bfloat16"`, `"float16"` or `"float32"`.

    Raises:
        TypeError: `field` is not callable.
        ValueError: `dtype` is unknown.
    """

    field: Any
    dtype: str = eqx.field(static=True, default="bfloat16")

    def __check_init__(self) -> None:
        check_choice("dtype", self.dtype, DTYPES)

    def apply(self, run: Run, t: Array, x: Array, cond: Array | None = None) -> Any:
        """The field's value (and trace) in low precision, cast back to the dtype of `x`."""
        rounded = cast_floats((self.field, t, x, cond), jnp.dtype(self.dtype))
        return cast_floats(run(*rounded), x.dtype)


def unrounded(tree: Any) -> Any:
    """Replace every `Rounded` field in a flow, or in any pytree, by its full-precision field.

    Args:
        tree: a flow, a field or any pytree.

    Returns:
        The same tree without rounding.
    """

    def is_rounded(node: Any) -> bool:
        return isinstance(node, Rounded)

    return jax.tree.map(
        lambda node: unrounded(node.field) if is_rounded(node) else node, tree, is_leaf=is_rounded
    )
