"""Kinds of columns of numbers: what each detects, and how it is coded and printed."""

import re
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from jaxflow.tables.cells import Cells
from jaxflow.tables.laws import Law, Steps
from jaxflow.tables.spacing import SHARES, are_discrete, find_limits, is_whole, whole_step
from jaxflow.transforms.kinds import ATOM, ATOM_ROWS, INTERVALS, Column, GridColumn

# Limits of columns whose name ends with such a word.
CALENDAR = {"month": (1, 12), "day": (1, 31), "hour": (0, 23), "minute": (0, 59)}
CALENDAR |= {"second": (0, 59)}
# Numbers within a usual interval are bounded by it if at both ends at least this share of the rows
# is as close as NEAR of the interval; shares and percentages need a single row there.
NEAR, CLOSE = 0.05, 0.01
# Most values of a continuous column that have a probability of their own.
MAX_ATOMS = 8
# Digits of a number that is drawn; float32 knows no more.
DIGITS = 8
# Samples have the decimals of the cells if these have at most so many.
MOST_DECIMALS = 4
# Share of a period that an angle is away from the cut at least.
CUT = 1e-6

Codes = Float[np.ndarray, " n"]


@dataclass(frozen=True)
class Whole:
    """Counts, whole numbers, and numbers in steps such as 0.1, within limits.

    `origin` is a number that occurs, or 0 for counts.
    """

    lower: float = -np.inf
    upper: float = np.inf
    step: float = 1.0
    origin: float = 0.0

    @classmethod
    def detect(cls, cells: Cells) -> "Whole | None":
        """Whole numbers in few steps or repeated ones, or repeated numbers on a coarse grid."""
        x = cells.numbers[~cells.missing]
        if is_whole(x):
            step = whole_step(x)
            if not are_discrete(x, step):
                return None
            counted = step == 1 and x.min() < np.ptp(x)
            word = re.split(r"[^a-z]", cells.name.lower())[-1]
            least, most = CALENDAR.get(word, (np.inf, -np.inf))
            known = step == 1 and least <= x.min() and x.max() <= most
            limits = (float(least), float(most)) if known else find_limits(x, step)
            return cls(*limits, step=step, origin=0.0 if counted else float(x[0]))
        grid = GridColumn.detect(Column.of(x)) if len(np.unique(x)) > 2 else None
        if grid is None:
            return None
        return cls(*find_limits(x, grid.step), step=grid.step, origin=grid.origin)

    @classmethod
    def count(cls, cells: Cells) -> "Whole":
        """Whole numbers from 0 on; raises ValueError for other cells."""
        kind = cls(lower=0.0)
        kind.encode(cells)
        return kind

    @classmethod
    def whole(cls, cells: Cells) -> "Whole":
        """Whole numbers within the limits that they show; raises ValueError for other cells."""
        cls().encode(cells)
        return cls(*find_limits(cells.numbers[~cells.missing]))

    def describe(self) -> str:
        """The name of the kind, and its limits."""
        word = "whole numbers" if self.step == 1 else f"numbers in steps of {self.step:g}"
        if np.isfinite(self.upper):
            return f"{word} from {self.lower:g} to {self.upper:g}"
        if self.lower == self.origin == 0 and self.step == 1:
            return "count: whole numbers from 0 on"
        return f"{word} from {self.lower:g} on" if np.isfinite(self.lower) else word

    def law(self, codes: Codes) -> Law:
        """The law of the codes."""
        low, high = ((limit - self.origin) / self.step for limit in (self.lower, self.upper))
        # The limits may lie between two steps, or be rounded.
        return Steps.fit(codes, np.ceil(low - 0.01), np.floor(high + 0.01))

    def encode(self, cells: Cells) -> Codes:
        """Numbers of steps; raises ValueError off the steps and beyond the limits."""
        x = cells.numbers
        cells.refuse(~np.isfinite(x), f"not a finite number, and the column is {self.describe()}")
        k = (x - self.origin) / self.step
        cells.refuse(np.abs(k - np.round(k)) > 0.01, f"the column is {self.describe()}")
        slack = 0.01 * self.step
        out = (x < self.lower - slack) | (x > self.upper + slack)
        cells.refuse(out, f"beyond the limits of {self.describe()}")
        return np.round(k)

    def decode(self, codes: Codes) -> np.ndarray:
        """Numbers of codes; integers where the steps are whole."""
        k = np.nan_to_num(codes)
        if self.step == round(self.step) and self.origin == round(self.origin):
            return (self.origin + self.step * k).astype(np.int64)
        decimals = int(np.ceil(-np.log10(self.step))) + 2
        return np.round(self.origin + self.step * k, decimals)


