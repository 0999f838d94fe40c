"""A user's rows, conditions and weights: checked, put on the device, and repeated by weight."""

from dataclasses import replace
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from jaxflow.runtime.arguments import as_cond_rows, as_rows
from jaxflow.runtime.checks import check_rows

# Largest table, in entries, that repeats rows for their weights.
MAX_ENTRIES = 2**24


class Dataset(eqx.Module):
    """Samples, conditions and weights (how often each row counts) on the device; None for none."""

    x: Array
    cond: Array | None
    weights: Array | None = None


def data_rows(
    event_shape: tuple[int, ...], x: Any, cond: Any, name: str, weights: Any = None
) -> Dataset:
    """Check a user's rows, called `name` in errors; put those of positive weight on the device."""
    rows, batch = as_rows(x, event_shape, name)
    if len(batch) != 1 or batch[0] == 0:
        raise ValueError(
            f"{name} has shape {np.shape(x)}; give rows of shape (n, "
            f"{', '.join(map(str, event_shape))}) with n at least 1"
        )
    if weights is not None:
        weights = jnp.asarray(checked_weights(weights, len(rows), f"the weights of {name}"), float)
    counts = np.ones(len(rows), bool) if weights is None else np.asarray(weights) > 0
    rows = _blank(rows, counts)
    check_rows(np.asarray(rows), name)
    # A vector is one condition for all rows.
    conditions = as_cond_rows(_blank(cond, counts) if np.ndim(cond) > 1 else cond, batch)
    if conditions is not None:
        check_rows(np.asarray(conditions), f"the condition of {name}")
    data = Dataset(rows, conditions, weights)
    return data if counts.all() else jax.tree.map(lambda leaf: leaf[counts], data)


def take(index: Any, *arrays: Any) -> tuple[Any, ...]:
    """These rows of each array that is not None, such as `(x, cond)` or `(x,)` for `fit`."""
    return tuple(each[index] for each in arrays if each is not None)


def _blank(values: Any, counts: Bool[np.ndarray, " rows"]) -> Any:
    """Zeros in place of rows that do not count, which pass all checks; row numbers stay."""
    if counts.all() or np.shape(values)[:1] != counts.shape:
        return values
    values = jnp.asarray(values)
    mask = counts.reshape(-1, *[1] * (values.ndim - 1))
    return jnp.where(mask, values, jnp.zeros_like(values))


def checked_weights(weights: Any, count: int, name: str) -> Float[np.ndarray, " rows"]:
    """Weights in float64; raises ValueError unless they can weigh `count` rows."""
    weights = np.asarray(weights, np.float64)
    if weights.shape != (count,):
        raise ValueError(f"{name} must have shape ({count},), one a row: got {weights.shape}")
    bad = np.flatnonzero(~(np.isfinite(weights) & (weights >= 0)))
    if bad.size:
        raise ValueError(
            f"{name} must be 0 or positive numbers; row {bad[0]} has {weights[bad[0]]} "
            f"({bad.size} such rows)"
        )
    if not weights.any():
        raise ValueError(
            f"{name} must not be zero in every row: give at least one positive weight"
        )
    return weights


def repeat_rows(rows: Dataset) -> Dataset:
    """Rows repeated as often as they count, for estimates that take no weights.

    Other weights than integers, and large sums, are rounded: the number of copies of the first `k`
    rows is right to a half, for every `k`.
    """
    if rows.weights is None:
        return rows
    weights = np.asarray(rows.weights, np.float64)
    most = max(len(weights), MAX_ENTRIES // max(1, rows.x[0].size))
    count = min(max(round(weights.sum()), len(weights)), most)
    ends = np.floor(np.cumsum(weights) * (count / weights.sum()) + 0.5).astype(np.int64)
    index = np.repeat(np.arange(len(weights)), np.diff(ends, prepend=0))
    return jax.tree.map(lambda leaf: leaf[index], replace(rows, weights=None))
