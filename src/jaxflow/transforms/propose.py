"""Propose transforms for the columns of a table, with reasons."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxflow.runtime.dependence import dependent_columns, describe_dependent
from jaxflow.runtime.shapes import ArrayInput
from jaxflow.transforms.chain import Chain
from jaxflow.transforms.columns import Columns, columns_of
from jaxflow.transforms.groups import Group, find_groups
from jaxflow.transforms.kinds import (
    FLAT,
    ColumnKind,
    ContinuousColumn,
    GridColumn,
    kind_as,
    kind_of,
    transforms_of,
)
from jaxflow.transforms.periodic import Periodic
from jaxflow.transforms.samples import host_samples
from jaxflow.transforms.surface import Surface


class Proposal(NamedTuple):
    """Transforms to apply before scaling; `print` shows the reasons, a line for each column.

    Pass it to `jaxflow.fit_density` or `jaxflow.fit` as `transform`. A flow of `fit_density` lives
    on `surface`; `fit` trains a flow in flat space and treats columns of a manifold as intervals.

    Attributes:
        parts: transforms in flat space, the first to apply first; empty if every column is
            continuous and without limits.
        kinds: the kind of each column in flat space.
        columns: names of the columns.
        notes: remarks about the table, for example duplicate rows.
        surface: the columns on a manifold, such as places and angles; None without such columns.
    """

    parts: tuple[Any, ...]
    kinds: tuple[ColumnKind, ...]
    columns: tuple[str, ...]
    notes: tuple[str, ...]
    surface: Surface | None = None

    def __str__(self) -> str:
        return "\n".join(self.lines())

    @property
    def first(self) -> Chain | None:
        """The transforms in flat space as one, to apply before a scaling; None without parts."""
        return Chain(self.parts) if self.parts else None

    @property
    def flat(self) -> "Proposal":
        """The proposal without a manifold: all columns are intervals."""
        return self._replace(surface=None)

    @property
    def given(self) -> "Proposal":
        """`flat`, for a density given other columns, with a note on columns of a manifold."""
        if self.surface is None:
            return self
        scaling = "Standardise.fit(x[:, list(s.others)])" if self.surface.others else ""
        note = (
            f"{self._join(self.surface.columns)}: on a manifold, {self.surface.curved}, but a "
            "density given other columns takes them for intervals. For a flow on it, write "
            "s = propose(x, columns).surface; m = s.manifold; "
            "field = OnManifold(MLP(m.ambient, cond_dim=cond.shape[1], key=key), "
            f"m); fit(CNF(field, s.base(), transform=s.transform({scaling})), x, cond, key=key)"
        )
        return self.flat._replace(notes=(note, *self.notes))

    def lines(self) -> list[str]:
        """The reasons: a line for each column with a transform or a remark, then the notes.

        Returns:
            Lines of text.
        """
        groups = () if self.surface is None else self.surface.groups
        lines = [f"{self._join(group.columns)}: {group.describe()}" for group in groups]
        curved = columns_of(groups)
        for i, (name, kind) in enumerate(zip(self.columns, self.kinds, strict=True)):
            flat = "" if i in curved and not isinstance(kind, GridColumn) else kind.describe()
            remarks = [text for text in (flat, *kind.notes) if text]
            if remarks:
                lines.append(f"{name}: {'; '.join(remarks)}")
        if groups:
            key = self._join(groups[0].columns, ",")
            lines.append(
                f"to treat {key} as ordinary numbers, write kinds={{{key!r}: 'interval'}}, or "
                f"--kind {key}=interval"
            )
        return [*lines, *self.notes]

    def _join(self, columns: Sequence[int], separator: str = ", ") -> str:
        return separator.join(self.columns[i] for i in columns)


def propose(
    x: ArrayInput,
    columns: Sequence[str] | None = None,
    kinds: Mapping[Any, Any] | None = None,
) -> Proposal:
    """Propose a transform for each column, by its grid, limits and atoms; find angles and places.

    A column on a coarse grid (repeated integers or rounded values) is dequantised. A column that
    fills a usual interval, such as (0, 1), gets a logit; a positive and skewed one a logarithm.
    Atoms, duplicate rows, one-hot and linearly dependent columns are reported and left unchanged.

    A column that fills a period of 360 or 2 pi, with values on both sides of the seam, is
    periodic; so is one that fills 24, 12, 7 or 1 and has a name such as hour, month, weekday or
    phase. Two columns with the names and ranges of latitude and longitude, or of declination and
    right ascension, are a place on a sphere; two to four adjacent columns whose rows have length
    1 are unit vectors; nine that are matrices of rotations are rotations.

    ```python
    import numpy as np
    from jaxflow.transforms import propose

    rng = np.random.default_rng(0)
    x = np.stack([rng.poisson(4.0, 1000), rng.uniform(0, 360, size=1000)], axis=1)
    print(propose(x, columns=("count", "direction")))
    print(propose(x, columns=("count", "direction"), kinds={"direction": "interval"}))
    ```

    Args:
        x: training rows, (n, dim), finite, without constant columns.
        columns: names of the columns; None for their numbers.
        kinds: kinds of columns by name, or by names such as `"lat,lon"`: `"periodic"` or
            `"periodic:360"`, `"place"`, `"place:radians"` or `"place:hours"` (latitude, and
            longitude in hours), `"direction"` (unit vectors), `"axis"` (unit vectors up to sign,
            rotations as quaternions), `"rotation"` (matrices of nine columns), or `"interval"`
            (none of these); of a single column also its limits, such as `(0, 1)`, `"positive"`, or
            `"continuous"` (no grid and no limits). Other columns are detected.

    Returns:
        The proposal.

    Raises:
        ValueError: the rows are not vectors; a kind is unknown, or does not fit its columns.
    """
    values, dtype = host_samples(x)
    if values.ndim != 2:
        raise ValueError(f"x has shape {values.shape}; give rows (n, dim)")
    names = tuple(columns) if columns is not None else tuple(map(str, range(values.shape[1])))
    said = _by_numbers(kinds or {}, names)
    flat = {key: said.pop(key) for key in list(said) if len(key) == 1 and _is_flat(said[key])}
    flat_kinds = tuple(
        _kind(column, name, flat.get((i,)))
        for i, (name, column) in enumerate(zip(names, values.T, strict=True))
    )
    table = Columns(values, names, flat_kinds)
    groups, doubts = find_groups(table, said | dict.fromkeys(flat, "interval"))
    notes = (*doubts, *_notes(table, dtype))
    parts = transforms_of(flat_kinds, dtype)
    return Proposal(parts, flat_kinds, names, notes, _surface(table, groups, dtype))


def _is_flat(said: Any) -> bool:
    return not isinstance(said, str) or said in FLAT


def _kind(column: np.ndarray, name: str, said: Any) -> ColumnKind:
    if said is None:
        return kind_of(column)
    try:
        return kind_as(column, said)
    except ValueError as error:
        raise ValueError(f"kinds[{name!r}]={said!r} {error}") from None


def _by_numbers(kinds: Mapping[Any, Any], names: Sequence[str]) -> dict[tuple[int, ...], Any]:
    """The user's kinds, by the numbers of their columns."""
    by_numbers = {}
    for key, word in kinds.items():
        if isinstance(key, tuple):
            parts = [str(part) for part in key]
        elif str(key) in names:
            parts = [str(key)]
        else:
            parts = [part.strip() for part in str(key).split(",")]
        missing = [part for part in parts if part not in names]
        if missing:
            raise ValueError(f"kinds names {missing[0]!r}; the columns are {', '.join(names)}")
        by_numbers[tuple(names.index(part) for part in parts)] = word
    return by_numbers


