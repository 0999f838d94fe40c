"""Checks of counts and of tables before a fit, and the split into training and validation."""

from collections.abc import Hashable, Iterable, Sequence
from numbers import Integral
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy.typing import ArrayLike

from jaxflow.runtime.text import listed

# A column is coarse if rounding to float32 moves values by more than this share of their spread.
_COARSE = 1e-3


def check_count(name: str, value: Any, least: int = 1) -> int:
    """The value as an int; raises ValueError unless it is an integer >= `least`.

    NumPy's integers count, bools do not. Static fields and files can hold an int.
    """
    # Not operator.index: it accepts arrays, which no static field can hold.
    if isinstance(value, bool) or not isinstance(value, Integral) or value < least:
        raise ValueError(f"{name}={value!r} must be an integer >= {least}")
    return int(value)


def check_choice(name: str, value: Any, choices: Iterable[Any], more: str = "") -> None:
    """Raise ValueError unless `value` is one of `choices`; `more` ends the message."""
    choices = tuple(choices)
    # Lists and arrays are no names; NumPy's dtypes equal theirs.
    if not isinstance(value, Hashable) or value not in choices:
        known = ", ".join(map(repr, choices))
        raise ValueError(f"{name}={value!r} is unknown; choose one of {known}{more}")


def check_share(name: str, value: float, such_as: float = 0.1) -> None:
    """Raise ValueError unless the value lies between 0 and 1."""
    if not 0 < value < 1:
        raise ValueError(f"{name}={value} must lie between 0 and 1, such as {such_as:g}")


def check_event_shape(event_shape: Any) -> tuple[int, ...]:
    """The shape of one event, from a shape or an integer `d` for vectors."""
    sizes = tuple(event_shape) if np.ndim(event_shape) else (event_shape,)
    are_integers = all(isinstance(s, Integral) and not isinstance(s, bool) for s in sizes)
    if not are_integers or min(sizes, default=1) < 1:
        raise ValueError(f"event_shape={event_shape} must hold sizes of at least 1")
    return tuple(map(int, sizes))


def check_event(name: str, value: Any, event_shape: tuple[int, ...], method: str) -> None:
    """Raise unless `value` is one event: a batch would broadcast and give one wrong number.

    The error names the `method` to vectorise.
    """
    if np.shape(value) != event_shape:
        raise ValueError(
            f"{name} has shape {np.shape(value)}; {method} takes one event of shape "
            f"{event_shape}. For a batch write jax.vmap({method})({name})"
        )


def check_unmasked(name: str, x: Any) -> None:
    """Raise ValueError for a masked array with masked cells, whose values would count."""
    if np.ma.is_masked(x):
        raise ValueError(
            f"{name} is a masked array with {int(np.ma.count_masked(x))} masked cells: drop their "
            f"rows, np.ma.compress_rows({name}), or give jaxflow.fit_table the columns, where "
            "they count as missing"
        )


def finite_rows(x: ArrayLike) -> Bool[np.ndarray, " n"]:
    """Mask of the rows without NaN or infinity: `all(isfinite(x[i]))`.

    ```python
    import numpy as np
    from jaxflow.data import finite_rows

    x = np.array([[1.0, 2.0], [np.nan, 3.0]])
    print(finite_rows(x))  # [ True False]
    x = x[finite_rows(x)]
    ```

    Args:
        x: rows of any event shape, (n, *event).

    Returns:
        Booleans, (n,).

    Raises:
        ValueError: `x` does not hold rows of real numbers.
    """
    return np.asarray(np.isfinite(flat_rows(x, "x")).all(axis=1))


def check_rows(
    x: ArrayLike, name: str = "x", columns: Sequence[str] | None = None, *, first: int = 0
) -> None:
    """Raise if `x` has NaN or infinity.

    ```python
    import numpy as np
    from jaxflow.data import check_rows

    check_rows(np.ones((3, 2)), columns=["a", "b"])
    ```

    Args:
        x: rows of any event shape, (n, *event); columns count along the flattened event.
        name: name of `x` in the error.
        columns: names of the columns for the error; numbers by default.
        first: number of the first row in the error, if `x` is a part of a table.

    Raises:
        ValueError: a value is NaN or infinite; the message lists rows (counted from 0) and
            columns, and says how to drop the rows. Or `x` does not hold rows of real numbers.
    """
    flat = flat_rows(x, name)
    finite = np.isfinite(flat)
    rows = np.flatnonzero(~finite.all(axis=1))
    if rows.size == 0:
        return
    bad_columns = [column_name(j, columns) for j in np.flatnonzero(~finite.all(axis=0)).tolist()]
    raise ValueError(
        f"{name} has NaN or infinity in {rows.size} of {len(flat)} rows: "
        f"rows {listed([str(i) for i in first + rows])} (from 0), columns {listed(bad_columns)}. "
        f"Drop them with {name}[finite_rows({name})], or --drop-nan on the command line"
    )


def as_matrix(values: Any, name: str, axes: str) -> Float[np.ndarray, "..."]:
    """Finite numbers in float64, with `axes` such as "n, d", none of them 0."""
    array = np.asarray(values).astype(np.float64)
    if array.ndim != len(axes.split(",")) or not array.size:
        raise ValueError(f"{name} has shape {array.shape}; give ({axes}), none of them 0")
    check_rows(array, name)
    return array


