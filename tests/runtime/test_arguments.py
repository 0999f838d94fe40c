"""Counts and batch shapes accept integers of any kind, and nothing else."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest

from jaxflow.runtime.arguments import as_cond_rows, as_rows, batch_shape
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


def shape_of(cond, batch):
    rows = as_cond_rows(cond, batch)
    assert rows is not None
    return rows.shape


def test_a_vector_of_conditions_with_an_entry_a_row_is_refused():
    cond = jnp.arange(3.0)
    words = (
        r"cond has shape \(3,\) for 3 rows.*cond.reshape\(3, 1\).*broadcast_to\(cond, \(3, 3\)\)"
    )
    with pytest.raises(ValueError, match=words):
        as_cond_rows(cond, (3,))
    with pytest.raises(ValueError, match=r"cond.reshape\(3, 2, 1\)"):
        as_cond_rows(jnp.arange(6.0), (3, 2))
    assert shape_of(cond[:, None], (3,)) == (3, 1)
    assert shape_of(jnp.broadcast_to(cond, (3, 3)), (3,)) == (3, 3)
    # These have one meaning.
    assert shape_of(cond, (4,)) == (4, 3)
    assert shape_of(cond, ()) == (1, 3)
    assert shape_of(cond[:1], (1,)) == (1, 1)
    assert shape_of(cond, (0,)) == (0, 3)


ROWS = {
    "float64": np.asarray([[1.0, 2.0], [3.0, 4.0]]),
    "frame": pd.DataFrame({"a": [1.0, 3.0], "b": [2, 4]}),
    "lists": [[1.0, 2], [3, 4.0]],
    "list of arrays": [np.asarray([1.0, 2.0]), np.asarray([3.0, 4.0])],
    "integers": np.asarray([[1, 2], [3, 4]]),
}


@pytest.mark.parametrize("name", ROWS)
def test_tables_of_every_kind_are_rows(name):
    rows, batch = inspect.unwrap(as_rows)(ROWS[name], (2,), "x")
    assert batch == (2,)
    assert rows.dtype == jnp.float64
    np.testing.assert_array_equal(rows, [[1, 2], [3, 4]])
    with jax.enable_x64(False):
        assert inspect.unwrap(as_rows)(ROWS[name], (2,), "x")[0].dtype == jnp.float32


def test_a_number_beyond_the_range_is_named():
    with jax.enable_x64(False), pytest.raises(ValueError, match=r"x holds 1e\+300 in row 1 .*x64"):
        as_rows(np.array([[0.0, 1.0], [1e300, 0.0]]), (2,), "x")


@pytest.mark.filterwarnings("ignore::PendingDeprecationWarning")
def test_a_matrix_is_rows():
    rows, batch = inspect.unwrap(as_rows)(np.matrix([[1.0, 2.0], [3.0, 4.0]]), (2,), "x")
    assert (rows.shape, batch) == ((2, 2), (2,))


REFUSED = {
    "text": pd.DataFrame({"a": ["u", "v"], "b": [1, 2]}),
    "missing": pd.DataFrame({"a": pd.array([1, None], dtype="Int64"), "b": [1, 2]}),
    "mixed": pd.DataFrame({"a": [True, False], "b": [1.0, 2.0]}),
    "ragged": [[1.0, 2.0], [3.0]],
    "masked": np.ma.masked_array([[1.0, 2.0]], [[False, True]]),
    "booleans": np.asarray([[True, False]]),
    "complex": np.asarray([[1.0, 2.0j]]),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_numbers_is_refused_by_name(name):
    with pytest.raises(TypeError, match=r"x (is a \w+ that does not convert|has dtype).*numbers"):
        inspect.unwrap(as_rows)(REFUSED[name], (2,), "x")
