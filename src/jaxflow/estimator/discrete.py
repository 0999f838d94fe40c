"""What a score means for columns on a grid: a density per unit, or a probability."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxflow.flows.ensemble import members
from jaxflow.runtime.checks import check_choice
from jaxflow.transforms.dequantise import noise_of


def grid_steps(flow: Any, dim: int) -> list[float]:
    """The step of the grid of each of `dim` columns, 0 for none."""
    grid = noise_of(members(flow)[0].transform)
    return [0.0] * dim if grid is None else np.asarray(grid.step).tolist()


def mass_columns(discrete: Any, names: Sequence[str] | None, dim: int) -> list[int]:
    """The columns that count by the probability of a cell, if on a grid; checks `discrete`."""
    if isinstance(discrete, str):
        check_choice("discrete", discrete, ("density", "mass"), ", or a list of columns")
        return list(range(dim)) if discrete == "mass" else []
    if not isinstance(discrete, list | tuple | np.ndarray):
        raise TypeError(
            f"discrete={discrete!r} must be 'density', 'mass', or a list of columns, such as [0]"
        )
    known = {name: j for j, name in enumerate(names or ())} | {j: j for j in range(dim)}
    for column in discrete:
        if column not in known:
            listed = ", ".join(map(repr, names)) if names else f"0 to {dim - 1}"
            raise ValueError(f"discrete names the column {column!r}; the columns are {listed}")
    return [known[column] for column in discrete]


def log_cell(grid: Sequence[float], masses: Sequence[int]) -> float:
    """Log-volume of a cell, over the columns on a grid that are scored by density.

    A flow gives these columns a probability: its logarithm minus this is the score.
    """
    return math.fsum(math.log(step) for j, step in enumerate(grid) if step > 0 and j not in masses)
