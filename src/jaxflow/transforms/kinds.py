"""Kinds of columns: each class detects one kind and makes the transform that it needs.

To add a kind, write a subclass of `ColumnKind` and insert it in `KINDS`, whose order is the order
of detection and the order in which the transforms are applied to data.
"""

import abc
import dataclasses
import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from jaxflow.dynamics.robust_scaling import skewness
from jaxflow.runtime.shapes import ArrayInput
from jaxflow.transforms.bounded import Bounded
from jaxflow.transforms.dequantise import Dequantise
from jaxflow.transforms.protocol import Transform

# Intervals that columns often fill: shares, correlations, percentages, angles, pixels.
INTERVALS = ((0.0, 1.0), (-1.0, 1.0), (0.0, 100.0), (0.0, 2 * np.pi), (-np.pi, np.pi))
INTERVALS += ((0.0, 360.0), (-180.0, 180.0), (0.0, np.pi), (0.0, 255.0))
# A grid is coarse if a standard deviation spans at most this many steps.
COARSE = 100.0
# An atom is a value with at least this share of the rows, and at least this many rows.
ATOM, ATOM_ROWS = 0.01, 10
# Largest number of decimals of a rounded column.
DECIMALS = 6
# A positive column gets a logarithm if its skewness exceeds SKEW, and the logarithm has less than
# LESS times as much.
SKEW, LESS = 2.0, 0.5


class Column(NamedTuple):
    """A column in float64, its distinct values in increasing order, and their counts."""

    x: Float[np.ndarray, " n"]
    values: Float[np.ndarray, " m"]
    counts: np.ndarray

    @classmethod
    def of(cls, x: ArrayInput) -> "Column":
        """Sort the values of a column."""
        array = np.asarray(x, np.float64)
        return cls(array, *np.unique(array, return_counts=True))


@dataclasses.dataclass(frozen=True)
class ColumnKind(abc.ABC):
    """One kind of column.

    Attributes:
        notes: remarks for the user, for example about atoms.
    """

    notes: tuple[str, ...] = dataclasses.field(default=(), kw_only=True)

    def __getattr__(self, name: str) -> Any:
        """Attributes that all kinds had in 0.1; deprecated."""
        words = {GridColumn: "grid", ContinuousColumn: "continuous"}
        limited = "positive" if vars(self).get("upper") == np.inf else "bounded"
        old = {"word": words.get(type(self), limited)}
        old |= {"step": 0.0, "lower": -np.inf, "upper": np.inf}
        if name not in old:
            raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")
        warnings.warn(
            f"{name} of a {type(self).__name__} goes in jaxflow 0.3: use isinstance with the "
            "classes of jaxflow.transforms.kinds",
            DeprecationWarning,
            stacklevel=2,
        )
        return old[name]

    @classmethod
    @abc.abstractmethod
    def detect(cls, column: Column) -> "ColumnKind | None":
        """This kind with its parameters if the column is of this kind, else None."""

    @abc.abstractmethod
    def describe(self) -> str:
        """How the column is transformed, in a few words; empty if it is not."""

    @classmethod
    @abc.abstractmethod
    def transform(cls, columns: Sequence[Any], dtype: Any) -> Transform | None:
        """The transform of all columns of this kind.

        Args:
            columns: an entry for each column of the table; None for columns of other kinds,
                which the transform must leave unchanged.
            dtype: of the transform's parameters.
        """


@dataclasses.dataclass(frozen=True)
class GridColumn(ColumnKind):
    """Integers or rounded numbers on a coarse grid of spacing `step` through `origin`."""

    step: float
    origin: float

    @classmethod
    def detect(cls, column: Column) -> "GridColumn | None":
        """A column with repeated values that lie on a grid."""
        step = _grid_step(column)
        if step == 0:
            return None
        low, *_, high = column.values
        note = f"two values, {low:g} and {high:g}: a class rather than a number"
        notes = (note,) if len(column.values) == 2 else ()
        return cls(step, float(column.x[0]), notes=notes)

    def describe(self) -> str:
        """The grid's step."""
        return f"steps of {self.step:g}: dequantised, log_prob is log P"

    @classmethod
    def transform(cls, columns: Sequence["GridColumn | None"], dtype: Any) -> Dequantise:
        """`Dequantise` on the grids; step 0 for other columns."""
        grids = [(0.0, 0.0) if kind is None else (kind.step, kind.origin) for kind in columns]
        return Dequantise(*jnp.asarray(grids, dtype).T)


@dataclasses.dataclass(frozen=True)
class LimitedColumn(ColumnKind):
    """Numbers within an interval, one end of which may be infinite; or `skewed` and positive."""

    lower: float
    upper: float = np.inf
    skewed: bool = False

    @classmethod
    def detect(cls, column: Column) -> "LimitedColumn | None":
        """A column that fills a usual interval, or that the logarithm makes symmetric."""
        x, values, _ = column
        gap = usual_gap(len(values))
        for lower, upper in INTERVALS:
            is_inside = lower < values[0] and values[-1] < upper
            if is_inside and reaches(values, lower, upper, gap):
                return cls(lower, upper, notes=atom_notes(column))
        if values[0] > 0 and is_skewed(x, np.log(x)):
            return cls(0.0, skewed=True, notes=atom_notes(column))
        return None

    def describe(self) -> str:
        """The limits, and the function that removes them."""
        if self.skewed:
            return "positive and skewed: logarithm"
        if np.isinf(self.upper):
            return f"above {self.lower:g}: logarithm"
        if np.isinf(self.lower):
            return f"below {self.upper:g}: logarithm"
        return f"within ({self.lower:g}, {self.upper:.4g}): logit"

    @classmethod
    def transform(cls, columns: Sequence["LimitedColumn | None"], dtype: Any) -> Bounded:
        """`Bounded` with the limits; infinite ones for other columns."""
        unbounded = (-np.inf, np.inf)
        limits = [unbounded if kind is None else (kind.lower, kind.upper) for kind in columns]
        lower, upper = np.asarray(limits, dtype).T
        return Bounded(lower, upper)


