"""Adjacent columns whose rows have length 1: directions, axes, rotations."""

import itertools
from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from jaxflow.manifolds import Manifold, Projective, Sphere
from jaxflow.transforms.columns import Columns
from jaxflow.transforms.kinds import GridColumn
from jaxflow.transforms.unit_length import UnitLength

# Words in names of quaternions.
QUATERNION = {"q", "qw", "qx", "qy", "qz", "quat", "quaternion", "orientation"}
# Columns look like unit vectors, or orthogonal ones, if at least this share of rows does.
MOST = 0.98
# Unit vectors may be rounded to this step; a little more than its rounding in float32.
ROUNDED, FINE = 0.01, 0.011
# The length of a unit vector differs from 1 by at most this.
UNIT = 1e-3
# Fewer rows are not evidence.
LEAST_ROWS = 10


@dataclass(frozen=True)
class UnitVector:
    """Columns whose rows have length 1; `up_to_sign` if `x` and `-x` are one point.

    `rounded` is the step to which the columns are rounded, if that changes lengths.
    """

    columns: tuple[int, ...]
    up_to_sign: bool = False
    rounded: float = 0.0

    @classmethod
    def detect(cls, table: Columns, free: Collection[int]) -> tuple[list["UnitVector"], list[str]]:
        """Two to four adjacent columns, and four with names of quaternions.

        Notes columns that are not taken since they have a few rows of another length, or are
        orthogonal to others.
        """
        found: list[UnitVector] = []
        doubts: dict[tuple[int, ...], str] = {}
        left = set(free) if len(table.x) >= LEAST_ROWS else set()
        # Columns without a row of another length first, then those with a few.
        for most, size in itertools.product((0.0, 1 - MOST), (2, 3, 4)):
            for columns in _candidates(table, size):
                if not left.issuperset(columns):
                    continue
                if any(table.step(i) > FINE for i in columns):
                    continue
                x = table.x[:, columns]
                off = _off_unit(x)
                rounded = _rounding(x) if len(off) else 0.0
                if rounded:
                    off = off[:0]
                if len(off) > most * len(x):
                    continue
                if len(off):
                    doubts[columns] = _lengths(x, off)
                else:
                    found.append(cls(columns, _are_quaternions(table, columns), rounded))
                left -= set(columns)
        pairs = itertools.combinations(found, 2)
        orthogonal = {each for pair in pairs if _orthogonal(table.x, *pair) for each in pair}
        if orthogonal:
            columns = tuple(i for each in found if each in orthogonal for i in each.columns)
            doubts[columns] = (
                "they are orthogonal to each other, as rows of rotations are, and have no density "
                "together: write rotations as quaternions, or as matrices of 9 adjacent columns "
                "with determinant 1"
            )
        notes = [
            f"{table.join(columns)}: not taken for unit vectors, since {why}"
            for columns, why in doubts.items()
        ]
        return [each for each in found if each not in orthogonal], notes

    @classmethod
    def of(
        cls,
        columns: tuple[int, ...],
        options: list[str],
        table: Columns,
        *,
        up_to_sign: bool = False,
    ) -> list["UnitVector"]:
        """Columns that the user calls a direction or an axis."""
        if len(columns) < 2 or options:
            raise ValueError("takes two or more columns, and no options")
        off = _off_unit(table.x[:, columns])
        rounded = _rounding(table.x[:, columns]) if len(off) else 0.0
        if len(off) and not rounded:
            raise ValueError(f"needs rows of length 1: {_lengths(table.x[:, columns], off)}")
        return [cls(columns, up_to_sign, rounded)]

    def grids(self, table: Columns) -> dict[int, GridColumn]:
        """Columns that noise spreads over their grid: none, since it would change lengths."""
        return {}

    def describe(self) -> str:
        """What the columns are."""
        size = len(self.columns)
        steps = f", rounded to {self.rounded:g}: rows are divided by their length"
        more = steps if self.rounded else ""
        if self.up_to_sign:
            what = "unit quaternions, rotations" if size == 4 else "unit vectors up to sign, axes"
            return f"{what} (direction: x and -x differ){more}"
        where = "circle" if size == 2 else "sphere"
        return f"unit vectors, on a {where} (axis: x and -x are one){more}"

    @property
    def manifold(self) -> Manifold:
        """The sphere, or the projective space."""
        return (Projective if self.up_to_sign else Sphere)(len(self.columns) - 1)

    @property
    def chart(self) -> Manifold | UnitLength:
        """The manifold, which is also a transform; rows of rounded columns are made longer."""
        if not self.rounded:
            return self.manifold
        return UnitLength(self.manifold, _most_off(self.rounded, len(self.columns)))


def _candidates(table: Columns, size: int) -> list[tuple[int, ...]]:
    """Adjacent columns, after four columns anywhere with names of quaternions."""
    count = table.x.shape[1]
    windows = [tuple(range(first, first + size)) for first in range(count - size + 1)]
    named = tuple(i for i in range(count) if table.is_named(i, QUATERNION))
    return [named, *windows] if len(named) == size == 4 else windows


def _are_quaternions(table: Columns, columns: tuple[int, ...]) -> bool:
    """Whether there are four columns, with the names of the entries of a quaternion."""
    return len(columns) == 4 and all(
        table.is_named(i, QUATERNION) or table.names[i].lower() in "wxyz" for i in columns
    )


def _rounding(x: Float[np.ndarray, "n k"]) -> float:
    """The step to which the columns are rounded, if the lengths are 1 but for it; else 0."""
    cells = x / ROUNDED
    off = np.abs(np.linalg.norm(x, axis=1) - 1)
    on_grid = np.all(np.abs(cells - np.round(cells)) <= 1e-3)
    return ROUNDED if on_grid and np.all(off <= _most_off(ROUNDED, x.shape[1])) else 0.0


def _most_off(step: float, size: int) -> float:
    """How much rounding to a step changes the length of a unit vector at most."""
    return step / 2 * size**0.5 + 1e-6


def _orthogonal(x: Float[np.ndarray, "n d"], one: UnitVector, other: UnitVector) -> bool:
    """Whether two vectors of equal size are orthogonal in almost all rows."""
    if len(one.columns) != len(other.columns):
        return False
    cosine = np.sum(x[:, one.columns] * x[:, other.columns], axis=1)
    most = 3 * UNIT + one.rounded + other.rounded
    return bool(np.mean(np.abs(cosine) <= most) >= MOST)


def _off_unit(x: Float[np.ndarray, "n k"]) -> np.ndarray:
    """Indices of the rows whose length is not 1."""
    return np.flatnonzero(np.abs(np.linalg.norm(x, axis=1) - 1) > UNIT)


def _lengths(x: Float[np.ndarray, "n k"], off: np.ndarray) -> str:
    """How many rows have another length than 1, and the first of them."""
    first, length = off[0], float(np.linalg.norm(x[off[0]]))
    return (
        f"{len(off)} of {len(x)} rows have another length, first row {first}: {length:g}. Divide "
        "each row by its length, or leave out mistakes"
    )
