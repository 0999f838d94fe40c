"""The most unusual rows of a table, and the columns that make them so."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from jaxflow.diagnostics.unusual import ColumnGains, swap_gains
from jaxflow.tables import FittedTable
from jaxflow.tables.cells import Cells

# Fewest rows of a slice; smaller tables compile a program for all composed rows.
SLICE = 128
# Values that are tried in each cell, columns that are named, and the least gain of one, nats.
NUM_VALUES, NUM_NAMED, LEAST_GAIN = 64, 2, 1.0

# Log-densities of composed rows, as `swap_gains` asks for them.
Score = Callable[[np.ndarray, np.ndarray], np.ndarray]


class UnusualRow(NamedTuple):
    """A row with a low log-density.

    Attributes:
        row: its number in the table.
        log_prob: its log-density, nats.
        cells: columns that make it unusual: its cell, a usual one, and by how many nats that
            raises the log-density; None where only that brings the row into the support.
    """

    row: int
    log_prob: float
    cells: dict[str, tuple[str, str, float | None]]

    def __str__(self) -> str:
        parts = [
            f"{name} {cell} ({usual}: " + ("inside" if gain is None else f"+{gain:.1f}") + ")"
            for name, (cell, usual, gain) in self.cells.items()
        ]
        return f"row {self.row}: {self.log_prob:.2f}; {', '.join(parts) or 'no single column'}"

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {"row": self.row, "log_prob": _finite(self.log_prob), "columns": self.cells}


class Lowest:
    """The `num` rows with the lowest log-densities of a table that comes in blocks, and others.

    Attributes:
        x: these rows, and after them some of the first block, (n, d).
        cond: conditions of the same rows, or None.
        block: number of rows of the first block.
    """

    def __init__(self, num: int) -> None:
        self.num, self.numbers, self.log_p = num, np.zeros(0, int), np.zeros(0)
        self.block = 0
        self.x: np.ndarray | None = None
        self.cond: np.ndarray | None = None

    def add(
        self,
        numbers: Int[np.ndarray, " n"],
        log_p: Float[np.ndarray, " n"],
        x: np.ndarray,
        cond: np.ndarray | None,
    ) -> None:
        """Add a block; rows whose solve failed are left out."""
        if not self.num:
            return
        if self.x is None:
            others, self.block = _some(len(x)), len(x)
            self.x, self.cond = x[others], None if cond is None else cond[others]
        least = np.argsort(log_p, kind="stable")[: self.num]
        least = least[~np.isnan(log_p[least])]
        numbers, log_p = (
            np.concatenate(both)
            for both in ((self.numbers, numbers[least]), (self.log_p, log_p[least]))
        )
        old = len(self.numbers)
        kept = np.argsort(log_p, kind="stable")[: self.num]
        self.numbers, self.log_p = numbers[kept], log_p[kept]
        self.x = _joined(self.x, x[least], old, kept)
        self.cond = None if cond is None else _joined(self.cond, cond[least], old, kept)

    def explain(
        self, score: Callable[[np.ndarray, np.ndarray | None], np.ndarray], names: Sequence[str]
    ) -> list[UnusualRow]:
        """Name the columns that make these rows unusual, by log-densities of composed rows."""
        x, cond, columns = self.x, self.cond, np.arange(len(names))
        if x is None:
            return []

        def of_cells(row: np.ndarray, cells: np.ndarray) -> np.ndarray:
            return score(x[cells, columns], None if cond is None else cond[row])

        count = len(self.numbers)
        places, others = np.arange(count), np.arange(count, len(x))
        score_slices = _in_slices(of_cells, self.block)
        gains = swap_gains(score_slices, places, self.log_p, others, len(names))
        named = _named(places, gains, names, lambda i, j: f"{x[i, j]:.6g}")
        return list(map(UnusualRow, self.numbers.tolist(), self.log_p.tolist(), named))


def unusual_in_table(
    fitted: FittedTable, cells: dict[str, Cells], log_p: Float[np.ndarray, " n"], num: int
) -> list[UnusualRow]:
    """The `num` rows with the lowest log-densities of a table of labels, counts and numbers."""
    if not num:
        return []
    names = [name for name in fitted.plan.names if name in cells]
    numbers, others = np.argsort(log_p, kind="stable")[:num], _some(len(log_p))

    def of_cells(row: np.ndarray, index: np.ndarray) -> np.ndarray:
        return fitted.log_prob({n: cells[n].take(index[:, j]) for j, n in enumerate(names)})

    def text(i: int, j: int) -> str:
        each = cells[names[j]]
        return "missing" if each.missing[i] else str(each.text[i])

    score = _in_slices(of_cells, len(log_p))
    gains = swap_gains(score, numbers, log_p[numbers], others, len(names))
    named = _named(numbers, gains, names, text)
    return list(map(UnusualRow, numbers.tolist(), log_p[numbers].tolist(), named))


def _in_slices(score: Score, size: int) -> Score:
    """Scores `size` rows at a time, the number for which the program has been compiled."""

    def in_slices(row: np.ndarray, cells: np.ndarray) -> np.ndarray:
        if not SLICE <= size < len(row):
            return score(row, cells)
        parts = []
        for first in range(0, len(row), size):
            each = np.minimum(np.arange(first, first + size), len(row) - 1)
            parts.append(score(row[each], cells[each]))
        return np.concatenate(parts)[: len(row)]

    return in_slices


def _named(
    rows: Int[np.ndarray, " n"],
    gains: ColumnGains,
    names: Sequence[str],
    text: Callable[[int, int], str],
) -> list[dict[str, tuple[str, str, float | None]]]:
    """The columns of each row that gain most; `text` shows the cell of a row and a column."""
    found = []
    for row, nats, donors in zip(rows.tolist(), gains.nats, gains.donors.tolist(), strict=True):
        order = np.argsort(-nats, kind="stable")[:NUM_NAMED]
        found.append(
            {
                names[j]: (text(row, j), text(donors[j], j), _finite(nats[j]))
                for j in order.tolist()
                if nats[j] >= LEAST_GAIN
            }
        )
    return found


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def _some(count: int) -> Int[np.ndarray, " some"]:
    return np.random.default_rng(0).permutation(count)[:NUM_VALUES]


def _joined(rows: np.ndarray | None, more: np.ndarray, old: int, kept: np.ndarray) -> np.ndarray:
    """The rows that are kept of the old and the new ones, before the others."""
    assert rows is not None
    return np.concatenate([np.concatenate([rows[:old], more])[kept], rows[old:]])
