"""Rows in an order of their own, repeated as whole weights say, and their split in two.

A training must not depend on how its data were written down. Rows are sorted, and a row whose
weight is a whole number is repeated as often, so that weights (2, 1, 0) and rows that occur
twice, once and never are the same training, to the bit.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

from jaxflow.transforms.kinds import kind_of

# Entries of a table up to which whole weights become repeated rows: 64 MB in float32.
MOST_ENTRIES = 2**24


class Rows(NamedTuple):
    """Rows, sorted.

    Attributes:
        x: samples, (n, d).
        cond: their conditions, (n, c); None for none.
        weights: how much each row counts, (n,), positive; None where each counts once.
    """

    x: Shaped[np.ndarray, "n d"]
    cond: Shaped[np.ndarray, "n c"] | None
    weights: Float[np.ndarray, " n"] | None

    def take(self, rows: Int[np.ndarray, " m"] | Bool[np.ndarray, " n"]) -> "Rows":
        """These of the rows."""
        cond = None if self.cond is None else self.cond[rows]
        return Rows(self.x[rows], cond, None if self.weights is None else self.weights[rows])


def arranged(
    x: Shaped[np.ndarray, "n d"],
    cond: Shaped[np.ndarray, "n c"] | None,
    weights: Float[np.ndarray, " n"] | None,
) -> Rows:
    """The rows that count, sorted, whole weights as repetitions.

    Weights stay weights where one is no whole number, or the repeated table would be large.
    """
    table = x if cond is None else np.concatenate([x, cond], axis=1)
    rows = Rows(x, cond, weights).take(np.lexsort(table.T[::-1]))
    if rows.weights is None:
        return rows
    rows = rows.take(rows.weights > 0)
    counts = np.asarray(rows.weights)
    whole = bool((counts == np.round(counts)).all())
    if whole and counts.sum() * table.shape[1] <= MOST_ENTRIES:
        again = np.repeat(np.arange(len(counts)), counts.astype(int))
        return rows.take(again)._replace(weights=None)
    return rows


def hold_out(rows: Rows, fraction: float, seed: int) -> tuple[Rows, Rows]:
    """The rows to train on, and about this part of them to judge by, at least one; shuffled.

    Copies of a row stay together, or the flow would be judged by rows that it knows. Where every
    column lies on a grid, equal rows are no copies, and each goes its own way.

    Raises:
        ValueError: `fraction` is not between 0 and 1.
    """
    if not 0 < fraction < 1:
        raise ValueError(f"validation={fraction} must lie between 0 and 1, such as 0.1")
    number = np.arange(len(rows.x))
    if not all(kind_of(column).step for column in rows.x.T):
        number = _distinct(rows)
    count = int(number[-1]) + 1
    part = min(max(1, round(fraction * count)), count - 1)
    rng = np.random.default_rng(seed)
    chosen = np.zeros(count, bool)
    chosen[rng.permutation(count)[:part]] = True
    # Shuffled: of many held-out rows training looks at the first ones alone.
    order = rng.permutation(len(number))
    held = chosen[number[order]]
    return rows.take(order[~held]), rows.take(order[held])


def _distinct(rows: Rows) -> Int[np.ndarray, " n"]:
    """The number of the distinct row that each of the sorted rows is."""
    table = rows.x if rows.cond is None else np.concatenate([rows.x, rows.cond], axis=1)
    new = (table[1:] != table[:-1]).any(axis=1)
    return np.concatenate([[0], np.cumsum(new)])
