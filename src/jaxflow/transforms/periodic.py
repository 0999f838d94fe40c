"""Columns with a period: angles, phases, hours of the day, months."""

import itertools
import math
from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from jaxflow.transforms.columns import Columns
from jaxflow.transforms.kinds import GridColumn, decimal_step, reaches, usual_gap

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
# Most steps of a grid around the circle, such as half degrees; finer ones are as good as none.
STEPS = 720
# Largest share of the period without values on either side of the seam: with a name or beside a
# column of the same period, and with both.
NAMED_GAP, BESIDE_GAP = 0.05, 0.2


@dataclass(frozen=True)
class Periodic:
    """A column that repeats after its period, in the column's units.

    `step` is that of a grid around the circle which would be too fine on a line: whole degrees.
    """

    columns: tuple[int, ...]
    period: float
    start: float
    step: float = 0.0

    @classmethod
    def detect(cls, table: Columns, free: Collection[int]) -> tuple[list["Periodic"], list[str]]:
        """Columns that fill a usual period, with values on both sides of the seam.

        And those on a grid that have one point of the circle by two numbers, 0 and 360.
        """
        found: list[Periodic] = []
        for beside in (False, True):
            taken = {i for group in found for i in group.columns}
            for i in sorted(set(free) - taken):
                limits = set(itertools.chain(*(each.limits for each in found)))
                found += cls._fill(i, table, limits if beside else None)
        notes = []
        for i in sorted(set(free) - {i for group in found for i in group.columns}):
            ends = table.x[:, i].min(), table.x[:, i].max()
            grid = isinstance(table.kinds[i], GridColumn) and table.is_named(i, ANGLES)
            if grid and ends == (0, 360):
                notes.append(
                    f"{table.names[i]}: not taken for a circle, since it has both 0 and 360: if "
                    "these are one direction, wrap the values, x % 360"
                )
        for group in found:
            values = np.unique(table.x[:, group.columns[0]])
            step = _fine_step(values, group.period)
            if step and not group.grids(table):
                notes.append(
                    f"{table.names[group.columns[0]]}: in steps of {step:g}, but taken as "
                    f"continuous, since it has both {values[0]:g} and {values[-1]:g}, which are "
                    f"one point: wrap the values, x % {group.period:g}"
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
            on_grid = isinstance(kind, GridColumn)
            fine = 0.0 if on_grid else _fine_step(np.unique(values), period)
            fit = []
            for step in (kind.step,) if on_grid else (fine, 0.0):
                low, high = float(values.min()) - step / 2, float(values.max()) + step / 2
                starts = numbers[1:] or [-step / 2, -period / 2, low]
                slack = 1e-6 * period
                fits = [s for s in starts if s - slack <= low and high <= s + period + slack]
                fit += [cls((i,), period, s, 0.0 if on_grid else step) for s in fits]
            if not fit:
                raise ValueError(
                    f"has a period of {period:g}, and values from {values.min():g} to "
                    f"{values.max():g}: give the period of these units (2pi is for radians, 360 "
                    "for degrees), or wrap the values"
                )
            found.append(fit[0])
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
                    step = _fine_step(values, period)
                    if values[-1] + step / 2 <= start + period - step / 2 + slack:
                        start -= step / 2
                    elif values[0] - step / 2 >= start + step / 2 - slack:
                        start += step / 2
                    else:
                        # Both ends of the period, which are one point.
                        step = 0.0
                    return [cls((i,), period, start, step)]
        return []

    @property
    def limits(self) -> list[tuple[float, float]]:
        """Period and start, where the cells of a grid begin and in their middle."""
        return [(self.period, self.start + shift * self.step / 2) for shift in (-1, 0, 1)]

    def grids(self, table: Columns) -> dict[int, GridColumn]:
        """Columns that noise spreads over their grid."""
        (i,) = self.columns
        kind = table.kinds[i]
        if isinstance(kind, GridColumn):
            return {i: kind}
        return {i: GridColumn(self.step, float(table.x[0, i]))} if self.step else {}

    def describe(self) -> str:
        """The period."""
        circle = f"repeats after {self.period:.4g}, from {self.start:.4g} on: a circle"
        grid = GridColumn(self.step, 0.0)
        return f"{circle}; {grid.describe()}" if self.step else circle


def _fine_step(values: Float[np.ndarray, " m"], period: float) -> float:
    """The step of a grid that divides the period and holds the sorted values; 0 for none."""
    step = decimal_step(values) if len(values) > 1 else 0.0
    steps = period / step if step else math.inf
    return step if steps <= STEPS + 1e-3 and abs(steps - round(steps)) < 1e-3 else 0.0


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
