"""Pairs of columns that are places: latitude and longitude, declination and right ascension."""

import itertools
import math
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxflow.manifolds import Manifold, Sphere
from jaxflow.transforms.columns import Columns
from jaxflow.transforms.kinds import GridColumn, reaches
from jaxflow.transforms.latlon import LatLon
from jaxflow.transforms.periodic import NAMED_GAP

# Words in the names of latitudes, and of the longitudes beside them.
SKY = {"ra", "rightascension"}
PAIRS = (
    ({"lat", "latitude", "glat"}, {"lon", "long", "lng", "longitude", "glon"}),
    ({"b"}, {"l"}),
    ({"dec", "decl", "declination"}, SKY),
    ({"alt", "altitude", "el", "elevation"}, {"az", "azimuth"}),
)
POLAR, AROUND = {"theta", "colatitude", "zenith"}, {"phi", "azimuth"}
# Words of units; two names of a pair may differ in them.
HOURS = {"hours", "hour", "hr", "hrs", "h"}
UNIT_WORDS = HOURS | {"deg", "degree", "degrees", "rad", "radian", "radians"}
# The units that users name, and the arguments of their charts.
UNITS: dict[str, dict[str, Any]] = {
    "degrees": {},
    "radians": {"degrees": False},
    "hours": {"hours": True},
}
# A region is small, and treated as flat, if the mean of its unit vectors is longer.
SMALL = 0.9
# Columns look like a place, perhaps with mistakes, if at least this share of rows is in range.
MOST = 0.98


