"""Tables of any sort as columns of cells, and back: frames, dicts of columns, files."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxflow.data.delimited import NULLS, TEXT, Layout, delimited_frames, sniff
from jaxflow.data.frames import import_polars
from jaxflow.data.tables import Table, read_table
from jaxflow.runtime.extras import import_extra
from jaxflow.tables.cells import Cells

# A frame of pandas or polars, a mapping of columns, a `Table`, or a file.
Frame = Any

_CHARS = 1 << 24


def sort_of(frame: Frame) -> str:
    """Which sort of frame samples should be: "pandas", "polars" or "dict"."""
    module = type(frame).__module__.partition(".")[0]
    if module in ("pandas", "polars"):
        return module
    from_file = isinstance(frame, Mapping) and any(isinstance(c, Cells) for c in frame.values())
    return "polars" if from_file or isinstance(frame, str | os.PathLike) else "dict"


def read_cells(frame: Frame, null: Sequence[str] = ()) -> dict[str, Cells]:
    """The columns of a table by name; `null` has more words for a missing cell.

    Takes a pandas or polars frame, a mapping of columns or of `Cells`, a `Table`, or the path of a
    file. Raises ValueError for columns that differ in length or share a name, and for none.
    """
    if isinstance(null, str):
        null = (null,)
    if isinstance(frame, str | os.PathLike):
        return _read_file(Path(frame), tuple(null))
    if isinstance(frame, Table):
        frame = dict(zip(frame.columns, frame.values.T, strict=True))
    if isinstance(frame, Mapping):
        columns = [(name, frame[name]) for name in frame]
    elif hasattr(frame, "columns") and hasattr(frame, "iloc"):
        columns = [(name, frame.iloc[:, j].to_numpy()) for j, name in enumerate(frame.columns)]
    elif hasattr(frame, "get_columns"):
        columns = [(column.name, _from_polars(column)) for column in frame.get_columns()]
    else:
        raise TypeError(
            f"frame is a {type(frame).__name__}; give a pandas or polars frame, a dict of "
            "columns, or the path of a file"
        )
    cells = [
        each if isinstance(each, Cells) else Cells.of(str(name), each, tuple(null))
        for name, each in columns
    ]
    return _checked(cells)


def read_frame(path: Path) -> Any:
    """The columns of a file as they are written, as a polars frame; text files as text."""
    pl = import_polars()
    if path.suffix.lower() == ".parquet":
        return pl.read_parquet(path, glob=False)
    if path.suffix.lower() not in TEXT:
        table = read_table(path)
        return pl.DataFrame(table.values, schema=list(table.columns))
    return pl.concat(_text_frames(path, sniff(path)))


def write_frame(sort: str, columns: dict[str, tuple[np.ndarray, np.ndarray]]) -> Frame:
    """A frame of values and of which of them are missing, by the name of the column."""
    if sort == "polars":
        pl = import_polars()
        none = pl.lit(None)
        frame = pl.DataFrame({name: values for name, (values, _) in columns.items()})
        gaps = {name: missing for name, (_, missing) in columns.items() if missing.any()}
        return frame.with_columns(
            pl.when(pl.Series(gap)).then(none).otherwise(pl.col(name)).alias(name)
            for name, gap in gaps.items()
        )
    filled = {name: _with_gaps(*column) for name, column in columns.items()}
    if sort == "dict":
        return filled
    pd = import_extra("pandas", "sklearn", "a pandas frame needs pandas")
    frame = pd.DataFrame(filled)
    for name, (values, missing) in columns.items():
        if missing.any() and values.dtype.kind in "ib":
            frame[name] = frame[name].astype("Int64" if values.dtype.kind == "i" else "boolean")
    return frame


def _with_gaps(values: np.ndarray, missing: np.ndarray) -> np.ndarray:
    """Values with NaN, NaT or None where they are missing."""
    if not missing.any():
        return values
    if values.dtype.kind == "f":
        return np.where(missing, np.nan, values)
    if values.dtype.kind == "M":
        return np.where(missing, np.datetime64("NaT"), values)
    filled = values.astype(object)
    filled[missing] = None
    return filled


def _checked(cells: list[Cells]) -> dict[str, Cells]:
    names = [each.name for each in cells]
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise ValueError(f"duplicate column names {repeated}; rename them")
    lengths = {each.name: len(each) for each in cells}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"the columns differ in length: {lengths}")
    if not cells or not len(cells[0]):
        raise ValueError("the table has no columns" if not cells else "the table has no rows")
    return dict(zip(names, cells, strict=True))


def _from_polars(column: Any) -> np.ndarray:
    pl = import_polars()
    if column.dtype in (pl.Date, pl.Datetime):
        return column.cast(pl.Datetime("us")).to_numpy()
    if column.dtype == pl.Decimal:
        column = column.cast(pl.Float64)
    is_rounded = column.dtype.is_integer() and column.has_nulls()
    if (column.dtype.is_numeric() and not is_rounded) or column.dtype == pl.Duration:
        return column.to_numpy()
    return np.array(column.to_list(), object)


def _read_file(path: Path, null: tuple[str, ...]) -> dict[str, Cells]:
    """The cells of a file; text that is numbers throughout becomes numbers."""
    if path.suffix.lower() == ".parquet":
        return read_cells(import_polars().read_parquet(path, glob=False), null)
    if path.suffix.lower() not in TEXT:
        return read_cells(read_table(path), null)
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file")
    layout = sniff(path)
    parts, commas = _text_frames(path, layout), layout.separator == ","
    try:
        cells = []
        for j, name in enumerate(parts[0].columns):
            raw = np.array([cell for part in parts for cell in part[:, j].to_list()], object)
            cells.append(Cells.of(name, raw, (*NULLS, *null), thousands=commas).parsed())
        return _checked(cells)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _text_frames(path: Path, layout: Layout) -> list[Any]:
    """The cells of a text file as text, in parts."""
    every = range(len(layout.names))
    return list(delimited_frames(path, layout, every, _CHARS, numbers=False))
