"""Columns of a table that live on a manifold: places, unit vectors, angles and times of day.

To add one, write a class with the methods of the others, and put it into `GROUPS`, in the order of
detection, and into `NAMED`, by the word that users write.
"""

import itertools
import math
import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np
from jaxtyping import Float

from jaxflow.manifolds import Manifold, Projective, Sphere, Torus
from jaxflow.transforms.kinds import GridColumn, reaches, usual_gap
from jaxflow.transforms.latlon import Angles, LatLon

# Words in names: of latitudes and of the longitudes beside them.
PAIRS = (
    ({"lat", "latitude"}, {"lon", "long", "lng", "longitude"}),
    ({"dec", "decl", "declination"}, {"ra", "rightascension"}),
    ({"alt", "altitude", "el", "elevation"}, {"az", "azimuth"}),
)
POLAR, AROUND = {"theta", "colatitude", "zenith"}, {"phi", "azimuth"}
# Words of angles, and of other columns with a period, which needs such a word.
ANGLES = {"lon", "long", "lng", "longitude", "ra", "az", "azimuth", "phase", "angle", "deg"}
ANGLES |= {"direction", "heading", "bearing", "aspect", "hue", "torsion", "dihedral", "theta"}
ANGLES |= {"phi", "psi", "omega", "chi", "alpha", "beta", "gamma", "delta", "epsilon", "zeta"}
PERIODS = (
    (360.0, ANGLES, False),
    (2 * math.pi, ANGLES, False),
    (24.0, {"hour", "hours", "hr", "h", "time", "clock"}, True),
    (12.0, {"month", "months"}, True),
    (7.0, {"weekday", "day", "dow"}, True),
    (1.0, {"phase"}, True),
)
QUATERNION = {"q", "qw", "qx", "qy", "qz", "quat", "quaternion", "orientation"}
# Largest share of the period without values on either side of the seam: with a name or beside a
# column of the same period, and with both.
NAMED_GAP, BESIDE_GAP = 0.05, 0.2
# Unit vectors have this length, within UNIT; fewer rows show nothing.
UNIT, LEAST_ROWS = 1e-3, 10
# A region is small, so flat, if the mean of its unit vectors is longer.
SMALL = 0.9


class Columns(NamedTuple):
    """The columns of a table: rows, names, and the flat kind of each."""

    x: Float[np.ndarray, "n d"]
    names: tuple[str, ...]
    kinds: tuple[Any, ...]

    def words(self, i: int) -> list[str]:
        """The words of a name, in lower case: `startLat_deg` has start, lat and deg."""
        split = re.sub(r"([a-z])([A-Z])", r"\1 \2", self.names[i])
        return re.findall(r"[a-z]+", split.lower())

    def is_named(self, i: int, known: Collection[str]) -> bool:
        """Whether a name has one of these words, or is one of them when run together."""
        words = self.words(i)
        return "".join(words) in known or not set(words).isdisjoint(known)

    def rest_of(self, i: int, known: Collection[str]) -> list[str]:
        """The words of a name beside these."""
        words = self.words(i)
        return [] if "".join(words) in known else [each for each in words if each not in known]


@dataclass(frozen=True)
class Place:
    """Two columns that are a point of the sphere: latitude and longitude, in this order.

    Attributes:
        columns: numbers of the columns.
        chart: latitude and longitude as a unit vector.
    """

    columns: tuple[int, ...]
    chart: LatLon
    word: ClassVar[str] = "place"

    @classmethod
    def detect(cls, table: Columns, free: Collection[int]) -> list["Place"]:
        """Pairs of columns with the names and the ranges of a latitude and a longitude."""
        found = []
        for first, second in _named_pairs(table, free):
            place = cls._within((first, second), table)
            if place is not None and not place.is_small(table):
                found.append(place)
        return found

    @classmethod
    def of(cls, columns: tuple[int, ...], options: list[str], table: Columns) -> list["Place"]:
        """The place of two columns, as the user says."""
        known = {"degrees": True, "radians": False}
        if len(columns) != 2 or any(each not in known for each in options):
            raise ValueError("takes two columns, latitude and longitude: place or place:radians")
        degrees = known[options[0]] if options else None
        place = cls._within(columns, table, degrees)
        if place is None:
            raise ValueError(
                f"has values from {table.x[:, columns].min(axis=0)} to "
                f"{table.x[:, columns].max(axis=0)}, which are no latitude and longitude in this "
                "order"
            )
        return [place]

    @classmethod
    def _within(
        cls, columns: tuple[int, ...], table: Columns, degrees: bool | None = None
    ) -> "Place | None":
        """The pair if its values are in range, in degrees unless they look like radians."""
        lat, lon = table.x[:, columns].T
        polar = table.is_named(columns[0], POLAR)
        if degrees is None:
            wide = np.ptp(lon) > math.pi or (polar and np.ptp(lat) > 1)
            degrees = not (wide and abs(lon).max() <= 6.3 and abs(lat).max() <= math.pi)
        half = 180.0 if degrees else math.pi
        slack = half * 1e-6
        low, high = (0.0, half) if polar else (-half / 2, half / 2)
        west = 0.0 if lon.min() >= 0 and lon.max() > half else -half
        if lat.min() < low - slack or lat.max() > high + slack:
            return None
        if lon.min() < west - slack or lon.max() > west + 2 * half + slack:
            return None
        return cls(tuple(columns), LatLon(degrees=degrees, polar=polar, west=west))

    def is_small(self, table: Columns) -> bool:
        """Whether the places are a small part of the sphere, away from the longitude's seam."""
        lat, lon = table.x[:, self.columns].T * (math.pi / self.chart.half_turn)
        lat = math.pi / 2 - lat if self.chart.polar else lat
        parts = np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)
        length = math.hypot(*(float(part.mean()) for part in parts))
        turns = np.sort(lon)
        across = turns[0] + 2 * math.pi - turns[-1]
        return length > SMALL and across >= np.diff(turns).max(initial=0.0)

    def describe(self) -> str:
        """What the columns are."""
        what = "polar angle and azimuth" if self.chart.polar else "latitude and longitude"
        return f"{what} in {'degrees' if self.chart.degrees else 'radians'}, on a sphere"

    @property
    def manifold(self) -> Manifold:
        """The sphere."""
        return Sphere(2)


