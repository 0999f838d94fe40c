"""Tables as the commands take them: named columns, whole rows, the precision of a run."""

import csv
import hashlib
import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from jaxflow.cli.reports import counted, tell

DropNan = Annotated[
    bool, typer.Option("--drop-nan", help="Leave out rows with NaN, infinity or empty cells.")
]


def split_names(text: str | None) -> list[str] | None:
    """Column names from `a,b`; a name that holds a comma stands in double quotes."""
    if text is None:
        return None
    return [name.strip() for name in next(csv.reader([text], skipinitialspace=True), [])]


def join_names(names: Sequence[str] | None) -> str | None:
    """What `split_names` takes apart."""
    if names is None:
        return None
    text = io.StringIO()
    csv.writer(text).writerow(names)
    return text.getvalue().strip()


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


def blocks_of_run(
    record: dict[str, Any], path: Path, rows: int, *, drop_nan: bool
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """What `rows_of_run` gives, `rows` rows at a time but for the last ones.

    Raises:
        ValueError: as `rows_of_run`, of a row when its block is reached.
    """
    waiting: list[tuple[np.ndarray, np.ndarray]] = []
    for part in _whole_rows(record, path, drop_nan=drop_nan):
        waiting.append(part)
        while sum(len(kept) for _, kept in waiting) >= rows:
            x, kept = (np.concatenate(each) for each in zip(*waiting, strict=True))
            yield x[:rows], kept[:rows]
            waiting = [(x[rows:], kept[rows:])]
    x, kept = (np.concatenate(each) for each in zip(*waiting, strict=True))
    if len(kept):
        yield x, kept


def _whole_rows(
    record: dict[str, Any], path: Path, *, drop_nan: bool
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Blocks of a table in a run's precision, without the rows that are to be dropped."""
    from jaxflow.data import finite_rows, read_blocks

    names, float64 = record["columns"], record["settings"]["float64"]
    columns = columns_like(path, names, chosen=record["columns_chosen"])
    read = left = 0
    for block in read_blocks(path, columns):
        if not drop_nan:
            _refuse_nan(block.values, names, path, first=read)
        whole = finite_rows(block.values)
        kept = read + np.flatnonzero(whole)
        read, left = read + len(whole), left + len(kept)
        if len(kept):
            values, first = block.values[whole], left == len(kept)
            yield in_precision(values, names, path, float64=float64, warn=first), kept
    _tell_dropped(read, left, path)


def _refuse_nan(values: np.ndarray, columns: Sequence[str], path: Path, first: int = 0) -> None:
    from jaxflow.data import check_rows

    try:
        check_rows(values, columns=columns, first=first)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _tell_dropped(read: int, left: int, path: Path) -> None:
    """Say how many rows were left out; refuse a table of which nothing is left."""
    if not left:
        raise ValueError(f"{path}: each of its {counted(read, 'row')} has NaN or infinity")
    if left < read:
        tell(f"dropped {read - left} of {counted(read, 'row')} with NaN or infinity")


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
    from jaxflow.data import finite_rows

    if not drop_nan:
        _refuse_nan(values, columns, path)
    kept = finite_rows(values)
    _tell_dropped(len(values), int(kept.sum()), path)
    return values[kept], np.flatnonzero(kept)


def in_precision(
    values: np.ndarray,
    columns: Sequence[str],
    path: Path,
    *,
    float64: bool,
    warn: bool = True,
) -> np.ndarray:
    """The finite numbers of a table, (n, d), as float32 or float64.

    Raises:
        ValueError: a number is too large for float32.
    """
    from jaxflow.data import coarse_columns

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
    lost = coarse_columns(values)
    coarse = [name for name, is_lost in zip(columns, lost, strict=True) if is_lost]
    if coarse and warn:
        tell(
            f"warning: float32 is coarse for {', '.join(coarse)}, large numbers of small spread; "
            "subtract an offset, or fit with --float64"
        )
    return single


def read_like(path: Path, expected: Sequence[str], *, chosen: bool) -> np.ndarray:
    """The columns of a table that a run was fitted to, (n, d), in the run's order.

    Raises:
        ValueError: columns are missing; says which.
    """
    from jaxflow.data import read_table

    return read_table(path, columns_like(path, expected, chosen=chosen)).values


def columns_like(path: Path, expected: Sequence[str], *, chosen: bool) -> Sequence[str] | None:
    """The names to read of a table for a run; None for all of its columns by position.

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
    from jaxflow.data import table_names

    found = table_names(path)
    is_unnamed = _counts(expected) and not chosen
    if set(expected) <= set(found) and not (is_unnamed and _counts(found)):
        ignored = [name or "one without a name" for name in found if name not in expected]
        if ignored:
            tell(f"ignored {counted(len(ignored), 'column')}: {', '.join(ignored)}")
        return expected
    if (is_unnamed or _counts(found)) and len(found) == len(expected):
        return None
    missing = [name for name in expected if name not in found]
    because = f": missing {', '.join(missing)}" if missing else ""
    raise ValueError(
        f"{path}: expected {counted(len(expected), 'column')} ({', '.join(expected)}), "
        f"got {len(found)} ({', '.join(found)}){because}"
    )


def _counts(names: Sequence[str]) -> bool:
    """Whether the names are those given to columns without any."""
    return list(names) == [f"x{i}" for i in range(len(names))]
