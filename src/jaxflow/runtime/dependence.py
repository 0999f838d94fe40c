"""Linear dependence of columns, which leaves a table without a density."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from jaxflow.runtime.checks import column_name, flat_rows
from jaxflow.runtime.text import MAX_LISTED, listed

# Columns whose residual on the others is a smaller share than this are examined further.
_SUSPECT = 0.1
# Rounding of a QR decomposition of columns of spread 1, in float64.
_QR_ROUNDING = 2e-14


class DependentColumnsError(ValueError):
    """Columns of a table are linearly dependent.

    Attributes:
        dependent: as `dependent_columns` returns.
    """

    def __init__(
        self, dependent: dict[int, list[int]], columns: Sequence[str] | None = None
    ) -> None:
        super().__init__(describe_dependent(dependent, columns))
        self.dependent = dependent


def check_independent(
    x: ArrayLike, columns: Sequence[str] | None = None, *, least: float = 0.0
) -> None:
    """Raise if columns are linearly dependent, such as `a, b, a + b`; as `dependent_columns`.

    Raises:
        DependentColumnsError: a column follows from others, so the data have no density.
    """
    dependent = dependent_columns(x, least=least)
    if dependent:
        raise DependentColumnsError(dependent, columns)


def dependent_columns(x: ArrayLike, *, least: float = 0.0) -> dict[int, list[int]]:
    """Columns that follow from earlier ones, `x_k = c + sum_j a_j x_j`, with those earlier ones.

    A column follows from others if its residual is no larger than the rounding of these values in
    the precision of `x`, or than a share `least` of the column's spread. At most ten are listed.
    """
    flat = flat_rows(x, "x")
    # Columns that depend on each other do so in any part of the rows.
    part = flat[:: max(1, len(flat) // max(4096, 2 * flat.shape[1]))]
    dependent = _dependent(part, least)
    return _dependent(flat, least) if dependent and len(part) < len(flat) else dependent


def _dependent(flat: Float[np.ndarray, "n d"], least: float) -> dict[int, list[int]]:
    from scipy.linalg import solve_triangular  # slow to import

    eps = np.finfo(flat.dtype).eps
    # In units of the largest value, then of the spread: no overflow.
    largest = np.abs(flat).max(axis=0, initial=0).astype(np.float64)
    scaled = flat.astype(np.float64) / np.where(largest > 0, largest, 1.0)
    scaled -= scaled.mean(axis=0)
    spread = scaled.std(axis=0)
    spread = np.where(spread > 0, spread, 1.0)
    factor = np.linalg.qr(scaled / spread, mode="r") / len(flat) ** 0.5
    rounding = 2 * eps / spread
    dependent: dict[int, list[int]] = {}
    kept = list(range(flat.shape[1]))
    while len(dependent) < MAX_LISTED:
        # Column k of r: its part along the columns before it is above the diagonal, the size of
        # its residual on the diagonal.
        r: Any = np.linalg.qr(factor[:, kept], mode="r")
        rest = np.zeros(len(kept))
        rest[: len(r)] = np.abs(np.diagonal(r))
        for k in np.flatnonzero(rest < _SUSPECT).tolist():
            size = min(k, len(r))
            shares = np.abs(solve_triangular(r[:size, :size], r[:size, k])) if size else r[:0, k]
            used = rounding[kept[k]] + shares @ rounding[kept[:size]]
            limit = max(used + _QR_ROUNDING, least)
            if rest[k] <= limit:
                others = np.flatnonzero(shares > max(eps**0.5, limit)).tolist()
                dependent[kept[k]] = [kept[j] for j in others]
                del kept[k]
                break
        else:
            break
    return dependent


def describe_dependent(
    dependent: dict[int, list[int]], columns: Sequence[str] | None = None
) -> str:
    """The result of `dependent_columns` in words, with advice."""
    parts = [
        f"{column_name(k, columns)} from "
        + (listed([column_name(j, columns) for j in others]) or "a constant")
        for k, others in dependent.items()
    ]
    names = listed([column_name(k, columns) for k in dependent])
    return (
        f"the columns of x are linearly dependent: column {listed(parts)}. They have no density, "
        f"and their likelihood has no maximum: drop column {names}, or add noise to it"
    )