@dataclasses.dataclass(frozen=True)
class ContinuousColumn(ColumnKind):
    """Any other column; it needs no transform."""

    @classmethod
    def detect(cls, column: Column) -> "ContinuousColumn":
        """Every column."""
        return cls(notes=atom_notes(column))

    def describe(self) -> str:
        """Nothing."""
        return ""

    @classmethod
    def transform(cls, columns: Sequence["ContinuousColumn | None"], dtype: Any) -> None:
        """No transform."""


# In the order of detection and of application to data. Grids come first, since only data lie on
# them; the last kind takes every column.
KINDS: tuple[type[ColumnKind], ...] = (GridColumn, LimitedColumn, ContinuousColumn)
# Words for the kind of one column in flat space.
FLAT = ("continuous", "positive")


def kind_of(x: ArrayInput) -> ColumnKind:
    """The kind of a column of finite numbers that is not constant."""
    column = Column.of(x)
    return next(kind for cls in KINDS if (kind := cls.detect(column)) is not None)


def kind_as(x: ArrayInput, said: Any) -> ColumnKind:
    """The kind of a column as a user says: one of `FLAT`, or its limits (lower, upper).

    Raises ValueError if `said` is neither, or a value lies on or beyond a limit.
    """
    column = Column.of(x)
    if said == "continuous":
        return ContinuousColumn(notes=atom_notes(column))
    try:
        lower, upper = (0.0, np.inf) if said == "positive" else map(float, said)
    except (TypeError, ValueError):
        raise ValueError(
            f"is neither one of {', '.join(FLAT)} nor limits such as (0, 1)"
        ) from None
    if not lower < upper or np.isinf([lower, upper]).all():
        raise ValueError("must be limits (lower, upper), one of them finite")
    outside = np.flatnonzero((column.x <= lower) | (column.x >= upper))
    if outside.size:
        raise ValueError(
            f"does not fit row {outside[0]}, whose value {column.x[outside[0]]:g} is not strictly "
            f"between {lower:g} and {upper:g}: drop such rows, or give wider limits"
        )
    return LimitedColumn(lower, upper, notes=atom_notes(column))


def transforms_of(kinds: Sequence[ColumnKind], dtype: Any) -> tuple[Transform, ...]:
    """The transforms of a table with columns of these kinds, in the order of `KINDS`."""
    parts = [
        cls.transform([kind if type(kind) is cls else None for kind in kinds], dtype)
        for cls in KINDS
        if cls in map(type, kinds)
    ]
    return tuple(part for part in parts if part is not None)


def atom_notes(column: Column) -> tuple[str, ...]:
    """A note for each of the first three values that many rows share."""
    n = len(column.x)
    atoms = column.counts >= max(ATOM_ROWS, ATOM * n)
    return tuple(
        f"{count} rows ({count / n:.1%}) are exactly {value:g}: an atom, which has no density"
        for value, count in zip(column.values[atoms][:3], column.counts[atoms][:3], strict=True)
    )


def _grid_step(column: Column) -> float:
    """The step of the coarsest decimal grid that holds the values; 0 if there is none."""
    x, values, _ = column
    if len(values) >= 0.5 * len(x):
        return 0.0
    step = decimal_step(values)
    return step if x.std() <= COARSE * step else 0.0


def decimal_step(values: Float[np.ndarray, " m"]) -> float:
    """The largest decimal step between distinct values in increasing order; 0 for none."""
    largest = np.abs(values).max()
    for decimals in range(DECIMALS + 1):
        cells = values * 10.0**decimals
        # The rounding of a decimal in float32.
        slack = 1e-3 + 2e-7 * largest * 10.0**decimals
        if slack > 0.1:
            return 0.0
        if np.all(np.abs(cells - np.round(cells)) <= slack):
            integers = np.round(cells).astype(np.int64)
            return float(np.gcd.reduce(np.diff(integers))) / 10.0**decimals
    return 0.0


def is_skewed(x: Float[np.ndarray, " n"], logs: Float[np.ndarray, " n"]) -> bool:
    """Whether numbers are skewed, and their logarithms much less."""
    skew = skewness(x)
    return bool(skew > SKEW and abs(skewness(logs)) < LESS * skew)


def reaches(values: Float[np.ndarray, " m"], lower: float, upper: float, gap: float) -> bool:
    """Whether the gaps between sorted values and both limits are below this share of the range."""
    largest = gap * (upper - lower)
    return bool(values[0] - lower < largest and upper - values[-1] < largest)


def usual_gap(count: int) -> float:
    """The largest empty share of an interval at a limit where the density is not small."""
    return min(10 / count, 0.02)
