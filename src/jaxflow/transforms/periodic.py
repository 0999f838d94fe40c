"""Columns with a period: angles, phases, hours of the day, months."""

import itertools
import math
from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from jaxflow.transforms.columns import Columns, columns_of
from jaxflow.transforms.kinds import GridColumn, decimal_step, reaches, usual_gap

# Words in names of angles.
ANGLES = {"lon", "long", "lng", "longitude", "ra", "az", "azimuth", "phase", "angle", "deg"}
ANGLES |= {"direction", "dir", "wdir", "winddir", "heading", "bearing", "aspect", "hue"}
ANGLES |= {"torsion", "dihedral", "theta"}
ANGLES |= {"phi", "psi", "omega", "chi", "alpha", "beta", "gamma", "delta", "epsilon", "zeta"}
# Periods, the words of such columns, and whether a name must have one of them.
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

        Notes columns on a grid that have one point of the circle by two numbers, 0 and 360.
        """
        found: list[Periodic] = []
        for beside in (False, True):
            for i in sorted(set(free) - columns_of(found)):
                limits = set(itertools.chain(*(each.limits for each in found)))
                guess = cls._guess(i, table, limits if beside else None)
                found += [] if guess is None else [guess]
        notes = []
        for i in sorted(set(free) - columns_of(found)):
            ends = table.x[:, i].min(), table.x[:, i].max()
            if table.step(i) and table.is_named(i, ANGLES) and ends == (0, 360):
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
        """Columns that the user calls periodic: `periodic`, `periodic:360` or `periodic:360:-180`.

        Without a start the period begins at 0 or is centred on 0, whichever holds the values.
        """
        numbers = [_number(each) for each in options]
        right = all(map(math.isfinite, numbers)) and all(each > 0 for each in numbers[:1])
        if not right or len(numbers) > 2:
            raise ValueError(
                "needs a positive period, and where it begins if need be: periodic:360, "
                "periodic:2pi or periodic:360:-180"
            )
        return [cls._of_one(i, numbers, table) for i in columns]

    @classmethod
    def _of_one(cls, i: int, numbers: list[float], table: Columns) -> "Periodic":
        """One column, with the user's period and start as far as they are given."""
        if not numbers:
            guess = cls._guess(i, table, None)
            if guess is None:
                raise ValueError("needs the period of these values, such as periodic:360")
            return guess
        period, values, on_grid = numbers[0], table.x[:, i], table.step(i)
        # A fine grid only if its cells fit into the period.
        steps = (on_grid,) if on_grid else (_fine_step(np.unique(values), period), 0.0)
        for step in steps:
            low, high = float(values.min()) - step / 2, float(values.max()) + step / 2
            for start in numbers[1:] or (-step / 2, -period / 2, low):
                if _holds(start, period, low, high):
                    return cls((i,), period, start, 0.0 if on_grid else step)
        raise ValueError(
            f"has a period of {period:g}, and values from {values.min():g} to "
            f"{values.max():g}: give the period of these units (2pi is for radians, 360 "
            "for degrees), or wrap the values"
        )

    @classmethod
    def _guess(
        cls, i: int, table: Columns, beside: set[tuple[float, float]] | None
    ) -> "Periodic | None":
        """The usual period that a column fills, if there is one.

        With `beside`, periods and starts of other columns, only these count, and more of the
        period may be empty.
        """
        values, step = np.unique(table.x[:, i]), table.step(i)
        for period, words, needs_word in PERIODS:
            is_named = table.is_named(i, words)
            if needs_word and not is_named:
                continue
            if step:
                # All of the grid: 0 to 23, 1 to 12, 10 to 360; with a name, nearly all.
                cells, filled = period / step, np.ptp(values) / step + 1
                most = cells * NAMED_GAP if is_named else 0.0
                fits = abs(cells - round(cells)) < 1e-3 and -1e-3 < cells - filled < most + 1e-3
                if fits and cells > 2:
                    return cls((i,), period, float(values[0]) - step / 2)
                continue
            for start in (0.0, -period / 2):
                gap = NAMED_GAP if is_named else usual_gap(len(values))
                if beside is not None:
                    is_beside = (period, start) in beside
                    gap = (BESIDE_GAP if is_named else NAMED_GAP) if is_beside else 0.0
                holds = _holds(start, period, values[0], values[-1])
                if holds and reaches(values, start, start + period, gap):
                    return cls((i,), period, *_cells(values, start, period))
        return None

    @property
    def limits(self) -> list[tuple[float, float]]:
        """Period and start, where the cells of a grid begin and in their middle."""
        return [(self.period, self.start + shift * self.step / 2) for shift in (-1, 0, 1)]

    def grids(self, table: Columns) -> dict[int, GridColumn]:
        """Columns that noise spreads over their grid."""
        if not self.step:
            return table.grids(self.columns)
        (i,) = self.columns
        return {i: GridColumn(self.step, float(table.x[0, i]))}

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


def _cells(values: Float[np.ndarray, " m"], start: float, period: float) -> tuple[float, float]:
    """Where a period begins so that cells of a fine grid around the values fit, and their step.

    The step is 0 without a grid, and with values at both ends of the period, which are one point.
    """
    step = _fine_step(values, period)
    if _holds(start, period, values[0], values[-1] + step):
        return start - step / 2, step
    if _holds(start, period, values[0] - step, values[-1]):
        return start + step / 2, step
    return start, 0.0


def _holds(start: float, period: float, low: float, high: float) -> bool:
    """Whether values from `low` to `high` lie in the period that begins at `start`."""
    slack = 1e-6 * period
    return bool(start - slack <= low and high <= start + period + slack)


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
