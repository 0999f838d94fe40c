"""Files that appear complete or not at all."""

import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO


def check_free(
    path: str | os.PathLike[str], *, overwrite: bool, advice: str = "pass overwrite=True"
) -> None:
    """Raise FileExistsError if a file would be replaced that must not."""
    if not overwrite and os.path.lexists(path):
        raise FileExistsError(f"{path} exists; {advice} to replace it")


@contextlib.contextmanager
def atomic_write(path: Path) -> Iterator[BinaryIO]:
    """Open a temporary file that replaces `path`, on the disk and in one step, when closed.

    If the body raises or the process dies, the file at `path` is left unchanged. An OSError names
    the file.
    """
    # In the same folder: a rename across file systems is not atomic. Not from tempfile, whose
    # files only their owner may read.
    part = path.with_name(f".{path.name}.{secrets.token_hex(8)}.part")
    try:
        with part.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except BaseException as error:
        part.unlink(missing_ok=True)
        # A failed write, as on a full disk, does not say which file.
        if isinstance(error, OSError) and error.errno is not None and error.filename is None:
            error.filename = str(path)
        raise
    if os.name == "posix":
        # The rename is on the disk only after the folder is.
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