@dataclass(frozen=True)
class Number:
    """Continuous numbers, with limits or without.

    Codes are `(x - centre) / scale` in float64: the density is of these, times `1 / scale`.
    `atoms` are values with a probability of their own, and no part of it. Samples have as many
    `decimals` as the cells, None for many. Angles, whose `first` is the least one that is written,
    are cut at `lower`, where no row is, and end at `upper` after a period.
    """

    lower: float
    upper: float
    centre: float
    scale: float
    atoms: tuple[float, ...] = ()
    decimals: int | None = None
    first: float | None = None

    @staticmethod
    def upgrade_fields(fields: dict[str, Any]) -> dict[str, Any]:
        """The fields in files without decimals and angles."""
        decimals = 0 if fields.get("whole") else None
        kept = {name: value for name, value in fields.items() if name != "whole"}
        return {"first": None, "decimals": decimals} | kept

    @classmethod
    def detect(cls, cells: Cells) -> "Number":
        """Any column of numbers: bounded, positive, or continuous."""
        _refuse_infinite(cells)
        x = cells.numbers[~cells.missing]
        low, high = float(x.min()), float(x.max())
        for lower, upper in INTERVALS:
            near = NEAR * (upper - lower)
            least = 1 if (lower, upper) in SHARES else max(1.0, CLOSE * len(x))
            ends = np.sum(x - lower < near), np.sum(upper - x < near)
            # No accident gives exactly 1 or 100 twice.
            full = (lower, upper) in SHARES and np.sum(x == upper) > 1
            if lower <= low and high <= upper and (full or min(ends) >= least):
                break
        else:
            below, above = _cut_off(x)
            lower = low if below else 0.0 if 0 <= low < high - low else -np.inf
            upper = high if above else np.inf
        return replace(cls.within(cells, lower, upper), decimals=_decimals(x))

    @classmethod
    def within(cls, cells: Cells, lower: float, upper: float) -> "Number":
        """Numbers between limits; values that are exactly a limit, or frequent, are atoms."""
        x = cells.numbers
        if not lower < upper:
            raise ValueError(
                f"column {cells.name!r}: the limits {lower:g} and {upper:g} are empty"
            )
        x = x[~cells.missing & np.isfinite(x)]
        on_limit = [limit for limit in (lower, upper) if limit in x]
        atoms = tuple(dict.fromkeys([*on_limit, *_atoms(x)]))
        rest = x[~np.isin(x, atoms)]
        with np.errstate(over="ignore", invalid="ignore"):
            mean, spread = (float(rest.mean()), float(rest.std())) if len(rest) else (0.0, 1.0)
        if not np.isfinite(spread) or not np.isfinite(mean):
            cells.refuse(
                np.abs(cells.numbers) > 1e150, "too large to compute a standard deviation"
            )
        bounded = np.isfinite(lower) and np.isfinite(upper)
        centre = lower if np.isfinite(lower) else upper if np.isfinite(upper) else mean
        scale = upper - lower if bounded else spread or 1.0
        kind = cls(lower, upper, centre, scale, atoms)
        kind.encode(cells)
        return kind

    @classmethod
    def periodic(cls, cells: Cells, period: float, first: float) -> "Number":
        """Angles from `first` on, cut in the middle of the widest interval without a row."""
        x = np.unique((cells.numbers[~cells.missing] - first) % period)
        gaps = np.diff(x, append=x[0] + period)
        seam = first + float(x[gaps.argmax()] + gaps.max() / 2) % period
        wrapped = seam + (cells.numbers - seam) % period
        kind = cls.within(Cells(cells.name, wrapped, cells.missing), seam, seam + period)
        return replace(kind, decimals=_decimals(cells.known), first=first + 0.0)

    def describe(self) -> str:
        """The limits, and the values with a probability of their own."""
        if self.first is not None:
            text = f"repeats after {self.upper - self.lower:.4g}: cut at {self.lower:.4g}, logit"
        elif np.isfinite(self.lower) and np.isfinite(self.upper):
            text = f"bounded, within ({self.lower:g}, {self.upper:g}): logit"
        elif np.isfinite(self.lower):
            word = "positive" if self.lower == 0 else f"above {self.lower:g}"
            text = f"{word}: logarithm"
        else:
            text = f"below {self.upper:g}: logarithm" if np.isfinite(self.upper) else "continuous"
        if self.atoms:
            shown = ", ".join(f"{atom:g}" for atom in self._written(np.array(self.atoms)))
            few = len(self.atoms) == 1
            text += f"; exactly {shown} {'has a probability' if few else 'have probabilities'}"
        if self.decimals == 0:
            text += "; samples are rounded to whole numbers"
        return text

    def encode(self, cells: Cells) -> Codes:
        """Codes; raises ValueError beyond the limits, and on a limit that is no atom."""
        _refuse_infinite(cells)
        x = self._on_line(cells)
        out = (x <= self.lower) | (x >= self.upper)
        cells.refuse(out & ~np.isin(x, self.atoms), f"the column is {self.describe()}")
        return (x - self.centre) / self.scale

    def states(self, cells: Cells) -> Codes:
        """0 for a number with a density, 1 and on for the atoms; NaN where missing."""
        hits = self._on_line(cells)[:, None] == np.array(self.atoms)
        place = np.where(hits.any(axis=1), 1.0 + hits.argmax(axis=1) if self.atoms else 0.0, 0.0)
        return np.where(cells.missing, np.nan, place)

    def decode(self, codes: Codes, states: Codes) -> np.ndarray:
        """Numbers strictly within the limits, and atoms."""
        x = self.centre + self.scale * np.nan_to_num(codes)
        if self.decimals is None:
            x = np.array([float(f"{value:.{DIGITS}g}") for value in x.tolist()])
            least, most = np.nextafter(self.lower, np.inf), np.nextafter(self.upper, -np.inf)
        else:
            x, unit = np.round(x, self.decimals), 10.0**self.decimals
            low, high = (np.round(limit * unit, 3) for limit in (self.lower, self.upper))
            least, most = (np.floor(low) + 1) / unit, (np.ceil(high) - 1) / unit
        place = np.nan_to_num(states).astype(int)
        x = np.where(place > 0, np.array([0.0, *self.atoms])[place], np.clip(x, least, most))
        x = self._written(x)
        return x.astype(np.int64) if self.decimals == 0 else x

    def meet_atoms(self, codes: Codes, states: Codes) -> Bool[np.ndarray, " n"]:
        """Which numbers with a density would be rounded to an atom, and so counted as one."""
        if self.decimals is None or not self.atoms:
            return np.zeros(len(codes), bool)
        rounded = self.decode(codes, np.zeros(len(codes)))
        meets = np.isin(rounded, self._written(np.array(self.atoms)))
        return meets & (states == 0) & ~np.isnan(codes)

    def _on_line(self, cells: Cells) -> np.ndarray:
        """The numbers; angles from the cut on, and `CUT` of a period from it at least."""
        x = cells.numbers
        if self.first is None:
            return x
        period, last = self.upper - self.lower, self.first + self.upper - self.lower
        cells.refuse((x < self.first) | (x > last), f"angles are from {self.first:g} to {last:g}")
        x = self.lower + (x - self.lower) % period
        return np.clip(x, self.lower + CUT * period, self.upper - CUT * period)

    def _written(self, x: np.ndarray) -> np.ndarray:
        """Angles from `first` on, in the digits of samples."""
        if self.first is None:
            return x
        period = self.upper - self.lower
        x = np.array([float(f"{value:.{DIGITS}g}") for value in (x - self.first) % period])
        return self.first + np.where(x >= period, 0.0, x)


