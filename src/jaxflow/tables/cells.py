"""The cells of one column as they are read: text, numbers, truth values or dates, and gaps."""

import re
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from jaxflow.data.delimited import is_number

_DATE = re.compile(r"\d{4}-\d{2}-\d{2}([T ]\d{2}:\d{2}(:\d{2}(\.\d+)?)?Z?)?")
# Other dates, such as 11/30/2026, by their separator and the order of day, month and year.
_PARTS = re.compile(r"(\d{1,4})([/.-])(\d{1,2})\2(\d{1,4})(?:[T ]+(\d{1,2}):(\d{2})(:\d{2})?)?")
ORDERS = {"month/day/year": (2, 0, 1), "day/month/year": (2, 1, 0), "year/month/day": (0, 1, 2)}
_CODE = re.compile(r"[+-]?0\d+")
_COMMA = re.compile(r"[+-]?\d+(,\d+)?")
_THOUSANDS = re.compile(r"[+-]?[1-9]\d{0,2}(,\d{3})+(\.\d+)?")


@dataclass(frozen=True, eq=False)
class Cells:
    """One column of a table: its name, the cells `raw`, (n,), and which of them are missing."""

    name: str
    raw: np.ndarray
    missing: Bool[np.ndarray, " n"]

    @classmethod
    def of(
        cls, name: str, raw: Any, nulls: tuple[str, ...] = (), *, thousands: bool = True
    ) -> "Cells":
        """Cells of a column of any type; None, NaN, NaT and the words `nulls` are missing.

        With `thousands`, commas group digits, as in 1,500, where those of all cells can; others
        are decimal commas.
        """
        array = np.asarray(raw)
        if array.ndim != 1:
            raise ValueError(f"column {name!r} has shape {array.shape}; give one cell a row")
        if array.dtype.kind in "US":
            array = array.astype(str).astype(object)
        if array.dtype.kind == "O":
            missing = np.array([_is_missing(cell, nulls) for cell in array], bool)
            array = _from_objects(array, missing)
            array = _without_groups(array, missing) if thousands else array
        elif array.dtype.kind == "M":
            missing = np.isnat(array)
        elif array.dtype.kind in "biuf":
            missing = np.isnan(array) if array.dtype.kind == "f" else np.zeros(len(array), bool)
        else:
            raise ValueError(
                f"column {name!r} has dtype {array.dtype}; a cell is text, a number, true or "
                "false, or a date"
            )
        return cls(name, array, missing)

    def __len__(self) -> int:
        return len(self.raw)

    def take(self, rows: np.ndarray) -> "Cells":
        """The cells of some rows."""
        return Cells(self.name, self.raw[rows], self.missing[rows])

    @property
    def known(self) -> np.ndarray:
        """The cells that are not missing."""
        return self.raw[~self.missing]

    @cached_property
    def text(self) -> np.ndarray:
        """Each cell as text, the same for 7, 7.0 and the truth values true and True."""
        return np.array([canonical(cell) for cell in self.raw.tolist()], object)

    def parsed(self) -> "Cells":
        """Text as numbers, if every cell is one and none is a code such as 007."""
        known = self.known
        if self.raw.dtype.kind != "O" or not len(known) or any(map(_CODE.fullmatch, known)):
            return self
        if np.isnan(self.numbers[~self.missing]).any():
            return self
        return Cells(self.name, self.numbers, self.missing)

    @cached_property
    def numbers(self) -> Float[np.ndarray, " n"]:
        """The cells as numbers, NaN where they are missing or no numbers."""
        kind = self.raw.dtype.kind
        if kind in "biuf":
            return np.where(self.missing, np.nan, self.raw.astype(np.float64))
        values = np.full(len(self), np.nan)
        if kind == "O":
            for i in np.flatnonzero(~self.missing):
                values[i] = _number(self.raw[i])
        return values

    @property
    def are_numbers(self) -> bool:
        """Whether the cells are numbers, and not truth values."""
        return self.raw.dtype.kind in "iuf"

    def times(self, order: str = "") -> np.ndarray:
        """The cells as points in time, NaT where they are none; `order` is a name of `ORDERS`."""
        if self.raw.dtype.kind == "M":
            return np.where(self.missing, np.datetime64("NaT"), self.raw)
        times = np.full(len(self), np.datetime64("NaT"), "datetime64[us]")
        if self.raw.dtype.kind == "O":
            for i in np.flatnonzero(~self.missing):
                times[i] = _time(self.raw[i], order)
        return times

    def date_orders(self) -> list[str]:
        """The orders in which all cells are dates; [""] where these are as 2026-11-30."""
        known = Cells(self.name, self.known, np.zeros(len(self.known), bool))

        def are_dates(order: str) -> bool:
            # The first cell alone excludes most columns.
            parts = (known.take(np.arange(min(len(known), n))) for n in (1, len(known)))
            return len(known) > 0 and not any(np.isnat(part.times(order)).any() for part in parts)

        return [""] if are_dates("") else [order for order in ORDERS if are_dates(order)]

    def refuse(self, wrong: np.ndarray, why: str) -> None:
        """Raise ValueError for the rows in `wrong`, naming column, first row, its cell and why."""
        rows = np.flatnonzero(wrong & ~self.missing)
        if rows.size:
            more = f" ({rows.size} such rows)" if rows.size > 1 else ""
            raise ValueError(
                f"column {self.name!r} has {self.raw[rows[0]]!s:.60} in row {rows[0]}{more}: {why}"
            )


