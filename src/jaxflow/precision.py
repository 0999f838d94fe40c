"""The precision of a tree of arrays."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np


def widest(tree: Any) -> np.dtype:
    """The widest dtype among a tree's floating-point arrays; jax's default where it has none."""
    dtypes = [leaf.dtype for leaf in jax.tree.leaves(tree) if eqx.is_inexact_array(leaf)]
    widest = np.dtype(dtypes[0] if dtypes else jnp.zeros(()).dtype)
    for dtype in dtypes[1:]:
        widest = np.promote_types(widest, dtype)
    return widest


def accumulator(dtype: Any) -> Any:
    """The dtype in which sums are kept: this one, or float32 where it has fewer bits."""
    return dtype if jnp.dtype(dtype).itemsize >= 4 else jnp.dtype(jnp.float32)