def _decimals(x: np.ndarray) -> int | None:
    """The most decimals of any number; None for more than `MOST_DECIMALS`."""
    x = x.astype(np.float64)
    if np.abs(x).max(initial=0.0) > 2**53 / 10**MOST_DECIMALS:
        return 0 if is_whole(x) else None
    each = range(MOST_DECIMALS + 1)
    return next((d for d in each if np.array_equal(np.round(x, d), x)), None)


def _refuse_infinite(cells: Cells) -> None:
    cells.refuse(~np.isfinite(cells.numbers), "not a finite number")


def _atoms(x: np.ndarray) -> tuple[float, ...]:
    """The values that many rows share, the frequent ones first."""
    values, counts = np.unique(x, return_counts=True)
    order = np.argsort(-counts, kind="stable")[:MAX_ATOMS]
    return tuple(float(values[i]) for i in order if counts[i] >= max(ATOM_ROWS, ATOM * len(x)))


def _cut_off(x: np.ndarray) -> tuple[bool, bool]:
    """Whether the least and the largest number are atoms, and no number between is as frequent."""
    counts = np.unique(x, return_counts=True)[1]
    most = max(ATOM_ROWS, ATOM * len(x), counts[1:-1].max(initial=0) + 1)
    return bool(counts[0] >= most), bool(counts[-1] >= most)
