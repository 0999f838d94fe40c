"""Files that the commands write: refused before work starts, whole or absent after it."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from jaxflow.data.atomic import whole_file

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


def write_columns(path: Path, columns: Mapping[str, Sequence[int | float] | np.ndarray]) -> None:
    """Write columns, each in its own type, so that row numbers stay whole numbers.

    CSV has as many digits as it takes to read the same numbers back. An .npy file holds one
    array, (n, d), in float64.
    """
    from jaxflow.data.frames import import_polars

    buffer = io.BytesIO()
    if path.suffix.lower() == ".npy":
        np.save(buffer, np.column_stack([np.asarray(c, np.float64) for c in columns.values()]))
    else:
        frame = import_polars().DataFrame(dict(columns))
        if path.suffix.lower() == ".parquet":
            frame.write_parquet(buffer)
        else:
            frame.write_csv(buffer)
    write_whole(path, buffer.getvalue())


def write_whole(path: Path, data: bytes) -> None:
    """Write a file beside its place and move it there, so that it is never half written."""
    with whole_file(path) as file:
        file.write(data)
