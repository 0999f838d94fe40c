"""Random permutations of any length, evaluated at single positions without storing the rest."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int, UInt64

_ROUNDS = 6


def shuffled(
    positions: Int[np.ndarray, "..."], count: int, seed: Sequence[int]
) -> Int[np.ndarray, "..."]:
    """Evaluate a random permutation of 0 to `count - 1` at some positions.

    A Feistel network permutes the numbers with an even number of bits; results of `count` or more
    are permuted again until they are smaller (Black and Rogaway 2002, "Ciphers with Arbitrary
    Finite Domains", method 2). The permutation takes no memory and is the same in every process.
    """
    half = max(1, -(-max(1, count - 1).bit_length() // 2))
    mask = np.uint64((1 << half) - 1)
    keys = np.random.default_rng(list(seed)).integers(0, 2**63, _ROUNDS, dtype=np.uint64)

    def permute(values: UInt64[np.ndarray, "..."]) -> UInt64[np.ndarray, "..."]:
        left, right = values >> np.uint64(half), values & mask
        for key in keys:
            left, right = right, left ^ (_mix(right ^ key) & mask)
        return (left << np.uint64(half)) | right

    values = permute(np.asarray(positions, np.uint64))
    while np.any(beyond := values >= count):
        values = np.where(beyond, permute(values), values)
    return values.astype(np.int64)


def _mix(values: UInt64[np.ndarray, "..."]) -> UInt64[np.ndarray, "..."]:
    """SplitMix64 finaliser (Steele et al. 2014): each bit depends on all bits of the input."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
