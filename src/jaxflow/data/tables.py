"""Tables of numbers in files: CSV and other text, NumPy, Parquet."""

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from jaxflow.data.arrays import read_array, to_floats
from jaxflow.data.delimited import delimited_blocks, delimited_names, header_line, is_number
from jaxflow.data.frames import array_to_frame, frame_to_array, import_polars
from jaxflow.io.atomic import atomic_write

if TYPE_CHECKING:
    import polars

# Characters of a block of text for each of its rows.
TEXT_ROW = 256
_TEXT = (".csv", ".tsv", ".txt")
_READS = (*_TEXT, ".npy", ".npz", ".parquet")
_WRITES = (".csv", ".npy", ".parquet")


@dataclass(frozen=True, eq=False)
class Table:
    """Rows of numbers under named columns.

    Attributes:
        values: the numbers, (n, d), float32 or float64.
        columns: the d names, in the order of the columns.

    Raises:
        ValueError: `values` has another shape or type, or `columns` does not name each of
            its columns once.
    """

    values: np.ndarray
    columns: tuple[str, ...]

    def __post_init__(self) -> None:
        if self.values.ndim != 2 or self.values.dtype not in (np.float32, np.float64):
            raise ValueError(
                f"values has shape {self.values.shape} and dtype {self.values.dtype}; "
                "a table holds (n, d) float32 or float64"
            )
        _check_names(self.columns, self.values.shape[1], "columns")


def read_table(path: str | os.PathLike[str], columns: Sequence[str] | None = None) -> Table:
    """Read a table of numbers from a file.

    - .csv, .tsv, .txt: UTF-8 text split at tabs, semicolons, commas or spaces, as float64. A
      first line of numbers alone is data, and the columns are called x0, x1, ...; any other
      first line is the header.
    - .npy: one array, (n, d); columns x0, x1, ...
    - .npz: the array called x, or else the only (n, d) array of numbers in the file.
    - .parquet: every column, as float32 if all of them are.

    Numbers stored as float32 stay so; integers, booleans and half precision become float64.
    Empty cells and nulls become NaN, for `check_rows` to find. Nothing is ever unpickled.

    Args:
        path: the file.
        columns: names of the columns to keep, in this order; all of them by default.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file is not a table of numbers, or lacks one of `columns`.
        ImportError: text and Parquet need polars, which is not installed.
    """
    return next(read_blocks(path, columns, None))


def read_blocks(
    path: str | os.PathLike[str], columns: Sequence[str] | None = None, rows: int | None = 65_536
) -> Iterator[Table]:
    """What `read_table` reads, about `rows` rows at a time, so that a file of any size will do.

    NumPy's compressed archives alone are read whole. Errors of a cell count its row from the
    file's first.

    Args:
        path: the file.
        columns: names of the columns to keep, in this order; all of them by default.
        rows: rows of a block, for text as many as take the room of such rows; None for all.

    Raises:
        ValueError, FileNotFoundError, ImportError: as `read_table`, of a cell when its block is
            reached.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in _READS:
        raise ValueError(f"{path}: unknown suffix {suffix!r}; a table is {', '.join(_READS)}")
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file")
    if not path.is_file():
        raise ValueError(f"{path}: not a file")
    if path.stat().st_size == 0:
        raise ValueError(f"{path}: the file is empty")
    if suffix in (".npy", ".npz"):
        return _array_blocks(path, columns, rows)
    if suffix in _TEXT:
        size = -1 if rows is None else rows * TEXT_ROW
        return _frame_blocks(path, columns, delimited_blocks(path, size))
    return _frame_blocks(path, columns, _parquet_blocks(path, rows))


def table_names(path: str | os.PathLike[str]) -> tuple[str, ...]:
    """The names of a table's columns, also where some hold text, from the head of the file.

    Raises:
        ValueError, FileNotFoundError, ImportError: as `read_table`, but for its cells.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if path.is_file() and path.stat().st_size > 0:
        if suffix in _TEXT:
            return delimited_names(path)
        if suffix == ".parquet":
            return next(_parquet_blocks(path, 1))[1]
    return next(read_blocks(path)).columns


def _array_blocks(path: Path, columns: Sequence[str] | None, rows: int | None) -> Iterator[Table]:
    values = read_array(path, mapped=rows is not None)
    names = tuple(f"x{i}" for i in range(values.shape[1]))
    chosen = _choose(names, columns, path)
    if len(values) == 0:
        raise ValueError(f"{path}: the table has no rows")
    for first in range(0, len(values), rows or len(values)):
        block = values[first : first + (rows or len(values))]
        block = block if columns is None else block[:, chosen]
        yield Table(to_floats(block, str(path)), tuple(names[i] for i in chosen))


