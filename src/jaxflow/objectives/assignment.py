"""Exact assignments of base samples to data rows, on the host, in blocks of rows."""

import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Int


def assign_nearest(starts: ArrayLike, ends: ArrayLike, block: int) -> Int[np.ndarray, " rows"]:
    """The base sample of each data row, with the least sum of squared distances in each block.

    Args:
        starts: base samples, (rows, features).
        ends: data rows, (rows, features).
        block: most rows that are paired with each other.
    """
    from scipy.spatial.distance import cdist

    starts, ends = np.asarray(starts), np.asarray(ends)
    blocks = blocks_of(len(ends), block)
    # With NaN or infinity the loss is NaN for any pairing, and training reports it.
    if not (np.isfinite(starts).all() and np.isfinite(ends).all()):
        return np.concatenate(blocks)
    # cdist(starts, ends).T would round differently.
    costs = (cdist(ends[rows], starts[rows], "sqeuclidean").T for rows in blocks)
    return assign_cheapest(*costs)


def assign_cheapest(*costs: ArrayLike) -> Int[np.ndarray, " rows"]:
    """The base sample of each data row, with the least total cost in each block.

    Args:
        *costs: for each block, (base samples, data rows), as many of one as of the other. In a
            block with NaN or infinity each row keeps its own base sample.
    """
    from scipy.optimize import linear_sum_assignment

    sources: list[np.ndarray] = []
    for cost in map(np.asarray, costs):
        first = sum(map(len, sources))
        kept = np.arange(len(cost))
        source = linear_sum_assignment(cost.T)[1] if np.isfinite(cost).all() else kept
        sources.append(first + source)
    return np.concatenate(sources).astype(np.int32)


def blocks_of(rows: int, block: int) -> list[Int[np.ndarray, " _"]]:
    """Numbers of rows, in blocks of nearly equal size of at most `block`."""
    return np.array_split(np.arange(rows, dtype=np.int32), -(-rows // block))
