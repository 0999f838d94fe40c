"""Datasets larger than memory: NumPy files in a folder, read by row number."""

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int

from jaxflow.data.arrays import read_array
from jaxflow.data.tables import read_blocks
from jaxflow.io.atomic import atomic_write
from jaxflow.runtime.checks import check_rows, finite_rows

RECORD = "shards.json"
# Most rows of a file that `Shards.convert` writes.
FILE_ROWS = 2**20


@dataclass(frozen=True, eq=False)
class Shards:
    """Rows in files, which training reads as it needs them.

    Each epoch visits the rows of all files in one random order. The order, and with it every
    minibatch, depends only on the key and the step, not on the number of processes. Reads are
    random access: keep the files on a local disk.

    ```python
    import numpy as np
    from jaxflow.data import Shards, write_table

    write_table("raw.npy", np.zeros((100, 2)), ["x0", "x1"])
    rows = Shards.convert(["raw.npy"], "shards")  # for jaxflow.fit(flow, rows, key=key)
    ```

    Attributes:
        folder: folder of the files.
        columns: names of the columns.
        files: names of the files.
        counts: number of rows of each file.
        cond: columns that are conditions; the others are the event.
        dropped: number of rows that `convert` dropped for a NaN or an infinity.
    """

    folder: Path
    columns: tuple[str, ...]
    files: tuple[str, ...]
    counts: tuple[int, ...]
    cond: tuple[str, ...] = ()
    dropped: int = 0

    @classmethod
    def convert(
        cls,
        tables: Sequence[str | os.PathLike[str]],
        folder: str | os.PathLike[str],
        columns: Sequence[str] | None = None,
        *,
        cond: Sequence[str] = (),
        drop_nan: bool = False,
    ) -> "Shards":
        """Write tables as float32 shards, in bounded memory.

        Args:
            tables: files of any kind that `read_table` reads; their rows are concatenated.
            folder: a new or empty folder.
            columns: names of the columns to keep; all of them by default.
            cond: columns that are conditions.
            drop_nan: drop rows with a NaN or an infinity; their number becomes `dropped`.

        Raises:
            FileExistsError: the folder is not empty.
            ValueError: no tables, a table without one of the columns or with other columns than
                the first, a NaN or an infinity (names file and rows), or no row left.
        """
        folder = Path(folder)
        if folder.exists() and any(folder.iterdir()):
            raise FileExistsError(f"{folder} is not empty; choose another folder for shards")
        if not tables:
            raise ValueError("tables=[] is empty: name at least one file")
        new = not folder.exists()
        folder.mkdir(parents=True, exist_ok=True)
        try:
            cls._write(tables, folder, columns, drop_nan=drop_nan)
        except BaseException:
            # The folder was empty: what it has is half a conversion.
            for file in folder.iterdir():
                file.unlink()
            if new:
                folder.rmdir()
            raise
        return cls.open(folder, cond=cond)

    @staticmethod
    def _write(
        tables: Sequence[str | os.PathLike[str]],
        folder: Path,
        columns: Sequence[str] | None,
        *,
        drop_nan: bool,
    ) -> None:
        """Write the files and the record."""
        names, files, counts, dropped = None, [], [], 0
        for table in tables:
            first_row = 0
            for block in read_blocks(table, columns, FILE_ROWS):
                names = block.columns if names is None else names
                if block.columns != names:
                    raise ValueError(
                        f"{table} has columns {list(block.columns)}, and {tables[0]} has "
                        f"{list(names)}; choose the same columns in the same order with "
                        "columns=[...] (command line: --columns a,b)"
                    )
                with np.errstate(over="ignore"):
                    values = block.values.astype(np.float32)
                keep = np.full(len(values), True)
                if drop_nan:
                    keep = finite_rows(block.values)
                    values[~keep] = 0
                # A number too large for float32 raises: it is not missing data.
                check_rows(values, str(table), names, first=first_row)
                first_row += len(values)
                values, dropped = values[keep], dropped + int(np.sum(~keep))
                if len(values):
                    files.append(f"part-{len(files):06d}.npy")
                    counts.append(len(values))
                    with atomic_write(folder / files[-1]) as file:
                        np.save(file, values, allow_pickle=False)
        if not files:
            raise ValueError(f"no row is left of {dropped}: each has a NaN or an infinity")
        record = {"columns": names, "files": files, "counts": counts, "dropped": dropped}
        with atomic_write(folder / RECORD) as file:
            file.write(json.dumps(record, indent=2).encode())

    @classmethod
    def open(cls, folder: str | os.PathLike[str], *, cond: Sequence[str] = ()) -> "Shards":
        """Open shards that `convert` wrote.

        Args:
            folder: their folder.
            cond: columns that are conditions.

        Raises:
            FileNotFoundError: the folder holds no shards, or a file is missing.
            ValueError: the record is damaged, a file has another shape than recorded, or `cond`
                names an unknown column or all columns.
        """
        folder = Path(folder)
        if not (folder / RECORD).is_file():
            raise FileNotFoundError(
                f"{folder} has no {RECORD}: write shards with Shards.convert(tables, folder), or "
                "with jaxflow shards on the command line"
            )
        try:
            record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
            columns, files = tuple(record["columns"]), tuple(record["files"])
            counts = tuple(int(count) for count in record["counts"])
            dropped = int(record.get("dropped", 0))
            in_folder = all(Path(name).name == name for name in files)
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{folder / RECORD} is damaged ({error})") from None
        if not in_folder or len(files) != len(counts) or not files:
            raise ValueError(f"{folder / RECORD} is damaged: it names no files of the folder")
        unknown = [name for name in cond if name not in columns]
        if unknown or len(set(cond)) == len(columns):
            problem = f"no columns {unknown}" if unknown else "no column besides conditions"
            raise ValueError(f"cond={list(cond)}: {folder} has {problem}; it has {list(columns)}")
        for file, count in zip(files, counts, strict=True):
            if not (folder / file).is_file():
                raise FileNotFoundError(f"{folder / file}: no such file")
            shape = read_array(folder / file, mapped=True).shape
            if shape != (count, len(columns)):
                raise ValueError(
                    f"{folder / file} has shape {shape}; {RECORD} says {(count, len(columns))}"
                )
        return cls(folder, columns, files, counts, tuple(cond), dropped)

    def __len__(self) -> int:
        return sum(self.counts)

    def rows(
        self, numbers: Int[np.ndarray, " n"]
    ) -> tuple[Float[np.ndarray, "n d"], Float[np.ndarray, "n c"] | None]:
        """Read rows by number; nothing else stays in memory.

        Args:
            numbers: row numbers, (n,), in any order.

        Returns:
            Events, (n, d), and conditions, (n, c) or None without `cond`.
        """
        numbers = np.asarray(numbers)
        starts = np.concatenate([[0], np.cumsum(self.counts)])
        file_of = np.searchsorted(starts, numbers, side="right") - 1
        values = np.empty((len(numbers), len(self.columns)), np.float32)
        order = np.argsort(numbers, kind="stable")
        for part in np.split(order, np.flatnonzero(np.diff(file_of[order])) + 1):
            if len(part):
                file = file_of[part[0]]
                # Mapped anew each time: closing the map releases its pages.
                mapped = read_array(self.folder / self.files[file], mapped=True)
                values[part] = mapped[numbers[part] - starts[file]]
        if not self.cond:
            return values, None
        conditions = [self.columns.index(name) for name in self.cond]
        event = [i for i in range(len(self.columns)) if i not in conditions]
        return values[:, event], values[:, conditions]

    def fingerprint(self) -> str:
        """Hash of the record, `cond` and the first row of each file; 16 hexadecimal digits."""
        digest = hashlib.sha256((self.folder / RECORD).read_bytes())
        starts = np.concatenate([[0], np.cumsum(self.counts)[:-1]])
        digest.update(self.rows(starts)[0].tobytes())
        digest.update(repr(self.cond).encode())
        return digest.hexdigest()[:16]
