"""Tables of numbers in files: CSV and other text, NumPy, Parquet."""

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from jaxflow.data.arrays import read_array, to_floats
from jaxflow.data.delimited import TEXT, delimited_frames, header_line, is_number, sniff
from jaxflow.data.frames import frame_to_array, import_polars
from jaxflow.io.atomic import atomic_write, check_free

if TYPE_CHECKING:
    import polars

# Characters of text read at once: per row of a block, and when a file is read as one table.
_ROW_CHARS, _READ_CHARS = 256, 1 << 24
_READS = (*TEXT, ".npy", ".npz", ".parquet")
_WRITES = (".csv", ".npy", ".parquet")


@dataclass(frozen=True, eq=False)
class Table:
    """Rows of numbers under named columns.

    ```python
    import numpy as np
    from jaxflow.data import Table

    table = Table(np.zeros((3, 2)), ("height", "weight"))
    ```

    Attributes:
        values: numbers, (n, d), float32 or float64.
        columns: the d names.

    Raises:
        ValueError: `values` has another shape or dtype, or `columns` are not d different names.
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

    - .csv, .tsv, .txt: UTF-8 text split at tabs, semicolons, commas or spaces, as float64. If the
      first line holds numbers only, it is a row and the columns are called x0, x1, ...; any other
      first line is the header. Where commas do not separate, 1,5 is 1.5.
    - .npy: one array, (n, d), with columns x0, x1, ...
    - .npz: the array called x, or else the only (n, d) array of numbers.
    - .parquet: all columns, as float32 if all of them are.

    Numbers stored as float32 stay float32; integers, booleans and half precision become float64.
    Empty cells and nulls become NaN, which `check_rows` finds. Nothing is unpickled.

    ```python
    import numpy as np
    from jaxflow.data import read_table, write_table

    write_table("table.npy", np.zeros((3, 2)), ["x0", "x1"])
    table = read_table("table.npy")
    ```

    Args:
        path: the file.
        columns: names of the columns to keep, in this order; all of them by default.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file is not a table of numbers, or lacks one of `columns`.
        ImportError: polars, which reads text and Parquet, is not installed.
    """
    return next(read_blocks(path, columns, None))


def read_blocks(
    path: str | os.PathLike[str], columns: Sequence[str] | None = None, rows: int | None = 65_536
) -> Iterator[Table]:
    """Read a table as `read_table` does, block by block, in bounded memory.

    Args:
        path: the file.
        columns: names of the columns to keep, in this order; all of them by default.
        rows: rows of a block; a block of text has about as many. None reads one block.

    Raises:
        ValueError, FileNotFoundError, ImportError: as `read_table`; a bad cell raises when its
            block is read.
    """
    path = Path(path)
    suffix = _check_readable(path)
    if suffix in (".npy", ".npz"):
        return _array_blocks(path, columns, rows)
    if suffix == ".parquet":
        chosen = _choose(table_names(path), columns, path)
        return _frame_blocks(path, _parquet_frames(path, chosen, rows))
    layout = sniff(path)
    chosen = _choose(layout.names, columns, path)
    size = _READ_CHARS if rows is None else rows * _ROW_CHARS
    blocks = _frame_blocks(path, delimited_frames(path, layout, chosen, size))
    if rows is not None:
        return blocks
    tables = list(blocks)
    return iter([Table(np.concatenate([each.values for each in tables]), tables[0].columns)])


def table_names(path: str | os.PathLike[str]) -> tuple[str, ...]:
    """Names of a table's columns, those of text columns included, without reading its rows.

    Raises:
        ValueError, FileNotFoundError, ImportError: as `read_table`, except for bad cells.
    """
    path = Path(path)
    suffix = _check_readable(path)
    if suffix in TEXT:
        return sniff(path).names
    if suffix == ".parquet":
        return tuple(next(_parquet_frames(path, None, 1)).columns)
    return next(_array_blocks(path, None, 1)).columns


