"""Adjacent columns whose rows have length 1: directions, axes, rotations."""

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from jaxflow.manifolds import Manifold, Projective, Sphere
from jaxflow.transforms.columns import Columns
from jaxflow.transforms.kinds import GridColumn

# Words in names of quaternions.
QUATERNION = {"q", "qw", "qx", "qy", "qz", "quat", "quaternion", "orientation"}
# Unit vectors have this length, within UNIT; fewer rows show nothing.
UNIT, LEAST_ROWS = 1e-3, 10


@dataclass(frozen=True)
class UnitVector:
    """Columns whose rows have length 1; `up_to_sign` if `x` and `-x` are one point."""

    columns: tuple[int, ...]
    up_to_sign: bool = False

    @classmethod
    def detect(cls, table: Columns, free: Collection[int]) -> tuple[list["UnitVector"], list[str]]:
        """Two to four adjacent columns; quaternions by their names; no doubts."""
        found: list[UnitVector] = []
        if len(table.x) < LEAST_ROWS:
            return found, []
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
        return found, []

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
        if len(off):
            raise ValueError(
                f"needs rows of length 1; row {off[0]} has "
                f"{np.linalg.norm(table.x[off[0], columns]):g}. Divide each row by its length"
            )
        return [cls(columns, up_to_sign)]

    def keeps_grid(self, table: Columns) -> bool:
        """Whether noise keeps the length: it does not."""
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
        """The manifold, which is also a transform."""
        return self.manifold


def _off_unit(x: Float[np.ndarray, "n k"]) -> np.ndarray:
    """Numbers of the rows whose length is not 1."""
    return np.flatnonzero(np.abs(np.linalg.norm(x, axis=1) - 1) > UNIT)
