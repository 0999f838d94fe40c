"""Columns with a period: angles, phases, hours of the day, months."""

import math
from collections.abc import Collection
from dataclasses import dataclass

import numpy as np

from jaxflow.transforms.columns import Columns
from jaxflow.transforms.kinds import GridColumn, reaches, usual_gap

# Words of angles, and of other columns with a period, which needs such a word.
ANGLES = {"lon", "long", "lng", "longitude", "ra", "az", "azimuth", "phase", "angle", "deg"}
ANGLES |= {"direction", "dir", "wdir", "winddir", "heading", "bearing", "aspect", "hue"}
ANGLES |= {"torsion", "dihedral", "theta"}
ANGLES |= {"phi", "psi", "omega", "chi", "alpha", "beta", "gamma", "delta", "epsilon", "zeta"}
PERIODS = (
    (360.0, ANGLES, False),
    (2 * math.pi, ANGLES, False),
    (24.0, {"hour", "hours", "hr", "h", "time", "clock", "hourofday"}, True),
    (12.0, {"month", "months", "monthofyear"}, True),
    (7.0, {"weekday", "day", "dow", "dayofweek"}, True),
    (1.0, {"phase"}, True),
)
# Largest share of the period without values on either side of the seam: with a name or beside a
# column of the same period, and with both.
NAMED_GAP, BESIDE_GAP = 0.05, 0.2


@dataclass(frozen=True)
class Periodic:
    """A column that repeats after its period, in the column's units."""

    columns: tuple[int, ...]
    period: float
    start: float

    @classmethod
    def detect(cls, table: Columns, free: Collection[int]) -> tuple[list["Periodic"], list[str]]:
        """Columns that fill a usual period, with values on both sides of the seam.

        And those that have one point of the circle by two numbers, 0 and 360.
        """
        found: list[Periodic] = []
        for beside in (False, True):
            taken = {i for group in found for i in group.columns}
            for i in sorted(set(free) - taken):
                limits = {(each.period, each.start) for each in found} if beside else None
                found += cls._fill(i, table, limits)
        notes = []
        for i in sorted(set(free) - {i for group in found for i in group.columns}):
            ends = table.x[:, i].min(), table.x[:, i].max()
            grid = isinstance(table.kinds[i], GridColumn) and table.is_named(i, ANGLES)
            if grid and ends == (0, 360):
                notes.append(
                    f"{table.names[i]}: not taken for a circle, since it has both 0 and 360: if "
                    "these are one direction, wrap the values, x % 360"
                )
        return sorted(found, key=lambda each: each.columns), notes

    @classmethod
    def of(cls, columns: tuple[int, ...], options: list[str], table: Columns) -> list["Periodic"]:
        """Columns of a period, as the user says: `periodic:360`, from 0 on or around 0."""
        numbers = [_number(each) for each in options]
        right = all(map(math.isfinite, numbers)) and all(each > 0 for each in numbers[:1])
        if not right or len(numbers) > 2:
            raise ValueError(
                "needs a positive period, and where it begins if need be: periodic:360, "
                "periodic:2pi or periodic:360:-180"
            )
        found = []
        for i in columns:
            kind, values = table.kinds[i], table.x[:, i]
            if not numbers:
                guess = cls._fill(i, table, None)
                if not guess:
                    raise ValueError("needs the period of these values, such as periodic:360")
                found += guess
                continue
            period = numbers[0]
            half_step = kind.step / 2 if isinstance(kind, GridColumn) else 0.0
            low, high = float(values.min()) - half_step, float(values.max()) + half_step
            starts = numbers[1:] or [-half_step, -period / 2, low]
            slack = 1e-6 * period
            fit = [s for s in starts if s - slack <= low and high <= s + period + slack]
            if not fit:
                raise ValueError(
                    f"has a period of {period:g}, and values from {values.min():g} to "
                    f"{values.max():g}: give the period of these units (2pi is for radians, 360 "
                    "for degrees), or wrap the values"
                )
            found.append(cls((i,), period, fit[0]))
        return found

    @classmethod
    def _fill(
        cls, i: int, table: Columns, beside: set[tuple[float, float]] | None
    ) -> list["Periodic"]:
        values, kind = np.unique(table.x[:, i]), table.kinds[i]
        for period, hints, required in PERIODS:
            hinted = table.is_named(i, hints)
            if required and not hinted:
                continue
            if isinstance(kind, GridColumn):
                # All of the grid: 0 to 23, 1 to 12, 10 to 360; with a name, nearly all.
                cells, filled = period / kind.step, np.ptp(values) / kind.step + 1
                most = cells * NAMED_GAP if hinted else 0.0
                fits = abs(cells - round(cells)) < 1e-3 and -1e-3 < cells - filled < most + 1e-3
                if fits and cells > 2:
                    return [cls((i,), period, float(values[0]) - kind.step / 2)]
                continue
            for start in (0.0, -period / 2):
                gap = NAMED_GAP if hinted else usual_gap(len(values))
                if beside is not None:
                    alike = (period, start) in beside
                    gap = (BESIDE_GAP if hinted else NAMED_GAP) if alike else 0.0
                slack = 1e-6 * period
                inside = start - slack <= values[0] and values[-1] <= start + period + slack
                if inside and reaches(values, start, start + period, gap):
                    return [cls((i,), period, start)]
        return []

    def keeps_grid(self, table: Columns) -> bool:
        """Whether noise within cells stays within the period."""
        return True

    def describe(self) -> str:
        """The period."""
        return f"repeats after {self.period:.4g}, from {self.start:.4g} on: a circle"


def _number(text: str) -> float:
    """A number, also as `2pi` or `-pi`; NaN for other text."""
    number = text.strip().lower()
    factor = number.removesuffix("pi")
    try:
        if factor == number:
            return float(number)
        return math.pi * float(factor + "1" if factor in ("", "-") else factor)
    except ValueError:
        return math.nan
