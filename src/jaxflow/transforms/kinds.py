"""What kind of numbers a column holds: continuous, on a grid, positive, bounded, with atoms."""

from typing import Any, NamedTuple

import numpy as np

# Limits that columns have by their nature.
INTERVALS = ((0.0, 1.0), (-1.0, 1.0), (0.0, 100.0), (0.0, 2 * np.pi), (-np.pi, np.pi))
INTERVALS += ((0.0, 360.0), (-180.0, 180.0), (0.0, np.pi), (0.0, 255.0))
# A grid matters where a standard deviation spans at most so many of its steps.
COARSE = 100.0
# The share of rows at one value that makes it an atom, and at least so many rows.
ATOM, ATOM_ROWS = 0.01, 10
# Decimals to which a column may be rounded.
DECIMALS = 6
# How much less skewed the logarithm must be, and how skewed the column.
SKEW, LESS = 2.0, 0.5


class Kind(NamedTuple):
    """What a column is.

    Attributes:
        word: `"continuous"`, `"grid"`, `"positive"` or `"bounded"`.
        step: spacing of the grid; 0 for none.
        lower: the lower limit; -inf for none.
        upper: the upper limit; inf for none.
        notes: what a user should know: atoms, few values.
    """

    word: str = "continuous"
    step: float = 0.0
    lower: float = -np.inf
    upper: float = np.inf
    notes: tuple[str, ...] = ()


def kind_of(column: Any) -> Kind:
    """The kind of a column of finite numbers that is not constant."""
    x = np.asarray(column, np.float64)
    values, counts = np.unique(x, return_counts=True)
    if (step := _grid(x, values)) > 0:
        notes = ()
        if len(values) == 2:
            notes = (f"two values, {values[0]:g} and {values[1]:g}: a class more than a number",)
        return Kind("grid", step, notes=notes)
    atoms = counts >= max(ATOM_ROWS, ATOM * len(x))
    notes = tuple(
        f"{count} rows ({count / len(x):.1%}) are exactly {value:g}: an atom, which has no density"
        for value, count in zip(values[atoms][:3], counts[atoms][:3], strict=True)
    )
    for lower, upper in INTERVALS:
        if _fills(values, lower, upper):
            return Kind("bounded", lower=lower, upper=upper, notes=notes)
    if values[0] > 0 and _skew(x) > SKEW and abs(_skew(np.log(x))) < LESS * _skew(x):
        return Kind("positive", lower=0.0, notes=notes)
    return Kind(notes=notes)


def _grid(x: np.ndarray, values: np.ndarray) -> float:
    """The step of the grid that the values lie on, where it is coarse; else 0."""
    repeated = len(values) < 0.5 * len(x)
    if not repeated:
        return 0.0
    largest = np.abs(x).max()
    for decimals in range(DECIMALS + 1):
        cells = values * 10.0**decimals
        # What float32 leaves of a decimal.
        slack = 1e-3 + 2e-7 * largest * 10.0**decimals
        if slack > 0.1 or x.std() * 10.0**decimals > COARSE:
            return 0.0
        if np.all(np.abs(cells - np.round(cells)) <= slack):
            whole = np.round(cells).astype(np.int64)
            return float(np.gcd.reduce(np.diff(whole))) / 10.0**decimals
    return 0.0


def _fills(values: np.ndarray, lower: float, upper: float) -> bool:
    """Whether the values lie strictly between limits and reach close to both."""
    if not (lower < values[0] and values[-1] < upper):
        return False
    # A density that is not small at a limit leaves a gap of a few mean spacings.
    gap = min(10 / len(values), 0.02) * (upper - lower)
    return bool(values[0] - lower < gap and upper - values[-1] < gap)


def _skew(x: np.ndarray) -> float:
    return float(np.mean(((x - x.mean()) / x.std()) ** 3))