def _surface(table: Columns, groups: list[Group], dtype: Any) -> Surface | None:
    """The columns on a manifold, if there are any."""
    if not groups:
        return None
    groups.sort(key=lambda group: (isinstance(group, Periodic), group.columns))
    curved = columns_of(groups)
    grids = {i: grid for group in groups for i, grid in group.grids(table).items()}
    plain = ContinuousColumn()
    kinds = [grids.get(i, plain) if i in curved else kind for i, kind in enumerate(table.kinds)]
    others = tuple(i for i in range(len(kinds)) if i not in curved)
    return Surface(tuple(groups), others, transforms_of(kinds, dtype))


def _notes(table: Columns, dtype: np.dtype) -> tuple[str, ...]:
    """Remarks about repeated rows, one-hot columns and linearly dependent columns."""
    notes, values = [], table.x
    # Noise on a grid makes its columns independent.
    continuous = [i for i in range(len(table.names)) if not table.step(i)]
    repeated = len(values) - len(np.unique(values, axis=0))
    if repeated and continuous:
        notes.append(
            f"{repeated} of {len(values)} rows repeat another one: atoms, which a density cannot "
            "represent; remove them if they are copies"
        )
    binary = [i for i, column in enumerate(values.T) if set(np.unique(column)) == {0.0, 1.0}]
    if len(binary) > 1 and (values[:, binary].sum(axis=1) == 1).all():
        notes.append(
            f"columns {table.join(binary)} are one-hot, so they are one class: "
            "give it as a condition, or leave one of them out"
        )
    if len(values) > len(continuous):
        dependent = dependent_columns(values[:, continuous].astype(dtype))
        if dependent:
            notes.append(describe_dependent(dependent, [table.names[i] for i in continuous]))
    return tuple(notes)
