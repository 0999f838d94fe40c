"""Training rows in a canonical order, integer weights as repetitions, and the held-out split.

A fit must not depend on how its data were written down. Rows are sorted, and a row with an integer
weight is repeated that often: weights (2, 1, 0) give the same training, bit for bit, as rows that
occur twice, once and never.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

from jaxflow.runtime.checks import check_share
from jaxflow.transforms.kinds import GridColumn, kind_of

# Largest table, in entries, that repeats rows for integer weights: 64 MB in float32.
MAX_ENTRIES = 2**24


class SortedRows(NamedTuple):
    """Training rows, their conditions, and positive weights; None if each row counts once."""

    x: Shaped[np.ndarray, "n d"]
    cond: Shaped[np.ndarray, "n c"] | None
    weights: Float[np.ndarray, " n"] | None

    def take(self, rows: Int[np.ndarray, " m"] | Bool[np.ndarray, " n"]) -> "SortedRows":
        """A selection of the rows."""
        cond = None if self.cond is None else self.cond[rows]
        return SortedRows(self.x[rows], cond, None if self.weights is None else self.weights[rows])

    def table(self) -> Shaped[np.ndarray, "n k"]:
        """Samples and conditions side by side."""
        return self.x if self.cond is None else np.concatenate([self.x, self.cond], axis=1)


def sort_rows(
    x: Shaped[np.ndarray, "n d"],
    cond: Shaped[np.ndarray, "n c"] | None,
    weights: Float[np.ndarray, " n"] | None,
) -> SortedRows:
    """Rows of positive weight, sorted, with integer weights as repetitions.

    Weights remain if one is not an integer or the table would exceed `MAX_ENTRIES`.
    """
    rows = SortedRows(x, cond, weights)
    rows = rows.take(np.lexsort(rows.table().T[::-1]))
    if rows.weights is None:
        return rows
    rows = rows.take(rows.weights > 0)
    counts = np.asarray(rows.weights)
    if (counts == np.round(counts)).all() and counts.sum() * rows.table().shape[1] <= MAX_ENTRIES:
        repeated = np.repeat(np.arange(len(counts)), counts.astype(int))
        return rows.take(repeated)._replace(weights=None)
    return rows


def hold_out(rows: SortedRows, fraction: float, seed: int) -> tuple[SortedRows, SortedRows]:
    """Shuffled rows to train on and to validate on; at least one is held out.

    Copies of a row stay on one side, since a copy of a training row validates nothing. If every
    column lies on a grid, equal rows are independent draws and are split like any others.
    """
    check_share("validation", fraction)
    # The number of the distinct row that each of the sorted rows is a copy of.
    distinct = np.arange(len(rows.x))
    if not all(isinstance(kind_of(column), GridColumn) for column in rows.x.T):
        table = rows.table()
        distinct = np.append(0, np.cumsum((table[1:] != table[:-1]).any(axis=1)))
    count = int(distinct[-1]) + 1
    num_held = min(max(1, round(fraction * count)), count - 1)
    rng = np.random.default_rng(seed)
    held = np.zeros(count, bool)
    held[rng.permutation(count)[:num_held]] = True
    # Shuffled, since training validates on the first of many held-out rows.
    order = rng.permutation(len(distinct))
    is_held = held[distinct[order]]
    return rows.take(order[~is_held]), rows.take(order[is_held])
