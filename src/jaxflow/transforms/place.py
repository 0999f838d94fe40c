"""Pairs of columns that are places: latitude and longitude, declination and right ascension."""

import itertools
import math
from collections.abc import Collection
from dataclasses import dataclass

import numpy as np

from jaxflow.manifolds import Manifold, Sphere
from jaxflow.transforms.columns import Columns
from jaxflow.transforms.kinds import GridColumn
from jaxflow.transforms.latlon import LatLon

# Words in names: of latitudes and of the longitudes beside them.
PAIRS = (
    ({"lat", "latitude"}, {"lon", "long", "lng", "longitude"}),
    ({"dec", "decl", "declination"}, {"ra", "rightascension"}),
    ({"alt", "altitude", "el", "elevation"}, {"az", "azimuth"}),
)
POLAR, AROUND = {"theta", "colatitude", "zenith"}, {"phi", "azimuth"}
# A region is small, so flat, if the mean of its unit vectors is longer.
SMALL = 0.9


@dataclass(frozen=True)
class Place:
    """Two columns that are a point of the sphere: latitude and longitude, in this order."""

    columns: tuple[int, ...]
    chart: LatLon

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
        return bool(length > SMALL and across >= np.diff(turns).max(initial=0.0))

    def keeps_grid(self, table: Columns) -> bool:
        """Whether noise within the cells of rounded latitudes stays between the poles."""
        lat, kind = table.x[:, self.columns[0]], table.kinds[self.columns[0]]
        half_step = kind.step / 2 if isinstance(kind, GridColumn) else 0.0
        low = 0.0 if self.chart.polar else -self.chart.half_turn / 2
        within = (
            low + half_step <= lat.min() and lat.max() <= low + self.chart.half_turn - half_step
        )
        return bool(within)

    def describe(self) -> str:
        """What the columns are."""
        what = "polar angle and azimuth" if self.chart.polar else "latitude and longitude"
        return f"{what} in {'degrees' if self.chart.degrees else 'radians'}, on a sphere"

    @property
    def manifold(self) -> Manifold:
        """The sphere."""
        return Sphere(2)


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
