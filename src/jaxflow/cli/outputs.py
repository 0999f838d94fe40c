"""Files that the commands write: refused before work starts, whole or absent after it."""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxflow.io.atomic import atomic_write

TABLES = (".csv", ".npy", ".parquet")
PICTURES = (".png", ".pdf", ".svg")


def check_output(
    path: Path, *, overwrite: bool, suffixes: tuple[str, ...] = TABLES, option: str = "--out"
) -> None:
    """Refuse a file that could not be written, before anything is computed for it.

    Raises:
        ValueError: a folder, or an unknown suffix.
        FileExistsError: the file exists and may not be replaced.
        FileNotFoundError: its folder does not exist.
    """
    if path.suffix.lower() not in suffixes:
        verb = "draw" if suffixes == PICTURES else "write"
        raise ValueError(f"{path}: unknown suffix {path.suffix!r}; {verb} {', '.join(suffixes)}")
    if path.is_dir():
        raise ValueError(f"{path}: a folder; {option} names a file")
    if path.exists() and not overwrite:
        raise FileExistsError(f"{path} exists; add --overwrite to replace it")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{path.parent}: no such folder; create it first")


Columns = Mapping[str, Sequence[Any] | np.ndarray]


def write_columns(path: Path, columns: Columns) -> None:
    """Write columns, each in its own type, so that row numbers stay whole numbers.

    CSV has as many digits as it takes to read the same numbers back. An .npy file holds one
    array, (n, d), in float64.
    """
    with column_file(path) as add:
        add(columns)


@contextlib.contextmanager
def column_file(path: Path) -> Iterator[Callable[[Columns], None]]:
    """What `write_columns` writes, block by block: whole at the end, or absent.

    Blocks of a CSV file are on the disk at once; those of other kinds wait in memory.
    """
    from jaxflow.data.frames import import_polars

    suffix, blocks = path.suffix.lower(), []
    with atomic_write(path) as file:

        def add(columns: Columns) -> None:
            if suffix == ".npy":
                numbers = [np.asarray(column, np.float64) for column in columns.values()]
                blocks.append(np.column_stack(numbers))
                return
            frame = import_polars().DataFrame(dict(columns))
            if suffix == ".csv":
                frame.write_csv(file, include_header=not blocks)
                frame = frame.clear()
            blocks.append(frame)

        yield add
        if suffix == ".npy":
            np.save(file, np.concatenate(blocks))
        elif suffix == ".parquet":
            import_polars().concat(blocks).write_parquet(file)


def write_whole(path: Path, data: bytes) -> None:
    """Write a file beside its place and move it there, so that it is never half written."""
    with atomic_write(path) as file:
        file.write(data)
