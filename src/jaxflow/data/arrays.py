"""NumPy files as arrays of numbers, without pickle."""

import math
import zipfile
import zlib
from pathlib import Path
from tokenize import TokenError
from typing import Any

import numpy as np

# What NumPy and the archives that it reads raise where bytes are missing or wrong; a flag of an
# archive may ask for what is not implemented, or for a password.
_DAMAGE = (
    EOFError,
    OSError,
    ValueError,
    zipfile.BadZipFile,
    zlib.error,
    TokenError,
    RuntimeError,
)


def read_array(path: Path, *, mapped: bool) -> np.ndarray:
    """The table of a .npy or .npz file, (n, d): floats, or as it lies on the disk where mapped.

    Raises:
        ValueError: the file is damaged, or holds no single (n, d) array of numbers.
    """
    try:
        _check_claims(path)
        if mapped and path.suffix.lower() == ".npy":
            loaded = np.load(path, mmap_mode="r", allow_pickle=False)
        else:
            with path.open("rb") as file:  # opened here: NumPy leaves a damaged .npz open
                loaded = np.load(file, allow_pickle=False)
                if not isinstance(loaded, np.ndarray):
                    loaded = {name: _read_member(loaded, name) for name in loaded.files}
    except _DAMAGE as error:
        if _needs_pickle(error):
            raise ValueError(_object_refusal(str(path))) from None
        # NumPy takes any file that is not its own for a pickle; to repeat that would mislead.
        reason = "" if "pickle" in str(error) else f" ({error})"
        raise ValueError(f"{path}: not a whole NumPy file{reason}") from None
    if isinstance(loaded, np.memmap):
        # `to_floats` takes a block of it.
        _check_floats(loaded, str(path))
        return loaded
    if isinstance(loaded, np.ndarray):
        return to_floats(loaded, str(path))
    return _only_table(loaded, path)


def _check_claims(path: Path) -> None:
    """Refuse a header that claims more numbers than the file has bytes for."""
    with path.open("rb") as file:
        if zipfile.is_zipfile(file):
            with zipfile.ZipFile(file) as archive:
                for info in archive.infolist():
                    if info.filename.endswith(".npy"):
                        with archive.open(info) as member:
                            _check_claim(member, info.file_size, f"{path}[{info.filename!r}]")
        else:
            file.seek(0)
            _check_claim(file, path.stat().st_size, str(path))


def _check_claim(file: Any, size: int, source: str) -> None:
    version = np.lib.format.read_magic(file)
    header = "read_array_header_1_0" if version == (1, 0) else "read_array_header_2_0"
    try:
        shape, _, dtype = getattr(np.lib.format, header)(file)
    except (MemoryError, RecursionError):
        raise ValueError("its header is nested too deeply") from None
    claimed = math.prod(shape) * dtype.itemsize
    if not dtype.hasobject and claimed > size:
        raise ValueError(f"{source}: shape {shape} takes {claimed} bytes, and the file has {size}")


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
        return to_floats(chosen, f"{path}['x']")
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
    return to_floats(array, f"{path}[{name!r}]")


def _object_refusal(source: str) -> str:
    return f"{source}: an array of Python objects, which is never unpickled; save x.astype(float)"


def to_floats(array: np.ndarray, source: str) -> np.ndarray:
    """An (n, d) array of numbers as float32 if it is that, else as float64.

    Raises:
        ValueError: another shape, or no real numbers.
    """
    _check_floats(array, source)
    # Also turns a foreign byte order into the machine's own.
    single = array.dtype.kind == "f" and array.dtype.itemsize == 4
    return array.astype(np.float32 if single else np.float64, order="C")


def _check_floats(array: np.ndarray, source: str) -> None:
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
