"""NumPy files as arrays of numbers, without pickle."""

import zipfile
import zlib
from pathlib import Path
from tokenize import TokenError

import numpy as np

# Exceptions of NumPy and zipfile on damaged or hostile files: a header may claim any size or be
# nested deeply (MemoryError, RecursionError), an archive may be encrypted (RuntimeError).
_DAMAGE = (
    *(EOFError, OSError, ValueError, MemoryError, RuntimeError, RecursionError),
    *(TokenError, zipfile.BadZipFile, zlib.error),
)


def load_arrays(path: Path) -> np.ndarray | dict[str, np.ndarray | None]:
    """The array of a `.npy` file, mapped, or those of a `.npz` by name, None if pickled."""
    try:
        with path.open("rb") as file:  # np.load(path) would leave a damaged .npz open
            if file.read(6) == np.lib.format.MAGIC_PREFIX:
                # A map allocates nothing for a header that claims too much.
                loaded = np.load(path, mmap_mode="r", allow_pickle=False)
            else:
                file.seek(0)
                archive = np.load(file, allow_pickle=False)
                loaded = {name: _read_member(archive, name) for name in archive.files}
    except _DAMAGE as error:
        if _is_pickled(error):
            raise ValueError(_pickled_text(str(path))) from None
        # NumPy takes any unknown file for a pickle; to repeat that would mislead.
        reason = "" if "pickle" in str(error) else f" ({error})"
        raise ValueError(f"{path}: not a complete NumPy file{reason}") from None
    return loaded


def read_array(path: Path, *, mapped: bool) -> np.ndarray:
    """The (n, d) array of a .npy or .npz file, as floats; a mapped .npy keeps its dtype."""
    loaded = load_arrays(path)
    if isinstance(loaded, dict):
        return _only_table(loaded, path)
    if mapped:
        _check_numbers(loaded, str(path))
        return loaded
    return to_floats(np.asarray(loaded), str(path))


def to_floats(array: np.ndarray, source: str) -> np.ndarray:
    """Copy of an (n, d) array: float32 if it is float32, else float64."""
    _check_numbers(array, source)
    # astype also converts a foreign byte order.
    single = array.dtype.kind == "f" and array.dtype.itemsize == 4
    return array.astype(np.float32 if single else np.float64, order="C")


def _read_member(archive: np.lib.npyio.NpzFile, name: str) -> np.ndarray | None:
    """One array of an archive, None if it is pickled."""
    try:
        return archive[name]
    except ValueError as error:
        if _is_pickled(error):
            return None
        raise


def _is_pickled(error: Exception) -> bool:
    return "Object arrays" in str(error) or "Python objects in dtype" in str(error)


def _pickled_text(source: str) -> str:
    return f"{source}: an array of Python objects, which is never unpickled; save x.astype(float)"


def _only_table(arrays: dict[str, np.ndarray | None], path: Path) -> np.ndarray:
    """The array called x, or else the only (n, d) array of numbers."""
    if "x" in arrays:
        if arrays["x"] is None:
            raise ValueError(_pickled_text(f"{path}['x']"))
        return to_floats(arrays["x"], f"{path}['x']")
    tables = {
        name: array
        for name, array in arrays.items()
        if array is not None and array.ndim == 2 and array.dtype.kind in "biuf"
    }
    if len(tables) != 1:
        kinds = (
            "several (n, d) arrays of numbers" if tables else "no (n, d) array of numbers among"
        )
        raise ValueError(
            f"{path}: {kinds} {list(tables or arrays)}; save the one to read as x: "
            "np.savez(path, x=x)"
        )
    ((name, array),) = tables.items()
    return to_floats(array, f"{path}[{name!r}]")


def _check_numbers(array: np.ndarray, source: str) -> None:
    if array.dtype.kind == "O":
        raise ValueError(_pickled_text(source))
    if array.dtype.kind not in "biuf" or array.dtype.itemsize > 8:
        raise ValueError(
            f"{source}: dtype {array.dtype} is not real numbers that fit float64; "
            "convert it to float64 first"
        )
    if array.ndim == 1:
        raise ValueError(f"{source}: 1-d, shape {array.shape}; reshape to rows with x[:, None]")
    if array.ndim != 2 or array.shape[1] == 0:
        raise ValueError(f"{source}: shape {array.shape}; a table is (n, d) with d at least 1")
