"""What a table must satisfy before a density is fitted to it, and its split into two parts."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy.typing import ArrayLike

# An error message lists at most this many rows or columns.
_MAX_LISTED = 10
# What rounding to float32 may move values by, as a part of their spread.
_COARSE = 1e-3


def check_count(name: str, value: Any, least: int = 1) -> None:
    """Refuse what is no whole number, or a smaller one than `least`.

    Raises:
        ValueError: names the argument, its value and what is allowed.
    """
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ValueError(f"{name}={value!r} must be a whole number of at least {least}")


def finite_rows(x: ArrayLike) -> Bool[np.ndarray, " n"]:
    """Mask of the rows without NaN or infinity: `all(isfinite(x[i]))`.

    Args:
        x: rows of any event shape, (n, *event).

    Returns:
        Booleans, (n,).
    """
    return np.asarray(np.isfinite(_flat(x, "x")).all(axis=1))


def check_rows(
    x: ArrayLike, name: str = "x", columns: Sequence[str] | None = None, *, first: int = 0
) -> None:
    """Check that every number is finite.

    Args:
        x: rows of any event shape, (n, *event); columns count along the flattened event.
        name: what an error calls `x`.
        columns: names of the columns, for the error.
        first: number of the first row, for the error.

    Raises:
        ValueError: there is a NaN or an infinity; says in how many rows, which rows (counted
            from 0) and columns, and how to drop them.
    """
    flat = _flat(x, name)
    finite = np.isfinite(flat)
    rows = np.flatnonzero(~finite.all(axis=1))
    if rows.size == 0:
        return
    where = [_label(j, columns) for j in np.flatnonzero(~finite.all(axis=0)).tolist()]
    raise ValueError(
        f"{name} has NaN or infinity in {rows.size} of {len(flat)} rows: "
        f"rows {_listed([str(i) for i in first + rows])} (from 0), columns {_listed(where)}. "
        f"Drop them with {name}[finite_rows({name})], or --drop-nan on the command line"
    )


def check_columns(x: ArrayLike, columns: Sequence[str] | None = None) -> None:
    """Check that every column varies by more than the rounding of its values.

    A column is constant where max == min, or where its standard deviation is at most
    `2 eps max|x|`, eps being the spacing of floats at 1 in the precision of `x`.

    Args:
        x: rows of any event shape, (n, *event).
        columns: names of the columns, for the error.

    Raises:
        ValueError: a number is not finite (as `check_rows`), or a column is constant, so that
            the data have no density; names each such column and its value.
    """
    flat = _flat(x, "x")
    if len(flat) == 0:
        raise ValueError("x has no rows")
    check_rows(flat, columns=columns)
    eps = np.finfo(flat.dtype).eps
    # Moments in units of the largest value: no overflow, and no square that underflows.
    size = np.abs(flat).max(axis=0).astype(np.float64)
    shifted = flat.astype(np.float64) / np.where(size > 0, size, 1.0)
    std = (shifted - shifted[:1]).std(axis=0)
    constant = (flat.max(axis=0) == flat.min(axis=0)) | (std <= 2 * eps)
    if not constant.any():
        return
    found = [f"{_label(j, columns)} = {flat[0, j]}" for j in np.flatnonzero(constant).tolist()]
    is_one = len(found) == 1
    raise ValueError(
        f"x is constant (to rounding) in {len(found)} column{'' if is_one else 's'}: "
        f"{_listed(found)}. Remove {'it' if is_one else 'them'}: "
        "a constant column has no density"
    )


def coarse_columns(x: Float[np.ndarray, "n d"]) -> Bool[np.ndarray, " d"]:
    """The columns whose values float32 moves by more than a thousandth of their spread.

    A constant column loses nothing.
    """
    spread, size = x.std(axis=0), np.abs(x).max(axis=0)
    lost = np.finfo(np.float32).eps * size > _COARSE * spread
    return np.asarray(lost & (spread > 0))


def split(
    n: int, fraction: float, seed: int
) -> tuple[Int[np.ndarray, " t"], Int[np.ndarray, " v"]]:
    """Split n rows at random: `round(fraction n)` for validation, the others for training.

    Args:
        n: number of rows.
        fraction: the part kept for validation, between 0 and 1.
        seed: of NumPy's default generator; the same seed gives the same split.

    Returns:
        Row numbers `(train_idx, validation_idx)`, disjoint, in random order.

    Raises:
        ValueError: `fraction` is not between 0 and 1, or leaves either part without a row.
    """
    if n < 2:
        raise ValueError(f"n={n}: a split needs at least 2 rows")
    if not 0 < fraction < 1:
        raise ValueError(f"fraction={fraction} must lie between 0 and 1, such as 0.1")
    num_validation = round(fraction * n)
    if not 0 < num_validation < n:
        empty = "validation" if num_validation == 0 else "training"
        raise ValueError(
            f"fraction={fraction} of n={n} rows leaves no {empty} row; "
            f"take a fraction between {1 / n:.3g} and {1 - 1 / n:.3g}"
        )
    order = np.random.default_rng(seed).permutation(n)
    return order[num_validation:], order[:num_validation]


def _flat(x: ArrayLike, name: str) -> Float[np.ndarray, "n d"]:
    """Rows with a flattened event, (n, d), in floating point."""
    array = np.asarray(x)
    if array.ndim == 0 or array.dtype.kind not in "biuf":
        raise ValueError(
            f"{name} has shape {array.shape} and dtype {array.dtype}; "
            "rows of real numbers are needed, (n, *event)"
        )
    if array.dtype.kind != "f":
        array = array.astype(np.float64)
    width = int(np.prod(array.shape[1:]))  # stated, since -1 is ambiguous without rows
    return array.reshape(array.shape[0], width)


def _label(column: int, columns: Sequence[str] | None) -> str:
    return str(column) if columns is None else f"{columns[column]!r}"


def _listed(items: list[str]) -> str:
    more = len(items) - _MAX_LISTED
    return ", ".join(items[:_MAX_LISTED]) + (f", ... ({more} more)" if more > 0 else "")
