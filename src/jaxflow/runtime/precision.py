"""The precision of a tree of arrays, and of the products among them."""

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np


def widest_dtype(tree: Any) -> np.dtype:
    """The widest dtype among a tree's floating-point arrays; jax's default where it has none."""
    dtypes = [leaf.dtype for leaf in jax.tree.leaves(tree) if eqx.is_inexact_array(leaf)]
    widest_dtype = np.dtype(dtypes[0] if dtypes else jnp.zeros(()).dtype)
    for dtype in dtypes[1:]:
        widest_dtype = np.promote_types(widest_dtype, dtype)
    return widest_dtype


def accumulation_dtype(dtype: Any) -> Any:
    """The dtype in which sums are kept: this one, or float32 where it has fewer bits."""
    return dtype if jnp.dtype(dtype).itemsize >= 4 else jnp.dtype(jnp.float32)


Function = TypeVar("Function", bound=Callable[..., Any])


def full_precision(f: Function) -> Function:
    """The function with its matrix products in the full precision of their operands.

    Accelerators round float32 products to fewer bits by default (TF32 on GPUs, bfloat16 on
    TPUs). A log-density shows that, and a solver that chooses its steps takes the noise for
    error. Where the user has set `jax_default_matmul_precision`, that holds.
    """

    @functools.wraps(f)
    def run(*args: Any, **kwargs: Any) -> Any:
        if getattr(jax.config, "jax_default_matmul_precision", None) is not None:
            return f(*args, **kwargs)
        with jax.default_matmul_precision("highest"):
            return f(*args, **kwargs)

    return run  # pyright: ignore[reportReturnType]
