"""Arguments of flows as rows: checks of shapes, conditions and dtypes before any computation."""

import contextlib
import math
import operator
import warnings
from collections.abc import Sequence
from typing import Any, SupportsIndex

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, PyTree

from jaxflow.runtime.checks import check_rows, coarse_columns
from jaxflow.runtime.precision import accumulation_dtype, cast_floats, sample_dtype


def as_rows(
    x: Any, event_shape: tuple[int, ...], name: str, *, keep_float64: bool = False
) -> tuple[Any, tuple[int, ...]]:
    """Flatten the batch axes of `x`: the rows, (rows, *event), and the batch shape.

    `x` is an array of JAX or NumPy, a frame of pandas whose columns are numbers, or nested lists.
    Integers become floats; float64 becomes float32 unless `jax_enable_x64` is set, with a warning
    where that moves the values of a column by more than a thousandth of their spread.
    `keep_float64` returns a NumPy array instead, for a caller that subtracts offsets before it
    rounds. Raises ValueError for another shape, and TypeError for a random key or anything but
    real numbers (text, missing values, booleans, rows of unequal length).
    """
    _refuse_key(x, name, _batch_of(event_shape))
    x = _as_array(x, name)
    if not (jnp.issubdtype(x.dtype, jnp.floating) or jnp.issubdtype(x.dtype, jnp.integer)):
        raise TypeError(f"{name} has dtype {x.dtype}; it must hold real numbers")
    if jnp.issubdtype(x.dtype, jnp.integer):
        x = x.astype(np.float64 if isinstance(x, np.ndarray) else float)
    batch_ndim = x.ndim - len(event_shape)
    if batch_ndim < 0 or x.shape[batch_ndim:] != event_shape:
        hint = f": write {name}[:, None]" if x.ndim == 1 and event_shape == (1,) else ""
        if len(event_shape) == 1 and x.ndim >= 2:
            hint = f": expected {event_shape[0]} columns, got {x.shape[-1]}"
        raise ValueError(
            f"{name} has shape {x.shape}; this flow needs {_batch_of(event_shape)}{hint}"
        )
    batch = x.shape[:batch_ndim]
    rows = x.reshape(math.prod(batch), *event_shape)
    if isinstance(rows, np.ndarray):
        narrower = jax.dtypes.canonicalize_dtype(rows.dtype) != rows.dtype
        rows = rows if keep_float64 and narrower else _to_device(rows, name)
    return rows, batch


def _to_device(rows: np.ndarray, name: str) -> Array:
    """The rows as jax's array; warns of columns that its default precision rounds coarsely.

    Raises ValueError for numbers beyond the range of that precision.
    """
    dtype = jax.dtypes.canonicalize_dtype(rows.dtype)
    beyond = np.argwhere(np.isfinite(rows) & (np.abs(rows) > float(jnp.finfo(dtype).max)))
    if len(beyond):
        raise ValueError(
            f"{name} holds {rows[tuple(beyond[0])]:.3g} in row {beyond[0][0]} (from 0), beyond "
            f"the range of {dtype}: divide its columns by their size, or set "
            'jax.config.update("jax_enable_x64", True)'
        )
    arrays = jnp.asarray(rows)
    if rows.dtype == np.float64 != arrays.dtype and len(rows) > 1:
        warn_if_coarse(rows, name, stacklevel=5)
    return arrays


def warn_if_coarse(rows: np.ndarray, name: str, stacklevel: int) -> None:
    """Warn of columns that float32 rounds coarsely."""
    coarse = np.flatnonzero(coarse_columns(rows.reshape(len(rows), -1)))
    if coarse.size:
        warnings.warn(
            f"float32 is coarse for columns {coarse.tolist()} of {name}: their values are "
            'large and vary little; set jax.config.update("jax_enable_x64", True), or '
            "subtract an offset from these columns in float64",
            stacklevel=stacklevel,
        )


def batch_shape(shape: SupportsIndex | Sequence[SupportsIndex]) -> tuple[int, ...]:
    """Shape of a batch of samples, from its shape or the number of samples."""
    sizes: Any = shape
    try:
        batch = tuple(map(operator.index, sizes if np.ndim(sizes) else (sizes,)))
    except TypeError:
        raise TypeError(f"shape={shape!r} must be an integer or a tuple of integers") from None
    if any(size < 0 for size in batch):
        raise ValueError(f"shape={shape} must not be negative")
    return batch