def canonical(cell: Any) -> str:
    """Text of a cell: one for equal numbers, `true` and `false` for truth values."""
    if isinstance(cell, bool):
        return str(cell).lower()
    if isinstance(cell, float) and cell.is_integer() and abs(cell) < 2**53:
        return str(int(cell))
    if isinstance(cell, str):
        return cell.lower() if cell.lower() in ("true", "false") else cell
    return str(cell)


def _is_missing(cell: Any, nulls: tuple[str, ...]) -> bool:
    if isinstance(cell, str):
        return cell.strip() in nulls
    # NaN, NaT and pandas.NA are not equal to themselves, or not known to be.
    return cell is None or type(cell).__name__ in ("NAType", "NaTType") or cell != cell


def _from_objects(array: np.ndarray, missing: np.ndarray) -> np.ndarray:
    """An array of one type where the known cells have one, else of objects with text stripped."""
    known = array[~missing].tolist()
    if known and all(isinstance(cell, bool | np.bool_) for cell in known):
        return np.where(missing, False, array).astype(bool)
    if known and all(isinstance(cell, int | float | np.number) for cell in known):
        return np.where(missing, np.nan, array).astype(np.float64)
    if known and all(hasattr(cell, "isoformat") for cell in known):
        texts = [
            None if gap else cell.isoformat() for cell, gap in zip(array, missing, strict=True)
        ]
        return np.array(texts, "datetime64[us]")
    stripped = np.empty(len(array), object)
    stripped[:] = [cell.strip() if isinstance(cell, str) else cell for cell in array]
    return stripped


def _without_groups(array: np.ndarray, missing: np.ndarray) -> np.ndarray:
    """1,500 as 1500, where all cells are numbers and all commas can group digits."""
    texts = [cell for cell in array[~missing].tolist() if isinstance(cell, str)]
    grouped = {text for text in texts if "," in text}
    if not grouped or not all(map(_THOUSANDS.fullmatch, grouped)):
        return array
    if not all(text in grouped or is_number(text) for text in texts):
        return array
    plain = array.copy()
    plain[:] = [cell.replace(",", "") if isinstance(cell, str) else cell for cell in array]
    return plain


def _time(cell: Any, order: str) -> np.datetime64:
    """The point in time that a cell says, NaT for none."""
    if not isinstance(cell, str):
        return np.datetime64("NaT")
    text = cell.removesuffix("Z") if _DATE.fullmatch(cell) else ""
    found = _PARTS.fullmatch(cell) if order and not text else None
    if found:
        parts, (hour, minute, seconds) = found.group(1, 3, 4), found.group(5, 6, 7)
        year, month, day = (parts[i] for i in ORDERS[order])
        if len(year) == 4 and len(day) <= 2 and len(month) <= 2:
            text = f"{year}-{month:0>2}-{day:0>2}"
            text += f"T{hour:0>2}:{minute}{seconds or ''}" if hour else ""
    try:
        return np.datetime64(text or "NaT", "us")
    except ValueError:  # the 31st of February
        return np.datetime64("NaT")


def _number(cell: Any) -> float:
    if isinstance(cell, str):
        if _COMMA.fullmatch(cell):
            cell = cell.replace(",", ".")
        return float(cell) if is_number(cell) else np.nan
    return float(cell) if isinstance(cell, int | float | np.number) else np.nan