@dataclass(frozen=True)
class UnitVector:
    """Columns whose rows have length 1: directions, axes, or rotations as quaternions.

    Attributes:
        columns: numbers of the columns.
        up_to_sign: whether `x` and `-x` are one point.
    """

    columns: tuple[int, ...]
    up_to_sign: bool = False

    @classmethod
    def detect(cls, table: Columns, free: Collection[int]) -> list["UnitVector"]:
        """Two to four adjacent columns; quaternions by their names."""
        found: list[UnitVector] = []
        if len(table.x) < LEAST_ROWS:
            return found
        for size in (4, 3, 2):
            for first in range(table.x.shape[1] - size + 1):
                columns = tuple(range(first, first + size))
                taken = {i for group in found for i in group.columns}
                if not taken.isdisjoint(columns) or not set(columns) <= set(free):
                    continue
                if any(isinstance(table.kinds[i], GridColumn) for i in columns):
                    continue
                if not len(_off_unit(table.x[:, columns])):
                    quaternion = size == 4 and all(
                        table.is_named(i, QUATERNION) or table.names[i].lower() in "wxyz"
                        for i in columns
                    )
                    found.append(cls(columns, quaternion))
        return found

    @classmethod
    def directions(
        cls, columns: tuple[int, ...], options: list[str], table: Columns
    ) -> list["UnitVector"]:
        """Unit vectors, as the user says."""
        return cls._of(columns, options, table, up_to_sign=False)

    @classmethod
    def axes(
        cls, columns: tuple[int, ...], options: list[str], table: Columns
    ) -> list["UnitVector"]:
        """Unit vectors up to sign, as the user says."""
        return cls._of(columns, options, table, up_to_sign=True)

    @classmethod
    def _of(
        cls, columns: tuple[int, ...], options: list[str], table: Columns, *, up_to_sign: bool
    ) -> list["UnitVector"]:
        if len(columns) < 2 or options:
            raise ValueError("takes two or more columns, and no options")
        off = _off_unit(table.x[:, columns])
        if len(off):
            raise ValueError(
                f"needs rows of length 1; row {off[0]} has "
                f"{np.linalg.norm(table.x[off[0], columns]):g}. Divide each row by its length"
            )
        return [cls(columns, up_to_sign)]

    @property
    def word(self) -> str:
        """How users name it."""
        return "axis" if self.up_to_sign else "direction"

    def describe(self) -> str:
        """What the columns are."""
        size = len(self.columns)
        if self.up_to_sign:
            what = "unit quaternions, rotations" if size == 4 else "unit vectors up to sign, axes"
            return f"{what} (direction: x and -x differ)"
        return f"unit vectors, on a {'circle' if size == 2 else 'sphere'} (axis: x and -x are one)"

    @property
    def manifold(self) -> Manifold:
        """The sphere, or the projective space."""
        return (Projective if self.up_to_sign else Sphere)(len(self.columns) - 1)

    @property
    def chart(self) -> Manifold:
        """None but the manifold itself."""
        return self.manifold


