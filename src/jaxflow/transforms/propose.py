"""Propose transforms for the columns of a table, with reasons."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxflow.runtime.dependence import dependent_columns, describe_dependent
from jaxflow.runtime.shapes import ArrayInput
from jaxflow.transforms.kinds import ColumnKind, GridColumn, kind_of, transforms_of
from jaxflow.transforms.samples import host_samples


class Proposal(NamedTuple):
    """Transforms to apply before scaling; `print` shows a line for each column that needs one.

    Pass it to `jaxflow.fit` as `transform`.

    Attributes:
        parts: transforms in the order in which they are applied to data; empty if every column
            is continuous and without limits.
        kinds: the kind of each column.
        columns: names of the columns.
        notes: remarks about the table, for example duplicate rows.
    """

    parts: tuple[Any, ...]
    kinds: tuple[ColumnKind, ...]
    columns: tuple[str, ...]
    notes: tuple[str, ...]

    def __str__(self) -> str:
        return "\n".join(self.lines())

    def lines(self) -> list[str]:
        """The reasons: a line for each column with a transform or a remark, then the notes.

        Returns:
            Lines of text.
        """
        lines = []
        for name, kind in zip(self.columns, self.kinds, strict=True):
            remarks = [text for text in (kind.describe(), *kind.notes) if text]
            if remarks:
                lines.append(f"{name}: {'; '.join(remarks)}")
        return [*lines, *self.notes]


def propose(x: ArrayInput, columns: Sequence[str] | None = None) -> Proposal:
    """Propose a transform for each column, by its grid, limits and atoms.

    A column on a coarse grid (repeated integers or rounded values) is dequantised. A column that
    fills a usual interval, such as (0, 1), gets a logit; a positive and skewed one a logarithm.
    Atoms, duplicate rows, one-hot and linearly dependent columns are reported and left unchanged.

    ```python
    import numpy as np
    from jaxflow.transforms import propose

    rng = np.random.default_rng(0)
    x = np.stack([rng.poisson(4.0, 1000), rng.uniform(size=1000)], axis=1)
    print(propose(x, columns=("count", "share")))
    ```

    Args:
        x: training rows, (n, dim), finite, without constant columns.
        columns: names of the columns; None for their numbers.

    Returns:
        The proposal.

    Raises:
        ValueError: the rows are not vectors.
    """
    values, dtype = host_samples(x)
    if values.ndim != 2:
        raise ValueError(f"x has shape {values.shape}; give rows (n, dim)")
    names = tuple(columns) if columns is not None else tuple(map(str, range(values.shape[1])))
    kinds = tuple(kind_of(column) for column in values.T)
    notes = _notes(values, kinds, names, dtype)
    return Proposal(transforms_of(kinds, dtype), kinds, names, notes)


def _notes(
    values: np.ndarray, kinds: Sequence[ColumnKind], names: Sequence[str], dtype: np.dtype
) -> tuple[str, ...]:
    notes = []
    repeated = len(values) - len(np.unique(values, axis=0))
    if repeated and not all(isinstance(kind, GridColumn) for kind in kinds):
        notes.append(
            f"{repeated} of {len(values)} rows repeat another one: atoms, which a density cannot "
            "represent; remove them if they are copies"
        )
    binary = [i for i, column in enumerate(values.T) if set(np.unique(column)) == {0.0, 1.0}]
    if len(binary) > 1 and (values[:, binary].sum(axis=1) == 1).all():
        notes.append(
            f"columns {', '.join(names[i] for i in binary)} are one-hot, so they are one class: "
            "give it as a condition, or leave one of them out"
        )
    # Noise on a grid makes its columns independent.
    plain = [i for i, kind in enumerate(kinds) if not isinstance(kind, GridColumn)]
    if len(values) > len(plain):
        dependent = dependent_columns(values[:, plain].astype(dtype))
        if dependent:
            notes.append(describe_dependent(dependent, [names[i] for i in plain]))
    return tuple(notes)
