"""Polars data frames as arrays of numbers; polars is imported when a function first needs it."""

from collections.abc import Sequence
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import polars

# An error message quotes at most this many columns.
_MAX_NAMED = 10


def import_polars() -> ModuleType:
    """The polars module.

    Raises:
        ImportError: polars is not installed; says how to install it.
    """
    try:
        import polars
    except ImportError as error:
        raise ImportError(
            "CSV, text and Parquet tables need polars: pip install 'jaxflow-cnf[cli]'"
        ) from error
    return polars


def frame_to_array(frame: "polars.DataFrame", source: str, first: int = 0) -> np.ndarray:
    """The numbers of a data frame, (n, d): float32 if all columns are, else float64.

    Missing cells become NaN. Columns of text are read as numbers where every cell is one. Errors
    count rows from `first`.

    Raises:
        ValueError: a column holds something other than numbers; names each such column,
            its first offending value and that value's row, counted from `first`.
    """
    pl = import_polars()
    single = all(dtype == pl.Float32 for dtype in frame.dtypes)
    target = pl.Float32 if single else pl.Float64
    # Filled column by column: each is contiguous in memory, as data frames keep them.
    values = np.empty(frame.shape, np.float32 if single else np.float64, order="F")
    faults = []
    for j, column in enumerate(frame.get_columns()):
        if column.dtype == pl.String:
            text = column.str.strip_chars()
            numbers = text.cast(pl.Float64, strict=False)
            bad = numbers.is_null() & text.is_not_null() & (text != "")
            row = bad.arg_max() if bad.any() else None
        elif column.dtype.is_numeric() or column.dtype in (pl.Boolean, pl.Null):
            numbers, row = column.cast(target), None
        else:
            numbers, row = None, column.is_not_null().arg_max()
        if row is not None or numbers is None:
            faults.append(
                f"column {column.name!r} has {column[row or 0]!r:.60} in row {first + (row or 0)}"
            )
        else:
            values[:, j] = numbers.cast(target).fill_null(float("nan")).to_numpy()
    if faults:
        more = f"; and {len(faults) - _MAX_NAMED} more" if len(faults) > _MAX_NAMED else ""
        raise ValueError(
            f"{source}: not numbers: {'; '.join(faults[:_MAX_NAMED])}{more} (rows count from 0). "
            "Choose the columns of numbers with columns=[...], or encode these as numbers; "
            "leave a missing cell empty"
        )
    return np.ascontiguousarray(values)


def array_to_frame(values: np.ndarray, columns: Sequence[str]) -> "polars.DataFrame":
    """A data frame of the columns of `values`, (n, d), under the names `columns`."""
    pl = import_polars()
    return pl.DataFrame([pl.Series(name, values[:, j]) for j, name in enumerate(columns)])
