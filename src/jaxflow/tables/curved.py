"""Columns that a table of numbers alone would have on a manifold: angles, places, directions."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxflow.tables.cells import Cells
from jaxflow.tables.numeric import Number
from jaxflow.transforms.columns import Columns
from jaxflow.transforms.groups import find_groups
from jaxflow.transforms.kinds import kind_of
from jaxflow.transforms.periodic import Periodic

# Fewer complete rows show nothing.
LEAST = 10


def as_angles(cells: Cells, word: str) -> Number:
    """The kind of a column of angles; `word` is such as periodic:360.

    Raises ValueError for cells that are no numbers or do not fit the period.
    """
    x = cells.numbers
    cells.refuse(~np.isfinite(x), "not a finite number")
    column = x[~cells.missing][:, None]
    table = Columns(column, (cells.name,), (kind_of(column[:, 0]),))
    try:
        (found,) = Periodic.of((0,), word.split(":")[1:], table)
    except ValueError as error:
        raise ValueError(f"column {cells.name!r} {error}") from None
    return Number.periodic(cells, found.period, found.start)


def find_curved(
    cells: Mapping[str, Cells], kinds: Sequence[Any]
) -> tuple[dict[str, Number], tuple[str, ...]]:
    """The kinds of columns of angles, and notes on places and directions.

    These are fitted as lines; the notes say how to fit them on their manifold.

    Args:
        cells: the columns, by name, without those whose kinds the user chose.
        kinds: their kinds. Whole numbers that repeat, such as months, have no seam here.
    """
    known = dict(zip(cells, kinds, strict=True))
    numbers = {name: each.numbers for name, each in cells.items() if each.are_numbers}
    if not numbers:
        return {}, ()
    rows = np.stack(list(numbers.values()), axis=1)
    rows = rows[np.isfinite(rows).all(axis=1)]
    if len(rows) < LEAST:
        return {}, ()
    varied = np.flatnonzero(np.ptp(rows, axis=0) > 0)
    rows, names = rows[:, varied], [list(numbers)[i] for i in varied]
    groups, _ = find_groups(Columns(rows, tuple(names), tuple(map(kind_of, rows.T))), {})
    angles, notes = {}, []
    for group in groups:
        own = [names[i] for i in group.columns]
        if isinstance(group, Periodic):
            # A gap in another column may hide an angle out of range.
            x = cells[own[0]].known.astype(float)
            inside = group.start <= x.min() and x.max() <= group.start + group.period
            if isinstance(known[own[0]], Number) and inside:
                angles[own[0]] = Number.periodic(cells[own[0]], group.period, group.start)
            continue
        notes.append(
            f"{', '.join(own)}: fitted as lines here, but complete rows look like this: "
            f"{group.describe()}. Numbers alone, without text, dates and gaps, are fitted on it: "
            f"jaxflow fit --columns {','.join(names)} --drop-nan, or jaxflow.fit_density(rows, "
            "columns=names)"
        )
    return angles, tuple(notes)
