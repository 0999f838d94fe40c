"""A random order of any number of rows, of which any part is known without the rest."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int

ROUNDS = 6


def shuffled(
    places: Int[np.ndarray, "..."], count: int, seed: Sequence[int]
) -> Int[np.ndarray, "..."]:
    """The numbers, out of 0 to `count - 1`, at such places of a random order.

    A Feistel network permutes the numbers of an even number of bits, and what falls beyond
    `count` is permuted again until it does not (Black and Rogaway 2002, "Ciphers with Arbitrary
    Finite Domains", method 2). So an order of billions takes no memory, and is the same wherever
    it is computed.

    Args:
        places: from 0 to `count - 1`.
        count: how many numbers there are.
        seed: another one gives another order.
    """
    half = max(1, -(-max(1, count - 1).bit_length() // 2))
    mask = np.uint64((1 << half) - 1)
    keys = np.random.default_rng(list(seed)).integers(0, 2**63, ROUNDS, dtype=np.uint64)

    def permute(values: np.ndarray) -> np.ndarray:
        left, right = values >> np.uint64(half), values & mask
        for key in keys:
            left, right = right, left ^ (_mixed(right ^ key) & mask)
        return (left << np.uint64(half)) | right

    values = permute(np.asarray(places, np.uint64))
    while np.any(beyond := values >= count):
        values = np.where(beyond, permute(values), values)
    return values.astype(np.int64)


def _mixed(values: np.ndarray) -> np.ndarray:
    """Every bit of each depends on all of them (Steele et al. 2014, SplitMix's finaliser)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
