"""How whole numbers and numbers in steps are spaced, how often they repeat, and where they end."""

import numpy as np

from jaxflow.tables.cells import Cells
from jaxflow.transforms.kinds import ATOM, ATOM_ROWS, COARSE

# Whole numbers end at a limit where the last number has at least END_ROWS rows, and at least
# END_SHARE of the mean count of a number; or half as many rows and twice the share.
END_ROWS, END_SHARE = 10, 0.25
# At most so many numbers without a gap, each frequent, are codes and end at both ends. Those from
# 0 on may be counts: they end if a fall like the last would leave ENDED rows of the next number.
MOST_CODES, ENDED = 10, 5
# So many different whole numbers in steps of 2 or more, or dates in steps, are no accident.
STEP_VALUES = 8
# Ends of shares and percentages.
SHARES = ((0.0, 1.0), (0.0, 100.0))
# Numbers of which more than this share differ, and which spread over many steps, are continuous.
DISTINCT = 0.5
# Steps and standard deviations beyond which a cell and a limit are of no account.
NARROW, FAR = 5.0, 4.0


def is_whole(x: np.ndarray) -> bool:
    """Whether all numbers are whole, and small enough to be told from their neighbours."""
    return bool(np.all(np.abs(x) < 2**53) and np.all(x == np.round(x)))


def cells_matter(x: np.ndarray) -> bool:
    """Whether a continuous density, rounded, is no model of these whole numbers.

    It is none where repeated numbers spread over few steps, end at a limit, or lie close to 0, and
    for dates such as 20261130. Elsewhere a cell has about its density as a probability.
    """
    if not is_whole(x):
        return False
    if Cells.of("x", x).date_orders():
        return True
    if not are_discrete(x, step := whole_step(x)):
        return False
    lower, upper = find_limits(x, step)
    ends = np.isfinite(upper) or lower > 0
    return bool(ends or x.std() <= NARROW * step or x.mean() - lower < FAR * x.std())


def are_discrete(x: np.ndarray, step: float) -> bool:
    """Whether most numbers repeat, or a standard deviation spans few steps."""
    return len(np.unique(x)) < DISTINCT * len(x) or float(x.std()) <= COARSE * step


def find_limits(x: np.ndarray, step: float = 1.0) -> tuple[float, float]:
    """Limits of numbers in steps: each end that is frequent; else 0 below, where none is less."""
    values, counts = np.unique(x, return_counts=True)
    first, last, shows = float(values[0]), float(values[-1]), len(values) > 2
    is_gapless = len(values) == round((last - first) / step) + 1
    are_codes = shows and len(values) <= MOST_CODES and is_gapless and are_frequent(counts)
    if are_codes and (first != 0 or counts[-1] ** 2 >= ENDED * counts[-2]):
        return first, last
    if shows and (first, last) in SHARES:
        return first, last
    mean = len(x) * step / (last - first + step)
    least = min(max(END_ROWS, END_SHARE * mean), max(END_ROWS / 2, 2 * END_SHARE * mean))
    has_lower, has_upper = (shows and count >= least for count in (counts[0], counts[-1]))
    # The last of a series of years is no limit: more may come.
    has_upper = has_upper and (has_lower or 0 <= first < last - first)
    lower = first if has_lower else 0.0 if first >= 0 else -np.inf
    return lower, last if has_upper else np.inf


def whole_step(x: np.ndarray) -> float:
    """The common step of whole numbers; 1 for too few different ones to show another."""
    values, counts = np.unique(x, return_counts=True)
    shown = len(values) >= STEP_VALUES or (len(values) > 2 and are_frequent(counts))
    return float(np.gcd.reduce(np.diff(values.astype(np.int64)))) if shown else 1.0


def are_frequent(counts: np.ndarray) -> bool:
    """Whether each value has so many rows that no accident repeats it."""
    return bool(counts.min() >= max(ATOM_ROWS, ATOM * counts.sum()))