@dataclass(frozen=True)
class Periodic:
    """A column that repeats after its period.

    Attributes:
        columns: number of the column.
        period: its period, in the column's units.
        start: least value.
    """

    columns: tuple[int, ...]
    period: float
    start: float
    word: ClassVar[str] = "periodic"

    @classmethod
    def detect(cls, table: Columns, free: Collection[int]) -> list["Periodic"]:
        """Columns that fill a usual period, with values on both sides of the seam."""
        found: list[Periodic] = []
        for beside in (False, True):
            taken = {i for group in found for i in group.columns}
            for i in sorted(set(free) - taken):
                limits = {(each.period, each.start) for each in found} if beside else None
                found += cls._fill(i, table, limits)
        return sorted(found, key=lambda each: each.columns)

    @classmethod
    def of(cls, columns: tuple[int, ...], options: list[str], table: Columns) -> list["Periodic"]:
        """Columns of a period, as the user says: `periodic:360`, from 0 on or around 0."""
        found = []
        for i in columns:
            kind, values = table.kinds[i], table.x[:, i]
            if not options:
                guess = cls._fill(i, table, None)
                if not guess:
                    raise ValueError("needs the period of these values, such as periodic:360")
                found += guess
                continue
            period = _number(options[0])
            half_step = kind.step / 2 if isinstance(kind, GridColumn) else 0.0
            low, high = float(values.min()) - half_step, float(values.max()) + half_step
            starts = [_number(options[1])] if len(options) > 1 else [-half_step, -period / 2, low]
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
                # All of the grid: 0 to 23, 1 to 12, 10 to 360.
                if abs(np.ptp(values) + kind.step - period) < 1e-3 * kind.step:
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

    def describe(self) -> str:
        """The period."""
        return f"repeats after {self.period:.4g}, from {self.start:.4g} on: a circle"

    @property
    def manifold(self) -> Manifold:
        """The circle, in radians."""
        return Torus(1)

    @property
    def chart(self) -> Angles:
        """The column in radians."""
        return Angles(1, self.period, self.start)


Group = Place | UnitVector | Periodic

# In the order of detection.
GROUPS: tuple[Any, ...] = (Place, UnitVector, Periodic)

# How a user names them; the last one takes columns for numbers of a line.
NAMED: dict[str, Callable[..., list[Any]]] = {
    "place": Place.of,
    "direction": UnitVector.directions,
    "axis": UnitVector.axes,
    "periodic": Periodic.of,
    "interval": lambda columns, options, table: [],
}


def is_group(word: Any) -> bool:
    """Whether a user's word, such as `periodic:360`, is one of `NAMED`."""
    return isinstance(word, str) and word.partition(":")[0] in NAMED


def find_groups(table: Columns, wanted: dict[tuple[int, ...], str]) -> list[Group]:
    """The groups that a user wants, then those that are detected in the other columns.

    Raises:
        ValueError: a word is unknown, or does not fit its columns.
    """
    found: list[Group] = []
    free = set(range(len(table.names)))
    for columns, text in wanted.items():
        if not is_group(text):
            raise ValueError(
                f"kinds[{_key(columns, table)!r}]={text!r} is unknown; choose {', '.join(NAMED)}"
            )
        if not set(columns) <= free:
            raise ValueError(f"kinds names a column of {_key(columns, table)!r} twice")
        word, *options = text.split(":")
        try:
            found += NAMED[word](columns, options, table)
        except ValueError as error:
            raise ValueError(f"kinds[{_key(columns, table)!r}]={text!r} {error}") from None
        free -= set(columns)
    for group in GROUPS:
        new = group.detect(table, free)
        found += new
        free -= {i for each in new for i in each.columns}
    return found


def _key(columns: Sequence[int], table: Columns) -> str:
    return ",".join(table.names[i] for i in columns)


def _named_pairs(table: Columns, free: Collection[int]) -> list[tuple[int, int]]:
    """Pairs of columns whose names are those of a pair, and otherwise equal."""
    found: list[tuple[int, int]] = []
    for firsts, seconds in (*PAIRS, (POLAR, AROUND)):
        for i, j in itertools.permutations(sorted(free), 2):
            used = {k for pair in found for k in pair}
            named = table.is_named(i, firsts) and table.is_named(j, seconds)
            if not named or not used.isdisjoint((i, j)):
                continue
            if table.rest_of(i, firsts) == table.rest_of(j, seconds):
                found.append((i, j))
    return found


def _off_unit(x: Float[np.ndarray, "n k"]) -> np.ndarray:
    """Numbers of the rows whose length is not 1."""
    return np.flatnonzero(np.abs(np.linalg.norm(x, axis=1) - 1) > UNIT)


def _number(text: str) -> float:
    """A number, also as `2pi` or `-pi`."""
    number = text.strip().lower()
    if not number.endswith("pi"):
        return float(number)
    factor = number.removesuffix("pi")
    return math.pi * float(factor + "1" if factor in ("", "-") else factor)
