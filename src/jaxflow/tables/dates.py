"""The kind of columns of dates: what it detects, and how it is coded and printed."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from jaxflow.tables.cells import Cells
from jaxflow.tables.laws import Law, Steps
from jaxflow.tables.spacing import STEP_VALUES

# Units of points in time.
UNITS = {"Y": "years", "M": "months", "D": "days", "h": "hours", "m": "minutes", "s": "seconds"}
_NO_DATE = "not a date such as 2026-11-30"

Codes = Float[np.ndarray, " n"]


@dataclass(frozen=True)
class Date:
    """Dates, or points in time, counted in steps of `step` units from the first one that was seen.

    The unit is the longest of which all are multiples; `order` is that of day, month and year in
    the text that was read, empty for 2026-11-30.
    """

    origin: str
    unit: str
    step: int = 1
    order: str = ""

    @classmethod
    def detect(cls, cells: Cells) -> "Date | None":
        """Dates, or text such as 2026-11-30T12:00, 30-Nov-2026, 20261130, or 11/30/2026."""
        orders = cells.date_orders()
        return cls._of(cells, orders[0]) if len(orders) == 1 else None

    @classmethod
    def of(cls, cells: Cells) -> "Date":
        """Dates counted from the first of these; raises ValueError for other cells."""
        orders = cells.date_orders()
        if len(orders) > 1:
            everything = np.ones(len(cells), bool)
            cells.refuse(everything, "day or month first? write dates as 2026-11-30")
        return cls._of(cells, orders[0] if orders else "")

    @classmethod
    def _of(cls, cells: Cells, order: str) -> "Date":
        times = cells.times(order)
        cells.refuse(np.isnat(times), _NO_DATE)
        times = np.unique(times[~cells.missing])
        # Few dates show neither years, nor months, nor steps.
        shown = len(times) >= STEP_VALUES
        units = [unit for unit in UNITS if shown or unit not in "YM"]
        exact = (u for u in units if (times == times.astype(f"datetime64[{u}]")).all())
        unit = next(exact, "s")
        times = times.astype(f"datetime64[{unit}]")
        steps = np.diff(times).astype(np.int64)
        return cls(str(times[0]), unit, int(np.gcd.reduce(steps)) or 1 if shown else 1, order)

    def describe(self) -> str:
        """The unit and the first date."""
        read = f" read as {self.order}" if self.order else ""
        steps = UNITS[self.unit] if self.step == 1 else f"steps of {self.step} {UNITS[self.unit]}"
        return f"date{read}, counted in {steps} from {self.origin}"

    def law(self, codes: Codes) -> Law:
        """The law of the codes."""
        return Steps.fit(codes, -np.inf, np.inf)

    def encode(self, cells: Cells) -> Codes:
        """Units since the origin."""
        times = cells.times(self.order)
        cells.refuse(np.isnat(times), _NO_DATE)
        coarse = times.astype(f"datetime64[{self.unit}]")
        k = (coarse - np.datetime64(self.origin, self.unit)).astype(float) / self.step
        off = (k != np.round(k)) | (self.unit in "YM" and times != coarse)
        cells.refuse(off & ~np.isnat(times), f"the column is {self.describe()}")
        return np.where(np.isnat(times), np.nan, k)

    def decode(self, codes: Codes) -> np.ndarray:
        """Dates."""
        k = (self.step * np.nan_to_num(codes).astype(int)).astype(f"timedelta64[{self.unit}]")
        times = np.datetime64(self.origin, self.unit) + k
        # Frames know days and fractions of seconds.
        return times.astype("datetime64[D]" if self.unit in "YMD" else "datetime64[us]")
