"""Counts and batch shapes accept integers of any kind, and nothing else."""

import inspect

import numpy as np
import pytest

from jaxflow.runtime.arguments import batch_shape
from jaxflow.runtime.checks import check_count


@pytest.mark.parametrize("value", [3, np.int64(3), np.uint8(3)])
def test_integers_are_counts_and_batch_shapes(value):
    check_count("num", value, 3)
    assert batch_shape(value) == batch_shape((value,)) == (3,)
    assert all(type(size) is int for size in batch_shape([value, 2]))
    with pytest.raises(ValueError, match=r"num=.*3.* must be an integer >= 4"):
        check_count("num", value, 4)


@pytest.mark.parametrize("value", [True, np.True_, 3.0, np.float64(3), "3", None])
def test_nothing_else_is_a_count(value):
    with pytest.raises(ValueError, match=r"num=.* must be an integer >= 1"):
        check_count("num", value)


@pytest.mark.parametrize("shape", [3.0, (2, 3.0), "3", None])
def test_nothing_else_is_a_batch_shape(shape):
    # Unwrapped: the type checks of the tests would raise first.
    with pytest.raises(TypeError, match="must be an integer or a tuple of integers"):
        inspect.unwrap(batch_shape)(shape)
