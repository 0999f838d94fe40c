"""Adjacent columns whose rows have length 1: directions, axes, rotations."""

import itertools
from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from jaxflow.manifolds import Manifold, Projective, Sphere
from jaxflow.transforms.columns import Columns

# Words in names of quaternions.
QUATERNION = {"q", "qw", "qx", "qy", "qz", "quat", "quaternion", "orientation"}
# Columns look like unit vectors, or orthogonal ones, if at least this share of rows does.
MOST = 0.98
# Columns rounded to steps of at most this size may be unit vectors whose rounding a note names.
FINE = 0.011
# The length of a unit vector differs from 1 by at most this.
UNIT = 1e-3
# Fewer rows are not evidence.
LEAST_ROWS = 10


@dataclass(frozen=True)
class UnitVector:
    """Columns whose rows have length 1; `up_to_sign` if `x` and `-x` are one point."""

    columns: tuple[int, ...]
    up_to_sign: bool = False

    @classmethod
    def detect(cls, table: Columns, free: Collection[int]) -> tuple[list["UnitVector"], list[str]]:
        """Two to four adjacent columns, and four with names of quaternions.

        Notes columns that are not taken since they are rounded, have a few rows of another length,
        or are orthogonal to others.
        """
        found: list[UnitVector] = []
        doubts: dict[tuple[int, ...], str] = {}
        left = set(free) if len(table.x) >= LEAST_ROWS else set()
        # Columns without a row of another length first, then those with a few.
        for most, size in itertools.product((0.0, 1 - MOST), (2, 3, 4)):
            for columns in _candidates(table, size):
                if not left.issuperset(columns):
                    continue
                x = table.x[:, columns]
                off = _off_unit(x)
                if any(map(table.step, columns)):
                    if most > 0 or not _is_rounded(table, columns):
                        continue
                    doubts[columns] = (
                        "they are rounded so much that their lengths differ: divide each row by "
                        "its length"
                    )
                elif len(off) > most * len(x):
                    continue
                elif len(off):
                    doubts[columns] = _lengths(x, off)
                else:
                    found.append(cls(columns, _are_quaternions(table, columns)))
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
        if len(off):
            raise ValueError(f"needs rows of length 1: {_lengths(table.x[:, columns], off)}")
        return [cls(columns, up_to_sign)]

    def keeps_grid(self, table: Columns) -> bool:
        """Whether noise within cells of a grid keeps the length: it does not."""
        return False

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
        """The manifold, which is its own transform."""
        return self.manifold


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


def _is_rounded(table: Columns, columns: tuple[int, ...]) -> bool:
    """Whether the lengths are 1 up to the rounding of the columns, which is small."""
    step = max(map(table.step, columns))
    off = np.abs(np.linalg.norm(table.x[:, columns], axis=1) - 1)
    return step <= FINE and bool((off <= step / 2 * len(columns) ** 0.5 + 1e-6).all())


def _orthogonal(x: Float[np.ndarray, "n d"], one: UnitVector, other: UnitVector) -> bool:
    """Whether two vectors of equal size are orthogonal in almost all rows."""
    if len(one.columns) != len(other.columns):
        return False
    cosine = np.sum(x[:, one.columns] * x[:, other.columns], axis=1)
    return bool(np.mean(np.abs(cosine) <= 3 * UNIT) >= MOST)


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
