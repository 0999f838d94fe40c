"""Columns that a table of numbers alone would have on a manifold."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxflow.tables.cells import Cells
from jaxflow.tables.kinds import Number
from jaxflow.transforms.columns import Columns
from jaxflow.transforms.groups import find_groups
from jaxflow.transforms.kinds import kind_of
from jaxflow.transforms.periodic import Periodic

# Fewer complete rows show nothing.
LEAST = 10


def curved_notes(cells: Mapping[str, Cells], kinds: Sequence[Any]) -> tuple[str, ...]:
    """What places, angles and unit vectors there are, and how to fit them on their manifold.

    Args:
        cells: the columns, by name, without those whose kinds the user chose.
        kinds: their kinds. Whole numbers that repeat, such as months, have no seam here.
    """
    known = dict(zip(cells, kinds, strict=True))
    numbers = {name: each.numbers for name, each in cells.items() if each.are_numbers}
    if not numbers:
        return ()
    rows = np.stack(list(numbers.values()), axis=1)
    rows = rows[np.isfinite(rows).all(axis=1)]
    if len(rows) < LEAST:
        return ()
    varied = np.flatnonzero(np.ptp(rows, axis=0) > 0)
    rows, names = rows[:, varied], [list(numbers)[i] for i in varied]
    groups, _ = find_groups(Columns(rows, tuple(names), tuple(map(kind_of, rows.T))), {})
    notes = []
    for group in groups:
        own = [names[i] for i in group.columns]
        if isinstance(group, Periodic) and not isinstance(known[own[0]], Number):
            continue
        notes.append(
            f"{', '.join(own)}: fitted as lines here, but complete rows look like this: "
            f"{group.describe()}. Numbers alone, without text, dates and gaps, are fitted on it: "
            f"jaxflow fit --columns {','.join(names)} --drop-nan, or jaxflow.fit_density(rows, "
            "columns=names)"
        )
    return tuple(notes)
