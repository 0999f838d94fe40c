"""Findings with a grade, quantiles over rows, and their formatting."""

from collections.abc import Sequence
from typing import Literal, NamedTuple, Protocol, runtime_checkable

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from jaxflow.runtime.precision import accumulation_dtype

Grade = Literal["good", "bad", "unknown"]

# Least share of rows without a failure for a test: a test of fewer says nothing about all rows.
SURVIVORS = 0.99
# Fewest rows, or pairs of a row and a sample, for a test.
LEAST = 20
# Most p-values of a diagnosis: three tests of encoded rows, two of samples, two of log-densities.
TESTS = 7
# Most row numbers that a finding lists.
_MAX_LISTED = 5


class Finding(NamedTuple):
    """One sentence of a verdict; its grade is `unknown` if nothing could be measured."""

    text: str
    grade: Grade


def judge(good: bool | np.bool, text: str, *, bad: str = "") -> Finding:
    """A finding of grade `good` or `bad`; the text of a bad one ends in `bad`."""
    return Finding(text, "good") if good else Finding(f"{text}: {bad}" if bad else text, "bad")


class Quantiles(NamedTuple):
    """Quantiles over rows: the median, 90 %, 99 %, and the largest value."""

    median: float
    p90: float
    p99: float
    largest: float

    def __str__(self) -> str:
        return "".join(f"{v:>10,.0f}" if 1000 <= v < 1e6 else f"{v:>10.3g}" for v in self)


HEAD = "".join(f"{name:>10}" for name in ("median", "90 %", "99 %", "largest"))
# A line of the table: its label and its text.
Line = tuple[str, str | Quantiles]


@runtime_checkable
class Part(Protocol):
    """The result of one measurement."""

    def lines(self) -> list[Line]:
        """Return the lines of the table."""
        ...

    def findings(self) -> list[Finding]:
        """Return the sentences of the verdict."""
        ...


def as_table(lines: Sequence[Line]) -> list[str]:
    """The lines as text, with the labels in a column of their own."""
    width = max(len(label) for label, _ in lines)
    return [f"{label.ljust(width)}  {text}" for label, text in lines]


def quantiles(values: Array | np.ndarray | None) -> Quantiles | None:
    """Quantiles of the values that are not NaN; None if there are none."""
    if values is None:
        return None
    known = to_host(values)
    known = known[~np.isnan(known)]
    if not known.size:
        return None
    # Observed values: at least half of the rows really are at most the median.
    levels = np.quantile(known, [0.5, 0.9, 0.99, 1.0], method="inverted_cdf")
    return Quantiles(*map(float, levels))


def to_host(values: Array | np.ndarray) -> Float[np.ndarray, "..."]:
    """The values as a NumPy array in float64, from any precision."""
    values = jnp.asarray(values)
    if jnp.issubdtype(values.dtype, jnp.floating):
        # NumPy has no bfloat16.
        values = values.astype(accumulation_dtype(values.dtype))
    return np.asarray(values).astype(np.float64)


def column_scale(rows: Float[np.ndarray, "n d"]) -> Float[np.ndarray, " d"]:
    """Standard deviation of each column; 1 for a constant one."""
    spread = rows.std(axis=0)
    return np.where(spread > 0, spread, 1.0)


def flatten(rows: Array) -> Float[np.ndarray, "rows d"]:
    """Rows of any event shape as a float64 matrix."""
    return to_host(rows).reshape(len(rows), -1)


def evenly_spaced(count: int, at_most: int) -> Int[np.ndarray, " chosen"]:
    """Indices of at most so many of `count` rows, the first and the last among them."""
    return np.unique(np.linspace(0, count - 1, at_most).astype(int))


def take(cond: Array | None, rows: np.ndarray) -> Array | None:
    """The conditions of some rows, by their indices or a mask."""
    return None if cond is None else cond[rows]


def too_few(num: int, what: str = "pairs of row and sample") -> str:
    """Why so few rows are not tested."""
    return f"{num} {what} are too few to test; {LEAST} are needed"


def untestable(solved: Bool[np.ndarray, " rows"], what: str) -> str | None:
    """Why rows are not tested, by the mask of the solved ones; None if they can be."""
    if np.mean(solved) < SURVIVORS:
        return f"{np.sum(~solved):,} of {len(solved):,} {what} failed"
    count = int(solved.sum())
    return too_few(count, what) if count < LEAST else None


def list_rows(rows: Sequence[int]) -> str:
    """`row 3`, `rows 3, 7`, `rows 0, 1, 2, 3, 4 and 7 more`."""
    first = ", ".join(map(str, rows[:_MAX_LISTED]))
    more = f" and {len(rows) - _MAX_LISTED:,} more" if len(rows) > _MAX_LISTED else ""
    return f"row{'' if len(rows) == 1 else 's'} {first}{more}"


def name_observation(index: int, count: int) -> str:
    """`the observation`, or `observation 3` of several."""
    return "the observation" if count == 1 else f"observation {index}"


def p_value(value: float, level: float | None = None) -> str:
    """`p = 0.03`, `p < 1e-16`; with a level `p = 0.03, threshold 0.01`."""
    text = f"p = {value:.2g}" if value >= 1e-16 else "p < 1e-16"
    return text if level is None else f"{text}, threshold {level:g}"