@dataclass(frozen=True)
class Place:
    """Two columns that are a point of the sphere: latitude and longitude, in this order."""

    columns: tuple[int, ...]
    chart: LatLon

    @classmethod
    def detect(cls, table: Columns, free: Collection[int]) -> tuple[list["Place"], list[str]]:
        """Pairs of columns with the names and the ranges of a latitude and a longitude.

        Notes pairs with the names that are not taken, and why.
        """
        found, notes = [], []
        for pair in _named_pairs(table, free):
            key = table.join(pair, ",")
            try:
                place = cls._guess_units(pair, table)
            except ValueError as doubt:
                notes.append(f"{key}: not taken for a place, since it {doubt} as its kind")
                continue
            fits = place.fits(table)
            if fits.mean() < MOST or place.is_small(table.x[fits]):
                continue
            if fits.all():
                found.append(place)
            else:
                notes.append(
                    f"{key}: not taken for {place.describe()}, since "
                    f"{_out_of_range(table.x[:, pair], fits)}: mend or leave out such rows"
                )
        return found, notes

    @classmethod
    def of(cls, columns: tuple[int, ...], options: list[str], table: Columns) -> list["Place"]:
        """Two columns that the user calls a place, in the units of `options` if there are any."""
        if len(columns) != 2 or len(options) > 1 or any(each not in UNITS for each in options):
            raise ValueError(
                "takes two columns, latitude and longitude: place, place:degrees, place:radians "
                "or place:hours (longitudes in hours, latitudes in degrees)"
            )
        if options:
            place = cls._in(options[0], columns, table)
        else:
            place = cls._guess_units(columns, table)
        fits = place.fits(table)
        if not fits.all():
            raise ValueError(
                f"needs latitude and longitude, in this order and in {place.units}: "
                f"{_out_of_range(table.x[:, columns], fits)}"
            )
        return [place]

    @classmethod
    def _in(cls, units: str, columns: tuple[int, ...], table: Columns) -> "Place":
        """The pair in these units; longitudes begin at 0 if more rows are then in range."""
        polar = table.is_named(columns[0], POLAR)
        charts = (LatLon(**UNITS[units], polar=polar, west=west) for west in (None, 0.0))
        places = [cls(tuple(columns), chart) for chart in charts]
        return max(places, key=lambda place: place.fits(table).mean())

    @classmethod
    def _guess_units(cls, columns: tuple[int, ...], table: Columns) -> "Place":
        """The pair in the units that its values and names suggest; ValueError if in doubt."""
        lat, lon = table.x[:, columns].T
        if table.is_named(columns[1], HOURS):
            return cls._in("hours", columns, table)
        low = (abs(lon) <= 6.3) & (abs(lat) <= math.pi)
        if low.mean() >= MOST:
            polar = table.is_named(columns[0], POLAR)
            wide = np.ptp(lon[low]) > math.pi or (polar and np.ptp(lat[low]) > 1)
            return cls._in("radians" if wide else "degrees", columns, table)
        sky, hours = table.is_named(columns[1], SKY), (lon >= 0) & (lon <= 24)
        if sky and _fills(lon, 24.0):
            return cls._in("hours", columns, table)
        place = cls._in("degrees", columns, table)
        if place.is_small(table.x):
            return place
        if _fills(lon, 24.0) or (sky and hours.mean() >= MOST and np.ptp(lon[hours]) > 12):
            raise ValueError(
                f"has longitudes from {lon.min():g} to {lon.max():g}, which may be hours: write "
                "place:hours or place:degrees"
            )
        for name, one, other, length in (
            ("longitudes", lon, lat, 2 * math.pi),
            ("latitudes", lat, lon, math.pi),
        ):
            if _fills(one, length):
                raise ValueError(
                    f"has {name} from {one.min():g} to {one.max():g}, as in radians, beside "
                    f"values from {other.min():g} to {other.max():g}: give both in one unit, or "
                    "write place:degrees"
                )
        return place

    def fits(self, table: Columns) -> np.ndarray:
        """Which rows are in range."""
        lat, lon = table.x[:, self.columns].T
        chart, slack = self.chart, 1e-6
        shares = (lat - self._least_lat) / chart.half_turn, (lon - chart.west) / chart.turn
        return np.all([(-slack <= each) & (each <= 1 + slack) for each in shares], axis=0)

    def is_small(self, x: np.ndarray) -> bool:
        """Whether these rows are a small part of the sphere, away from the longitude's seam."""
        lat, lon = x[:, self.columns].T
        lat, lon = lat * math.pi / self.chart.half_turn, lon * 2 * math.pi / self.chart.turn
        lat = math.pi / 2 - lat if self.chart.polar else lat
        parts = np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)
        length = math.hypot(*(float(part.mean()) for part in parts))
        turns = np.sort(lon)
        across = turns[0] + 2 * math.pi - turns[-1]
        return bool(length > SMALL and across >= np.diff(turns).max(initial=0.0))

    def grids(self, table: Columns) -> dict[int, GridColumn]:
        """Rounded columns, which noise spreads if it stays between the poles."""
        lat, half_step = table.x[:, self.columns[0]], table.step(self.columns[0]) / 2
        low, high = self._least_lat, self._least_lat + self.chart.half_turn
        if lat.min() < low + half_step or lat.max() > high - half_step:
            return {}
        return table.grids(self.columns)

    def describe(self) -> str:
        """What the columns are."""
        what = "polar angle and azimuth" if self.chart.polar else "latitude and longitude"
        return f"{what} in {self.units}, on a sphere"

    @property
    def units(self) -> str:
        """The units of both columns."""
        if self.chart.hours:
            return "degrees and hours"
        return "degrees" if self.chart.degrees else "radians"

    @property
    def manifold(self) -> Manifold:
        """The sphere."""
        return Sphere(2)

    @property
    def _least_lat(self) -> float:
        """The least value of the first column, at a pole."""
        return 0.0 if self.chart.polar else -self.chart.half_turn / 2


def _named_pairs(table: Columns, free: Collection[int]) -> list[tuple[int, int]]:
    """Pairs of columns with the names of a pair, whose other words are equal."""
    found: list[tuple[int, int]] = []
    for firsts, seconds in (*PAIRS, (POLAR, AROUND)):
        for i, j in itertools.permutations(sorted(free), 2):
            are_named = table.is_named(i, firsts) and table.is_named(j, seconds)
            if not are_named or not set(itertools.chain(*found)).isdisjoint((i, j)):
                continue
            others = table.other_words(i, firsts | UNIT_WORDS)
            if others == table.other_words(j, seconds | UNIT_WORDS):
                found.append((i, j))
    return found


def _fills(values: np.ndarray, length: float) -> bool:
    """Whether most values lie from 0 to `length`, or around 0, and reach close to both ends."""
    for start in (0.0, -length / 2):
        share = (values - start) / length
        inside = np.sort(share[(share >= -1e-6) & (share <= 1 + 1e-6)])
        if len(inside) >= MOST * len(values) and reaches(inside, 0.0, 1.0, NAMED_GAP):
            return True
    return False


def _out_of_range(x: np.ndarray, fits: np.ndarray) -> str:
    """How many rows do not fit, and the first one."""
    bad = np.flatnonzero(~fits)
    return (
        f"{len(bad)} of {len(x)} rows are out of range, first row {bad[0]}: {x[bad[0]].tolist()}"
    )
