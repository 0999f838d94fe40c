"""The columns of a table, with words of their names."""

import re
from collections.abc import Collection
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float


class Columns(NamedTuple):
    """The columns of a table: rows, names, and the flat kind of each."""

    x: Float[np.ndarray, "n d"]
    names: tuple[str, ...]
    kinds: tuple[Any, ...]

    def words(self, i: int) -> list[str]:
        """The words of a name, in lower case: `startLat_deg` has start, lat and deg."""
        split = re.sub(r"([a-z])([A-Z])", r"\1 \2", self.names[i])
        return re.findall(r"[a-z]+", split.lower())

    def is_named(self, i: int, known: Collection[str]) -> bool:
        """Whether a name has one of these words, or is one of them when run together."""
        words = self.words(i)
        return "".join(words) in known or not set(words).isdisjoint(known)

    def rest_of(self, i: int, known: Collection[str]) -> list[str]:
        """The words of a name beside these."""
        words = self.words(i)
        return [] if "".join(words) in known else [each for each in words if each not in known]
