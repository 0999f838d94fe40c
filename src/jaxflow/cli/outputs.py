"""Output files: checked before the work starts, complete or absent after it."""

import contextlib
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from jaxflow.data.delimited import header_line
from jaxflow.io.atomic import atomic_write, check_free
from jaxflow.runtime.extras import import_extra

TABLES = (".csv", ".npy", ".parquet")
PICTURES = (".png", ".pdf", ".svg")
# How points in time are written.
TIMES = "%Y-%m-%dT%H:%M:%S"

Columns = Mapping[str, Sequence[Any] | np.ndarray | pl.Series]


def check_output(
    path: Path, *, overwrite: bool, suffixes: tuple[str, ...] = TABLES, option: str = "--out"
) -> None:
    """Raise if the file cannot be written, before the work starts."""
    if path.suffix.lower() not in suffixes:
        raise ValueError(
            f"{path}: unknown suffix {path.suffix!r}; {option} writes {', '.join(suffixes)}"
        )
    if path.is_dir():
        raise ValueError(f"{path} is a folder; {option} must name a file")
    check_free(path, overwrite=overwrite, advice="add --overwrite")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{path.parent}: no such folder; create it first")


@contextlib.contextmanager
def open_table(path: Path, *, header: bool = True) -> Iterator[Callable[[Columns], None]]:
    """Open a table to write; yields a function that appends a block of columns.

    A .csv file has enough digits to read the same numbers back, and names if `header`; a .npy file
    holds one float64 array. Blocks of other files than .csv are kept in memory until the end.
    """
    suffix, blocks = path.suffix.lower(), []
    with atomic_write(path) as file:

        def append(columns: Columns) -> None:
            if suffix == ".npy":
                numbers = [np.asarray(column, np.float64) for column in columns.values()]
                blocks.append(np.column_stack(numbers))
                return
            frame = pl.DataFrame(dict(columns))
            if suffix == ".csv":
                if header and not blocks:
                    file.write(header_line(frame.columns).encode())
                frame.write_csv(file, include_header=False, datetime_format=TIMES)
                frame = frame.clear()
            blocks.append(frame)

        yield append
        if suffix == ".npy":
            np.save(file, np.concatenate(blocks))
        elif suffix == ".parquet":
            pl.concat(blocks).write_parquet(file)


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file in one step: it is complete or absent."""
    with atomic_write(path) as file:
        file.write(data)


def check_picture(path: Path, *, overwrite: bool, option: str) -> None:
    """Raise if a picture cannot be written, before the work starts."""
    check_output(path, overwrite=overwrite, suffixes=PICTURES, option=option)
    import_extra("matplotlib", "plot", f"{option} needs matplotlib")


def write_picture(path: Path, figure: Any, **options: Any) -> None:
    """Write a matplotlib figure to a file of `PICTURES`, and close it."""
    write_bytes(path, render(figure, path.suffix[1:].lower(), dpi=160, **options))


def render(figure: Any, kind: str, **options: Any) -> bytes:
    """Return a matplotlib figure as the bytes of a png, pdf or svg file, and close it."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format=kind, **options)
    import_extra("matplotlib.pyplot", "plot", "pictures need matplotlib").close(figure)
    return buffer.getvalue()
