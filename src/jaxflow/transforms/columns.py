"""The columns of a table: their values, the words of their names, and their grids."""

import re
from collections.abc import Collection, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from jaxflow.transforms.kinds import GridColumn


class Columns(NamedTuple):
    """The columns of a table: rows, names, and the kind of each in flat space."""

    x: Float[np.ndarray, "n d"]
    names: tuple[str, ...]
    kinds: tuple[Any, ...]

    def words(self, i: int) -> list[str]:
        """The words of a name, in lower case: `startLat_deg` has start, lat and deg."""
        split = re.sub(r"([a-z])([A-Z])", r"\1 \2", self.names[i])
        return re.findall(r"[a-z]+", split.lower())

    def is_named(self, i: int, known: Collection[str]) -> bool:
        """Whether one word of a name, or all of them joined, is in `known`."""
        words = self.words(i)
        return "".join(words) in known or not set(words).isdisjoint(known)

    def other_words(self, i: int, known: Collection[str]) -> list[str]:
        """The words of a name that are not in `known`."""
        words = self.words(i)
        return [] if "".join(words) in known else [each for each in words if each not in known]

    def step(self, i: int) -> float:
        """The spacing of a column on a grid; 0 for other columns."""
        kind = self.kinds[i]
        return kind.step if isinstance(kind, GridColumn) else 0.0

    def grids(self, columns: Iterable[int]) -> dict[int, GridColumn]:
        """The grids of those columns that lie on one."""
        kinds = {i: self.kinds[i] for i in columns}
        return {i: kind for i, kind in kinds.items() if isinstance(kind, GridColumn)}

    def join(self, columns: Sequence[int], separator: str = ", ") -> str:
        """The names of some columns."""
        return separator.join(self.names[i] for i in columns)


def columns_of(groups: Iterable[Any]) -> set[int]:
    """The numbers of all columns of some groups."""
    return {i for group in groups for i in group.columns}