def write_table(
    path: str | os.PathLike[str],
    values: np.ndarray,
    columns: Sequence[str],
    overwrite: bool = False,
) -> None:
    """Write a table that `read_table` reads back bit for bit.

    The file is written under a temporary name and then renamed: it is complete or absent. CSV
    holds float64 with as many digits as needed; .npy holds no names.

    Args:
        path: a .csv, .npy or .parquet file in an existing folder.
        values: numbers, (n, d).
        columns: the d names.
        overwrite: replace an existing file.

    Raises:
        FileExistsError: `path` exists and `overwrite` is False.
        FileNotFoundError: the folder of `path` does not exist.
        ValueError: unknown suffix, `values` not (n, d) numbers, or names that do not fit.
        ImportError: polars, which writes CSV and Parquet, is not installed.
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
    check_free(path, overwrite=overwrite)
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{path.parent}: no such folder; create it first")
    with atomic_write(path) as file:
        if suffix == ".npy":
            np.save(file, table.values, allow_pickle=False)
            return
        # In CSV a float32 in its own shortest digits would read back as another float64.
        numbers = table.values.astype(np.float64) if suffix == ".csv" else table.values
        frame = import_polars().DataFrame(numbers, schema=list(table.columns), orient="row")
        if suffix == ".parquet":
            frame.write_parquet(file)
        else:
            file.write(header_line(table.columns).encode())
            frame.write_csv(file, include_header=False)


def _check_readable(path: Path) -> str:
    """Suffix of a file that can be a table."""
    suffix = path.suffix.lower()
    if suffix not in _READS:
        raise ValueError(f"{path}: unknown suffix {suffix!r}; a table is {', '.join(_READS)}")
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file")
    if not path.is_file():
        raise ValueError(f"{path}: not a file")
    if path.stat().st_size == 0:
        raise ValueError(f"{path}: the file is empty")
    return suffix


def _array_blocks(path: Path, columns: Sequence[str] | None, rows: int | None) -> Iterator[Table]:
    values = read_array(path, mapped=rows is not None)
    names = tuple(f"x{i}" for i in range(values.shape[1]))
    chosen = _choose(names, columns, path)
    if len(values) == 0:
        raise ValueError(f"{path}: the table has no rows")
    step = rows or len(values)
    for first in range(0, len(values), step):
        block = values[first : first + step]
        block = block if columns is None else block[:, chosen]
        yield Table(to_floats(block, str(path)), tuple(names[i] for i in chosen))


def _frame_blocks(path: Path, frames: "Iterator[polars.DataFrame]") -> Iterator[Table]:
    first_row = 0
    for frame in frames:
        values = frame_to_array(frame, str(path), first_row)
        first_row += len(values)
        if first_row == 0:
            raise ValueError(f"{path}: the table has no rows")
        yield Table(values, tuple(frame.columns))


def _parquet_frames(
    path: Path, chosen: list[int] | None, rows: int | None
) -> "Iterator[polars.DataFrame]":
    pl = import_polars()
    try:
        # Not as a pattern: a name may contain a star.
        lazy = pl.scan_parquet(path, glob=False)
        count = 1 if rows is None else max(lazy.select(pl.len()).collect().item(), 1)
        for first in range(0, count, rows or 1):
            frame = (lazy if rows is None else lazy.slice(first, rows)).collect()
            yield frame if chosen is None else frame[:, chosen]
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
        raise ValueError(f"{path}: not a Parquet file ({error})") from None


def _choose(names: Sequence[str], columns: Sequence[str] | None, path: Path) -> list[int]:
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
    kept = [name for name in names if name in columns]
    _check_names(kept, len(kept), str(path))
    return [names.index(name) for name in columns]


def _check_names(names: Sequence[str], num_columns: int, source: str) -> None:
    if len(names) != num_columns:
        raise ValueError(f"{source}: {len(names)} names for {num_columns} columns")
    repeated = [name for name, count in Counter(names).items() if count > 1]
    if repeated:
        raise ValueError(f"{source}: duplicate column names {repeated}; rename them")
    if "" in names:
        raise ValueError(
            f"{source}: column {names.index('')} has no name. If pandas wrote an index, write the "
            "file with index=False, or choose the columns with columns=[...] (command line: "
            "--columns a,b)"
        )
