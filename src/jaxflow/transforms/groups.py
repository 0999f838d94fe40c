"""Groups of columns that live on a manifold, and the words by which users name them.

To add a kind of group, write a class with the same methods in a file of its own, and put it into
`GROUPS`, in the order of detection, and into `NAMED`, by the word that users write.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

from jaxflow.transforms.columns import Columns, columns_of
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


# By the word that users write; `interval` keeps columns in flat space.
NAMED: dict[str, Callable[..., list[Any]]] = {
    "place": Place.of,
    "direction": UnitVector.of,
    "rotation": Rotation.of,
    "axis": partial(UnitVector.of, up_to_sign=True),
    "periodic": Periodic.of,
    "interval": _interval,
}


def is_group(word: Any) -> bool:
    """Whether a kind that a user writes, such as `periodic:360`, begins with a word of `NAMED`."""
    return isinstance(word, str) and word.partition(":")[0] in NAMED


def find_groups(
    table: Columns, wanted: dict[tuple[int, ...], str]
) -> tuple[list[Group], list[str]]:
    """The groups that a user names, then those detected in the other columns.

    Also returns notes: why columns that look like a group are not one.
    """
    groups: list[Group] = []
    notes: list[str] = []
    free = set(range(len(table.names)))
    for columns, text in wanted.items():
        key = table.join(columns, ",")
        if not is_group(text):
            raise ValueError(
                f"kinds[{key!r}]={text!r} is unknown; choose {', '.join(NAMED)}, "
                "or for one column continuous, positive or limits such as (0, 1)"
            )
        if not set(columns) <= free:
            raise ValueError(f"kinds names a column of {key!r} twice")
        word, *options = text.split(":")
        try:
            groups += NAMED[word](columns, options, table)
        except ValueError as error:
            raise ValueError(f"kinds[{key!r}]={text!r} {error}") from None
        free -= set(columns)
    for kind in GROUPS:
        detected, doubts = kind.detect(table, free)
        groups += detected
        notes += doubts
        free -= columns_of(detected)
    return groups, notes