def check_columns(x: ArrayLike, columns: Sequence[str] | None = None) -> None:
    """Raise if a column is constant, to the rounding of its values.

    See `constant_columns`, with eps the spacing of floats at 1 in the precision of `x`.

    ```python
    import numpy as np
    from jaxflow.data import check_columns

    check_columns(np.random.default_rng(0).normal(size=(100, 2)), columns=["a", "b"])
    ```

    Args:
        x: rows of any event shape, (n, *event).
        columns: names of the columns for the error; numbers by default.

    Raises:
        ValueError: a column is constant, so the data have no density (the message names each
            constant column and its value); a value is not finite (as `check_rows`); or `x` has
            fewer than two rows.
    """
    flat = flat_rows(x, "x")
    if len(flat) == 0:
        raise ValueError("x has no rows")
    check_rows(flat, columns=columns)
    if len(flat) == 1:
        raise ValueError("x has one row, which has no density: give at least two")
    constant = np.flatnonzero(constant_columns(flat, float(np.finfo(flat.dtype).eps)))
    if constant.size == 0:
        return
    values = [f"{column_name(j, columns)} = {flat[0, j]}" for j in constant.tolist()]
    is_one = len(values) == 1
    advice = f"Remove {'it' if is_one else 'them'}: a constant column has no density"
    if (flat.max(axis=0) > flat.min(axis=0))[constant].any():
        advice = f"{flat.dtype} hardly tells the values apart: subtract an offset in float64"
    raise ValueError(
        f"x is constant (to rounding) in {len(values)} column{'' if is_one else 's'}: "
        f"{listed(values)}. {advice}"
    )


def constant_columns(x: Float[np.ndarray, "n *event"], eps: float) -> Bool[np.ndarray, "*event"]:
    """Mask of the columns that are constant, to the rounding of their values, (*event).

    A column is constant if max == min, or if its standard deviation is at most `2 eps max|x|`,
    with the spacing `eps` at 1 of the dtype that the values have, or will have. Rows are finite,
    at least one.
    """
    # Moments in units of the largest value: no overflow, and no square that underflows.
    largest = np.abs(x).max(axis=0).astype(np.float64)
    scaled = x.astype(np.float64) / np.where(largest > 0, largest, 1.0)
    std = (scaled - scaled[:1]).std(axis=0)
    return np.asarray((x.max(axis=0) == x.min(axis=0)) | (std <= 2 * eps))


def coarse_columns(x: Float[np.ndarray, "n d"]) -> Bool[np.ndarray, " d"]:
    """Mask of the columns that lose precision in float32, (d,).

    In such a column float32 moves the largest value by more than a thousandth of the standard
    deviation. A constant column has nothing to lose.
    """
    with np.errstate(invalid="ignore"):  # what is not finite is refused elsewhere
        spread, largest = x.std(axis=0), np.abs(x).max(axis=0)
    coarse = np.finfo(np.float32).eps * largest > _COARSE * spread
    return np.asarray(coarse & (spread > 0))


def split(
    n: int, fraction: float, seed: int, *, name: str = "fraction"
) -> tuple[Int[np.ndarray, " t"], Int[np.ndarray, " v"]]:
    """Split n rows at random: `round(fraction n)` for validation, the others for training.

    ```python
    from jaxflow.data import split

    train, validation = split(100, 0.1, seed=0)
    print(len(train), len(validation))  # 90 10
    ```

    Args:
        n: number of rows, at least 2.
        fraction: share of the validation rows, between 0 and 1.
        seed: seed of NumPy's default generator; the same seed gives the same split.
        name: name of `fraction` in errors.

    Returns:
        Row numbers `(train, validation)`, disjoint, in random order.

    Raises:
        ValueError: `n` is below 2, or `fraction` is out of range or leaves a part without rows.
    """
    if n < 2:
        raise ValueError(f"n={n}: a split needs at least 2 rows")
    check_share(name, fraction)
    num_validation = round(fraction * n)
    if not 0 < num_validation < n:
        empty = "validation" if num_validation == 0 else "training"
        raise ValueError(
            f"{name}={fraction} of n={n} rows leaves no {empty} row; "
            f"take a fraction between {1 / n:.3g} and {1 - 1 / n:.3g}"
        )
    order = np.random.default_rng(seed).permutation(n)
    return order[num_validation:], order[:num_validation]


def flat_rows(x: ArrayLike, name: str) -> Float[np.ndarray, "n d"]:
    """Rows with a flattened event, (n, d), in floating point."""
    check_unmasked(name, x)
    array = np.asarray(x)
    if array.dtype == "bfloat16":
        array = array.astype(np.float32)
    if array.ndim == 0 or array.dtype.kind not in "biuf":
        raise ValueError(
            f"{name} has shape {array.shape} and dtype {array.dtype}; "
            "it must hold rows of real numbers, (n, *event)"
        )
    if array.dtype.kind != "f":
        array = array.astype(np.float64)
    width = int(np.prod(array.shape[1:]))  # not -1, which is ambiguous without rows
    return array.reshape(array.shape[0], width)


def column_name(number: int, columns: Sequence[str] | None) -> str:
    """A column's name in quotes, or its number, for errors."""
    return str(number) if columns is None else f"{columns[number]!r}"
