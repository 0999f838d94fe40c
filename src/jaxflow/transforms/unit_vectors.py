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
# Columns of which this share of rows fits look like unit vectors, or like orthogonal ones.
MOST = 0.98
# Unit vectors may be rounded to this step; a little more than its rounding in float32.
ROUNDED, FINE = 0.01, 0.011
# Unit vectors have this length, within UNIT; fewer rows show nothing.
UNIT, LEAST_ROWS = 1e-3, 10


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

        And which are not taken, since some rows have other lengths, or they are orthogonal to
        others.
        """
        found: list[UnitVector] = []
        notes: list[str] = []
        if len(table.x) < LEAST_ROWS:
            return found, notes
        left = set(free)
        # All windows of rows of length 1 first, then those with mistakes.
        for most, size in itertools.product((0.0, 1 - MOST), (2, 3, 4)):
            for columns in _candidates(table, size):
                if not left.issuperset(columns):
                    continue
                kinds = [table.kinds[i] for i in columns]
                if any(isinstance(kind, GridColumn) and kind.step > FINE for kind in kinds):
                    continue
                off = _off_unit(table.x[:, columns])
                rounded = _rounding(table.x[:, columns]) if len(off) else 0.0
                off = off[:0] if rounded else off
                if len(off) > most * len(table.x):
                    continue
                left -= set(columns)
                if len(off):
                    names = ", ".join(table.names[i] for i in columns)
                    why = _lengths(table.x[:, columns], off)
                    notes.append(f"{names}: not taken for unit vectors, since {why}")
                    continue
                quaternion = size == 4 and all(
                    table.is_named(i, QUATERNION) or table.names[i].lower() in "wxyz"
                    for i in columns
                )
                found.append(cls(columns, quaternion, rounded))
        pairs = itertools.combinations(found, 2)
        upright = {each for pair in pairs if _orthogonal(table.x, *pair) for each in pair}
        if not upright:
            return found, notes
        names = [table.names[i] for each in found if each in upright for i in each.columns]
        notes.append(
            f"{', '.join(names)}: not taken for unit vectors, since they are orthogonal to each "
            "other, as rows of rotations are, and have no density together: write rotations as "
            "quaternions, or as matrices of 9 adjacent columns with determinant 1"
        )
        return [each for each in found if each not in upright], notes

    @classmethod
    def of(
        cls,
        columns: tuple[int, ...],
        options: list[str],
        table: Columns,
        *,
        up_to_sign: bool = False,
    ) -> list["UnitVector"]:
        """The unit vectors of some columns, as the user says."""
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
    """Adjacent columns; first of all, those with names of quaternions anywhere."""
    count = table.x.shape[1]
    windows = [tuple(range(first, first + size)) for first in range(count - size + 1)]
    named = tuple(i for i in range(count) if table.is_named(i, QUATERNION))
    return [named, *windows] if len(named) == size == 4 else windows


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
    """Whether the vectors are orthogonal in almost all rows."""
    if len(one.columns) != len(other.columns):
        return False
    cosine = np.sum(x[:, one.columns] * x[:, other.columns], axis=1)
    most = 3 * UNIT + one.rounded + other.rounded
    return bool(np.mean(np.abs(cosine) <= most) >= MOST)


def _off_unit(x: Float[np.ndarray, "n k"]) -> np.ndarray:
    """Numbers of the rows whose length is not 1."""
    return np.flatnonzero(np.abs(np.linalg.norm(x, axis=1) - 1) > UNIT)


def _lengths(x: Float[np.ndarray, "n k"], off: np.ndarray) -> str:
    """How many rows have another length than 1, and the first one."""
    first, length = off[0], float(np.linalg.norm(x[off[0]]))
    return (
        f"{len(off)} of {len(x)} rows have another length, first row {first}: {length:g}. Divide "
        "each row by its length, or leave out mistakes"
    )