def as_cond_rows(cond: Any, batch: tuple[int, ...]) -> Array | None:
    """Conditions of a batch in floating point, one a row, (rows, *condition); or None.

    `cond` is (*batch, *condition), or one vector or number for all rows. Raises ValueError if it
    fits the batch in two ways (a vector with as many entries as there are rows, two or more) or in
    none, or a row is neither finite nor NaN throughout; TypeError for a random key or anything but
    numbers.
    """
    if cond is None:
        return None
    _refuse_key(cond, "cond", f"{(*batch, 'c')}")
    cond = _as_array(cond, "cond")
    if isinstance(cond, np.ndarray):
        floats = cond if cond.dtype.kind == "f" else cond.astype(float)
        cond = _to_device(floats, "cond") if floats.ndim else jnp.asarray(floats)
    elif not jnp.issubdtype(cond.dtype, jnp.floating):
        cond = cond.astype(float)
    rows = math.prod(batch)
    if cond.shape[: len(batch)] == batch and (cond.ndim > len(batch) or not batch):
        cond = cond.reshape(rows, *cond.shape[len(batch) :])
        _check_cond_values(cond)
        return cond
    if batch and cond.shape == (rows,) and rows > 1:
        raise ValueError(
            f"cond has shape {cond.shape} for {rows} rows: it could be one number a row or one "
            "vector for all rows; write cond.reshape("
            f"{', '.join(map(str, batch))}, 1) for one number a row, or "
            f"jnp.broadcast_to(cond, {(*batch, rows)}) for one vector for all"
        )
    if cond.ndim <= 1:
        _check_cond_values(cond[None])
        return jnp.broadcast_to(cond, (rows, *cond.shape))
    raise ValueError(
        f"cond has shape {cond.shape} for a batch of shape {batch}: give {(*batch, 'c')}, or one "
        "vector (c,) for all rows"
    )


def check_finite(rows: Array | np.ndarray, name: str) -> None:
    """Raise ValueError if `rows` has NaN or infinity; no check under jit."""
    if not isinstance(rows, Tracer):
        # At least float32: NumPy does not count bfloat16 as floating point.
        check_rows(np.asarray(rows.astype(accumulation_dtype(rows.dtype))), name)


def promote_dtypes(*trees: PyTree) -> tuple[Any, ...]:
    """Cast the trees' floating-point arrays to the widest of their dtypes, float32 at least."""
    return cast_floats(trees, sample_dtype(*trees))


def _refuse_key(x: Any, name: str, shape: str) -> None:
    if eqx.is_array(x) and jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
        raise TypeError(f"{name} is a random key; it must be an array of shape {shape}")


def _as_array(x: Any, name: str) -> Any:
    """An array of jax; of NumPy where the numbers are not jax's."""
    if not isinstance(x, jax.Array | np.ma.MaskedArray):
        with contextlib.suppress(Exception):  # jax says below what is wrong
            host = np.asarray(x)
            if host.dtype.kind in "iuf":
                return host.astype(host.dtype.newbyteorder("="), copy=False)
    try:
        return jnp.asarray(x)
    except (TypeError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise TypeError(
            f"{name} is a {type(x).__name__} that does not convert to an array of numbers: "
            f"{reason}; give real numbers, such as {name}.to_numpy(float) of a table's numeric "
            "columns, without missing values and in rows of one length"
        ) from error


def _check_cond_values(cond: Array) -> None:
    """Raise unless each row is finite, or NaN throughout (the empty condition)."""
    if isinstance(cond, Tracer) or not cond.size:
        return
    # Known numbers, also where another function is traced around them.
    with jax.ensure_compile_time_eval():
        flat = cond.reshape(len(cond), -1)
        bad = np.asarray(~jnp.all(jnp.isfinite(flat), axis=1) & ~jnp.all(jnp.isnan(flat), axis=1))
    if bad.any():
        row = int(np.argmax(bad))
        raise ValueError(
            f"cond is not finite in {bad.sum()} of {len(bad)} rows, first row {row}: {cond[row]}; "
            "give finite numbers, or NaN in all entries of a row for the empty condition of a "
            "model that accepts one"
        )


def _batch_of(event_shape: tuple[int, ...]) -> str:
    return f"(*batch, {', '.join(map(str, event_shape))})" if event_shape else "(*batch,)"
