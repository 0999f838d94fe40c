"""Columns of a table that live on a manifold: which there are, and how users name them.

To add one, write a class with the methods of the others in a file of its own, and put it into
`GROUPS`, in the order of detection, and into `NAMED`, by the word that users write.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from jaxflow.transforms.columns import Columns
from jaxflow.transforms.periodic import Periodic
from jaxflow.transforms.place import Place
from jaxflow.transforms.rotations import Rotation
from jaxflow.transforms.unit_vectors import UnitVector

Group = Place | Rotation | UnitVector | Periodic

# In the order of detection.
GROUPS: tuple[Any, ...] = (Place, Rotation, UnitVector, Periodic)


def _interval(columns: tuple[int, ...], options: list[str], table: Columns) -> list[Any]:
    if options:
        raise ValueError("takes no options: interval")
    return []


# How a user names them; the last one takes columns for numbers of a line.
NAMED: dict[str, Callable[..., list[Any]]] = {
    "place": Place.of,
    "direction": UnitVector.of,
    "rotation": Rotation.of,
    "axis": partial(UnitVector.of, up_to_sign=True),
    "periodic": Periodic.of,
    "interval": _interval,
}


def is_group(word: Any) -> bool:
    """Whether a user's word, such as `periodic:360`, is one of `NAMED`."""
    return isinstance(word, str) and word.partition(":")[0] in NAMED


def find_groups(
    table: Columns, wanted: dict[tuple[int, ...], str]
) -> tuple[list[Group], list[str]]:
    """The groups that a user wants, then those that are detected in the other columns.

    And why columns that look like a group are not taken.
    """
    found: list[Group] = []
    notes: list[str] = []
    free = set(range(len(table.names)))
    for columns, text in wanted.items():
        if not is_group(text):
            raise ValueError(
                f"kinds[{_key(columns, table)!r}]={text!r} is unknown; choose {', '.join(NAMED)}"
            )
        if not set(columns) <= free:
            raise ValueError(f"kinds names a column of {_key(columns, table)!r} twice")
        word, *options = text.split(":")
        try:
            found += NAMED[word](columns, options, table)
        except ValueError as error:
            raise ValueError(f"kinds[{_key(columns, table)!r}]={text!r} {error}") from None
        free -= set(columns)
    for group in GROUPS:
        new, doubts = group.detect(table, free)
        found += new
        notes += doubts
        free -= {i for each in new for i in each.columns}
    return found, notes


def _key(columns: Sequence[int], table: Columns) -> str:
    return ",".join(table.names[i] for i in columns)
