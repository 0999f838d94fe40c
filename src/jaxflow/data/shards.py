"""More rows than fit in memory: NumPy files in a folder, read by the rows' numbers."""

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
# Rows of a file that `Shards.convert` writes.
FILE_ROWS = 2**20


@dataclass(frozen=True, eq=False)
class Shards:
    """Rows in files that training reads as it needs them.

    ```python
    rows = Shards.convert(sorted(Path("raw").glob("*.parquet")), "shards")
    flow, history = jaxflow.fit(flow, rows, key=key)
    ```
    Each epoch takes the rows in a random order over all files. That order, and with it every
    minibatch, depends on the key and the number of the step alone, not on how many processes
    share the work. Files are read at random places: keep them on a local disk.

    Attributes:
        folder: where the files are.
        columns: names of the columns.
        files: names of the files.
        counts: rows of each.
        cond: columns that are conditions; the others are the event.
        dropped: rows with NaN or infinity that were left out.
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
        """Write tables of any kind that `read_table` knows as float32 shards, in bounded memory.

        Args:
            tables: the files, whose rows follow one another.
            folder: a new or empty one.
            columns: names of the columns to keep; all of them by default.
            cond: columns that are conditions.
            drop_nan: leave out rows with NaN or infinity, `dropped` of them.

        Raises:
            FileExistsError: the folder holds something.
            ValueError: no tables, one that lacks columns or has others than the first, NaN or
                infinity (file and rows named), or nothing else.
        """
        folder = Path(folder)
        if folder.exists() and any(folder.iterdir()):
            raise FileExistsError(f"{folder} is not empty; choose another folder for shards")
        if not tables:
            raise ValueError("tables=[] is empty: name at least one file")
        folder.mkdir(parents=True, exist_ok=True)
        names, files, counts, dropped = None, [], [], 0
        for table in tables:
            first = 0
            for block in read_blocks(table, columns, FILE_ROWS):
                names = block.columns if names is None else names
                if block.columns != names:
                    raise ValueError(
                        f"{table} has columns {list(block.columns)}, and {tables[0]} has "
                        f"{list(names)}; shards have the same in the same order: name them by "
                        "columns=[...]"
                    )
                with np.errstate(over="ignore"):
                    values = block.values.astype(np.float32)
                kept = np.full(len(values), True)
                if drop_nan:
                    kept = finite_rows(block.values)
                    values[~kept] = 0
                # What is too large for float32 is not dropped.
                check_rows(values, str(table), names, first=first)
                first += len(values)
                values, dropped = values[kept], dropped + int(np.sum(~kept))
                if not len(values):
                    continue
                files.append(f"part-{len(files):06d}.npy")
                counts.append(len(values))
                with atomic_write(folder / files[-1]) as file:
                    np.save(file, values, allow_pickle=False)
        if not files:
            raise ValueError(f"no row is left of {dropped}: each has a NaN or an infinity")
        record = {"columns": names, "files": files, "counts": counts, "dropped": dropped}
        with atomic_write(folder / RECORD) as file:
            file.write(json.dumps(record, indent=2).encode())
        return cls.open(folder, cond=cond)

    @classmethod
    def open(cls, folder: str | os.PathLike[str], *, cond: Sequence[str] = ()) -> "Shards":
        """Shards that `convert` wrote.

        Raises:
            FileNotFoundError: the folder holds none, or lacks one of them.
            ValueError: the record is damaged, or a file is not as it says; unknown `cond`.
        """
        folder = Path(folder)
        if not (folder / RECORD).is_file():
            raise FileNotFoundError(
                f"{folder} has no {RECORD}: write shards by Shards.convert(tables, folder), or "
                "jaxflow shards on the command line"
            )
        try:
            record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
            columns, files = tuple(record["columns"]), tuple(record["files"])
            counts = tuple(int(count) for count in record["counts"])
            dropped = int(record.get("dropped", 0))
            plain = all(Path(name).name == name for name in files)
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{folder / RECORD} is damaged ({error})") from None
        if not plain or len(files) != len(counts) or not files:
            raise ValueError(f"{folder / RECORD} is damaged: it names no files of the folder")
        unknown = [name for name in cond if name not in columns]
        if unknown or len(set(cond)) == len(columns):
            what = f"no columns {unknown}" if unknown else "no column but conditions"
            raise ValueError(f"cond={list(cond)}: {folder} has {what}; it has {list(columns)}")
        shards = cls(folder, columns, files, counts, tuple(cond), dropped)
        for file, count in zip(files, counts, strict=True):
            if not (folder / file).is_file():
                raise FileNotFoundError(f"{folder / file}: no such file")
            shape = read_array(folder / file, mapped=True).shape
            if shape != (count, len(columns)):
                raise ValueError(
                    f"{folder / file} has shape {shape}; {(count, len(columns))} belongs there"
                )
        return shards

    def __len__(self) -> int:
        return sum(self.counts)

    def rows(
        self, numbers: Int[np.ndarray, " n"]
    ) -> tuple[Float[np.ndarray, "n d"], Float[np.ndarray, "n c"] | None]:
        """Rows of such numbers, and their conditions; only what is asked for stays in memory."""
        numbers = np.asarray(numbers)
        starts = np.concatenate([[0], np.cumsum(self.counts)])
        where = np.searchsorted(starts, numbers, side="right") - 1
        values = np.empty((len(numbers), len(self.columns)), np.float32)
        order = np.argsort(numbers, kind="stable")
        for part in np.split(order, np.flatnonzero(np.diff(where[order])) + 1):
            if len(part):
                file = where[part[0]]
                # Mapped anew each time: pages that were read are given back with the map.
                mapped = read_array(self.folder / self.files[file], mapped=True)
                values[part] = mapped[numbers[part] - starts[file]]
        if not self.cond:
            return values, None
        given = [self.columns.index(name) for name in self.cond]
        event = [i for i in range(len(self.columns)) if i not in given]
        return values[:, event], values[:, given]

    def fingerprint(self) -> str:
        """A word that other shards would not have: by their record, and a row of each file."""
        digest = hashlib.sha256((self.folder / RECORD).read_bytes())
        starts = np.concatenate([[0], np.cumsum(self.counts)[:-1]])
        digest.update(self.rows(starts)[0].tobytes())
        digest.update(repr(self.cond).encode())
        return digest.hexdigest()[:16]
