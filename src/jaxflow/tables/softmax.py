"""Softmax of rows of logits, for arrays of NumPy and of jax."""

from typing import Any

import numpy as np

# The logit of what does not exist.
NEVER = -1e30


def log_sum(x: Any) -> Any:
    """`log(sum(exp(x)))` of each row, as a column."""
    xp = x.__array_namespace__()
    largest = xp.max(x, axis=1, keepdims=True)
    return largest + xp.log(xp.sum(xp.exp(x - largest), axis=1, keepdims=True))


def log_softmax(x: Any) -> Any:
    """Logarithms of the probabilities of each row."""
    return x - log_sum(x)


def choose(logits: np.ndarray, uniform: np.ndarray) -> np.ndarray:
    """An index for each row of logits, by a uniform number."""
    weights = np.exp(logits.astype(float) - logits.max(axis=1, keepdims=True))
    edges = np.cumsum(weights, axis=1)
    return (uniform[:, None] * edges[:, -1:] >= edges[:, :-1]).sum(axis=1)
