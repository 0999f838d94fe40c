"""The precision of a tree of arrays, and of the matrix products among them."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from jaxflow.runtime.shapes import ArrayInput


def widest_dtype(tree: Any) -> np.dtype:
    """The widest dtype among a tree's floating-point arrays; jax's default if it has none."""
    dtypes = [leaf.dtype for leaf in jax.tree.leaves(tree) if eqx.is_inexact_array(leaf)]
    widest = np.dtype(dtypes[0] if dtypes else jnp.zeros(()).dtype)
    for dtype in dtypes[1:]:
        widest = np.promote_types(widest, dtype)
    return widest


def sample_dtype(*trees: Any) -> Any:
    """The dtype of samples: the widest of the trees' arrays, float32 at least."""
    return accumulation_dtype(widest_dtype(trees))


def as_floats(x: ArrayInput) -> Array:
    """`x` in its own floating dtype; in jax's default one if it holds integers."""
    x = jnp.asarray(x)
    return x if jnp.issubdtype(x.dtype, jnp.floating) else x.astype(float)


def accumulation_dtype(dtype: Any) -> Any:
    """The dtype for sums of `dtype`: itself, or float32 if it is narrower."""
    return dtype if jnp.dtype(dtype).itemsize >= 4 else jnp.dtype(jnp.float32)


def is_single(dtype: Any) -> bool:
    """Whether a dtype is float32 or narrower."""
    return jnp.dtype(dtype).itemsize <= 4


Function = TypeVar("Function", bound=Callable[..., Any])


@contextlib.contextmanager
def full_products(enabled: bool = True) -> Iterator[None]:
    """Compute matrix products in the full precision of their operands, inside the context.

    Accelerators round float32 products to fewer bits by default (TF32 on GPUs, bfloat16 on TPUs).
    That moves log-densities, and an adaptive solver mistakes it for error.
    `jax_default_matmul_precision` takes precedence if set.
    """
    if not enabled or getattr(jax.config, "jax_default_matmul_precision", None) is not None:
        yield
    else:
        with jax.default_matmul_precision("highest"):
            yield


def full_precision(f: Function) -> Function:
    """The function `f` with its matrix products in full precision (`full_products`)."""
    return full_products()(f)


@eqx.filter_custom_jvp
def in_float64(f: Callable[[Any], Any], dtype: Any, tree: Any) -> Any:
    """`f(tree)` computed in float64 and rounded to `dtype`; its derivatives are those of `dtype`.

    For the few sums and constants whose own rounding would show in a log-density. `f` must close
    over no arrays.
    """
    arrays, static = eqx.partition(tree, eqx.is_array)
    leaves, structure = jax.tree.flatten(arrays)

    def f_of_leaves(*leaves: Array) -> Any:
        tree = eqx.combine(structure.unflatten(leaves), static)
        with jax.enable_x64(True):
            return cast_floats(f(cast_floats(tree, jnp.float64)), dtype)

    return _keep_context(f_of_leaves)(*leaves)


@in_float64.def_jvp
def _(primals: Any, tangents: Any) -> tuple[Any, Any]:
    f, dtype, tree = primals
    out = eqx.filter_jvp(f, (cast_floats(tree, dtype),), (cast_floats(tangents[2], dtype),))[1]
    return in_float64(f, dtype, tree), out


def _keep_context(f: Callable[..., Any]) -> Callable[..., Any]:
    """`f`, whose `jax.vmap` calls it again, in the context that it enters.

    jax's own rule of `dot_general`, applied later, would lose float64.
    """
    kept = jax.custom_batching.custom_vmap(f)

    @kept.def_vmap
    def _(size: int, batched: list[bool], *args: Array) -> tuple[Any, Any]:
        axes = [0 if each else None for each in batched]
        out = _keep_context(jax.vmap(f, in_axes=axes, axis_size=size))(*args)
        return out, jax.tree.map(lambda _: True, out)

    return kept


def cast_floats(tree: Any, dtype: Any) -> Any:
    """The tree with its floating-point arrays in `dtype`."""

    def cast(leaf: Any) -> Any:
        is_other = eqx.is_inexact_array(leaf) and leaf.dtype != dtype
        return leaf.astype(dtype) if is_other else leaf

    return jax.tree.map(cast, tree)
