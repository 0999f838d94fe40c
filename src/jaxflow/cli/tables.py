"""Tables as the commands take them: named columns, whole rows, the precision of a run."""

import csv
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from jaxflow.cli.reports import counted, tell

DropNan = Annotated[
    bool, typer.Option("--drop-nan", help="Leave out rows with NaN, infinity or empty cells.")
]

# Rounding to float32 is told where it moves values by more than this part of their spread.
_COARSE = 1e-3


def split_names(text: str | None) -> list[str] | None:
    """Column names from `a,b`; a name that holds a comma stands in double quotes."""
    if text is None:
        return None
    return [name.strip() for name in next(csv.reader([text], skipinitialspace=True), [])]


def rows_of_run(
    record: dict[str, Any], path: Path, *, drop_nan: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Rows of a table for a run, (n, d), as its fit would take them, and their numbers, (n,).

    Raises:
        ValueError: missing columns, rows with NaN or infinity, numbers too large for the run.
    """
    names = record["columns"]
    values = read_like(path, names, chosen=record["columns_chosen"])
    values, kept = drop_rows(values, names, path, drop_nan=drop_nan)
    return in_precision(values, names, path, float64=record["settings"]["float64"]), kept


def digest(x: np.ndarray) -> str:
    """What tells these rows from others: the SHA-256 of their bytes."""
    return hashlib.sha256(np.ascontiguousarray(x).tobytes()).hexdigest()


def drop_rows(
    values: np.ndarray, columns: Sequence[str], path: Path, *, drop_nan: bool
) -> tuple[np.ndarray, np.ndarray]:
    """The rows without NaN or infinity, (n, d), and their numbers in the file, (n,).

    Raises:
        ValueError: there are others and `drop_nan` is False (rows and columns named), or every
            row is one.
    """
    from jaxflow.data import check_rows, finite_rows

    kept = finite_rows(values)
    if not drop_nan:
        try:
            check_rows(values, columns=columns)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None
    elif not kept.any():
        raise ValueError(f"{path}: each of its {counted(len(values), 'row')} has NaN or infinity")
    elif not kept.all():
        tell(f"dropped {np.sum(~kept)} of {counted(len(values), 'row')} with NaN or infinity")
    return values[kept], np.flatnonzero(kept)


def in_precision(
    values: np.ndarray, columns: Sequence[str], path: Path, *, float64: bool
) -> np.ndarray:
    """The finite numbers of a table, (n, d), as float32 or float64.

    Raises:
        ValueError: a number is too large for float32.
    """
    if float64 or values.dtype == np.float32:
        return values.astype(np.float64 if float64 else np.float32)
    with np.errstate(over="ignore"):
        single = values.astype(np.float32)
    for name, before, after in zip(columns, values.T, single.T, strict=True):
        if not np.isfinite(after).all():
            raise ValueError(
                f"{path}: column {name!r} holds {before[~np.isfinite(after)][0]:g}, beyond "
                "float32; fit with --float64"
            )
    spread, size = values.std(axis=0), np.abs(values).max(axis=0)
    lost = np.finfo(np.float32).eps * size > _COARSE * spread
    # A constant column loses nothing, and is refused elsewhere.
    coarse = [name for name, is_lost in zip(columns, lost & (spread > 0), strict=True) if is_lost]
    if coarse:
        tell(
            f"warning: float32 is coarse for {', '.join(coarse)}, large numbers of small spread; "
            "subtract an offset, or fit with --float64"
        )
    return single


def read_like(path: Path, expected: Sequence[str], *, chosen: bool) -> np.ndarray:
    """The columns of a table that a run was fitted to, (n, d), in the run's order.

    They are found by name. Where the file or the run has no names (the columns are then x0, x1,
    ...), they are taken by position, and their number must agree.

    Args:
        path: the table.
        expected: the run's names.
        chosen: whether a person chose these of the training table's columns, so that x0, x1,
            ... are names like any others.

    Raises:
        ValueError: columns are missing; says which.
    """
    from jaxflow.data import read_table

    found = names_of(path)
    is_unnamed = _counts(expected) and not chosen
    if set(expected) <= set(found) and not (is_unnamed and _counts(found)):
        ignored = [name or "one without a name" for name in found if name not in expected]
        values = read_table(path, expected).values
        if ignored:
            tell(f"ignored {counted(len(ignored), 'column')}: {', '.join(ignored)}")
        return values
    if (is_unnamed or _counts(found)) and len(found) == len(expected):
        return read_table(path).values
    missing = [name for name in expected if name not in found]
    because = f": missing {', '.join(missing)}" if missing else ""
    raise ValueError(
        f"{path}: expected {counted(len(expected), 'column')} ({', '.join(expected)}), "
        f"got {len(found)} ({', '.join(found)}){because}"
    )


def _counts(names: Sequence[str]) -> bool:
    """Whether the names are those given to columns without any."""
    return list(names) == [f"x{i}" for i in range(len(names))]


def names_of(path: Path) -> tuple[str, ...]:
    """The names of a table's columns, also where some hold text."""
    from jaxflow.data import read_table
    from jaxflow.data.delimited import read_delimited
    from jaxflow.data.frames import import_polars

    suffix = path.suffix.lower()
    if path.is_file() and path.stat().st_size > 0:
        if suffix in (".csv", ".tsv", ".txt"):
            return read_delimited(path)[1]
        if suffix == ".parquet":
            pl = import_polars()
            try:
                return tuple(pl.read_parquet_schema(path))
            except pl.exceptions.PolarsError:
                pass  # `read_table` says it in words
    return read_table(path).columns