def _frame_blocks(
    path: Path,
    columns: Sequence[str] | None,
    blocks: "Iterator[tuple[polars.DataFrame, tuple[str, ...]]]",
) -> Iterator[Table]:
    first, chosen = 0, None
    for frame, names in blocks:
        chosen = _choose(names, columns, path) if chosen is None else chosen
        kept = frame[:, chosen]
        # Cells of text are named in errors by the file's own names.
        kept.columns = [names[i] for i in chosen]
        values = frame_to_array(kept, str(path), first)
        first += len(values)
        if first == 0:
            raise ValueError(f"{path}: the table has no rows")
        yield Table(values, tuple(kept.columns))


def write_table(
    path: str | os.PathLike[str],
    values: np.ndarray,
    columns: Sequence[str],
    overwrite: bool = False,
) -> None:
    """Write a table so that `read_table` gives the same numbers back, bit for bit.

    The file appears whole or not at all: it is written beside `path` under a temporary name,
    then renamed. CSV is float64 with as many digits as that takes; .npy keeps no names.

    Args:
        path: a .csv, .npy or .parquet file in a folder that exists.
        values: the numbers, (n, d).
        columns: the d names.
        overwrite: replace a file that exists.

    Raises:
        FileExistsError: `path` exists and `overwrite` is False.
        FileNotFoundError: the folder of `path` does not exist.
        ValueError: unknown suffix, `values` not (n, d) numbers, or names that do not fit.
        ImportError: CSV and Parquet need polars, which is not installed.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in _WRITES:
        raise ValueError(f"{path}: unknown suffix {suffix!r}; write {', '.join(_WRITES)}")
    table = Table(to_floats(np.asarray(values), "values"), tuple(columns))
    if suffix == ".csv" and all(is_number(name) for name in table.columns):
        raise ValueError(
            f"columns={list(table.columns)} are all numbers, and a CSV header of numbers reads "
            "as data; write names such as x0"
        )
    if path.exists() and not overwrite:
        raise FileExistsError(f"{path} exists; pass overwrite=True to replace it")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{path.parent}: no such folder; create it first")
    _write_whole(path, suffix, table)


def _write_whole(path: Path, suffix: str, table: Table) -> None:
    with atomic_write(path) as file:
        if suffix == ".npy":
            np.save(file, table.values, allow_pickle=False)
        elif suffix == ".parquet":
            array_to_frame(table.values, table.columns).write_parquet(file)
        else:
            # A float32 in its own shortest digits would read back as another float64.
            frame = array_to_frame(table.values.astype(np.float64), table.columns)
            file.write(header_line(table.columns).encode())
            frame.write_csv(file, include_header=False)


def _check_names(names: Sequence[str], num_columns: int, source: str) -> None:
    if len(names) != num_columns:
        raise ValueError(f"{source}: {len(names)} names for {num_columns} columns")
    repeated = [name for name, count in Counter(names).items() if count > 1]
    if repeated:
        raise ValueError(f"{source}: duplicate column names {repeated}; rename them")
    if "" in names:
        raise ValueError(
            f"{source}: column {names.index('')} has no name. An index that pandas wrote? Write "
            "it with index=False, or choose the columns with columns=[...]"
        )


def _choose(names: tuple[str, ...], columns: Sequence[str] | None, path: Path) -> list[int]:
    """Positions of the columns to keep."""
    if columns is None:
        _check_names(names, len(names), str(path))
        return list(range(len(names)))
    if isinstance(columns, str):
        raise ValueError(f"columns={columns!r} is one string; write columns=[{columns!r}]")
    if not columns:
        raise ValueError("columns=[] keeps nothing; name a column, or leave columns out")
    _check_names(columns, len(columns), "columns")
    missing = [name for name in columns if name not in names]
    if missing:
        raise ValueError(f"{path}: no columns {missing}; the file has {list(names)}")
    _check_names([name for name in names if name in columns], len(columns), str(path))
    return [names.index(name) for name in columns]


def _parquet_blocks(
    path: Path, rows: int | None
) -> "Iterator[tuple[polars.DataFrame, tuple[str, ...]]]":
    pl = import_polars()
    try:
        # Not as a pattern: a name may hold a star.
        lazy = pl.scan_parquet(path, glob=False)
        count = 1 if rows is None else max(lazy.select(pl.len()).collect().item(), 1)
        for first in range(0, count, rows or 1):
            frame = (lazy if rows is None else lazy.slice(first, rows)).collect()
            yield frame, tuple(frame.columns)
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
        raise ValueError(f"{path}: not a Parquet file ({error})") from None
