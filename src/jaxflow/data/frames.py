"""Numbers of polars data frames as arrays; polars is imported on first use."""

from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np

from jaxflow.runtime.extras import import_extra

if TYPE_CHECKING:
    import polars

# An error message quotes at most this many columns.
_MAX_QUOTED = 10


def import_polars() -> ModuleType:
    """Import polars, or raise an ImportError that says how to install it."""
    return import_extra("polars", "cli", "CSV, text and Parquet tables need polars")


def frame_to_array(frame: "polars.DataFrame", source: str, first_row: int = 0) -> np.ndarray:
    """Numbers of a data frame, (n, d): float32 if all columns are, else float64.

    Missing cells become NaN. A column of text is read as numbers if every cell is one.
    """
    pl = import_polars()
    single = all(dtype == pl.Float32 for dtype in frame.dtypes)
    target = pl.Float32 if single else pl.Float64
    # Column-major while filling: data frames store columns contiguously.
    values = np.empty(frame.shape, np.float32 if single else np.float64, order="F")
    faults = []
    for j, column in enumerate(frame.get_columns()):
        if column.dtype == pl.String:
            text = column.str.strip_chars()
            numbers = text.cast(pl.Float64, strict=False)
            bad = numbers.is_null() & text.is_not_null() & (text != "")
        elif column.dtype.is_numeric() or column.dtype in (pl.Boolean, pl.Null):
            numbers, bad = column.cast(target), None
        else:
            numbers, bad = None, column.is_not_null()
        if numbers is None or (bad is not None and bad.any()):
            row = 0 if bad is None else bad.arg_max() or 0
            faults.append(
                f"column {column.name!r} has {column[row]!r:.60} in row {first_row + row}"
            )
        else:
            values[:, j] = numbers.cast(target).fill_null(float("nan")).to_numpy()
    if faults:
        more = f"; and {len(faults) - _MAX_QUOTED} more" if len(faults) > _MAX_QUOTED else ""
        raise ValueError(
            f"{source}: not numbers: {'; '.join(faults[:_MAX_QUOTED])}{more} (rows count from 0). "
            "Choose the columns of numbers with columns=[...] (command line: --columns a,b), or "
            "encode these as numbers; leave a missing cell empty"
        )
    return np.ascontiguousarray(values)
