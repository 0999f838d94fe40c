"""Read the rows of a table: named columns, finite numbers, the precision of the run."""

import contextlib
import csv
import hashlib
import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from jaxflow.cli.terminal import note
from jaxflow.data import (
    check_rows,
    coarse_columns,
    finite_rows,
    read_blocks,
    read_table,
    table_names,
)
from jaxflow.runtime.text import plural

Values = Float[np.ndarray, "rows columns"]
RowNumbers = Int[np.ndarray, " rows"]


def split_names(text: str | None) -> list[str] | None:
    """Split `a,b` into column names; a name with a comma must be in double quotes."""
    if text is None:
        return None
    return [name.strip() for name in next(csv.reader([text], skipinitialspace=True), [])]


def join_names(names: Sequence[str] | None) -> str | None:
    """Join column names, the inverse of `split_names`."""
    if names is None:
        return None
    text = io.StringIO()
    csv.writer(text).writerow(names)
    return text.getvalue().strip()


def read_rows(
    record: dict[str, Any], path: Path, *, drop_nan: bool
) -> tuple[Values, RowNumbers, int]:
    """The columns of a run, the numbers of the rows that are kept, and how many the file has."""
    names = record["columns"]
    columns = _columns_to_read(record, path)
    values = read_table(path, columns).values
    float64 = record["settings"]["float64"]
    x, row_numbers = clean_rows(values, names, path, drop_nan=drop_nan, float64=float64)
    return x, row_numbers, len(values)


def read_row_blocks(
    record: dict[str, Any], path: Path, rows: int, *, drop_nan: bool
) -> Iterator[tuple[Values, RowNumbers]]:
    """Read `rows` rows at a time, as they are; only the last block is shorter.

    Numbers in float64 stay so: a flow rounds them after its transform has subtracted offsets.
    """
    waiting: list[tuple[np.ndarray, np.ndarray]] = []
    for block in _clean_blocks(record, path, drop_nan=drop_nan):
        waiting.append(block)
        while sum(len(row_numbers) for _, row_numbers in waiting) >= rows:
            x, row_numbers = (np.concatenate(each) for each in zip(*waiting, strict=True))
            yield x[:rows], row_numbers[:rows]
            waiting = [(x[rows:], row_numbers[rows:])]
    x, row_numbers = (np.concatenate(each) for each in zip(*waiting, strict=True))
    if len(row_numbers):
        yield x, row_numbers


def _clean_blocks(
    record: dict[str, Any], path: Path, *, drop_nan: bool
) -> Iterator[tuple[Values, RowNumbers]]:
    names, float64 = record["columns"], record["settings"]["float64"]
    num_read = num_kept = 0
    for block in read_blocks(path, _columns_to_read(record, path)):
        x, row_numbers = _finite_part(
            block.values, names, path, drop_nan=drop_nan, float64=float64, first=num_read
        )
        num_read, num_kept = num_read + len(block.values), num_kept + len(x)
        if len(x):
            yield x.astype(np.float64) if float64 else x, row_numbers
    note_dropped(num_read, num_kept, path, "NaN or infinity")


def clean_rows(
    values: Values, columns: Sequence[str], path: Path, *, drop_nan: bool, float64: bool
) -> tuple[Float[np.ndarray, "finite columns"], Int[np.ndarray, " finite"]]:
    """The finite rows in float32 or float64, and their numbers; others raise unless `drop_nan`.

    Prints how many rows are dropped, and which columns float32 rounds coarsely.
    """
    x, row_numbers = _finite_part(values, columns, path, drop_nan=drop_nan, float64=float64)
    note_dropped(len(values), len(x), path, "NaN or infinity")
    coarse = np.zeros(len(columns), bool)
    if not float64 and x.dtype != np.float32:
        coarse = coarse_columns(x)
    if coarse.any():
        names = ", ".join(np.array(columns)[coarse])
        note(
            f"warning: float32 rounds {names} coarsely: large values, small differences. Subtract "
            "an offset, or fit with --float64"
        )
    return x.astype(np.float64 if float64 else np.float32), row_numbers


