"""Tables of numbers in files: CSV and other text, NumPy, Parquet."""

import os
import zipfile
import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from jaxflow.data.atomic import whole_file
from jaxflow.data.delimited import header_line, is_number, read_delimited
from jaxflow.data.frames import array_to_frame, frame_to_array, import_polars

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
        values = _read_numpy(path)
        names = tuple(f"x{i}" for i in range(values.shape[1]))
        chosen = _choose(names, columns, path)
        values = values if columns is None else values[:, chosen]
    else:
        frame, names = read_delimited(path) if suffix in _TEXT else _read_parquet(path)
        chosen = _choose(names, columns, path)
        frame = frame[:, chosen]
        # Cells of text are named in errors by the file's own names.
        frame.columns = [names[i] for i in chosen]
        values = frame_to_array(frame, str(path))
    if values.shape[0] == 0:
        raise ValueError(f"{path}: the table has no rows")
    return Table(values, tuple(names[i] for i in chosen))


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
    table = Table(_to_floats(np.asarray(values), "values"), tuple(columns))
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
    with whole_file(path) as file:
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


def _read_parquet(path: Path) -> tuple:
    pl = import_polars()
    try:
        with path.open("rb") as file:
            frame = pl.read_parquet(file)
    except pl.exceptions.PolarsError as error:
        raise ValueError(f"{path}: not a Parquet file ({error})") from None
    return frame, tuple(frame.columns)


def _read_numpy(path: Path) -> np.ndarray:
    try:
        with path.open("rb") as file:  # opened here, since NumPy leaves a damaged .npz open
            loaded = np.load(file, allow_pickle=False)
            if not isinstance(loaded, np.ndarray):
                loaded = {name: _read_member(loaded, name) for name in loaded.files}
    except (EOFError, OSError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        if _needs_pickle(error):
            raise ValueError(_object_refusal(str(path))) from None
        # NumPy takes any file that is not its own for a pickle; to repeat that would mislead.
        reason = "" if "pickle" in str(error) else f" ({error})"
        raise ValueError(f"{path}: not a whole NumPy file{reason}") from None
    if isinstance(loaded, np.ndarray):
        return _to_floats(loaded, str(path))
    return _only_table(loaded, path)


def _read_member(archive: np.lib.npyio.NpzFile, name: str) -> np.ndarray | None:
    """One array of an archive, None where it could be read by unpickling only."""
    try:
        return archive[name]
    except ValueError as error:
        if _needs_pickle(error):
            return None
        raise


def _needs_pickle(error: Exception) -> bool:
    return "Object arrays" in str(error)


def _only_table(arrays: dict[str, np.ndarray | None], path: Path) -> np.ndarray:
    """The array called x, or else the only (n, d) array of numbers."""
    if "x" in arrays:
        chosen = arrays["x"]
        if chosen is None:
            raise ValueError(_object_refusal(f"{path}['x']"))
        return _to_floats(chosen, f"{path}['x']")
    tables = {
        name: array
        for name, array in arrays.items()
        if array is not None and array.ndim == 2 and array.dtype.kind in "biuf"
    }
    if len(tables) != 1:
        found = list(tables) if tables else list(arrays)
        what = "several (n, d) arrays of numbers" if tables else "no (n, d) array of numbers among"
        raise ValueError(f"{path}: {what} {found}; save the one to read as x: np.savez(path, x=x)")
    ((name, array),) = tables.items()
    return _to_floats(array, f"{path}[{name!r}]")


def _object_refusal(source: str) -> str:
    return f"{source}: an array of Python objects, which is never unpickled; save x.astype(float)"


def _to_floats(array: np.ndarray, source: str) -> np.ndarray:
    """An (n, d) array of numbers as float32 if it is that, else as float64."""
    if array.dtype.kind == "O":
        raise ValueError(_object_refusal(source))
    if array.dtype.kind not in "biuf" or array.dtype.itemsize > 8:
        raise ValueError(
            f"{source}: dtype {array.dtype} is not real numbers that fit float64; "
            "convert it to float64 first"
        )
    if array.ndim == 1:
        raise ValueError(f"{source}: 1-d, shape {array.shape}; reshape to rows with x[:, None]")
    if array.ndim != 2 or array.shape[1] == 0:
        raise ValueError(f"{source}: shape {array.shape}; a table is (n, d) with d at least 1")
    # Also turns a foreign byte order into the machine's own.
    single = array.dtype.kind == "f" and array.dtype.itemsize == 4
    return array.astype(np.float32 if single else np.float64, order="C")
