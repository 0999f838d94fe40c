"""The most unusual rows of a table, and the columns that make them so."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from jaxflow.cli.terminal import finite
from jaxflow.diagnostics.unusual import ColumnGains, swap_gains
from jaxflow.tables import FittedTable
from jaxflow.tables.cells import Cells

# Fewest rows of a slice; smaller tables compile a program for all composed rows.
SLICE = 128
# Values tried in each cell, largest number of columns named, and the least gain of one in nats.
NUM_VALUES, NUM_NAMED, LEAST_GAIN = 64, 2, 1.0

# Log-densities of composed rows, as `swap_gains` asks for them.
Score = Callable[[np.ndarray, np.ndarray], np.ndarray]


class UnusualRow(NamedTuple):
    """A row with a low log-density, in nats, and the columns that make it unusual.

    `cells` has, for each of these columns, the cell, a usual value, and the nats by which that
    value raises the log-density; None if the row is outside the support without it.
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
        return {"row": self.row, "log_prob": finite(self.log_prob), "columns": self.cells}


class Lowest:
    """The `num` rows with the lowest log-densities of a table that comes in blocks.

    A block has row numbers, rows and, for some runs, conditions.
    """

    def __init__(self, num: int) -> None:
        self.num, self.block = num, 0
        self.lowest: list[np.ndarray] = []
        self.others: list[np.ndarray] = []

    def add(self, log_p: Float[np.ndarray, " n"], *block: np.ndarray | None) -> None:
        """Add a block; rows whose solve failed are left out."""
        if not self.num:
            return
        arrays = [log_p, *(each for each in block if each is not None)]
        if not self.lowest:
            self.block, donors = len(log_p), _donor_rows(len(log_p))
            self.lowest = [each[:0] for each in arrays]
            self.others = [each[donors] for each in arrays]
        both = [np.concatenate(pair) for pair in zip(self.lowest, arrays, strict=True)]
        order = np.argsort(both[0], kind="stable")[: self.num]
        self.lowest = [each[order[~np.isnan(both[0][order])]] for each in both]

    def explain(
        self, score: Callable[[np.ndarray, np.ndarray | None], np.ndarray], names: Sequence[str]
    ) -> list[UnusualRow]:
        """Name the columns that make these rows unusual, by log-densities of composed rows."""
        if not self.lowest:
            return []
        log_p, numbers = self.lowest[:2]
        x, *cond = map(np.concatenate, zip(self.lowest[2:], self.others[2:], strict=True))
        columns, count = np.arange(len(names)), len(log_p)

        def of_cells(row: np.ndarray, cells: np.ndarray) -> np.ndarray:
            return score(x[cells, columns], cond[0][row] if cond else None)

        places, donors = np.arange(count), np.arange(count, len(x))
        score_slices = _in_slices(of_cells, self.block)
        gains = swap_gains(score_slices, places, log_p, donors, len(names))
        return _unusual_rows(numbers, log_p, places, gains, names, lambda i, j: f"{x[i, j]:.6g}")


def unusual_in_table(
    fitted: FittedTable,
    cells: dict[str, Cells],
    numbers: Int[np.ndarray, " n"],
    log_p: Float[np.ndarray, " n"],
    num: int,
) -> list[UnusualRow]:
    """The `num` rows with the lowest log-densities of a table of labels, counts and numbers."""
    if not num:
        return []
    names = [name for name in fitted.plan.names if name in cells]
    lowest = np.argsort(log_p, kind="stable")[:num]

    missing = np.stack([cells[name].missing for name in names], axis=1)

    def of_cells(row: np.ndarray, index: np.ndarray) -> np.ndarray:
        log_p = fitted.log_prob({n: cells[n].take(index[:, j]) for j, n in enumerate(names)})
        # A gap has a probability, and a number a density: they do not compare.
        emptied = missing[index, np.arange(len(names))] & ~missing[row]
        return np.where(emptied.any(axis=1), -np.inf, log_p)

    def text(i: int, j: int) -> str:
        each = cells[names[j]]
        return "missing" if each.missing[i] else str(each.text[i])

    score = _in_slices(of_cells, len(log_p))
    gains = swap_gains(score, lowest, log_p[lowest], _donor_rows(len(log_p)), len(names))
    return _unusual_rows(numbers[lowest], log_p[lowest], lowest, gains, names, text)


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


def _unusual_rows(
    numbers: Int[np.ndarray, " n"],
    log_p: Float[np.ndarray, " n"],
    rows: Int[np.ndarray, " n"],
    gains: ColumnGains,
    names: Sequence[str],
    text: Callable[[int, int], str],
) -> list[UnusualRow]:
    """Rows with the columns that gain most; `text` shows the cell of a row and a column."""
    unusual = []
    for i, row in enumerate(rows.tolist()):
        nats, donors = gains.nats[i], gains.donors[i].tolist()
        order: list[int] = np.argsort(-nats, kind="stable")[:NUM_NAMED].tolist()
        cells = {
            names[j]: (text(row, j), text(donors[j], j), finite(nats[j]))
            for j in order
            if nats[j] >= LEAST_GAIN
        }
        unusual.append(UnusualRow(int(numbers[i]), float(log_p[i]), cells))
    return unusual


def _donor_rows(count: int) -> Int[np.ndarray, " donors"]:
    """Rows whose values are tried in the cells of unusual rows."""
    return np.random.default_rng(0).permutation(count)[:NUM_VALUES]
