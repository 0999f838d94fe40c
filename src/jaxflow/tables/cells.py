"""The cells of one column as they are read: text, numbers, truth values or dates, and gaps."""

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from functools import cached_property
from numbers import Integral, Real
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from jaxflow.data.delimited import DECIMAL_COMMA, is_number

_DATE = re.compile(r"\d{4}-\d{2}(-\d{2}([T ]\d{2}:\d{2}(:\d{2}(\.\d+)?)?(Z|[+-]\d{2}:?\d{2})?)?)?")
# Dates with the name of a month: 30-Nov-2026, Nov 30, 2026.
_NAMED = re.compile(r"(?:(\d{1,2})[-/. ])?([A-Za-z]{3,9})[-/., ]+(?:(\d{1,2})[-/., ]+)?(\d{4})")
_MONTHS = "january february march april may june july august september october november december"
# Dates in eight digits, of the years 1900 to 2099.
COMPACT, _COMPACT = "yyyymmdd", re.compile(r"((?:19|20)\d\d)(\d\d)(\d\d)")
# Other dates, such as 11/30/2026, by their separator and the order of day, month and year.
_PARTS = re.compile(r"(\d{1,4})([/.-])(\d{1,2})\2(\d{1,4})(?:[T ]+(\d{1,2}):(\d{2})(:\d{2})?)?")
ORDERS = {"month/day/year": (2, 0, 1), "day/month/year": (2, 1, 0), "year/month/day": (0, 1, 2)}
# Digits that are codes, not numbers: 007, and whole numbers that float64 may round.
_CODE, WHOLE, EXACT = re.compile(r"[+-]?0\d+"), re.compile(r"[+-]?\d+"), 2**53
_COMMA = re.compile(DECIMAL_COMMA)
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
        masked = np.ma.getmask(raw)
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
                "false, or a date; write durations as numbers, such as minutes"
            )
        return cls(name, array, missing | masked)

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
        """Text as numbers, if every cell is one and none is a code."""
        known = self.known
        if self.raw.dtype.kind != "O" or not len(known) or any(map(is_code, known)):
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
        """Whether the cells are numbers, and neither truth values nor codes."""
        kind = self.raw.dtype.kind
        return kind == "f" or (kind in "iu" and bool((np.abs(self.numbers) < EXACT).all()))

    def times(self, order: str = "") -> np.ndarray:
        """The cells as points in time, NaT where they are none.

        `order` is a name of `ORDERS`, or `COMPACT`; whole numbers too can be dates of the latter.
        """
        if self.raw.dtype.kind == "M":
            return np.where(self.missing, np.datetime64("NaT"), self.raw)
        times = np.full(len(self), np.datetime64("NaT"), "datetime64[us]")
        if self.raw.dtype.kind == "O" or (self.are_numbers and order == COMPACT):
            for i in np.flatnonzero(~self.missing):
                times[i] = _time(self.text[i], order)
        return times

    def date_orders(self) -> list[str]:
        """The orders in which all cells are dates; [""] where these are as 2026-11-30."""
        known = Cells(self.name, self.known, np.zeros(len(self.known), bool))

        def are_dates(order: str) -> bool:
            # The first cell alone excludes most columns.
            parts = (known.take(np.arange(min(len(known), n))) for n in (1, len(known)))
            return len(known) > 0 and not any(np.isnat(part.times(order)).any() for part in parts)

        orders = ["", COMPACT, *ORDERS]
        return [""] if are_dates("") else [order for order in orders if are_dates(order)]

    def refuse(self, wrong: np.ndarray, why: str) -> None:
        """Raise ValueError for the rows in `wrong`, naming column, first row, its cell and why."""
        rows = np.flatnonzero(wrong & ~self.missing)
        if rows.size:
            more = f" ({rows.size} such rows)" if rows.size > 1 else ""
            raise ValueError(
                f"column {self.name!r} has {self.raw[rows[0]]!s:.60} in row {rows[0]}{more}: {why}"
            )


def is_code(cell: Any) -> bool:
    """Whether a cell is digits but no number: 007, or a whole number that float64 may round."""
    if isinstance(cell, str):
        is_large = WHOLE.fullmatch(cell) is not None and abs(float(cell)) >= EXACT
        return is_large or _CODE.fullmatch(cell) is not None
    return isinstance(cell, Integral) and abs(int(cell)) >= EXACT


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
    are_numbers = all(isinstance(cell, Real | Decimal) for cell in known)
    if known and are_numbers and not any(map(is_code, known)):
        return np.where(missing, np.nan, array).astype(np.float64)
    if known and all(hasattr(cell, "year") for cell in known):
        texts = [None if gap else _moment(cell) for cell, gap in zip(array, missing, strict=True)]
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


def _moment(cell: Any) -> str:
    """Text of a date, of a time in UTC, or of the beginning of a pandas period."""
    cell = getattr(cell, "start_time", cell)
    if getattr(cell, "tzinfo", None) is not None:
        cell = cell.astimezone(UTC).replace(tzinfo=None)
    return cell.isoformat()


def _time(cell: str, order: str) -> np.datetime64:
    """The point in time that a cell says, in UTC where it has an offset; NaT for none."""
    try:
        if found := _DATE.fullmatch(cell):
            offset = (found.group(5) or "Z") != "Z"
            text = _moment(datetime.fromisoformat(cell)) if offset else cell.removesuffix("Z")
        elif found := _NAMED.fullmatch(cell):
            first, name, second, year = found.groups()
            months = [m.startswith(name.lower()) for m in _MONTHS.split()]
            one_day = any(months) and (first is None) != (second is None)
            month, day = months.index(True) + 1 if one_day else 0, first or second
            text = f"{year}-{month:02}-{day:0>2}" if one_day else "NaT"
        elif order == COMPACT and (found := _COMPACT.fullmatch(cell)):
            text = "-".join(found.groups())
        else:
            text = _ordered(cell, order)
        return np.datetime64(text, "us")
    except ValueError:  # the 31st of February
        return np.datetime64("NaT")


def _ordered(cell: str, order: str) -> str:
    """11/30/2026 in an order of day, month and year as 2026-11-30; NaT for others."""
    found = _PARTS.fullmatch(cell) if order in ORDERS else None
    if not found:
        return "NaT"
    parts, (hour, minute, seconds) = found.group(1, 3, 4), found.group(5, 6, 7)
    year, month, day = (parts[i] for i in ORDERS[order])
    if len(year) != 4 or len(day) > 2 or len(month) > 2:
        return "NaT"
    text = f"{year}-{month:0>2}-{day:0>2}"
    return text + (f"T{hour:0>2}:{minute}{seconds or ''}" if hour else "")


def _number(cell: Any) -> float:
    if isinstance(cell, str):
        cell = _COMMA.sub(r"\1.\2", cell)
        return float(cell) if is_number(cell) else np.nan
    return float(cell) if isinstance(cell, Real | Decimal) else np.nan
