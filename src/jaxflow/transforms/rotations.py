"""Rotation matrices: a chart of the rotations of space, and its nine columns in tables."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, final

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from jaxflow.manifolds import SO3, Manifold
from jaxflow.manifolds.manifold import TOLERANCE
from jaxflow.manifolds.sphere import unit
from jaxflow.runtime.checks import check_event
from jaxflow.runtime.shapes import ArrayInput, Event, Scalar
from jaxflow.transforms.columns import Columns, columns_of
from jaxflow.transforms.kinds import GridColumn
from jaxflow.transforms.samples import checked_rows
from jaxflow.transforms.unit_vectors import LEAST_ROWS


@final
class RotationMatrix(eqx.Module):
    """Matrices of rotations, row by row, as unit quaternions `(w, x, y, z)` of either sign.

    Nine numbers that describe a rotation have no density; log-densities are with respect to the
    measure of `jaxflow.manifolds.SO3`, whose volume is `pi^2`.

    ```python
    import jax
    import numpy as np
    from jaxflow.transforms import RotationMatrix

    quarter_turn = np.asarray([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    rows = quarter_turn.reshape(-1, 9)
    print(jax.vmap(RotationMatrix().forward)(rows)[0])  # 0.7, 0, 0, 0.7
    ```
    """

    # Rows outside are mistakes, not points of density 0.
    strict = True
    event_shape = (9,)
    image_shape = (4,)

    def check(self, x: ArrayInput) -> None:
        """Check that all rows are matrices of rotations.

        Args:
            x: rows, (rows, 9).

        Raises:
            ValueError: a row is not; the message has the first one.
        """
        matrices = checked_rows(x, self.event_shape).reshape(-1, 3, 3)
        bad = np.flatnonzero(_error(matrices, np) > TOLERANCE)
        if bad.size:
            raise ValueError(
                f"x has {bad.size} rows that are not rotation matrices, first row {bad[0]}: "
                f"{np.asarray(x)[bad[0]].tolist()}; R @ R.T must be the identity and det(R) 1. "
                "Nearest rotations: u, _, v = numpy.linalg.svd(x.reshape(-1, 3, 3)); u @ v"
            )

    def inside(self, x: Event) -> Bool[Array, ""]:
        """Whether `R R^T` is the identity and the determinant 1, up to rounding; True for NaN."""
        check_event("x", x, self.event_shape, "transform.inside")
        return ~(_error(x.reshape(3, 3), jnp) > TOLERANCE)

    def forward(self, x: Event) -> tuple[Float[Array, " 4"], Scalar]:
        """The quaternion, and 0."""
        check_event("x", x, self.event_shape, "transform.forward")
        (a, b, c), (d, e, f), (g, h, i) = x.reshape(3, 3)
        # 4 q q^T; its row with the largest diagonal entry is accurate.
        rows = [
            [1 + a + e + i, h - f, c - g, d - b],
            [h - f, 1 + a - e - i, b + d, c + g],
            [c - g, b + d, 1 - a + e - i, f + h],
            [d - b, c + g, f + h, 1 - a - e + i],
        ]
        largest, q = rows[0][0], jnp.stack(rows[0])
        for k in (1, 2, 3):
            larger = rows[k][k] > largest
            largest = jnp.where(larger, rows[k][k], largest)
            q = jnp.where(larger, jnp.stack(rows[k]), q)
        return unit(q), jnp.zeros((), x.dtype)

    def inverse(self, u: Float[Array, " 4"]) -> tuple[Event, Scalar]:
        """The matrix of a quaternion of any length, and 0."""
        check_event("u", u, self.image_shape, "transform.inverse")
        w, x, y, z = unit(u)
        rows = [
            [1 - 2 * (y**2 + z**2), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x**2 + z**2), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x**2 + y**2)],
        ]
        return jnp.stack([entry for row in rows for entry in row]), jnp.zeros((), u.dtype)


@dataclass(frozen=True)
class Rotation:
    """Nine columns that are the matrix of a rotation, row by row."""

    columns: tuple[int, ...]

    @classmethod
    def detect(cls, table: Columns, free: Collection[int]) -> tuple[list["Rotation"], list[str]]:
        """Nine adjacent columns whose rows are rotation matrices; no notes."""
        found: list[Rotation] = []
        for first in range(table.x.shape[1] - 8):
            columns = tuple(range(first, first + 9))
            if len(table.x) < LEAST_ROWS or not set(columns) <= set(free) - columns_of(found):
                continue
            matrices = table.x[:, columns].reshape(-1, 3, 3)
            if not any(map(table.step, columns)) and (_error(matrices, np) <= TOLERANCE).all():
                found.append(cls(columns))
        return found, []

    @classmethod
    def of(cls, columns: tuple[int, ...], options: list[str], table: Columns) -> list["Rotation"]:
        """Columns that the user calls a rotation."""
        if len(columns) != 9 or options:
            raise ValueError("takes the nine columns of a matrix, row by row, and no options")
        try:
            RotationMatrix().check(table.x[:, columns])
        except ValueError as error:
            raise ValueError(f"does not fit: {error}") from None
        return [cls(columns)]

    def grids(self, table: Columns) -> dict[int, GridColumn]:
        """Columns that noise spreads over their grid: none, since it would leave the rotations."""
        return {}

    def describe(self) -> str:
        """What the columns are."""
        return "rotation matrices, as quaternions; densities are per volume of SO3, which is pi^2"

    @property
    def manifold(self) -> Manifold:
        """The rotations."""
        return SO3()

    @property
    def chart(self) -> RotationMatrix:
        """The map to quaternions."""
        return RotationMatrix()


def _error(matrices: Any, xp: Any) -> Any:
    """How far matrices, (*batch, 3, 3), are from rotations; `xp` is `numpy` or `jax.numpy`."""
    off = xp.abs(matrices @ matrices.mT - xp.eye(3, dtype=matrices.dtype)).max(axis=(-2, -1))
    return xp.maximum(off, xp.abs(xp.linalg.det(matrices) - 1))
