"""The plan of a table: the kind of each column, and rows as codes and back."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from jaxflow.tables.cells import Cells
from jaxflow.tables.curved import find_curved
from jaxflow.tables.frames import Frame, read_cells, write_frame
from jaxflow.tables.kinds import Ignored, Kind, Number, kind_of
from jaxflow.tables.laws import Labels, Law

_OF_GAPS = (
    ": for the density of the other cells write table.marginal(frame, key) (command line: "
    "--marginal)"
)


class Coded(NamedTuple):
    """Rows as numbers: discrete variables and continuous columns, NaN where absent."""

    codes: Float[np.ndarray, "n variables"]
    y: Float[np.ndarray, "n columns"]


class Variable(NamedTuple):
    """A discrete variable of a column: its value, or whether it `is_gap` (1) or not (0).

    `gate` is the variable that must be 0 for this one to be present; -1 for none.
    """

    column: int
    is_gap: bool
    gate: int


@dataclass(frozen=True)
class PlannedColumn:
    """A column, its kind, and the number of missing cells in the rows that were fitted."""

    name: str
    kind: Kind
    gaps: int = 0


@dataclass(frozen=True)
class Plan:
    """The columns of a table; `print` shows a line for each.

    The discrete variables are, in turn, the gaps of the columns that have any, then the values of
    the discrete columns and which atom a continuous cell is, in the order of the table.

    Attributes:
        columns: the columns, in the order of the table.
        rows: number of rows that were fitted.
        null: words that stand for a missing value.
        sort: sort of frame of samples: "pandas", "polars" or "dict".
        notes: remarks, about columns that another fit would put on a manifold.
    """

    columns: tuple[PlannedColumn, ...]
    rows: int
    null: tuple[str, ...]
    sort: str
    notes: tuple[str, ...] = ()

    @classmethod
    def of(
        cls,
        cells: Mapping[str, Cells],
        kinds: Mapping[str, Any] | None,
        null: Sequence[str],
        sort: str,
    ) -> "Plan":
        """The plan of a table; all faults are said together.

        Raises:
            ValueError: a kind is unknown, belongs to no column, or does not fit its cells.
        """
        kinds = dict(kinds or {})
        unknown = [name for name in kinds if name not in cells]
        faults = [f"kinds names {name!r}, which is no column" for name in unknown]
        columns = []
        for name, column in cells.items():
            try:
                kind = kind_of(column, kinds.get(name))
            except ValueError as error:
                wanted = f" (kinds[{name!r}]={kinds[name]!r})" if name in kinds else ""
                faults.append(f"{error}{wanted}")
            else:
                columns.append(PlannedColumn(name, kind, int(column.missing.sum())))
        _raise(faults)
        if all(isinstance(column.kind, Ignored) for column in columns):
            raise ValueError("no column is left to fit: " + "; ".join(map(_line, columns)))
        rows = len(next(iter(cells.values())))
        free = {each.name: each.kind for each in columns if each.name not in kinds}
        angles, notes = find_curved({name: cells[name] for name in free}, list(free.values()))
        columns = [replace(each, kind=angles.get(each.name, each.kind)) for each in columns]
        return cls(tuple(columns), rows, tuple(null), sort, notes)

    def __str__(self) -> str:
        width = max(len(column.name) for column in self.columns)
        return "\n".join([*(_line(column, width) for column in self.columns), *self.notes])

    @property
    def names(self) -> list[str]:
        """Names of the columns that are fitted."""
        return [each.name for each in self.columns if not isinstance(each.kind, Ignored)]

    @property
    def ignored(self) -> list[str]:
        """Names of the columns that are left out."""
        return [each.name for each in self.columns if isinstance(each.kind, Ignored)]

    @cached_property
    def numbers(self) -> list[int]:
        """Numbers of the continuous columns."""
        return [j for j, each in enumerate(self.columns) if isinstance(each.kind, Number)]

    @property
    def number_kinds(self) -> list[Number]:
        """Their kinds."""
        return [each.kind for each in self.columns if isinstance(each.kind, Number)]

    @cached_property
    def variables(self) -> list[Variable]:
        """The discrete variables."""
        used = [
            (j, each) for j, each in enumerate(self.columns) if not isinstance(each.kind, Ignored)
        ]
        gaps = [Variable(j, True, -1) for j, each in used if each.gaps]
        place = {variable.column: i for i, variable in enumerate(gaps)}
        values = [
            Variable(j, False, place.get(j, -1))
            for j, each in used
            if not isinstance(each.kind, Number) or each.kind.atoms
        ]
        return gaps + values

    @property
    def variable_names(self) -> list[str]:
        """Names of the discrete variables."""
        names = []
        for variable in self.variables:
            column = self.columns[variable.column]
            more = ", atoms" if isinstance(column.kind, Number) else ""
            names.append(column.name + (", gaps" if variable.is_gap else more))
        return names

    @cached_property
    def gates(self) -> tuple[int, ...]:
        """For each continuous column the variable that is 0 where it is present; -1 for none."""
        # The last variable of a column: its atoms, or else its gaps.
        last = {variable.column: i for i, variable in enumerate(self.variables)}
        return tuple(last.get(j, -1) for j in self.numbers)

    @property
    def limits(self) -> Float[np.ndarray, "2 columns"]:
        """Limits of the codes of the continuous columns."""
        each = [
            [(limit - kind.centre) / kind.scale for limit in (kind.lower, kind.upper)]
            for kind in self.number_kinds
        ]
        return np.array(each).reshape(-1, 2).T

    @property
    def log_scales(self) -> Float[np.ndarray, " columns"]:
        """Logarithms of the units of the codes of the continuous columns."""
        return np.log([kind.scale for kind in self.number_kinds])

    def laws(self, codes: Float[np.ndarray, "n variables"]) -> list[Law]:
        """Laws of the discrete variables."""
        laws = []
        for variable, column in zip(self.variables, codes.T, strict=True):
            kind = self.columns[variable.column].kind
            if variable.is_gap:
                laws.append(Labels(2))
            elif isinstance(kind, Number):
                laws.append(Labels(1 + len(kind.atoms)))
            else:
                laws.append(kind.law(column))  # pyright: ignore[reportAttributeAccessIssue]
        return laws

    def read(self, frame: Frame, *, partial: bool = False, gaps: bool = False) -> Coded:
        """Rows of a table as codes; all faults are said together.

        Args:
            frame: the table, with the columns of the plan in any order.
            partial: whether columns may be absent; their cells are then missing.
            gaps: whether cells may be missing in columns without gaps in the rows that were
                fitted.

        Raises:
            ValueError: a column is absent, or a cell does not fit the kind of its column.
        """
        return self.read_cells(read_cells(frame, self.null), partial=partial, gaps=gaps)

    def read_cells(
        self, cells: Mapping[str, Cells], *, partial: bool = False, gaps: bool = False
    ) -> Coded:
        """As `read`, from the columns of a table."""
        rows = len(next(iter(cells.values())))
        faults, read = [], {}
        if partial and not any(name in cells for name in self.names):
            faults.append(f"no column is one of {', '.join(self.names)}")
        for j, column in enumerate(self.columns):
            each = cells.get(column.name)
            if isinstance(column.kind, Ignored):
                continue
            if each is None and partial:
                read[j] = (np.full(rows, np.nan), np.full(rows, np.nan))
                continue
            if each is None:
                faults.append(f"column {column.name!r} is absent{_OF_GAPS}")
                continue
            if each.missing.any() and not column.gaps and not gaps:
                faults.append(
                    f"column {column.name!r} has {each.missing.sum()} missing cells, first in row "
                    f"{np.flatnonzero(each.missing)[0]}, and had none in the rows that were "
                    f"fitted, so a gap has probability 0{_OF_GAPS}"
                )
            try:
                read[j] = self._code(column.kind, each)
            except ValueError as error:
                faults.append(str(error))
        _raise(faults)
        codes = [
            np.isnan(read[v.column][1]).astype(float) if v.is_gap else read[v.column][0]
            for v in self.variables
        ]
        # Of a continuous column, its atoms and its values.
        y = [np.where(read[j][0] == 0, read[j][1], np.nan) for j in self.numbers]
        return Coded(*(np.array(each, float).reshape(-1, rows).T for each in (codes, y)))

    def meet_atoms(self, rows: Coded) -> Bool[np.ndarray, " n"]:
        """Rows with a number that has a density and would be written as an atom of its column."""
        states = {v.column: rows.codes[:, i] for i, v in enumerate(self.variables) if not v.is_gap}
        each = [
            kind.meet_atoms(y, states.get(j, np.zeros(len(y))))
            for j, kind, y in zip(self.numbers, self.number_kinds, rows.y.T, strict=True)
        ]
        return np.any(each, axis=0) if each else np.zeros(len(rows.y), bool)

    def write(self, rows: Coded, known: Mapping[str, Cells] | None = None) -> Frame:
        """A frame of coded rows, of the sort that was fitted; continuous cells of `known` stay."""
        place = {(v.column, v.is_gap): i for i, v in enumerate(self.variables)}
        columns = {}
        for j, column in enumerate(self.columns):
            kind, gap = column.kind, place.get((j, True))
            if isinstance(kind, Ignored):
                continue
            missing = np.zeros(len(rows.y), bool) if gap is None else rows.codes[:, gap] == 1
            value = (
                rows.codes[:, place[j, False]] if (j, False) in place else np.zeros(len(rows.y))
            )
            if isinstance(kind, Number):
                values = kind.decode(rows.y[:, self.numbers.index(j)], value)
                if known is not None and column.name in known:
                    own = known[column.name]
                    values = np.where(own.missing, values, own.numbers).astype(values.dtype)
            else:
                values = kind.decode(value)
            columns[column.name] = (values, missing)
        return write_frame(self.sort, columns)

    @staticmethod
    def _code(kind: Any, cells: Cells) -> tuple[np.ndarray, np.ndarray]:
        """Codes of the discrete variable of a column, and of its values; NaN where missing."""
        values = kind.encode(cells)
        return (kind.states(cells) if isinstance(kind, Number) else values), values


def _line(column: PlannedColumn, width: int = 0) -> str:
    text = f"{column.name.ljust(width)}  {column.kind.describe()}"
    if not column.gaps or isinstance(column.kind, Ignored):
        return text
    return f"{text}; {column.gaps} {'cell' if column.gaps == 1 else 'cells'} missing"


def _raise(faults: list[str]) -> None:
    if faults:
        raise ValueError("; ".join(faults))
