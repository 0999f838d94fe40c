"""Columns with a period: angles, phases, hours of the day, months."""

import math
from collections.abc import Collection
from dataclasses import dataclass

import numpy as np

from jaxflow.transforms.columns import Columns, columns_of
from jaxflow.transforms.kinds import reaches, usual_gap

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

        Notes columns that do not since they have both 0 and 360, one point of the circle.
        """
        found: list[Periodic] = []
        for beside in (False, True):
            for i in sorted(set(free) - columns_of(found)):
                limits = {(each.period, each.start) for each in found} if beside else None
                guess = cls._guess(i, table, limits)
                found += [] if guess is None else [guess]
        notes = []
        for i in sorted(set(free) - columns_of(found)):
            ends = table.x[:, i].min(), table.x[:, i].max()
            if table.step(i) and table.is_named(i, ANGLES) and ends == (0, 360):
                notes.append(
                    f"{table.names[i]}: not taken for a circle, since it has both 0 and 360: if "
                    "these are one direction, wrap the values, x % 360"
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
        period, half_step, values = numbers[0], table.step(i) / 2, table.x[:, i]
        low, high = float(values.min()) - half_step, float(values.max()) + half_step
        for start in numbers[1:] or (-half_step, -period / 2, low):
            if _holds(start, period, low, high):
                return cls((i,), period, start)
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
                    return cls((i,), period, start)
        return None

    def keeps_grid(self, table: Columns) -> bool:
        """Whether noise within cells stays within the period."""
        return True

    def describe(self) -> str:
        """The period."""
        return f"repeats after {self.period:.4g}, from {self.start:.4g} on: a circle"


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
