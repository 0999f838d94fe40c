"""Which column makes a row unusual."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from jaxflow.runtime.checks import check_count, check_rows
from jaxflow.runtime.shapes import ArrayInput


class ColumnGains(NamedTuple):
    """What each cell of a row costs its log-density.

    Attributes:
        nats: rise of the row's log-density if the cell takes the best value of the reference rows,
            (n, d); infinite if only that brings the row into the support, negative if the cell is
            better than all of them.
        donors: numbers of the reference rows with these values, (n, d).
    """

    nats: Float[np.ndarray, "n d"]
    donors: Int[np.ndarray, "n d"]


def column_gains(
    log_prob: Callable[[Float[np.ndarray, "m d"]], ArrayInput],
    x: ArrayInput,
    reference: ArrayInput,
    *,
    num: int = 64,
    seed: int = 0,
) -> ColumnGains:
    """Find the column that makes each row unusual: replace one cell at a time by usual values.

    If the log-density of a row rises by 20 nats when its third cell changes, the row is unusual
    because of that cell. If no single cell gains much, several are unusual together.

    ```python
    import numpy as np
    from jaxflow.diagnostics import column_gains

    def log_prob(x):
        return -0.5 * np.sum(x**2, axis=1)

    usual = np.random.default_rng(0).normal(size=(200, 3))
    gains = column_gains(log_prob, [[0.1, 9.0, -0.2]], usual)
    print(gains.nats.argmax(axis=1))  # column 1
    ```

    Args:
        log_prob: log-densities of rows, (m, d) to (m,), such as `flow.log_prob`.
        x: rows to explain, (n, d).
        reference: usual rows, (r, d), such as those of the training.
        num: values to try in each cell, from as many random reference rows.
        seed: of the choice of the reference rows.

    Returns:
        The gains in nats; this takes the log-densities of `n d num` rows.

    Raises:
        ValueError: shapes that do not fit, or NaN in the rows.
    """
    rows, usual = np.asarray(x), np.asarray(reference)
    for name, each in (("x", rows), ("reference", usual)):
        if each.ndim != 2 or not each.size or each.shape[1] != rows.shape[-1]:
            raise ValueError(
                f"{name} has shape {each.shape}: give rows (n, d), of as many columns as x"
            )
        check_rows(each, name)
    chosen = np.random.default_rng(seed).permutation(len(usual))[: check_count("num", num)]
    both = np.concatenate([rows, usual])

    def score(row: Int[np.ndarray, " m"], cells: Int[np.ndarray, "m d"]) -> np.ndarray:
        return np.asarray(log_prob(both[cells, np.arange(rows.shape[1])]), np.float64)

    numbers = np.arange(len(rows))
    own = np.asarray(log_prob(rows), np.float64)
    gains = swap_gains(score, numbers, own, len(rows) + chosen, rows.shape[1])
    return gains._replace(donors=gains.donors - len(rows))


def swap_gains(
    score: Callable[[Int[np.ndarray, " m"], Int[np.ndarray, "m d"]], np.ndarray],
    rows: Int[np.ndarray, " n"],
    log_p: Float[np.ndarray, " n"],
    donors: Int[np.ndarray, " r"],
    num_columns: int,
) -> ColumnGains:
    """As `column_gains`, for rows of any kind, by their numbers.

    `score(row, cells)` returns the log-densities of m composed rows: `row`, (m,), is the number of
    the row that was changed, `cells`, (m, d), the number of the row that each cell comes from.
    `donors` are the rows whose cells are tried.
    """
    shape = len(rows), num_columns, len(donors)
    cells = np.broadcast_to(rows[:, None, None, None], (*shape, num_columns)).copy()
    for column in range(num_columns):
        cells[:, column, :, column] = donors
    changed = score(np.repeat(rows, shape[1] * shape[2]), cells.reshape(-1, num_columns))
    # A row whose solve fails is no improvement.
    values = np.where(np.isnan(changed), -np.inf, changed).reshape(shape)
    best = values.argmax(axis=2)
    highest, own = values.max(axis=2), np.where(np.isnan(log_p), -np.inf, log_p)[:, None]
    with np.errstate(invalid="ignore"):  # -inf minus -inf, where nothing helps
        gains = np.where(np.isneginf(highest), 0.0, highest - own)
    return ColumnGains(gains, donors[best])
