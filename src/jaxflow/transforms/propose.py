"""Transforms that a table's columns call for, and why."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxflow.transforms.bounded import Bounded
from jaxflow.transforms.dequantise import Dequantise
from jaxflow.transforms.kinds import Kind, kind_of
from jaxflow.transforms.samples import host_samples


class Proposal(NamedTuple):
    """What the columns call for before they are scaled; `print` it for a line each.

    Attributes:
        parts: transforms, the first one of data first; none where every column is continuous
            and without limits.
        kinds: what each column is.
        columns: their names.
        notes: what was noticed of the table: duplicate rows, columns that are classes.
    """

    parts: tuple[Any, ...]
    kinds: tuple[Kind, ...]
    columns: tuple[str, ...]
    notes: tuple[str, ...]

    def __str__(self) -> str:
        return "\n".join(self.lines())

    def lines(self) -> list[str]:
        """A line for each column that is not plainly continuous, and the notes."""
        said = {
            "grid": lambda kind: f"steps of {kind.step:g}: dequantised, log P in place of log p",
            "bounded": lambda kind: f"within ({kind.lower:g}, {kind.upper:.4g}): logit",
            "positive": lambda kind: "positive and skewed: logarithm",
        }
        lines = []
        for name, kind in zip(self.columns, self.kinds, strict=True):
            words = [said[kind.word](kind)] if kind.word in said else []
            if words or kind.notes:
                lines.append(f"{name}: {'; '.join((*words, *kind.notes))}")
        return [*lines, *self.notes]


def propose(x: Any, columns: Sequence[str] | None = None) -> Proposal:
    """Look at each column for a grid, limits and atoms.

    A column on a coarse grid (repeated values, whole or rounded) is dequantised; one that fills
    a usual interval, such as (0, 1), gets a logit; a positive and skewed one a logarithm. Limits
    of a column that atoms sit on, duplicate rows and columns that together are one-hot are told,
    and left as they are.

    Args:
        x: training rows, (n, dim), finite, no column constant.
        columns: their names.

    Raises:
        ValueError: rows that are no vectors.
    """
    values, dtype = host_samples(x)
    if values.ndim != 2:
        raise ValueError(f"x has shape {values.shape}; rows (n, dim) belong here")
    names = tuple(columns) if columns is not None else tuple(map(str, range(values.shape[1])))
    kinds = tuple(kind_of(column) for column in values.T)
    parts: list[Any] = []
    steps = np.array([kind.step for kind in kinds])
    if steps.any():
        origin = np.where(steps > 0, values[0], 0.0)
        parts.append(Dequantise(jnp.asarray(steps, dtype), jnp.asarray(origin, dtype)))
    lower, upper = np.array([(kind.lower, kind.upper) for kind in kinds]).T
    if np.isfinite(lower).any() or np.isfinite(upper).any():
        parts.append(Bounded(jnp.asarray(lower, dtype), jnp.asarray(upper, dtype)))
    return Proposal(tuple(parts), kinds, names, _notes(values, kinds, names))


def _notes(values: np.ndarray, kinds: tuple[Kind, ...], names: tuple[str, ...]) -> tuple[str, ...]:
    notes = []
    repeated = len(values) - len(np.unique(values, axis=0))
    if repeated and not all(kind.step for kind in kinds):
        notes.append(
            f"{repeated} of {len(values)} rows repeat another one: atoms, which a density cannot "
            "follow; remove them if they are copies"
        )
    two = [i for i, column in enumerate(values.T) if set(np.unique(column)) == {0.0, 1.0}]
    if len(two) > 1 and (values[:, two].sum(axis=1) == 1).all():
        notes.append(
            f"columns {', '.join(names[i] for i in two)} are one-hot: they are one class; give it "
            "as a condition, or leave one of them out"
        )
    return tuple(notes)
