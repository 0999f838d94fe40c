"""Arguments as rows: shapes, conditions and dtypes, checked before anything is computed."""

import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, PyTree

from jaxflow.runtime.checks import check_rows
from jaxflow.runtime.precision import accumulation_dtype, widest_dtype


def as_rows(x: Any, event_shape: tuple[int, ...], name: str) -> tuple[Array, tuple[int, ...]]:
    """`x` as a batch `(rows, *event)`, and the batch shape it came in.

    Raises:
        ValueError: `x` does not end in the event's shape.
        TypeError: `x` is a random key or not numeric.
    """
    _refuse_key(x, name, _shape(event_shape))
    x = jnp.asarray(x)
    if not (jnp.issubdtype(x.dtype, jnp.floating) or jnp.issubdtype(x.dtype, jnp.integer)):
        raise TypeError(f"{name} has dtype {x.dtype}; real numbers belong here")
    if jnp.issubdtype(x.dtype, jnp.integer):
        x = x.astype(float)
    split = x.ndim - len(event_shape)
    if split < 0 or x.shape[split:] != event_shape:
        hint = f": write {name}[:, None]" if x.ndim == 1 and event_shape == (1,) else ""
        if len(event_shape) == 1 and x.ndim >= 2:
            hint = f": expected {event_shape[0]} columns, got {x.shape[-1]}"
        raise ValueError(
            f"{name} has shape {x.shape}; this flow needs {_shape(event_shape)}{hint}"
        )
    batch = x.shape[:split]
    return x.reshape(math.prod(batch), *event_shape), batch


def batch_shape(shape: tuple[int, ...] | int) -> tuple[int, ...]:
    """The shape of a batch of samples, given so or as their number.

    Raises:
        ValueError: a negative size.
    """
    batch = (shape,) if isinstance(shape, int) else tuple(shape)
    if any(size < 0 for size in batch):
        raise ValueError(f"shape={shape} must not be negative")
    return batch


def as_cond_rows(cond: Any, batch: tuple[int, ...]) -> Array | None:
    """Conditions as `(rows, *condition)`: one a row, or one vector for all rows.

    Raises:
        ValueError: the leading shape is not the batch's, or a condition is NaN in part.
    """
    if cond is None:
        return None
    _refuse_key(cond, "cond", f"{(*batch, 'c')}")
    cond = jnp.asarray(cond)
    if not jnp.issubdtype(cond.dtype, jnp.floating):
        cond = cond.astype(float)
    rows = math.prod(batch)
    if cond.shape[: len(batch)] == batch and (cond.ndim > len(batch) or not batch):
        cond = cond.reshape(rows, *cond.shape[len(batch) :])
        _refuse_gaps(cond)
        return cond
    if cond.ndim <= 1:
        _refuse_gaps(cond[None])
        return jnp.broadcast_to(cond, (rows, *cond.shape))
    raise ValueError(
        f"cond has shape {cond.shape} for a batch of shape {batch}: give {(*batch, 'c')}, or one "
        "vector (c,) for all rows"
    )


def check_finite(rows: Array, name: str) -> None:
    """Refuse NaN and infinity by their row numbers, where the values are known.

    Raises:
        ValueError: see `jaxflow.data.check_rows`.
    """
    if not isinstance(rows, Tracer):
        # NumPy counts bfloat16 among no numbers.
        check_rows(np.asarray(rows.astype(accumulation_dtype(rows.dtype))), name)


def promote_dtypes(*trees: PyTree) -> tuple[Any, ...]:
    """The trees with every floating-point array in the widest of their dtypes."""
    dtype = widest_dtype(trees)

    def cast(leaf: Any) -> Any:
        return leaf.astype(dtype) if eqx.is_inexact_array(leaf) else leaf

    return jax.tree.map(cast, trees)


def _refuse_key(x: Any, name: str, shape: str) -> None:
    if eqx.is_array(x) and jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
        raise TypeError(f"{name} is a random key; an array of shape {shape} belongs here")


def _refuse_gaps(cond: Array) -> None:
    """Refuse conditions with a number that is not finite, unless all of a row's are NaN."""
    if isinstance(cond, Tracer) or not cond.size:
        return
    flat = cond.reshape(len(cond), -1)
    bad = np.asarray(~jnp.all(jnp.isfinite(flat), axis=1) & ~jnp.all(jnp.isnan(flat), axis=1))
    if bad.any():
        row = int(np.argmax(bad))
        raise ValueError(
            f"cond is not finite in {bad.sum()} of {len(bad)} rows, first row {row}: {cond[row]}; "
            "give numbers (a row of NaN alone is no condition, for models that know it)"
        )


def _shape(event_shape: tuple[int, ...]) -> str:
    return f"(*batch, {', '.join(map(str, event_shape))})" if event_shape else "(*batch,)"