def _finite_part(
    values: Values,
    columns: Sequence[str],
    path: Path,
    *,
    drop_nan: bool,
    float64: bool,
    first: int = 0,
) -> tuple[Float[np.ndarray, "finite columns"], Int[np.ndarray, " finite"]]:
    """The finite rows, which fit the precision, and their numbers; `first` is that of the first.

    Others raise ValueError unless `drop_nan`.
    """
    if not drop_nan:
        with errors_of(path):
            check_rows(values, columns=columns, first=first)
    kept = np.flatnonzero(finite_rows(values))
    x = values[kept]
    if not float64:
        _check_range(x, columns, path)
    return x, first + kept


@contextlib.contextmanager
def errors_of(path: Path) -> Iterator[None]:
    """Let errors of the content of a file begin with its name."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def note_dropped(num_read: int, num_kept: int, path: Path, fault: str) -> None:
    """Print how many rows were dropped for a `fault`; raise ValueError if none is left."""
    if not num_kept:
        raise ValueError(f"{path}: each of its {plural(num_read, 'row')} has {fault}")
    if num_kept < num_read:
        note(f"dropped {num_read - num_kept} of {plural(num_read, 'row')} with {fault}")


def _check_range(values: Values, columns: Sequence[str], path: Path) -> None:
    """Raise ValueError if a number is too large for float32."""
    too_large = np.abs(values) > np.finfo(np.float32).max
    for name, column, wrong in zip(columns, values.T, too_large.T, strict=True):
        if wrong.any():
            raise ValueError(
                f"{path}: column {name!r} holds {column[wrong][0]:g}, too large for float32; fit "
                "with --float64"
            )


def check_small(values: Values, columns: Sequence[str], path: Path) -> None:
    """Raise ValueError for a column to fit that float32 takes for 0, and so for constant."""
    for name, column in zip(columns, values.T, strict=True):
        largest = np.abs(column[np.isfinite(column)]).max(initial=0.0)
        if 0 < largest < np.finfo(np.float32).tiny:
            raise ValueError(
                f"{path}: column {name!r} holds {largest:g} at most, too small for float32: "
                "multiply it by a constant"
            )


def _columns_to_read(record: dict[str, Any], path: Path) -> Sequence[str] | None:
    """Choose the columns of a table that a run needs; None for all columns, by position.

    Columns are matched by name; by position if the file or the run, unless it was fitted with
    --columns, has no names but x0, x1, ...
    """
    expected, chosen = record["columns"], record["columns_chosen"]
    also = (*record.get("given", ()), record.get("class_column"))
    names = table_names(path)
    run_is_unnamed = _are_automatic(expected) and not chosen
    if set(expected) <= set(names) and not (run_is_unnamed and _are_automatic(names)):
        ignored = [
            name or "one without a name" for name in names if name not in (*expected, *also)
        ]
        if ignored:
            note(f"ignored {plural(len(ignored), 'column')}: {', '.join(ignored)}")
        return expected
    if (run_is_unnamed or _are_automatic(names)) and len(names) == len(expected):
        return None
    missing = [name for name in expected if name not in names]
    raise ValueError(
        f"{path}: expected {plural(len(expected), 'column')} ({', '.join(expected)}), "
        f"got {len(names)} ({', '.join(names)})"
        + (f": missing {', '.join(missing)}" if missing else "")
    )


def _are_automatic(names: Sequence[str]) -> bool:
    """Whether the names are x0, x1, ..., given to columns without names."""
    return list(names) == [f"x{i}" for i in range(len(names))]


def hash_rows(x: np.ndarray) -> str:
    """SHA-256 of the bytes of an array."""
    return hashlib.sha256(np.ascontiguousarray(x).tobytes()).hexdigest()
