"""Checks find every bad row and column and name it; a split is a partition."""

import numpy as np
import pytest

from jaxflow.data import check_columns, check_rows, finite_rows, split


def test_finite_rows_masks_rows_of_any_event_shape():
    x = np.zeros((5, 2, 3))
    x[1, 0, 2], x[3, 1, 1] = np.nan, -np.inf
    np.testing.assert_array_equal(finite_rows(x), [True, False, True, False, True])
    check_rows(x[finite_rows(x)])


def test_check_rows_counts_and_locates():
    x = np.zeros((7, 3), np.float32)
    x[2, 0], x[5, 2], x[5, 0] = np.nan, np.inf, np.nan
    expected = r"data has NaN or infinity in 2 of 7 rows: rows 2, 5 \(from 0\), columns 0, 2\. "
    with pytest.raises(ValueError, match=expected):
        check_rows(x, name="data")
    with pytest.raises(ValueError, match=r"columns 'a', 'c'\..*x\[finite_rows\(x\)\].*--drop-nan"):
        check_rows(x, columns=["a", "b", "c"])


def test_check_rows_lists_ten_rows_and_counts_the_rest():
    x = np.full((12, 1), np.nan)
    with pytest.raises(ValueError, match=r"12 of 12 rows: rows 0, 1.*, 9, \.\.\. \(2 more\) "):
        check_rows(x)


def test_check_rows_accepts_finite_integers_lists_and_no_rows():
    check_rows(np.arange(4))
    check_rows([[1.0, 2.0]])
    check_rows(np.zeros((0, 3)))


@pytest.mark.parametrize("x", [np.array([["a"]]), np.array(1.0), np.array([None])])
def test_check_rows_refuses_text_scalars_and_objects(x):
    with pytest.raises(ValueError, match=r"it must hold rows of real numbers, \(n, \*event\)"):
        check_rows(x)


def test_check_columns_names_constants_and_their_value():
    x = np.random.default_rng(0).normal(size=(20, 3))
    check_columns(x)
    x[:, 1] = 2.5
    with pytest.raises(
        ValueError, match=r"1 column: 1 = 2\.5\. Remove it: a constant column has no density"
    ):
        check_columns(x)
    x[:, 2] = 0.0
    with pytest.raises(ValueError, match=r"2 columns: 'b' = 2\.5, 'c' = 0\.0\. Remove them"):
        check_columns(x, columns=("a", "b", "c"))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_check_columns_measures_against_rounding_at_every_scale(dtype, scale):
    eps = np.finfo(dtype).eps
    signs = np.resize([1.0, -1.0], 100)
    check_columns((scale * (1 + 10 * eps * signs))[:, None].astype(dtype))
    check_columns((scale * signs)[:, None].astype(dtype))
    with pytest.raises(ValueError, match="is constant"):
        check_columns((scale * (1 + eps * signs))[:, None].astype(dtype))


def test_check_columns_keeps_a_column_with_one_other_value():
    x = np.zeros((1000, 1))
    x[17] = 1.0
    check_columns(x)


def test_check_columns_neither_overflows_nor_accepts_no_rows():
    check_columns(np.array([[-1.7e308], [1.7e308]]))
    with pytest.raises(ValueError, match=r"infinity in 1 of 2 rows.*columns 'a'"):
        check_columns(np.array([[np.inf], [1.0]]), columns=["a"])
    with pytest.raises(ValueError, match="x has no rows"):
        check_columns(np.zeros((0, 2)))


@pytest.mark.parametrize(
    ("n", "fraction", "expected"), [(10, 0.3, 3), (2, 0.5, 1), (999, 0.1, 100)]
)
def test_split_is_a_partition(n, fraction, expected):
    train, validation = split(n, fraction, seed=3)
    assert len(validation) == expected
    np.testing.assert_array_equal(np.sort(np.concatenate([train, validation])), np.arange(n))


def test_split_depends_on_the_seed_alone():
    for a, b in zip(split(100, 0.2, seed=1), split(100, 0.2, seed=1), strict=True):
        np.testing.assert_array_equal(a, b)
    assert set(split(100, 0.2, seed=1)[1]) != set(split(100, 0.2, seed=2)[1])


@pytest.mark.parametrize(
    ("n", "fraction", "match"),
    [
        (1, 0.5, "n=1: a split needs at least 2 rows"),
        (10, 0.0, r"fraction=0\.0 must lie between 0 and 1"),
        (10, 1.0, r"fraction=1\.0 must lie between 0 and 1"),
        (4, 0.1, r"fraction=0\.1 of n=4 rows leaves no validation row; .* 0\.25 and 0\.75"),
        (4, 0.9, "leaves no training row"),
    ],
)
def test_split_refuses_empty_parts(n, fraction, match):
    with pytest.raises(ValueError, match=match):
        split(n, fraction, seed=0)


def test_values_that_float32_cannot_tell_apart_are_not_called_constant_alone():
    x = (1e7 + np.random.default_rng(0).normal(size=(50, 1))).astype(np.float32)
    with pytest.raises(ValueError, match="float32 hardly tells the values apart: subtract"):
        check_columns(x)
