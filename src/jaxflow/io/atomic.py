"""Files that are whole or absent, never half written."""

import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO


@contextlib.contextmanager
def atomic_write(path: Path) -> Iterator[BinaryIO]:
    """Write to a file beside `path` that takes its place at the end, on the disk, in one step.

    Where the body raises, or the process dies, what stood at `path` is left as it was.

    Raises:
        OSError: the file cannot be written; it names the file.
    """
    # In the same folder, for a move across file systems is no single step. Not from tempfile,
    # whose files only their owner may read.
    part = path.with_name(f".{path.name}.{secrets.token_hex(8)}.part")
    try:
        with part.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except BaseException as error:
        part.unlink(missing_ok=True)
        # What fails to write, on a full disk, does not say which file.
        if isinstance(error, OSError) and error.errno is not None and error.filename is None:
            error.filename = str(path)
        raise
    if os.name == "posix":
        # The move itself is on the disk only once the folder is.
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
